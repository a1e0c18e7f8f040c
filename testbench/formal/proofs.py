"""All proofs: what is shown of which harness, how, and how deep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hw.contract.registers import Permission
from testbench.formal.harness import Harness
from testbench.formal.masters import AddressChannels, Reads, ReadsEnd, WriteBeats, Writes, WritesEnd
from testbench.formal.planner import PlannerTransfers, PlannerWindows
from testbench.formal.prover import Prover
from testbench.formal.registers import RegisterPort


@dataclasses.dataclass(frozen=True)
class Proof:
    """One row of the table.

    Parameters
    ----------
    name : on the command line. says : what holds. harness : makes the harness.
    depth : cycles; of the induction where it is `inductive` (for ever), else of the bounded check.
    cover : cycles within which everything that must be reachable is.
    """

    name: str
    says: str
    harness: Callable[[], Harness]
    depth: int
    cover: int
    inductive: bool = True

    @property
    def method(self) -> str:
        """In words."""
        return "k-induction" if self.inductive else "bounded"

    def check(self) -> tuple[bool, float, str]:
        """Whether it holds, seconds, and where it does not, what the tool said. Raises ProverError."""
        seconds = 0.0
        with Prover(self.harness()) as prover:
            steps = [lambda: prover.covered(self.cover), lambda: prover.bounded(self.depth)]
            if self.inductive:
                steps.append(lambda: prover.inductive(self.depth))
            for step in steps:
                verdict = step()
                seconds += verdict.seconds
                if not verdict.holds:
                    return False, seconds, verdict.text
        return True, seconds, ""


PROOFS = [
    Proof("registers", "AXI4-Lite: B and R stay until taken, answer one request each, within 3 cycles; SLVERR, and "
          "nothing written, where there is no such register", RegisterPort, 2, 10),
    Proof("read-windows", "read bursts: aligned, AxLEN within limits, on one 4 KB page, inside a window that permits "
          "reads; stay until taken", lambda: PlannerWindows(Permission.READ), 1, 10),
    Proof("write-windows", "write bursts: the same", lambda: PlannerWindows(Permission.WRITE), 1, 10),
    Proof("read-transfers", "read transfers: denied exactly when they must be; else covered by their bursts, in order, "
          "up to multiples of the longest, the next one two cycles after the last",
          lambda: PlannerTransfers(Permission.READ), 1, 14),
    Proof("write-transfers", "write transfers: the same", lambda: PlannerTransfers(Permission.WRITE), 1, 14),
    Proof("handshakes", "AXI4: AR, AW and W stay until taken; AR and AW are bursts as above, INCR of 8 bytes",
          AddressChannels, 1, 10),
    Proof("reads", "reads: never more under way than there is room for; idle only when all have ended", Reads, 1, 12),
    Proof("writes", "writes: the same; data after its address; a transfer is done only when answered", Writes, 1, 12),
    Proof("write-beats", "W has AWLEN + 1 beats per burst, WLAST on the last", WriteBeats, 1, 12),
    Proof("reads-end", "with a fair bus and fair clients reads stand still for at most 5 cycles, and have ended 14 "
          "cycles after a stop (two bursts of two beats and one that is offered)", ReadsEnd, 17, 14, inductive=False),
    Proof("writes-end", "writes: the same, with one burst under way, within 16 cycles", WritesEnd, 22, 14,
          inductive=False),
]
