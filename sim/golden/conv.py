"""The CONV command in NumPy: values, counters, and the work of each pixel for the cycle model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Flag, Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.layouts import feature_bank, mask_row_words, table_entries
from sim.cycle_model import ConvWork
from sim.golden.addressing import active_pixels, input_taps, operand_words, output_words
from sim.golden.memory import OnChip
from sim.golden.numerics import Addition, requantise

#: Activations gathered at a time: bounds the memory that a large layer takes.
_CHUNK_ELEMENTS = 1 << 22


@dataclasses.dataclass
class Tiles:
    """The weights of a command, unpacked.

    weights : int8 [K, output_blocks * lanes], K = taps * input_blocks * lanes, zero where a row is not stored.
    maps : bool [K, output_blocks], the row maps.
    words : weight store words that the tiles take.
    """

    weights: NDArray[np.int8]
    maps: NDArray[np.bool_]
    words: int


def tile_order(values: Mapping[str, int]) -> NDArray[np.int64]:
    """Position in the order of tiles: [kernel tiles = taps * input_blocks, output_blocks]."""
    kernel_tiles = values["kernel_height"] * values["kernel_width"] * values["input_blocks"]
    group_blocks = 1 << values["unrolling"]
    order = np.empty((kernel_tiles, values["output_blocks"]), dtype=np.int64)
    at = 0
    for first in range(0, values["output_blocks"], group_blocks):
        blocks = min(group_blocks, values["output_blocks"] - first)
        order[:, first : first + blocks] = at + np.arange(kernel_tiles * blocks).reshape(kernel_tiles, blocks)
        at += kernel_tiles * blocks
    return order


def read_tiles(values: Mapping[str, int], memory: OnChip) -> Tiles:
    """Unpack the tiles of a CONV command from weight store and map memory."""
    lanes = memory.config.lanes
    order = tile_order(values)
    map_bits = memory.map_bits
    bits = map_bits[(values["map_base"] + np.arange(order.size)) % map_bits.shape[0]]  # [tiles, lanes]
    words = (bits.sum(axis=1) + 1) // 2
    first_row = 2 * (values["weight_base"] + np.concatenate(([0], np.cumsum(words)[:-1])))
    rows = memory.weight_rows
    stored = (first_row[:, None] + np.cumsum(bits, axis=1) - 1) % rows.shape[0]
    tiles = np.where(bits[:, :, None], rows[stored], np.int8(0))  # [tiles, input lane, output lane]
    weights = tiles[order].transpose(0, 2, 1, 3).reshape(order.shape[0] * lanes, -1)
    maps = bits[order].transpose(0, 2, 1).reshape(order.shape[0] * lanes, -1)
    return Tiles(weights=weights, maps=maps, words=int(words.sum()))


def _gather(values: Mapping[str, int], memory: OnChip, y: NDArray[np.int64],
            x: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Activations minus zero point, int16 [pixels, K], zero where there are none; the banks of their words, as in
    ConvWork."""
    config = memory.config
    lanes, blocks = config.lanes, values["input_blocks"]
    address, valid = input_taps(values, y, x)
    if values["flags"] & Flag.PACKED:
        flat = memory.feature.reshape(-1)
        byte = (address[:, :, None] + np.arange(blocks * lanes)) % flat.size
        activations = flat[byte]
        first = byte[:, :, ::lanes]
        word = first // lanes
        banks = _bank_bits(word, config) | np.where(first % lanes, _bank_bits(word + 1, config), 0)
        activations[:, :, (blocks - 1) * lanes + values["last_lanes"] :] = values["input_zero_point"]
    else:
        word = (address[:, :, None] + np.arange(blocks)) % config.feature_words
        banks = _bank_bits(word, config)
        activations = memory.feature[word].reshape(*address.shape, blocks * lanes)
    centred = activations.astype(np.int16) - np.int16(values["input_zero_point"])
    centred[~valid] = 0
    banks[~valid] = 0
    depth = address.shape[1] * blocks
    return centred.reshape(len(y), depth * lanes), banks.reshape(len(y), depth)


