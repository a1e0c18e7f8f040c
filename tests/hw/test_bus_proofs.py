"""The proofs about the bus that take seconds, where their tools are installed; `make formal` runs all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from amaranth import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from testbench.formal import __main__ as formal, prover
from testbench.formal.harness import Harness
from testbench.formal.proofs import PROOFS
from testbench.formal.prover import Prover, missing_tools

#: Those that `make test` runs.
QUICK = ("registers", "read-transfers", "handshakes", "reads", "writes", "write-beats")

needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=f"needs {' and '.join(missing_tools())}: make formal")


class Counter(wiring.Component):
    """Counts to three and starts again."""

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "value": Out(4)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.sync += self.value.eq(Mux(self.enable, Mux(self.value == 3, 0, self.value + 1), self.value))
        return m


class CounterRules(Harness):
    """At most `limit`, reached when there is never a pause of more than a cycle."""

    def __init__(self, limit: int) -> None:
        super().__init__(Counter())
        self.limit = limit

    def properties(self) -> None:
        self.assume(self.patience(~self.dut.enable, 1))
        self.always(self.probe(4, "value") <= self.limit)
        self.reachable(self.dut.value == self.limit)


@needs_tools
def test_the_prover_tells_true_from_false() -> None:
    with Prover(CounterRules(3)) as prover:
        assert prover.bounded(10).holds
        assert prover.inductive(1).holds
        assert not prover.covered(3).holds
        assert prover.covered(4).holds
    with Prover(CounterRules(2)) as prover:
        assert prover.bounded(3).holds
        verdict = prover.bounded(4)
        assert not verdict.holds
        assert "test_bus_proofs.py" in verdict.text
        assert not prover.inductive(1).holds
    with Prover(CounterRules(4)) as prover:
        assert not prover.covered(20).holds


@needs_tools
@pytest.mark.parametrize("name", QUICK)
def test_quick_proofs(name: str) -> None:
    (proof,) = (each for each in PROOFS if each.name == name)
    holds, _seconds, text = proof.check()
    assert holds, text


def test_names() -> None:
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)
    done = subprocess.run([sys.executable, "-m", "testbench.formal", "nonsense"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2
    assert "there is no proof nonsense" in done.stderr


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(prover, "_path", lambda: "")
    monkeypatch.setattr(sys, "argv", ["formal"])
    assert formal.main() == 2
    assert "z3" in capsys.readouterr().err
