"""The weight decoder against the weight format in software: random weights, random stalls, damage."""

from __future__ import annotations

import os

import numpy as np
import pytest
from amaranth import ResetInserter, Signal

from hw.contract.config import PRESETS, preset
from hw.contract.weight_decoding import Tiles, WeightStreamError, decode, decode_block
from hw.contract.weight_encoding import count_weights, encode, encode_block
from hw.contract.weight_format import TABLE_SHIFT, TableKind, TileOrder
from hw.contract.weight_tables import cost
from hw.weight_decoder import WeightCodec
from hw.weight_decoder.decoder import beat_units
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
ROUNDS = int(os.environ.get("LACUNA_CODEC_ROUNDS", "7"))

KINDS = ("uniform", "normal", "laplace", "sparse", "rows", "one", "zero")


def random_tiles(random, order, kind):
    """Tiles of that order, as the compiler packs them."""
    lanes = order.lanes
    shape = (order.tiles, lanes, lanes)
    values = {
        "uniform": lambda: random.integers(-128, 128, shape),
        "normal": lambda: random.normal(0, 40, shape),
        "laplace": lambda: random.laplace(3, 5, shape),
        "sparse": lambda: random.normal(0, 40, shape) * (random.random(shape) < 0.2),
        "rows": lambda: random.normal(0, 40, shape) * (random.random((*shape[:2], 1)) < 0.3),
        "one": lambda: np.full(shape, 7),
        "zero": lambda: np.zeros(shape),
    }[kind]()
    weights = np.clip(np.rint(values), -128, 127).astype(np.int8)
    maps, words = [], bytearray()
    for tile, rows in zip(order, weights, strict=True):
        rows[tile.rows:] = 0
        rows[:, tile.outputs:] = 0
        stored = rows.any(axis=1)
        maps.append(sum(1 << int(row) for row in np.flatnonzero(stored)))
        words += rows[stored].tobytes() + bytes(lanes * (int(stored.sum()) & 1))
    return Tiles(maps, bytes(words))


def random_order(random, config, most=4):
    lanes = config.lanes
    return TileOrder(lanes, int(random.integers(1, min(config.rows, 3) + 1)),
                     *(int(random.integers(1, most)) for _ in range(3)),
                     last_rows=int(random.integers(1, lanes + 1)), last_outputs=int(random.integers(1, lanes + 1)))


def beats_of(config, random, block):
    """The block as it lies in memory, between others: beats, and the units before it."""
    skip, size = int(random.integers(4)), 2 * beat_units(config)
    data = random.bytes(2 * skip) + block
    data += random.bytes(-len(data) % size)
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)], skip


def expected(config, tiles):
    """Words and entries that the decoder should make."""
    words = [int.from_bytes(tiles.words[at : at + 2 * config.lanes], "little")
             for at in range(0, len(tiles.words), 2 * config.lanes)]
    per = config.maps_per_entry
    entries = [sum(row_map << i * config.lanes for i, row_map in enumerate(tiles.maps[at : at + per]))
               for at in range(0, len(tiles.maps), per)]
    return words, entries


class Run:
    """Feeds blocks to a decoder and notes what comes out."""

    def __init__(self, config, random, fast=1.0):
        self.dut = WeightCodec(config).create()
        self.reset = Signal()
        self.top = ResetInserter(self.reset)(self.dut)
        self.random, self.fast = random, fast
        self.beats, self.words, self.entries = [], [], []
        self.cycles = 0

    async def feed(self, ctx):
        beats = self.dut.beats
        offered = False
        while True:
            offered = bool(self.beats and (offered or self.random.random() < self.fast))
            ctx.set(beats.valid, offered)
            if offered:
                ctx.set(beats.payload, self.beats[0])
            *_, taken = await ctx.tick().sample(beats.ready)
            if offered and taken and self.beats:
                self.beats.pop(0)
                offered = False

    def watch(self, item, valid, items):
        async def process(ctx):
            while True:
                *_, there, value = await ctx.tick().sample(valid, item)
                if there:
                    items.append(value)
        return process

    @property
    def background(self):
        dut = self.dut
        return [self.feed, self.watch(dut.word, dut.word_valid, self.words),
                self.watch(dut.entry, dut.entry_valid, self.entries)]

    async def block(self, ctx, block, order, skip, beats, limit=20000):
        """Decode a block: True if it was good."""
        dut = self.dut
        self.words.clear()
        self.entries.clear()
        self.beats[:] = beats
        payload = dut.block.payload
        for name in ("group", "output_blocks", "taps", "input_blocks", "last_rows", "last_outputs"):
            ctx.set(getattr(payload.order, name), getattr(order, name))
        ctx.set(payload.skip, skip)
        ctx.set(payload.units, len(block) // 2)
        ctx.set(dut.block.valid, 1)
        for cycle in range(limit):
            *_, ready, failed = await ctx.tick().sample(dut.block.ready, dut.failed)
            if ready or failed:
                ctx.set(dut.block.valid, 0)
                self.cycles = cycle
                return bool(ready)
        raise AssertionError(f"the decoder hangs: {block.hex()} {order}")


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "xlarge"])  # whose decoder is large's
def test_decoder_against_software(name):
    """Blocks of all kinds, one after the other, under random stalls; each third one with the table before it."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    random = np.random.default_rng([SEED, len(name)])
    run = Run(config, random)

    async def test(ctx):
        table = None
        for number in range(ROUNDS):
            run.fast = random.choice([1.0, 0.5, 0.1])
            order = random_order(random, config, 3)
            tiles = random_tiles(random, order, KINDS[number % len(KINDS)])
            ways = 1 << int(random.integers(config.weight_ways.bit_length()))
            only = number % 3 == 2 and cost(count_weights(tiles.maps, tiles.words, order), table) < float("inf")
            block, made = encode_block(tiles.maps, tiles.words, order, ways, 1.0, previous=table, only_previous=only)
            assert decode_block(block, order, table) == (tiles, made)
            table = made
            beats, skip = beats_of(config, random, block)
            good = await run.block(ctx, block, order, skip, beats)
            assert (run.words, run.entries) == expected(config, tiles), (number, order, block.hex())
            assert good and not run.beats

    simulate(run.top, test, background=run.background, cycles=200_000)


def test_there_must_be_a_previous_table():
    """A block that asks for one is refused as a program's first; after a reset again."""
    config = preset("nano")
    random = np.random.default_rng(SEED)
    run = Run(config, random)
    order = TileOrder(config.lanes, 1, 1, 1, 2, config.lanes, config.lanes)
    tiles = random_tiles(random, order, "normal")
    first, table = encode_block(tiles.maps, tiles.words, order, config.weight_ways)
    second, _table = encode_block(tiles.maps, tiles.words, order, config.weight_ways, previous=table,
                                  only_previous=True)
    assert second[0] >> TABLE_SHIFT & 3 == TableKind.PREVIOUS and len(second) <= len(first)
    assert decode_block(second, order, table)[0] == tiles
    with pytest.raises(WeightStreamError, match="no previous"):
        decode(second, order)
    wrong = second[:1] + b"\x01" + second[2:]
    with pytest.raises(WeightStreamError, match="table"):
        decode_block(wrong, order, table)

    async def test(ctx):
        for block, good in ((second, False), (first, True), (second, True), (wrong, False), (second, False)):
            beats, skip = beats_of(config, random, block)
            assert await run.block(ctx, block, order, skip, beats) == good
            if not good:
                run.beats.clear()
                ctx.set(run.reset, 1)
                await ctx.tick()
                ctx.set(run.reset, 0)

    simulate(run.top, test, background=run.background)


