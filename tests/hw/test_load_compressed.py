"""Compressed weights through the load engine and a bus master: weight store, row maps, parameters; damage."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode, Space, encode, transfer_beats
from hw.contract.config import preset
from hw.contract.registers import Error
from hw.contract.weight_format import TileOrder
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate
from testbench.load_bench import BASE, BYTES, LoadBench, entries, fields_of, random_block

SEED = int(os.environ.get("LACUNA_SEED", "1"))


def watch(load, written):
    """A background process that notes every write as (space, address): data."""
    ports = {Space.WEIGHT: load.weight, Space.MAP: load.map, Space.PARAMETER: load.parameter}

    async def run(ctx):
        while True:
            values = await ctx.tick().sample(
                *(signal for port in ports.values() for signal in (port.enable, port.address, port.data)))
            for i, space in enumerate(ports):
                enable, address, data = values[2 + 3 * i : 5 + 3 * i]
                if enable:
                    written.setdefault(space, []).append((address, data))
    return run


async def execute(ctx, bench, fields):
    """Run a command; its beats, or (error code, address), after which the engine is reset."""
    load = bench.load
    ctx.set(load.engine.command.payload, int.from_bytes(encode(Opcode.LOAD, fields), "little"))
    ctx.set(load.engine.command.valid, 1)
    ctx.set(load.engine.may_complete, 1)
    for _ in range(8000):
        error = load.engine.error
        *_, failed, code, address, taken, done, beats = await ctx.tick().sample(
            error.valid, error.code, error.address, load.engine.command.ready, load.engine.complete,
            load.engine.counters.beats)
        if failed or taken:
            ctx.set(load.engine.command.valid, 0)
        if failed:
            ctx.set(bench.reset, 1)
            await ctx.tick().repeat(60)  # bursts under way end
            ctx.set(bench.reset, 0)
            return code, address
        if done:
            return beats
    raise AssertionError("the load engine hangs")


@pytest.mark.parametrize("name", ["nano", "large"])
def test_blocks_and_parameters(name):
    """Random blocks, at any multiple of 2 bytes, with and without maps and parameters; between them damaged ones."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    bench = LoadBench(config)
    random = np.random.default_rng([SEED, len(name)])
    memory = AxiMemoryModel(bench.bus, random.bytes(BYTES), BASE, SEED, (0, 25), 0.8, 0.8)
    written = {}

    async def test(ctx):
        for number in range(6):
            order, maps, words, block = random_block(random, config)
            offset = 2 * int(random.integers(0, 1000))
            memory.data[offset : offset + len(block)] = np.frombuffer(block, np.uint8)
            count = int(random.integers(0, 4))
            fields = fields_of(
                order, offset=offset, length=len(block), address=int(random.integers(config.weight_words)),
                map_address=int(random.integers(config.map_entries)), parameter_offset=BYTES // 2 + 8 * number,
                parameter_length=count * config.parameter_entry_bytes,
                parameter_address=int(random.integers(config.parameter_entries)))
            if number % 3 == 2:
                fields["flags"] |= Flag.WITHOUT_MAPS
            if number % 2:
                at = offset + int(random.integers(len(block)))
                memory.data[at] ^= 1 << int(random.integers(8))
                assert await execute(ctx, bench, fields) == (Error.WEIGHT_STREAM, offset)
                memory.data[offset : offset + len(block)] = np.frombuffer(block, np.uint8)
            written.clear()
            assert await execute(ctx, bench, fields) == transfer_beats(fields)
            size = config.weight_word_bytes
            found = {space: written.get(space, []) for space in (Space.WEIGHT, Space.MAP, Space.PARAMETER)}
            assert found[Space.WEIGHT] == [((fields["address"] + i) % config.weight_words, word)
                                           for i, word in enumerate(entries(words, size))]
            packed = sum(row_map << i * config.lanes for i, row_map in enumerate(maps))
            wanted = packed.to_bytes(-(-len(maps) * config.lanes // 64) * 8, "little")
            assert found[Space.MAP] == [] if fields["flags"] & Flag.WITHOUT_MAPS else [
                ((fields["map_address"] + i) % config.map_entries, entry) for i, entry in enumerate(entries(wanted, 8))]
            first, size = fields["parameter_offset"], config.parameter_entry_bytes
            wanted = memory.data[first : first + fields["parameter_length"]].tobytes()
            assert found[Space.PARAMETER] == [
                ((fields["parameter_address"] + i) % config.parameter_entries, entry)
                for i, entry in enumerate(entries(wanted, size))]

    simulate(bench, test, background=[memory.run, watch(bench.load, written)], cycles=100_000)


GOOD = fields_of(TileOrder(8, 2, 1, 1, 1, 8, 8), length=64)


@pytest.mark.parametrize("change", [
    {"space": Space.FEATURE}, {"window": 4}, {"offset": 1}, {"length": 0}, {"length": 63}, {"length": 1 << 29},
    {"taps": 0}, {"taps": 257}, {"input_blocks": 0}, {"output_blocks": 0}, {"unrolling": 2}, {"last_rows": 0},
    {"last_rows": 9}, {"last_outputs": 0}, {"last_outputs": 9}, {"parameter_offset": 4}, {"parameter_length": 8},
    {"flags": Flag.COMPRESSED | Flag.GATED}, {"flags": Flag.WITHOUT_MAPS}])
def test_refused_before_anything_is_done(change):
    bench = LoadBench(preset("small"))
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
    fields = {**GOOD, **change}

    async def test(ctx):
        assert await execute(ctx, bench, fields) == (Error.BAD_COMMAND, fields.get("offset", 0))
        assert not memory.reads

    simulate(bench, test, background=[memory.run])


def test_more_row_maps_than_the_map_memory():
    """However long a block claims to be, it ends: with an error once its row maps would wrap around."""
    config = preset("nano")
    bench = LoadBench(config)
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE)
    order = TileOrder(config.lanes, 1, 65535, 1, 1, 1, 1)

    async def test(ctx):
        assert await execute(ctx, bench, fields_of(order, length=64)) == (Error.WEIGHT_STREAM, 0)

    simulate(bench, test, background=[memory.run], cycles=20_000)

