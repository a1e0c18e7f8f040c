"""The weight format in software: what was encoded is decoded; what was damaged is refused; sizes on real models."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hw.contract.weight_decoding import Tiles, WeightStreamError, decode
from hw.contract.weight_encoding import WAY_BITS, encode
from hw.contract.weight_format import (
    CHECK_BITS,
    CHECK_DIGIT,
    STATE_BITS,
    UNIT_BITS,
    TileOrder,
    check_steps,
    final_step,
)
from hw.contract.weight_standard_tables import RAW, STANDARD_BINS, STANDARD_TABLES
from hw.contract.weight_tables import FREQUENCIES, Bin, TableError, fit, symbols

SEED = int(os.environ.get("LACUNA_SEED", "1"))
EXAMPLES = int(os.environ.get("LACUNA_CODEC_EXAMPLES", "150"))

KINDS = ("uniform", "normal", "laplace", "sparse", "rows", "constant", "zero")


def random_weights(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """int8 weights [tile, row, output] of a distribution."""
    rows = random.random((*shape[:2], 1))
    scale = random.choice([1.0, 3.0, 10.0, 30.0, 60.0])
    values = {
        "uniform": lambda: random.integers(-128, 128, shape),
        "normal": lambda: random.normal(0, scale, shape),
        "laplace": lambda: random.laplace(random.normal(0, scale / 4), scale, shape),
        "sparse": lambda: random.normal(0, 40, shape) * (random.random(shape) < 0.2),
        "rows": lambda: random.normal(0, 40, shape) * (rows < random.random()),
        "constant": lambda: np.full(shape, random.integers(-128, 128)),
        "zero": lambda: np.zeros(shape),
    }[kind]()
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def random_order(random: np.random.Generator, lanes: int, most: int = 4) -> TileOrder:
    """Some small order of tiles."""
    return TileOrder(lanes, *(int(random.integers(1, most)) for _ in range(4)),
                     last_rows=int(random.integers(1, lanes + 1)), last_outputs=int(random.integers(1, lanes + 1)))


def random_tiles(random: np.random.Generator, order: TileOrder, kind: str) -> Tiles:
    """Tiles of that order, as the compiler packs them."""
    lanes = order.lanes
    weights = random_weights(random, kind, (order.tiles, lanes, lanes))
    maps, words = [], bytearray()
    for tile, values in zip(order, weights, strict=True):
        values[tile.rows:] = 0
        values[:, tile.outputs:] = 0
        stored = values.any(axis=1)
        maps.append(sum(1 << int(row) for row in np.flatnonzero(stored)))
        words += values[stored].tobytes() + bytes(lanes * (int(stored.sum()) & 1))
    return Tiles(maps, bytes(words))


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lanes=st.sampled_from([4, 8, 16]), kind=st.sampled_from(KINDS),
       ways=st.sampled_from([1, 2, 4, 8, 16, 32]), share=st.sampled_from([0.004, 1.0]))
def test_decoding_undoes_encoding(seed, lanes, kind, ways, share):
    random = np.random.default_rng(seed)
    order = random_order(random, lanes)
    tiles = random_tiles(random, order, kind)
    block = encode(tiles.maps, tiles.words, order, ways, share)
    assert decode(block, order) == tiles
    assert len(block) <= most_bytes(tiles, order, ways, share)


def most_bytes(tiles: Tiles, order: TileOrder, ways: int, share: float) -> float:
    """What the format promises: eight bits a weight and a bit a row, but for a block's own bits.

    Those are the header, the check value, and of each state: itself, and the three units that its decoder may have
    taken in when it ends (a step begins with two, or takes the third).
    """
    weights = sum(tile.outputs * row_map.bit_count() for tile, row_map in zip(order, tiles.maps, strict=True))
    bits = 8.001 * weights + sum(tile.rows for tile in order)
    state = STATE_BITS + 3 * UNIT_BITS
    states = min(ways, 2 * order.lanes, max(1, int(share * bits / WAY_BITS)))
    return (UNIT_BITS + bits + CHECK_BITS + state * states) / 8


def test_a_state_costs_what_the_encoder_counts_for_it():
    """How many states a block gets follows from WAY_BITS: the mean over blocks of all kinds."""
    print(f"LACUNA_SEED={SEED}")
    random = np.random.default_rng(SEED)
    surplus = []
    for number in range(60):
        order = random_order(random, 16)
        tiles = random_tiles(random, order, KINDS[number % len(KINDS)])
        one, many = (len(encode(tiles.maps, tiles.words, order, ways, 1.0)) for ways in (1, 32))
        surplus.append((many - one) * 8 / 31)
    assert 0.75 * WAY_BITS < np.mean(surplus) < 1.25 * WAY_BITS, surplus


def damaged(random: np.random.Generator, block: bytes) -> bytes:
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


def test_damage_is_refused():
    """Any flipped, dropped or repeated bit; and blocks that are cut off."""
    print(f"LACUNA_SEED={SEED}")
    random = np.random.default_rng(SEED)
    refused = 0
    for number in range(80):
        order = random_order(random, int(random.choice([4, 8, 16])))
        tiles = random_tiles(random, order, KINDS[number % 5])
        block = encode(tiles.maps, tiles.words, order, int(random.choice([1, 2, 4, 8, 16, 32])), 1.0)
        for bad in [*(damaged(random, block) for _ in range(12)), block[: 2 * (len(block) // 4)], block[:-2],
                    block + b"\1\0", b""]:
            if bad.rstrip(b"\0") == block.rstrip(b"\0"):
                continue  # a zero among zeros
            try:
                decoded = decode(bad, order)
            except WeightStreamError:
                refused += 1
                continue
            raise AssertionError(f"damage was not noticed: {block.hex()} {bad.hex()} {decoded == tiles}")
    assert refused > 1000


def test_all_bit_flips_of_a_block_are_refused():
    random = np.random.default_rng(5)
    order = TileOrder(8, 2, 3, 1, 2, 5, 3)
    tiles = random_tiles(random, order, "rows")
    block = encode(tiles.maps, tiles.words, order, 4, 1.0)
    for bit in range(8 * len(block)):
        bad = bytearray(block)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WeightStreamError):
            decode(bytes(bad), order)


def test_random_bytes_are_refused():
    random = np.random.default_rng(6)
    order = TileOrder(4, 1, 2, 2, 1, 4, 4)
    for _ in range(300):
        with pytest.raises(WeightStreamError):
            decode(random.bytes(2 * int(random.integers(1, 80))), order)


def test_channels_that_do_not_exist_cost_nothing():
    """The same weights in a layer of 10 outputs, and in 16 lanes that all exist with zeros in 6 of them."""
    random = np.random.default_rng(7)
    order = TileOrder(16, 1, 1, 1, 8, 16, 10)
    tiles = random_tiles(random, order, "normal")
    padded = TileOrder(16, 1, 1, 1, 8, 16, 16)
    assert len(encode(tiles.maps, tiles.words, order, 4)) < 0.95 * len(encode(tiles.maps, tiles.words, padded, 4))


def test_zero_rows_cost_a_fraction_of_a_bit():
    order = TileOrder(16, 1, 1, 9, 64, 16, 16)
    tiles = Tiles([0] * 575 + [1], bytes(15) + b"\1" + bytes(16))
    block = encode(tiles.maps, tiles.words, order, 8)
    assert decode(block, order) == tiles
    assert 8 * len(block) < 0.1 * 576 * 16


def test_what_does_not_exist_must_be_zero():
    with pytest.raises(ValueError, match="row that does not exist"):
        encode([2], bytes(8), TileOrder(4, 1, 1, 1, 1, 1, 4), 1)
    with pytest.raises(ValueError, match="output channel that does not exist"):
        encode([1], b"\0\0\0\1" + bytes(4), TileOrder(4, 1, 1, 1, 1, 1, 3), 1)
    with pytest.raises(ValueError, match="2 row maps; the order has 1 tiles"):
        encode([1, 1], bytes(16), TileOrder(4, 1, 1, 1, 1, 1, 4), 1)
    with pytest.raises(ValueError, match="4 bytes; the row maps say 8"):
        encode([1], bytes(4), TileOrder(4, 1, 1, 1, 1, 1, 4), 1)
    with pytest.raises(ValueError, match="last_rows must be 1 to lanes"):
        TileOrder(4, 1, 1, 1, 1, 5, 4)


# ---- tables ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(-128, 127), st.integers(1, 3000), max_size=40), st.booleans())
def test_fitted_tables_code_every_weight(counts, symmetric):
    histogram = [counts.get(value, 0) for value in range(-128, 128)]
    try:
        table = symbols(fit(histogram, symmetric), symmetric)
    except TableError:
        assert len(counts) < 2 or max(counts) - min(counts) < 128
        return
    assert sum(symbol.frequency for symbol in table) == FREQUENCIES
    covered = {value for symbol in table for value in range(symbol.base, symbol.base + (1 << symbol.extra))}
    assert set(counts) <= covered


def test_standard_tables():
    assert [symbol.extra + 9 - math.log2(symbol.frequency) for symbol in STANDARD_TABLES[RAW]] == [8, 8]
    assert len(STANDARD_TABLES) <= 256
    for (symmetric, bins), table in zip(STANDARD_BINS, STANDARD_TABLES, strict=True):
        assert symbols(bins, symmetric) == table


def test_tables_that_are_none():
    for bins, symmetric, message in (
        ([Bin(7, 256)], False, "end at 0"), ([Bin(7, 256), Bin(7, 255)], False, "sum is 511"),
        ([Bin(7, 300)], True, "sum is 600"), ([Bin(7, 0)], True, "at least two"),
        ([Bin(7, 256)] * 3, False, "go on after"),
    ):
        with pytest.raises(TableError, match=message):
            symbols(bins, symmetric)


@pytest.mark.parametrize("ways", [1, 2, 4, 8, 16, 32])
def test_check_value_is_whole(ways):
    assert check_steps(ways) * max(1, ways // 2) * CHECK_DIGIT >= CHECK_BITS
    assert check_steps(ways) == max(min(ways, 2), 32 // 4 // max(1, ways // 2))


@settings(max_examples=300, deadline=None)
@given(ways=st.sampled_from([1, 2, 4, 8, 16, 32]), outputs=st.integers(1, 16), rows=st.integers(1, 16))
def test_final_steps_are_the_last_two(ways, outputs, rows):
    """Of the last tile; the last one with a single state."""
    width = max(1, ways // 2)
    steps = [(outputs, row, left) for row in range(rows, 0, -1) for left in range(outputs, 0, -width)]
    last = min(ways, 2, len(steps))
    assert [final_step(ways, *step) for step in steps] == [False] * (len(steps) - last) + [True] * last
