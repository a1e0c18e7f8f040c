"""Depthwise convolutions on the vector engine against the golden model: memory, counters, and cycles."""

from __future__ import annotations

import copy
import dataclasses
import os

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode, Space
from hw.contract.config import Config, ConfigError, preset
from hw.contract.layouts import depthwise_lines
from hw.contract.registers import Error
from sim.golden import depthwise
from testbench.vector_engine_bench import Bench

CONFIGS = {
    "nano": preset("nano"),
    "halves": dataclasses.replace(preset("nano"), name="halves", requantise_lanes=4, depthwise_lanes=2),
    "wide": dataclasses.replace(preset("nano"), name="wide", requantise_lanes=4, depthwise_lanes=4, feature_banks=2),
}


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.SeedSequence().entropy % (1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def fill(bench: Bench, rng: np.random.Generator) -> None:
    """Random weights, and parameters that leave results within int8 as a rule."""
    chip, q = bench.chip, bench.config.requantise_lanes
    chip.weight_rows[:] = rng.integers(-128, 128, chip.weight_rows.shape)
    entries = chip.entries[Space.PARAMETER]
    entries[:, : 4 * q] = rng.integers(-5000, 5000, (len(entries), q)).astype("<i4").view(np.uint8)
    entries[:, 4 * q : 8 * q] = rng.integers(1 << 30, 1 << 31, (len(entries), q)).astype("<i4").view(np.uint8)
    entries[:, 8 * q : 9 * q] = rng.integers(-10, -6, (len(entries), q)).astype(np.int8).view(np.uint8)


def random_fields(rng: np.random.Generator, config: Config) -> dict[str, int]:
    """A random DEPTHWISE command."""
    wide = rng.integers(4) == 0
    kernel = [(3, 3), (1, 1), (1, 3), (3, 2), (1, 5), (5, 4), (1, 15), (7, 7), (16, 16)][
        int(rng.choice(9, p=[0.4, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08, 0.04]))]
    large = kernel[0] * kernel[1] > 30
    height, width = (1, int(rng.integers(60, 75))) if wide and not large else rng.integers(1, 4 if large else 7, 2)
    blocks = 1 if wide or large else int(rng.integers(1, 4))
    f = {"kernel_height": kernel[0], "kernel_width": kernel[1], "output_rows": int(height), "output_width": int(width),
         "output_blocks": blocks, "output_y": int(rng.integers(0, 3))}
    for i, name in enumerate("yx"):
        f[f"stride_{name}"] = int(rng.integers(1, 4)) if rng.integers(2) else 1
        f[f"dilation_{name}"] = int(rng.integers(1, 4)) if rng.integers(3) == 0 else 1
        f[("pad_top", "pad_left")[i]] = int(rng.integers(0, kernel[i] * f[f"dilation_{name}"] + 1))
    f["input_height"] = int(rng.integers(1, 12))
    f["input_width"] = int(rng.integers(1, 80 if wide else 12))
    at = int(rng.integers(config.feature_words))
    for name, rows, columns in (("input", f["input_height"], f["input_width"]),
                                ("output", f["output_y"] + f["output_rows"], f["output_width"])):
        pixel = blocks + int(rng.integers(0, 2))
        row = columns * pixel + int(rng.integers(0, 3))
        f |= {f"{name}_base": at % config.feature_words, f"{name}_row_stride": row, f"{name}_pixel_stride": pixel}
        at += rows * row + 8
    f |= {"weight_base": int(rng.integers(config.weight_words)), "input_zero_point": int(rng.integers(-128, 128)),
          "parameter_base": int(rng.integers(config.parameter_entries)),
          "output_zero_point": int(rng.integers(-128, 128)), "output_min": -128, "output_max": 127}
    if rng.integers(2):
        f |= {"output_min": -100, "output_max": 90}
    if rng.integers(3) == 0:
        f |= {"flags": int(Flag.GATED), "mask_base": int(rng.integers(config.mask_words))}
    return {"flags": 0, "mask_base": 0, **f}


def clear_unused(bench: Bench, f: dict[str, int]) -> None:
    """Zeros where a kernel row's first line has no taps."""
    lines = depthwise_lines(f["kernel_width"])
    rows = bench.chip.weight_rows
    for i in range(f["kernel_height"] * f["output_blocks"]):
        for j in range(3 * lines - f["kernel_width"]):
            rows[(2 * f["weight_base"] + 4 * lines * i + j) % len(rows)] = 0


def check(done: dict[str, int], bench: Bench, expected, counters: dict[str, int], fields: dict[str, int]) -> None:
    assert done["error"] == Error.NONE, fields
    wrong = np.argwhere(bench.memory != expected.feature)
    assert not len(wrong), f"{fields}: {len(wrong)} bytes differ, first {wrong[0]}"
    assert {name: done[name] for name in counters} == counters, fields


@pytest.mark.parametrize("stalls", [False, True], ids=["no_stalls", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(name, stalls):
    rng = seeded()
    bench = Bench(CONFIGS[name], rng, stalls)

    async def testbench(ctx):
        for _ in range(12):
            fields = random_fields(rng, bench.config)
            bench.masks[:] = rng.integers(0, 1 << 64, len(bench.masks), dtype=np.uint64)
            if rng.integers(2):
                bench.masks[:] &= rng.integers(0, 1 << 64, len(bench.masks), dtype=np.uint64)
            fill(bench, rng)
            clear_unused(bench, fields)
            expected = copy.deepcopy(bench.chip)
            counters, steps = depthwise.run(fields, expected, bench.config)
            done = await bench.execute(ctx, Opcode.DEPTHWISE, fields)
            check(done, bench, expected, counters, fields)
            slices = bench.config.lanes // bench.config.requantise_lanes
            groups = bench.config.depthwise_cycles
            if not stalls and not fields["flags"]:
                rows = fields["output_rows"] * fields["output_blocks"]
                kernel = fields["kernel_height"] * (fields["output_blocks"] + 1) * 12 * groups
                # Banks met by both words at once, rows to look for, and weights that come before the first step.
                limit = max(steps * groups, counters["words_written"] * slices, counters["words_read"]) * 1.3
                assert done["cycles"] <= limit + 6 * rows + kernel + 70

    bench.run(testbench)


LAYER = {"flags": 0, "kernel_height": 3, "kernel_width": 3, "stride_y": 1, "stride_x": 1, "dilation_y": 1,
         "dilation_x": 1,
         "pad_top": 1, "pad_left": 1, "input_height": 8, "input_width": 8, "input_base": 0, "input_row_stride": 16,
         "input_pixel_stride": 2, "output_base": 512, "output_row_stride": 16, "output_pixel_stride": 2, "output_y": 0,
         "output_rows": 8, "output_width": 8, "output_blocks": 2, "mask_base": 0, "output_min": -128, "output_max": 127,
         "weight_base": 0, "parameter_base": 0, "input_zero_point": 3, "output_zero_point": -5}


@pytest.mark.parametrize(("change", "per_word"), [
    ({}, 3),
    ({"stride_y": 2, "stride_x": 2, "output_rows": 4, "output_width": 4, "pad_top": 0, "pad_left": 0}, 3.9),
    ({"kernel_height": 1, "pad_top": 0}, 1),
    ({"kernel_height": 5, "kernel_width": 5, "pad_top": 2, "pad_left": 2}, 10),
])
@pytest.mark.parametrize("name", ["halves", "wide"])
def test_three_taps_of_a_group_per_cycle(name, change, per_word):
    bench = Bench(dataclasses.replace(CONFIGS[name], feature_banks=4), seeded())  # two words a cycle need banks
    fill(bench, np.random.default_rng(1))
    fields = LAYER | change

    async def testbench(ctx):
        clear_unused(bench, fields)
        expected = copy.deepcopy(bench.chip)
        counters, steps = depthwise.run(fields, expected, bench.config)
        done = await bench.execute(ctx, Opcode.DEPTHWISE, fields)
        check(done, bench, expected, counters, fields)
        assert steps <= counters["words_written"] * per_word
        rows = fields["output_rows"] * fields["output_blocks"]
        groups = bench.config.depthwise_cycles
        weights = 2 * groups * fields["kernel_height"] * depthwise_lines(fields["kernel_width"])  # of the first block
        assert done["cycles"] <= steps * groups + (2 * rows if per_word == 1 else 0) + weights + 55

    bench.run(testbench)


@pytest.mark.parametrize("lanes", [0, 3, 8])
def test_lanes_that_cannot_be_built_are_refused(lanes):
    with pytest.raises(ConfigError, match="depthwise_lanes must be"):
        dataclasses.replace(CONFIGS["nano"], depthwise_lanes=lanes)


@pytest.mark.parametrize("change", [
    {"kernel_height": 17}, {"kernel_width": 17}, {"kernel_width": 0}, {"kernel_width": 32}, {"kernel_width": 33},
    {"dilation_x": 0}, {"dilation_y": 0}, {"stride_x": 0}, {"flags": 2}, {"output_blocks": 0}, {"input_height": 0},
])
def test_bad_commands_are_refused(change):
    bench = Bench(CONFIGS["nano"], seeded())

    async def testbench(ctx):
        done = await bench.execute(ctx, Opcode.DEPTHWISE, LAYER | change, limit=1000)
        assert done["error"] == Error.BAD_COMMAND

    bench.run(testbench)
