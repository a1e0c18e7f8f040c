"""An AXI4 memory for Amaranth's simulator: random latency and back-pressure, error answers, protocol checks."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
from amaranth import Cat
from amaranth.sim import SimulatorContext

from hw.bus.axi import BURST_INCR, PAGE_BYTES, Response

BEAT = 8


@dataclasses.dataclass
class Burst:
    """A burst that was seen: byte address, beats, cycle of its address handshake."""

    address: int
    beats: int
    cycle: int


class AxiMemoryModel:
    """Answers an AXI4 master in a background testbench; asserts that the master keeps to the protocol.

    Parameters
    ----------
    bus : the master's AXI4 interface.
    contents : initial bytes, from address `base` on.
    latency : (fewest, most) cycles from an address (reads) or a last beat (writes) to the answer.
    ready, valid : probability in a cycle that a ready is given, and that a waiting beat or answer is offered.
    read_errors, write_errors : ranges of addresses that answer with SLVERR.
    depth : read bursts taken before one is answered.

    Attributes
    ----------
    data : the memory's bytes (uint8). reads, writes : Bursts seen. beats_read : cycle of each R handshake.
    beats_written : cycle of each W handshake. frozen : while true, the memory neither takes nor answers anything.
    """

    def __init__(self, bus, contents: bytes, base: int = 0, seed: int = 0, latency: tuple[int, int] = (20, 20),
                 ready: float = 1.0, valid: float = 1.0, depth: int = 16):
        self.bus = bus
        self.base = base
        self.data = np.frombuffer(contents, np.uint8).copy()
        self.random = np.random.default_rng(seed)
        self.latency, self.ready, self.valid, self.depth = latency, ready, valid, depth
        self.read_errors: list[range] = []
        self.write_errors: list[range] = []
        self.reads: list[Burst] = []
        self.writes: list[Burst] = []
        self.beats_read: list[int] = []
        self.beats_written: list[int] = []
        self.strobes: list[int] = []
        self.frozen = False
        self.cycle = 0

    def _chance(self, probability: float) -> bool:
        return probability >= 1 or bool(self.random.random() < probability)

    def _wait(self) -> int:
        return int(self.random.integers(self.latency[0], self.latency[1] + 1))

    def _check_address(self, address: int, length: int, size: int, burst: int) -> None:
        assert (size, burst) == (3, BURST_INCR), f"AxSIZE, AxBURST must be 3, INCR, not {size}, {burst}"
        assert address % BEAT == 0, f"unaligned burst at {address:#x}"
        last = address + BEAT * length  # the last beat
        assert address // PAGE_BYTES == last // PAGE_BYTES, f"burst {address:#x}..{last:#x} crosses a page"
        inside = self.base <= address and last + BEAT <= self.base + len(self.data)
        assert inside, f"burst {address:#x}..{last:#x} is outside the memory"

    async def run(self, ctx: SimulatorContext) -> None:
        """The background testbench."""
        bus = self.bus
        reading: collections.deque = collections.deque()  # [due, address, beats left]
        writing: collections.deque = collections.deque()  # [address, beats left]
        answering: collections.deque = collections.deque()  # [due, response]
        offered = {"ar": None, "aw": None, "w": None}
        write_failed = False
        while True:
            live = not self.frozen
            if not ctx.get(bus.rvalid):  # an offer once made stays until it is taken
                give = live and reading and reading[0][0] <= self.cycle and self._chance(self.valid)
                if give:
                    _due, address, left = reading[0]
                    at = address - self.base
                    failed = any(address in bad for bad in self.read_errors)
                    ctx.set(bus.rdata, int.from_bytes(self.data[at : at + BEAT].tobytes(), "little"))
                    ctx.set(bus.rresp, Response.SLVERR if failed else Response.OKAY)
                    ctx.set(bus.rlast, left == 1)
                    ctx.set(bus.rvalid, 1)
            give = live and answering and answering[0][0] <= self.cycle and self._chance(self.valid)
            if give and not ctx.get(bus.bvalid):
                ctx.set(bus.bresp, answering[0][1])
                ctx.set(bus.bvalid, 1)
            ctx.set(bus.arready, live and len(reading) < self.depth and self._chance(self.ready))
            ctx.set(bus.awready, live and self._chance(self.ready))
            ctx.set(bus.wready, live and self._chance(self.ready))

            (_clk, _rst, arvalid, arready, ar, awvalid, awready, aw, wvalid, wready, w, rvalid, rready, bvalid,
             bready) = await ctx.tick().sample(
                bus.arvalid, bus.arready, Cat(bus.araddr, bus.arlen, bus.arsize, bus.arburst),
                bus.awvalid, bus.awready, Cat(bus.awaddr, bus.awlen, bus.awsize, bus.awburst),
                bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb, bus.wlast),
                bus.rvalid, bus.rready, bus.bvalid, bus.bready)
            self.cycle += 1
            for name, valid, ready, payload in (("ar", arvalid, arready, ar), ("aw", awvalid, awready, aw),
                                                ("w", wvalid, wready, w)):
                kept = offered[name] is None or (valid and payload == offered[name])
                assert kept, f"the {name} channel changed or was withdrawn before it was taken"
                offered[name] = payload if valid and not ready else None

            if arvalid and arready:
                address, length, size, burst = _split(ar, len(bus.araddr), 8, 3, 2)
                self._check_address(address, length, size, burst)
                self.reads.append(Burst(address, length + 1, self.cycle))
                reading.append([self.cycle + self._wait() - 1, address, length + 1])
            if awvalid and awready:
                address, length, size, burst = _split(aw, len(bus.awaddr), 8, 3, 2)
                self._check_address(address, length, size, burst)
                self.writes.append(Burst(address, length + 1, self.cycle))
                writing.append([address, length + 1])
            if rvalid and rready:
                self.beats_read.append(self.cycle)
                ctx.set(bus.rvalid, 0)
                reading[0][1] += BEAT
                reading[0][2] -= 1
                if not reading[0][2]:
                    reading.popleft()
            if wvalid and wready:
                assert writing, "data before its address"
                self.beats_written.append(self.cycle)
                value, strobe, last = _split(w, 64, 8, 1)
                self.strobes.append(strobe)
                address = writing[0][0]
                at = address - self.base
                for lane, byte in enumerate(value.to_bytes(BEAT, "little")):
                    if strobe >> lane & 1:
                        self.data[at + lane] = byte
                write_failed |= any(address in bad for bad in self.write_errors)
                writing[0][0] += BEAT
                writing[0][1] -= 1
                assert last == (writing[0][1] == 0), f"WLAST is wrong at {address:#x}"
                if last:
                    writing.popleft()
                    answering.append([self.cycle + self._wait(), Response.SLVERR if write_failed else Response.OKAY])
                    write_failed = False
            if bvalid and bready:
                answering.popleft()
                ctx.set(bus.bvalid, 0)


def _split(value: int, *widths: int) -> list[int]:
    parts = []
    for width in widths:
        parts.append(value & ((1 << width) - 1))
        value >>= width
    return parts
