"""The load engine behind a real bus master: every space, every preset's entries, refusals, throughput."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.contract.commands import Opcode, Space, encode
from hw.contract.config import PRESETS, preset
from hw.contract.registers import Error
from hw.load_engine import Remainder
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate
from testbench.load_bench import BASE, LoadBench

SEED = int(os.environ.get("LACUNA_SEED", "1"))
BYTES = 16384


def geometry(config):
    """Bytes of an entry and number of entries, per space."""
    return {
        Space.FEATURE: (config.lanes, config.feature_words),
        Space.WEIGHT: (2 * config.lanes, config.weight_words),
        Space.MAP: (8, config.map_entries),
        Space.MASK: (8, config.mask_words),
        Space.PARAMETER: (config.parameter_entry_bytes, config.parameter_entries),
    }


def watch(load, written, random=None, chance=1.0):
    """A background process that notes every write as (space, address): data."""
    async def run(ctx):
        private = {Space.WEIGHT: load.weight, Space.MAP: load.map, Space.MASK: load.mask,
                   Space.PARAMETER: load.parameter}
        while True:
            request = load.feature.request
            ctx.set(request.ready, random is None or random.random() < chance)
            values = await ctx.tick().sample(
                request.valid, request.ready, request.payload.address, request.payload.data,
                *(signal for port in private.values() for signal in (port.enable, port.address, port.data)))
            valid, ready, address, data = values[2:6]
            if valid and ready:
                written.append((Space.FEATURE, address, data))
            for i, space in enumerate(private):
                enable, address, data = values[6 + 3 * i : 9 + 3 * i]
                if enable:
                    written.append((space, address, data))
    return run


async def execute(ctx, load, **fields):
    """Run a command; its counters, or (error code, address)."""
    ctx.set(load.engine.command.payload, int.from_bytes(encode(Opcode.LOAD, fields), "little"))
    ctx.set(load.engine.command.valid, 1)
    ctx.set(load.engine.may_complete, 1)
    while True:
        if ctx.get(load.engine.error.valid):
            return ctx.get(load.engine.error.code), ctx.get(load.engine.error.address)
        complete, taken = ctx.get(load.engine.complete), ctx.get(load.engine.command.ready)
        counters = {name: ctx.get(getattr(load.engine.counters, name)) for name in ("beats", "stalled")}
        await ctx.tick()
        if taken:
            ctx.set(load.engine.command.valid, 0)
        if complete:
            return counters


@pytest.mark.parametrize("name", PRESETS)
def test_every_space(name):
    """Random loads land where they should, with addresses that wrap around, under random stalls."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    bench = LoadBench(config, BYTES)
    random = np.random.default_rng([SEED, len(name)])
    content = random.bytes(BYTES)
    memory = AxiMemoryModel(bench.bus, content, BASE, SEED, (0, 25), 0.7, 0.7)
    written = []

    async def test(ctx):
        for space, (entry, entries) in [*geometry(config).items()] * 2:
            unit = max(entry, 8)
            length = unit * int(random.integers(1, min(1 + 640 // unit, entries) + 1))
            offset = 8 * int(random.integers(0, (BYTES - length) // 8))
            address = int(random.choice([0, entries - 1, random.integers(entries)]))
            written.clear()
            counters = await execute(ctx, bench.load, space=space, window=0, offset=offset, length=length,
                                     address=address)
            assert counters["beats"] == length // 8
            assert written == [
                (space, (address + i) % entries,
                 int.from_bytes(content[offset + i * entry : offset + (i + 1) * entry], "little"))
                for i in range(length // entry)
            ]

    simulate(bench, test, background=[memory.run, watch(bench.load, written, random, 0.7)])


def test_throughput():
    """With 20 cycles of latency, a beat is written in every cycle once the first is there."""
    config = preset("large")
    bench = LoadBench(config, BYTES)
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
    written = []

    async def test(ctx):
        start = memory.cycle
        counters = await execute(ctx, bench.load, space=Space.FEATURE, offset=0, length=4096, address=0)
        assert memory.beats_read[-1] - memory.beats_read[0] == 511
        assert memory.cycle - start <= 512 + 20 + 12
        assert counters["stalled"] <= 20 + 8

    simulate(bench, test, background=[memory.run, watch(bench.load, written)])
    assert len(written) == 256


REFUSED = [
    {"length": 0},
    {"length": 12},
    {"length": 8, "offset": 4},
    {"length": 8, "window": 4},
    {"length": 8, "space": 5},
    {"length": 8, "space": 255},
    {"length": 8, "space": Space.FEATURE},
    {"length": 16, "space": Space.WEIGHT},
    {"length": 64, "space": Space.PARAMETER},
    {"length": 72 * 10 + 8, "space": Space.PARAMETER},
    {"length": 72 * 10 + 24, "space": Space.PARAMETER, "offset": 1 << 31},
]


@pytest.mark.parametrize("fields", REFUSED)
def test_refused_before_anything_is_done(fields):
    bench = LoadBench(preset("large"), BYTES)
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
    written = []

    async def test(ctx):
        fields.setdefault("space", Space.MAP)
        assert await execute(ctx, bench.load, **fields) == (Error.BAD_COMMAND, fields.get("offset", 0))
        await ctx.tick().repeat(40)
        assert not memory.reads
        assert not written

    simulate(bench, test, background=[memory.run, watch(bench.load, written)])


def test_bus_and_window_errors():
    """They come with their own codes, and nothing is written after them."""
    for fields, error in (
            ({"offset": BYTES - 8, "length": 16}, (Error.WINDOW_READ, BYTES - 8)),
            ({"window": 1, "length": 16}, (Error.WINDOW_READ, 0)),
            ({"offset": 64, "length": 80}, (Error.BUS_READ, BASE + 128))):
        bench = LoadBench(preset("large"), BYTES)
        memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
        memory.read_errors = [range(BASE + 128, BASE + 136)]
        written = []

        async def test(ctx, bench=bench, fields=fields, error=error, written=written):
            assert await execute(ctx, bench.load, space=Space.MASK, **fields) == error
            await ctx.tick().repeat(40)
            assert len(written) <= 9

        simulate(bench, test, background=[memory.run, watch(bench.load, written)])


@pytest.mark.parametrize("divisor", [3, 5, 9])
def test_remainder(divisor):
    dut = Remainder(divisor, 29)
    random = np.random.default_rng(SEED)
    numbers = [0, 1, divisor, divisor - 1, 2**29 - 1, *random.integers(0, 2**29, 20).tolist()]
    numbers += [n // divisor * divisor for n in numbers[-10:]]

    async def test(ctx):
        for number in numbers:
            ctx.set(dut.number, number)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().until(dut.done)
            assert ctx.get(dut.zero) == (number % divisor == 0)

    simulate(dut, test)
