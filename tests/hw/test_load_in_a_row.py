"""LOAD commands in a row: one is written while the next one is asked for and waits in front of the decoder."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.contract.commands import Opcode, Space, encode, transfer_beats
from hw.contract.config import preset
from hw.contract.registers import Error
from hw.contract.weight_encoding import encode as encode_weights
from hw.contract.weight_format import TileOrder
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate
from testbench.load_bench import BASE, BYTES, LoadBench, entries, fields_of, random_block

SEED = int(os.environ.get("LACUNA_SEED", "1"))

SIZES = {Space.FEATURE: "lanes", Space.WEIGHT: "weight_word_bytes", Space.PARAMETER: "parameter_entry_bytes"}


def size_of(config, space):
    """Bytes of an entry."""
    return getattr(config, SIZES[space]) if space in SIZES else 8


class Commands:
    """Random LOAD commands with their data in memory, and what they write: per space, (address, data) in order."""

    def __init__(self, config, random, memory, count, compressed):
        self.fields, self.writes = [], {space: [] for space in Space}
        self._config, self._data = config, memory.data
        at = 0
        for _ in range(count):
            room = (BYTES - at) // (count - len(self.fields))
            if random.random() < compressed:
                at = self._block(random, at, room)
            else:
                at = self._plain(random, at, room)

    def _entries(self, space, depth, address, at, count):
        size = size_of(self._config, space)
        content = entries(self._data[at : at + count * size].tobytes(), size)
        self.writes[space] += [((address + i) % depth, entry) for i, entry in enumerate(content)]

    def _plain(self, random, at, room):
        config = self._config
        space = list(Space)[int(random.integers(len(Space)))]
        depth = {Space.FEATURE: config.feature_words, Space.WEIGHT: config.weight_words,
                 Space.MAP: config.map_entries, Space.MASK: config.mask_words,
                 Space.PARAMETER: config.parameter_entries}[space]
        size = max(8, size_of(config, space))
        length = size * int(random.integers(1, max(2, room // size)))
        address = int(random.integers(depth))
        self.fields.append({"space": space, "flags": 0, "offset": at, "length": length, "address": address})
        self._entries(space, depth, address, at, length // size_of(config, space))
        return at + length

    def _block(self, random, at, room):
        config = self._config
        while True:
            order, maps, words, block = random_block(random, config)
            if len(block) + 8 <= room:
                break
        offset = at + 2 * int(random.integers(0, 4))
        self._data[offset : offset + len(block)] = np.frombuffer(block, np.uint8)
        end = -(-(offset + len(block)) // 8) * 8
        size = config.parameter_entry_bytes
        count = int(random.integers(0, max(1, min(4, (at + room - end) // size))))
        fields = fields_of(
            order, offset=offset, length=len(block), address=int(random.integers(config.weight_words)),
            map_address=int(random.integers(config.map_entries)), parameter_offset=end, parameter_length=count * size,
            parameter_address=int(random.integers(config.parameter_entries)))
        self.fields.append(fields)
        self.writes[Space.WEIGHT] += [((fields["address"] + i) % config.weight_words, word)
                                      for i, word in enumerate(entries(words, config.weight_word_bytes))]
        packed = sum(row_map << i * config.lanes for i, row_map in enumerate(maps))
        packed = packed.to_bytes(-(-len(maps) * config.lanes // 64) * 8, "little")
        self.writes[Space.MAP] += [((fields["map_address"] + i) % config.map_entries, entry)
                                   for i, entry in enumerate(entries(packed, 8))]
        self._entries(Space.PARAMETER, config.parameter_entries, fields["parameter_address"], end, count)
        return end + count * size


async def execute_all(ctx, bench, commands, random, eager=1.0):
    """Offer commands as the sequencer does; beats of those that are complete, and the error, if one ended them."""
    engine = bench.load.engine
    ctx.set(engine.command.valid, 0)
    waiting, beats = list(commands), []
    for _ in range(40_000):
        if waiting and not ctx.get(engine.command.valid) and random.random() < eager:
            ctx.set(engine.command.payload, int.from_bytes(encode(Opcode.LOAD, waiting[0]), "little"))
            ctx.set(engine.command.valid, 1)
        ctx.set(engine.may_complete, int(random.random() < eager))
        *_, failed, code, address, taken, done, counted = await ctx.tick().sample(
            engine.error.valid, engine.error.code, engine.error.address, engine.command.ready, engine.complete,
            engine.counters.beats)
        if failed:
            return beats, (code, address)
        if taken:
            waiting.pop(0)
            ctx.set(engine.command.valid, 0)
            ctx.set(engine.command.payload, int(random.integers(1 << 62)))
        if done:
            beats.append(counted)
            if len(beats) == len(commands):
                return beats, None
    raise AssertionError(f"the load engine hangs after {len(beats)} of {len(commands)} commands")


def watch_all(load, written):
    """A background process that notes every write, per space."""
    ports = {Space.WEIGHT: load.weight, Space.MAP: load.map, Space.MASK: load.mask, Space.PARAMETER: load.parameter}

    async def run(ctx):
        request = load.feature.request
        ctx.set(request.ready, 1)
        while True:
            values = await ctx.tick().sample(
                request.valid, request.payload.address, request.payload.data,
                *(signal for port in ports.values() for signal in (port.enable, port.address, port.data)))
            for i, space in enumerate((Space.FEATURE, *ports)):
                enable, address, data = values[2 + 3 * i : 5 + 3 * i]
                if enable:
                    written[space].append((address, data))
    return run


@pytest.mark.parametrize(("name", "compressed"), [("nano", 0.5), ("large", 0.8), ("small", 0.3)])
def test_commands_in_a_row(name, compressed):
    """However they follow on each other, all is written, in the order of the commands, and they complete in order."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    bench = LoadBench(config)
    random = np.random.default_rng([SEED, 7, len(name)])
    memory = AxiMemoryModel(bench.bus, random.bytes(BYTES), BASE, SEED, (0, 25), 0.9, 0.9)
    written = {space: [] for space in Space}

    async def test(ctx):
        for eager in (1.0, 1.0, 0.4):
            commands = Commands(config, random, memory, 8, compressed)
            for writes in written.values():
                writes.clear()
            beats, error = await execute_all(ctx, bench, commands.fields, random, eager)
            assert error is None
            assert beats == [transfer_beats(fields) for fields in commands.fields]
            assert written == commands.writes

    simulate(bench, test, background=[memory.run, watch_all(bench.load, written)], cycles=200_000)