def _bank_bits(words: NDArray[np.int64], config: Config) -> NDArray[np.uint8]:
    """One bit for the bank of each word."""
    return np.asarray(1 << feature_bank(cast(Any, words), config.feature_banks), dtype=np.uint8)


@dataclasses.dataclass
class Convolution:
    """What a CONV command did: its exact counters, and what the cycle model needs to know."""

    counters: dict[str, int]
    work: ConvWork


def run(values: Mapping[str, int], memory: OnChip, config: Config) -> Convolution:
    """Execute a CONV command that passed `limits.check`; writes the feature memory."""
    lanes = config.lanes
    y, x = active_pixels(values, memory.mask_bits)
    tiles = read_tiles(values, memory)
    blocks_per_entry = lanes // config.requantise_lanes
    bias, multiplier, shift = memory.parameters(
        values["parameter_base"], values["output_blocks"] * blocks_per_entry)

    depth = tiles.weights.shape[0]
    kernel_tiles = depth // lanes
    weights = tiles.weights.astype(np.float64)
    map_weights = tiles.maps.reshape(kernel_tiles, lanes, -1).astype(np.float32)
    nonzero_count = np.zeros(depth, dtype=np.int64)
    results = np.empty((len(y), values["output_blocks"] * lanes), dtype=np.int64)
    issue = np.zeros((len(y), kernel_tiles, values["output_blocks"]), dtype=np.int16)
    banks = np.zeros((len(y), kernel_tiles), dtype=np.uint8)
    step = max(1, _CHUNK_ELEMENTS // depth)
    for at in range(0, len(y), step):
        part = slice(at, at + step)
        centred, banks[part] = _gather(values, memory, y[part], x[part])
        # float64 is exact here: every sum stays below 2**53 (255 * 128 * 2**24 products).
        accumulators = (centred.astype(np.float64) @ weights).astype(np.int64)
        results[part] = requantise(accumulators, bias, multiplier, shift, values["output_zero_point"],
                                   values["output_min"], values["output_max"])
        nonzero = centred != 0
        nonzero_count += nonzero.sum(axis=0)
        by_tile = nonzero.reshape(-1, kernel_tiles, lanes).transpose(1, 0, 2).astype(np.float32)
        issue[part] = np.matmul(by_tile, map_weights).transpose(1, 0, 2)

    if values["flags"] & Flag.ADD:
        addition = Addition(
            a_zero_point=values["output_zero_point"],
            **{name: values[name] for name in (
                "a_multiplier", "a_shift", "b_zero_point", "b_multiplier", "b_shift",
                "sum_zero_point", "sum_multiplier", "sum_shift", "sum_min", "sum_max")})
        operand = memory.feature[operand_words(values, "b", y, x, config.feature_words)]
        results = addition.compute(results, operand.reshape(results.shape))
    results = results.astype(np.int8)
    if values["flags"] & Flag.TABLE:
        entries = (values["table_base"] + np.arange(table_entries(config))) % config.parameter_entries
        table = memory.entries[Space.PARAMETER][entries, : 8 * config.requantise_lanes].reshape(-1).view(np.int8)
        results = table[results.view(np.uint8)]
    memory.feature[output_words(values, y, x, config.feature_words)] = \
        results.reshape(len(y), values["output_blocks"], lanes)

    issued = nonzero_count @ tiles.maps.astype(np.int64)
    skipped = nonzero_count @ (~tiles.maps).astype(np.int64)
    counters = {
        "active_pixels": len(y),
        "issued": int(issued[:-1].sum()),
        "issued_last": int(issued[-1]),
        "skipped_weight": int(skipped[:-1].sum()),
        "skipped_weight_last": int(skipped[-1]),
    }
    tile_rows = tiles.maps.reshape(kernel_tiles, lanes, -1).sum(axis=1)
    return Convolution(counters, ConvWork(
        issue=issue, banks=banks, tile_rows=tile_rows, unrolling=values["unrolling"],
        add=bool(values["flags"] & Flag.ADD),
        empty_words=0 if values["flags"] & Flag.WHOLE and not len(y)
        else mask_row_words(values["output_width"]) * values["output_rows"]
        - len(np.unique(y * (1 << 16) + x // MASK_WORD_BITS))))