def damaged(random, block):
    """A block with a bit flipped, dropped or repeated (the rest moves; the length stays)."""
    bits = np.unpackbits(np.frombuffer(block, np.uint8), bitorder="little")
    at = int(random.integers(len(bits)))
    kind = random.integers(3)
    if kind == 0:
        bits[at] ^= 1
    elif kind == 1:
        bits[at:-1] = bits[at + 1:].copy()
        bits[-1] = 0
    else:
        bits[at + 1:] = bits[at:-1].copy()
    return np.packbits(bits, bitorder="little").tobytes()


@pytest.mark.parametrize("name", ["nano", "small"])
def test_damage_is_refused(name):
    """A damaged block is refused in hardware as in software, never hangs, and the next one is decoded."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    random = np.random.default_rng([SEED, len(name), 1])
    run = Run(config, random)

    async def test(ctx):
        refused = 0
        for number in range(2 * ROUNDS):
            order = random_order(random, config, 3)
            tiles = random_tiles(random, order, KINDS[number % 5])
            block = encode(tiles.maps, tiles.words, order, config.weight_ways, 1.0)
            bad = damaged(random, block)
            if bad == block:
                continue
            with pytest.raises(WeightStreamError):
                decode(bad, order)
            beats, skip = beats_of(config, random, bad)
            assert not await run.block(ctx, bad, order, skip, beats), (number, block.hex(), bad.hex())
            refused += 1
            run.beats.clear()
            ctx.set(run.reset, 1)
            await ctx.tick()
            ctx.set(run.reset, 0)
            if number % 4 == 0:
                beats, skip = beats_of(config, random, block)
                assert await run.block(ctx, block, order, skip, beats)
                assert (run.words, run.entries) == expected(config, tiles)
        assert refused > ROUNDS

    simulate(run.top, test, background=run.background, cycles=200_000)


@pytest.mark.parametrize("name", ["small"])
def test_what_is_left_over_is_refused(name):
    """Every bit of a block's last units, a unit more, and units of zeros that nobody asks for."""
    print(f"LACUNA_SEED={SEED}")
    config = preset(name)
    random = np.random.default_rng([SEED, 2])
    run = Run(config, random)

    async def test(ctx):
        order = TileOrder(config.lanes, 1, 1, 1, 1, 3, config.lanes - 1)
        tiles = random_tiles(random, order, "uniform")
        block = encode(tiles.maps, tiles.words, order, config.weight_ways, 1.0)
        flipped = [block[:at] + bytes([block[at] ^ 1 << bit]) + block[at + 1:]
                   for at in range(len(block) - 4, len(block)) for bit in range(8)]
        for bad in (*flipped, block + b"\1\0", block + bytes(80)):
            with pytest.raises(WeightStreamError):
                decode(bad, order)
            beats, skip = beats_of(config, random, bad)
            assert not await run.block(ctx, bad, order, skip, beats), (block.hex(), bad.hex())
            run.beats.clear()
            ctx.set(run.reset, 1)
            await ctx.tick()
            ctx.set(run.reset, 0)

    simulate(run.top, test, background=run.background, cycles=200_000)