BAD_SECOND = {
    "refused": ({"window": 4}, (Error.BAD_COMMAND, 4096)),
    "window": ({"length": 8192}, (Error.WINDOW_READ, 4096)),
    "bus": ({}, (Error.BUS_READ, BASE + 4096)),
    "stream": ({}, (Error.WEIGHT_STREAM, 4096)),
}


@pytest.mark.parametrize("fault", BAD_SECOND)
@pytest.mark.parametrize("latency", [1, 20, 200])
def test_a_fault_of_the_next_command(fault, latency):
    """It is reported when the command before, which is good, is complete."""
    config = preset("nano")
    bench = LoadBench(config)
    random = np.random.default_rng([SEED, latency])
    memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE, SEED, (latency, latency), 1.0, 1.0)
    written = {space: [] for space in Space}
    change, expected = BAD_SECOND[fault]

    async def test(ctx):
        for _ in range(3):
            order, _maps, words, block = random_block(random, config)
            memory.data[: len(block)] = np.frombuffer(block, np.uint8)
            memory.data[4096 : 4096 + len(block)] = np.frombuffer(block, np.uint8)
            if fault == "stream":
                memory.data[4096 + len(block) // 2] ^= 1
            memory.read_errors = [range(BASE + 4096, BASE + 4104)] if fault == "bus" else []
            written[Space.WEIGHT].clear()
            first = fields_of(order, length=len(block))
            second = {**fields_of(order, length=len(block), offset=4096), **change}
            beats, error = await execute_all(ctx, bench, [first, second], random)
            assert beats == [transfer_beats(first)]
            assert error == expected
            size = config.weight_word_bytes
            assert written[Space.WEIGHT][: len(words) // size] == list(enumerate(entries(words, size)))
            ctx.set(bench.reset, 1)
            await ctx.tick().repeat(300)  # bursts under way end
            ctx.set(bench.reset, 0)

    simulate(bench, test, background=[memory.run, watch_all(bench.load, written)], cycles=100_000)


@pytest.mark.parametrize("fault", ["window", "bus"])
def test_a_fault_at_any_time(fault):
    """Whether the command before is complete when the bus refuses, or is just then, the fault is reported."""
    config = preset("nano")
    random = np.random.default_rng(SEED)
    change, expected = BAD_SECOND[fault]
    for length in range(8, 8 * 40, 8):  # of the first command: when it is complete
        bench = LoadBench(config)
        memory = AxiMemoryModel(bench.bus, bytes(BYTES), BASE, SEED, (3, 3), 1.0, 1.0)
        memory.read_errors = [range(BASE + 4096, BASE + 4104)] if fault == "bus" else []

        async def test(ctx, bench=bench, length=length):
            first = {"space": Space.MAP, "length": length}
            second = {"space": Space.MAP, "length": 64, "offset": 4096, **change}
            assert await execute_all(ctx, bench, [first, second], random) == ([length // 8], expected)

        simulate(bench, test, background=[memory.run])


def test_no_gap_between_blocks():
    """Memory delivers a beat in nearly every cycle, from the first block's to the last one's."""
    config, size = preset("large"), 1 << 15
    bench = LoadBench(config, size)
    random = np.random.default_rng(SEED)
    memory = AxiMemoryModel(bench.bus, bytes(size), BASE)
    tiles = 32
    order = TileOrder(config.lanes, 1, 1, tiles, 1, last_rows=config.lanes, last_outputs=config.lanes)
    fields, at = [], 0
    for _ in range(4):
        rows = np.clip(np.rint(random.laplace(0, 40, (tiles * config.lanes, config.lanes))), -128, 127).astype(np.int8)
        block = encode_weights([(1 << config.lanes) - 1] * tiles, rows.tobytes(), order, config.weight_ways, 1.0)
        memory.data[at : at + len(block)] = np.frombuffer(block, np.uint8)
        fields.append(fields_of(order, offset=at, length=len(block)))
        at += -(-len(block) // 8) * 8
    beats = sum(transfer_beats(each) for each in fields)

    async def test(ctx):
        await execute_all(ctx, bench, fields, random)
        assert len(memory.beats_read) == beats
        assert memory.beats_read[-1] - memory.beats_read[0] <= 1.02 * beats

    simulate(bench, test, background=[memory.run, watch_all(bench.load, {space: [] for space in Space})], cycles=20_000)
