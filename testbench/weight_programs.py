"""Programs that bring compressed weights back out: what the decoder wrote is read through convolutions, exactly.

Each set of weights meets one pixel for each of its rows, whose only non-zero activation, 1, is that row's; the
convolution scales by 1, so that its output is the weights as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hw.contract.commands import Engine, Flag, Opcode, Space
from hw.contract.config import Config
from hw.contract.layouts import align
from hw.contract.registers import Window
from hw.contract.weight_encoding import count_weights, encode_block
from hw.contract.weight_format import TileOrder
from hw.contract.weight_tables import Symbol, cost
from testbench.hand_made_programs import Command, data_offset, image_of

#: Kinds of weights, in turn.
KINDS = ("normal", "uniform", "laplace", "sparse", "rows", "one", "zero", "steps")


@dataclasses.dataclass(frozen=True)
class WeightSet:
    """Random weights: int8 [taps x input blocks x lanes rows, output channels], and their tiles."""

    weights: np.ndarray
    order: TileOrder
    maps: list[int]
    words: bytes


def random_set(rng: np.random.Generator, config: Config, kind: str) -> WeightSet:
    """A set of up to 2 taps, 2 input blocks and 3 output blocks."""
    lanes = config.lanes
    taps, input_blocks, output_blocks = (int(rng.integers(1, most + 1)) for most in (2, 2, 3))
    order = TileOrder(lanes, 1 << int(rng.integers(len(config.unrollings))), output_blocks, taps, input_blocks,
                      int(rng.integers(1, lanes + 1)), int(rng.integers(1, lanes + 1)))
    shape = taps, input_blocks, lanes, output_blocks, lanes
    values = {
        "normal": lambda: rng.normal(0, 40, shape),
        "uniform": lambda: rng.integers(-128, 128, shape),
        "laplace": lambda: rng.laplace(0, 6, shape),
        "sparse": lambda: rng.normal(0, 30, shape) * (rng.random(shape) < 0.2),
        "rows": lambda: rng.normal(0, 40, shape) * (rng.random((*shape[:3], shape[3], 1)) < 0.4),
        "one": lambda: np.full(shape, rng.integers(-128, 128)),
        "zero": lambda: np.zeros(shape),
        "steps": lambda: 16 * rng.integers(-8, 8, shape),
    }[kind]()
    weights = np.clip(np.rint(values), -128, 127).astype(np.int8)
    weights[:, -1, order.last_rows :] = 0
    weights[:, :, :, -1, order.last_outputs :] = 0
    maps, words = [], bytearray()
    for first in range(0, output_blocks, order.group):
        for tap in range(taps):
            for block in range(input_blocks):
                for output in range(first, min(first + order.group, output_blocks)):
                    tile = weights[tap, block, :, output]
                    stored = tile.any(axis=1)
                    maps.append(sum(1 << int(row) for row in np.flatnonzero(stored)))
                    words += tile[stored].tobytes() + bytes(lanes * (int(stored.sum()) & 1))
    return WeightSet(weights.reshape(taps * input_blocks * lanes, -1), order, maps, bytes(words))


@dataclasses.dataclass
class WeightProgram:
    """A program, where its blocks lie in the image (first byte, end; in order of their LOAD commands), and what it
    must store in window OUTPUT."""

    image: bytes
    blocks: list[tuple[int, int]]
    loads: list[int]
    output: np.ndarray


def weight_program(rng: np.random.Generator, config: Config, sets: Sequence[WeightSet]) -> WeightProgram:
    """One after the other: load a set's pixels, its block and parameters, convolve, store. Ways, tables of their own
    or the one before, and places are random."""
    data = bytearray()
    start = data_offset(4 * len(sets))
    commands: list[Command] = []
    blocks: list[tuple[int, int]] = []
    loads: list[int] = []
    outputs: list[bytes] = []
    table: Sequence[Symbol] | None = None

    def put(content: bytes, unit: int) -> int:
        data.extend(bytes(align(start + len(data), unit) - start - len(data)))
        at = start + len(data)
        data.extend(content)
        return at

    for number, item in enumerate(sets):
        order = item.order
        rows, pixels = len(item.weights), _pixels(item, config)
        counts = count_weights(item.maps, item.words, order)
        only = table is not None and rng.random() < 0.4 and cost(counts, table) < float("inf")
        ways = 1 << int(rng.integers(config.weight_ways.bit_length()))
        block, table = encode_block(item.maps, item.words, order, ways, 1.0, previous=table, only_previous=only)
        parameters = _parameters(order.output_blocks, config)
        offset = put(block + rng.bytes(2 * int(rng.integers(3))), 2)
        blocks.append((offset, offset + len(block)))
        loads.append(4 * number + 2)
        width = pixels.shape[0]
        place = {"weight_base": int(rng.integers(config.weight_words)),
                 "parameter_base": int(rng.integers(config.parameter_entries))}
        first_map = int(rng.integers(config.map_entries))
        base = config.feature_words // 2
        data_in = pixels.tobytes()
        commands += [
            (Opcode.LOAD, {"space": Space.FEATURE, "window": Window.IMAGE, "offset": put(data_in, 8),
                           "length": len(data_in), "wait_store": int(number > 0)}),
            (Opcode.LOAD, {
                "flags": Flag.COMPRESSED, "space": Space.WEIGHT, "window": Window.IMAGE, "offset": offset,
                "length": len(block), "address": place["weight_base"], "map_address": first_map, "taps": order.taps,
                "input_blocks": order.input_blocks, "output_blocks": order.output_blocks,
                "unrolling": order.group.bit_length() - 1, "last_rows": order.last_rows,
                "last_outputs": order.last_outputs, "parameter_offset": put(parameters, 8),
                "parameter_length": len(parameters), "parameter_address": place["parameter_base"],
                "signal": 1 << Engine.CONV}),
            (Opcode.CONV, {
                **place, "map_base": first_map * config.maps_per_entry, "unrolling": order.group.bit_length() - 1,
                "input_blocks": order.input_blocks, "last_lanes": config.lanes, "input_height": 1,
                "input_width": width, "input_pixel_stride": order.input_blocks, "kernel_height": 1,
                "kernel_width": order.taps, "stride_y": 1, "stride_x": order.taps, "dilation_y": 1, "dilation_x": 1,
                "output_base": base, "output_pixel_stride": order.output_blocks, "output_rows": 1,
                "output_width": rows, "output_blocks": order.output_blocks, "output_min": -128, "output_max": 127,
                "wait_load": 1, "signal": 1 << Engine.STORE}),
            (Opcode.STORE, {"window": Window.OUTPUT, "offset": sum(map(len, outputs)),
                            "length": align(item.weights.size, 8), "address": base, "wait_conv": 1,
                            "signal": 1 << Engine.LOAD}),
        ]
        outputs.append(item.weights.tobytes().ljust(align(item.weights.size, 8), b"\0"))
    image = image_of(config, commands, bytes(data))
    return WeightProgram(image, blocks, loads, np.frombuffer(b"".join(outputs), np.int8))


def _pixels(item: WeightSet, config: Config) -> np.ndarray:
    """int8 [rows x taps, input blocks x lanes]: output pixel r reads a 1 where row r has its activation."""
    taps, rows = item.order.taps, len(item.weights)
    pixels = np.zeros((rows, taps * item.order.input_blocks * config.lanes), np.int8)
    pixels[np.arange(rows), np.arange(rows)] = 1
    return pixels.reshape(rows * taps, -1)


def _parameters(output_blocks: int, config: Config) -> bytes:
    """Bias 0, multiplier 1 = 2^30 * 2^(1 - 31)."""
    q = config.requantise_lanes
    entry = (bytes(4 * q) + (1 << 30).to_bytes(4, "little") * q + b"\1" * q).ljust(config.parameter_entry_bytes, b"\0")
    return entry * (output_blocks * config.lanes // q)
