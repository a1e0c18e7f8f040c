"""The store engine behind a real bus master: every word size, random conflicts and stalls, refusals."""

from __future__ import annotations

import os

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hw.bus.axi import AXI4
from hw.bus.master import BusMaster
from hw.contract.commands import Opcode, encode
from hw.contract.config import PRESETS, preset
from hw.contract.registers import Error
from hw.ports import READ_LATENCY
from hw.store_engine import StoreEngine
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
BASE = 0x1_0000
BYTES = 16384


class Bench(wiring.Component):
    """A store engine and a bus master; window 2 is all of the memory."""

    def __init__(self, config):
        self.store = StoreEngine(config)
        self.master = BusMaster(config)
        super().__init__({"bus": Out(AXI4(config))})
        self.bus = self.master.bus

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = self.store
        m.submodules.master = self.master
        wiring.connect(m, self.store.bus, self.master.store)
        window = self.master.windows[2]
        m.d.comb += [window.base.eq(BASE), window.size.eq(BYTES), window.write.eq(1)]
        return m


def feature_memory(store, words, random=None, chance=1.0):
    """A background process that answers the read port; `words` are ints."""
    async def run(ctx):
        port = store.feature
        answers = [None] * READ_LATENCY
        while True:
            ctx.set(port.request.ready, random is None or random.random() < chance)
            _clk, _rst, valid, ready, address = await ctx.tick().sample(
                port.request.valid, port.request.ready, port.request.payload)
            answers.append(words[address] if valid and ready else None)
            answer = answers.pop(1)
            ctx.set(port.data_valid, answer is not None)
            ctx.set(port.data, 0xA5A5A5A5 if answer is None else answer)
    return run


async def execute(ctx, store, **fields):
    """Run a command; its counters, or (error code, address)."""
    ctx.set(store.engine.command.payload, int.from_bytes(encode(Opcode.STORE, fields), "little"))
    ctx.set(store.engine.command.valid, 1)
    while True:
        if ctx.get(store.engine.error.valid):
            return ctx.get(store.engine.error.code), ctx.get(store.engine.error.address)
        if ctx.get(store.engine.command.ready):
            counters = {name: ctx.get(getattr(store.engine.counters, name)) for name in ("beats", "stalled")}
            await ctx.tick()
            ctx.set(store.engine.command.valid, 0)
            return counters
        await ctx.tick()


@pytest.mark.parametrize("name", PRESETS)
def test_random_stores(name):
    """What was in the feature memory is in external memory when the command is complete."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    bench = Bench(config)
    random = np.random.default_rng([SEED, len(name)])
    feature = random.integers(0, 256, (config.feature_words, config.lanes), np.uint8)
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE, SEED, (0, 25), 0.7, 0.7)
    words = [int.from_bytes(word.tobytes(), "little") for word in feature]

    async def test(ctx):
        for _ in range(6):
            unit = max(config.lanes, 8)
            length = unit * int(random.integers(1, 800 // unit))
            offset = 8 * int(random.integers(0, (BYTES - length) // 8))
            address = int(random.choice([0, config.feature_words - 2, random.integers(config.feature_words)]))
            expected = bytearray(memory.data.tobytes())
            indices = (address + np.arange(length // config.lanes)) % config.feature_words
            expected[offset : offset + length] = feature[indices].tobytes()
            counters = await execute(ctx, bench.store, window=2, offset=offset, length=length, address=address)
            assert counters["beats"] == length // 8
            assert memory.data.tobytes() == bytes(expected)

    simulate(bench, test, background=[memory.run, feature_memory(bench.store, words, random, 0.7)])


@pytest.mark.parametrize("name", ["small", "large"])
def test_throughput(name):
    """A beat in every cycle once the first is on the bus."""
    bench = Bench(preset(name))
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)

    async def test(ctx):
        counters = await execute(ctx, bench.store, window=2, offset=0, length=4096, address=0)
        assert memory.beats_written[-1] - memory.beats_written[0] == 511
        assert counters["stalled"] <= 3  # before its first burst is on the bus

    simulate(bench, test, background=[memory.run, feature_memory(bench.store, [0] * bench.store.config.feature_words)])


@pytest.mark.parametrize("fields", [
    {"length": 0}, {"length": 12}, {"length": 8}, {"length": 16, "offset": 4}, {"length": 16, "window": 4},
    {"length": 16, "space": 1},
])
def test_refused_before_anything_is_done(fields):
    bench = Bench(preset("large"))
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)

    async def test(ctx):
        fields.setdefault("window", 2)
        assert await execute(ctx, bench.store, **fields) == (Error.BAD_COMMAND, fields.get("offset", 0))
        await ctx.tick().repeat(40)
        assert not memory.writes

    simulate(bench, test, background=[memory.run, feature_memory(bench.store, [0] * 16384)])


def test_bus_and_window_errors():
    for fields, error in (
            ({"window": 2, "offset": BYTES - 8, "length": 16}, (Error.WINDOW_WRITE, BYTES - 8)),
            ({"window": 0, "offset": 0, "length": 16}, (Error.WINDOW_WRITE, 0)),
            ({"window": 2, "offset": 64, "length": 80}, (Error.BUS_WRITE, BASE + 64))):
        bench = Bench(preset("large"))
        memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
        memory.write_errors = [range(BASE + 128, BASE + 136)]

        async def test(ctx, bench=bench, fields=fields, error=error):
            assert await execute(ctx, bench.store, **fields) == error

        simulate(bench, test, background=[memory.run, feature_memory(bench.store, [0] * 16384)])
