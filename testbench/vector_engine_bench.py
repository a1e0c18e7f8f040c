"""The vector engine on Amaranth's simulator, with memories that may delay it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from hw.contract.commands import Opcode, Space, encode
from hw.contract.config import Config
from hw.contract.layouts import feature_bank
from hw.ports import READ_LATENCY
from hw.vector_engine import VectorEngine
from sim.golden.memory import OnChip


class Bench:
    """A vector engine with its memories, simulated cycle by cycle.

    Parameters
    ----------
    config : sizes. rng : fills the memories, and delays requests. stalls : every command meets ports that delay
    requests, each with a chance of its own.

    Members
    -------
    chip : the memories as the golden model has them. memory : int8 [feature words, lanes], masks : uint64 [mask words]:
    views of them.
    """

    def __init__(self, config: Config, rng: np.random.Generator, stalls: bool = False):
        self.config = config
        self.rng = rng
        self.stalls = stalls
        self.slow_write = False
        self.dut = VectorEngine(config)
        self.reset = Signal()
        self.chip = OnChip(config)
        self.memory = self.chip.feature
        self.memory[:] = rng.integers(-128, 128, (config.feature_words, config.lanes))
        self.masks = self.chip.entries[Space.MASK].view(np.uint64).reshape(-1)

    def run(self, testbench: Callable[[Any], Awaitable[None]]) -> None:
        """Simulate an async testbench, which calls `execute`."""
        simulator = Simulator(ResetInserter(self.reset)(self.dut))
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)
        simulator.run()

    async def reset_engine(self, ctx: Any) -> None:
        """A cycle of reset, as a soft reset of the device does it."""
        ctx.set(self.dut.engine.command.valid, 0)
        ctx.set(self.dut.read_a.data_valid, 0)
        ctx.set(self.dut.read_b.data_valid, 0)
        ctx.set(self.reset, 1)
        await ctx.tick()
        ctx.set(self.reset, 0)

    async def execute(self, ctx: Any, opcode: Opcode, fields: Mapping[str, int],
                      limit: int = 200_000) -> dict[str, int]:
        """Runs a command to its end: its counters, `cycles` and `error` (0: none)."""
        dut, banks = self.dut, self.config.feature_banks
        reads = (dut.read_a, dut.read_b)
        private = ((dut.mask, Space.MASK), (dut.parameters, Space.PARAMETER))
        weights_before = b""  # of the address of the cycle before, if that was to be looked at
        arriving: dict[object, list] = {port: [None] * READ_LATENCY for port in reads}
        chance = {port: float(self.rng.choice([0, 0.3, 0.8])) if self.stalls else 0.0 for port in (*reads, dut.write)}
        if self.slow_write:
            chance[dut.write] = 0.95
        ctx.set(dut.engine.command.payload, int.from_bytes(encode(opcode, fields), "little"))
        ctx.set(dut.engine.command.valid, 1)
        moved_before = [False, False]  # in the last cycle, and the one before
        for cycle in range(limit):
            taken = set()
            moved = False
            for port in reads:
                word = ctx.get(port.request.payload)
                bank = feature_bank(word, banks)
                ready = bank not in taken and self.rng.random() >= chance[port]
                ctx.set(port.request.ready, bool(ready))
                accepted = ready and ctx.get(port.request.valid)
                if accepted:
                    taken.add(bank)
                    moved = True
                arriving[port].append(self.memory[word].tobytes() if accepted else None)
            decision = dut.decisions.request
            ready = bool(self.rng.random() >= chance[dut.write])
            ctx.set(decision.ready, ready)
            if ready and ctx.get(decision.valid):
                self.masks[ctx.get(decision.payload.address)] = ctx.get(decision.payload.data)
            ready = bool(self.rng.random() >= chance[dut.write])
            ctx.set(dut.write.request.ready, ready)
            if ready and ctx.get(dut.write.request.valid):
                request = dut.write.request.payload
                data = ctx.get(request.data).to_bytes(self.config.lanes, "little")
                self.memory[ctx.get(request.address)] = np.frombuffer(data, np.int8)
                moved = True
            assert ctx.get(dut.progress) or not moved_before[1]
            moved_before = [moved, moved_before[0]]
            addresses = [(port, space, ctx.get(port.address)) for port, space in private]
            weights = self.chip.entries[Space.WEIGHT]
            weights_now = (weights[ctx.get(dut.weights.address)].tobytes() if ctx.get(dut.weights_read)
                           else self.rng.bytes(weights.shape[1]))
            counters = ctx.get(dut.engine.counters)
            result = {name: counters[name] for name in ("active_pixels", "words_read", "words_written")}
            finished = ctx.get(dut.engine.command.ready)
            error = ctx.get(dut.engine.error.valid)
            if error:
                return {**result, "cycles": cycle, "error": ctx.get(dut.engine.error.code)}
            await ctx.tick()
            ctx.set(dut.weights.data, int.from_bytes(weights_before, "little"))
            weights_before = weights_now
            for port, space, address in addresses:
                entry = self.chip.entries[space][address] if address < len(self.chip.entries[space]) else b"\0"
                ctx.set(port.data, int.from_bytes(bytes(entry), "little"))
            for port in reads:
                arriving[port].pop(0)
                data = arriving[port][0]
                ctx.set(port.data_valid, data is not None)
                ctx.set(port.data, int.from_bytes(data or b"", "little"))
            if finished:
                ctx.set(dut.engine.command.valid, 0)
                return {**result, "cycles": cycle + 1, "error": 0}
        raise AssertionError(f"{opcode.name} did not end within {limit} cycles: {fields}")
