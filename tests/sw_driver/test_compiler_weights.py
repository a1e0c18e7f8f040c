"""Tiles, row maps and parameters, read back by the rules of hw.contract.layouts."""

import os

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hw.contract.config import PRESETS
from hw.contract.layouts import tile_words
from sw_driver.compiler.weights import WeightTiles

SEED = int(os.environ.get("LACUNA_SEED", "1"))


def read_tiles(packed, tiles_per_block, count, group, lanes):
    """int8 [tile of a block, output block, input lane, output lane], the slow and obvious way."""
    maps = np.unpackbits(np.frombuffer(packed.maps, np.uint8), bitorder="little")
    rows = np.frombuffer(packed.tiles, np.int8).reshape(-1, lanes)
    result = np.zeros((tiles_per_block, count, lanes, lanes), np.int8)
    word = number = 0
    for start in range(0, count, group):
        for tile in range(tiles_per_block):
            for block in range(start, min(start + group, count)):
                bits = maps[number * lanes : (number + 1) * lanes]
                for place, channel in enumerate(np.flatnonzero(bits)):
                    result[tile, block, channel] = rows[2 * word + place]
                word += tile_words(int(bits.sum()))
                number += 1
    assert word * 2 == len(rows)
    return result


@given(preset=st.sampled_from(sorted(PRESETS)), channels=st.integers(1, 70), kernel=st.integers(1, 3),
       input_blocks=st.integers(1, 3), group=st.sampled_from([1, 2, 4, 8]), density=st.sampled_from([0.0, 0.2, 1.0]),
       seed=st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_tiles_come_back(preset, channels, kernel, input_blocks, group, density, seed):
    config, rng = PRESETS[preset], np.random.default_rng(seed)
    lanes = config.lanes
    weights = rng.integers(-128, 128, (channels, kernel, kernel, input_blocks * lanes)).astype(np.int8)
    weights *= rng.random((1, *weights.shape[1:])) < density
    zeros = np.zeros(channels, np.int32)
    tiles = WeightTiles(weights, zeros, zeros, zeros.astype(np.int8), config)
    first = int(rng.integers(tiles.output_blocks))
    count = int(rng.integers(1, tiles.output_blocks - first + 1))
    packed = tiles.pack(first, count, group)
    assert len(packed.tiles) == tiles.words(first, count) * config.weight_word_bytes
    assert len(packed.maps) == tiles.map_entries(count) * 8
    got = read_tiles(packed, tiles.tiles_per_block, count, group, lanes)
    padded = np.zeros((tiles.output_blocks * lanes, *weights.shape[1:]), np.int8)
    padded[:channels] = weights
    for block in range(count):
        for tile in range(tiles.tiles_per_block):
            tap, input_block = divmod(tile, input_blocks)
            ky, kx = divmod(tap, kernel)
            channel = (first + block) * lanes
            part = padded[channel : channel + lanes, ky, kx, input_block * lanes : (input_block + 1) * lanes]
            np.testing.assert_array_equal(got[tile, block], part.T)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_parameters(preset):
    config = PRESETS[preset]
    lanes, q = config.lanes, config.requantise_lanes
    rng = np.random.default_rng(SEED)
    channels = 2 * lanes + 1
    bias, multipliers = (rng.integers(0, 1 << 31, channels).astype(np.int32) for _ in range(2))
    shifts = rng.integers(-31, 31, channels).astype(np.int8)
    tiles = WeightTiles(np.zeros((channels, 1, 1, lanes), np.int8), bias, multipliers, shifts, config)
    data = tiles.pack(1, 2, 1).parameters
    assert len(data) == tiles.parameter_entries(2) * config.parameter_entry_bytes
    for channel in range(lanes, 3 * lanes):
        entry, place = divmod(channel - lanes, q)
        at = entry * config.parameter_entry_bytes
        values = (np.frombuffer(data, "<i4", q, at)[place], np.frombuffer(data, "<i4", q, at + 4 * q)[place],
                  np.frombuffer(data, "i1", q, at + 8 * q)[place])
        expected = (bias[channel], multipliers[channel], shifts[channel]) if channel < channels else (0, 0, 0)
        assert values == expected
