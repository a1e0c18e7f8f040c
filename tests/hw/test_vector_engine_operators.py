"""MUL, MEAN and tables on the vector engine, on random commands against the golden model."""

from __future__ import annotations

import copy
import dataclasses
import os

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode
from hw.contract.config import Config, preset
from hw.contract.registers import Error
from sim.golden import depthwise, vector
from sim.golden.memory import OnChip
from testbench.vector_engine_bench import Bench

CONFIGS = {
    "nano": preset("nano"),
    "small": preset("small"),
    "wide": dataclasses.replace(preset("nano"), name="wide", requantise_lanes=4),
}


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.SeedSequence().entropy % (1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def random_fields(rng: np.random.Generator, opcode: Opcode, config: Config) -> dict[str, int]:
    height, width, blocks = (int(value) for value in rng.integers(1, 6, 3))
    f = {"flags": int(Flag.TABLE) * int(rng.integers(2)), "output_y": 0, "output_rows": height, "output_width": width,
         "output_blocks": blocks, "output_base": int(rng.integers(config.feature_words)),
         "output_row_stride": width * blocks, "output_pixel_stride": blocks,
         "table_base": int(rng.integers(config.weight_words)), "mask_base": 0}
    low, high = sorted(int(value) for value in rng.integers(-128, 128, 2)) if rng.integers(2) else (-128, 127)
    factor = {"multiplier": int(rng.integers(1 << 30, 1 << 31)), "shift": -int(rng.integers(3, 9))}
    if opcode in (Opcode.ADD, Opcode.MUL):
        broadcast = rng.integers(2)
        f |= {"a_base": f["output_base"] if rng.integers(2) else f["output_base"] + 300, "a_row_stride": width * blocks,
              "a_pixel_stride": blocks, "b_base": (f["output_base"] + 600) % config.feature_words,
              "b_row_stride": 0 if broadcast else width * blocks, "b_pixel_stride": 0 if broadcast else blocks,
              "a_multiplier": 1 << 30, "b_multiplier": 1 << 30, "a_shift": 0, "b_shift": 0,
              "sum_min": low, "sum_max": high, "sum_multiplier": factor["multiplier"],
              "sum_shift": factor["shift"] - (16 if opcode is Opcode.ADD else 0)}
        f |= {f"{name}_zero_point": int(rng.integers(-128, 128)) for name in ("a", "b", "sum")}
        f["a_base"] %= config.feature_words
        return f
    kernel = rng.integers(1, 5, 2)
    f |= {"input_base": (f["output_base"] + 300) % config.feature_words, "input_row_stride": 9 * blocks,
          "input_pixel_stride": blocks, "input_height": height + 3, "input_width": width + 3,
          "kernel_height": int(kernel[0]), "kernel_width": int(kernel[1]), "stride_y": 1, "stride_x": 1,
          "dilation_y": 1, "dilation_x": 1, "pad_top": 0, "pad_left": 0, "output_min": low, "output_max": high}
    if opcode is Opcode.MEAN:
        f |= {**factor, "bias": int(rng.integers(-3000, 3000)), "output_zero_point": int(rng.integers(-128, 128))}
    if opcode is Opcode.DEPTHWISE:
        f |= {"weight_base": 0, "parameter_base": 0, "input_zero_point": 3, "output_zero_point": 0}
    return f


def golden(opcode: Opcode, fields: dict[str, int], chip: OnChip, config: Config) -> dict[str, int]:
    if opcode is Opcode.DEPTHWISE:
        return depthwise.run(fields, chip, config)[0]
    if opcode in (Opcode.ADD, Opcode.MUL):
        return (vector.add if opcode is Opcode.ADD else vector.multiply)(fields, chip, config)
    return vector.pool(opcode, fields, chip, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(name):
    rng = seeded()
    bench = Bench(CONFIGS[name], rng, stalls=True)
    opcodes = [Opcode.MUL, Opcode.MEAN, Opcode.MUL, Opcode.MEAN, Opcode.ADD, Opcode.MAX_POOL, Opcode.AVERAGE_POOL,
               Opcode.DEPTHWISE]

    async def testbench(ctx):
        for opcode in opcodes:
            fields = random_fields(rng, opcode, bench.config)
            bench.chip.weight_rows[:] = rng.integers(-128, 128, bench.chip.weight_rows.shape)
            if opcode is Opcode.DEPTHWISE:
                fields |= {"kernel_width": 3, "weight_base": fields["table_base"]}
            expected = copy.deepcopy(bench.chip)
            counters = golden(opcode, fields, expected, bench.config)
            done = await bench.execute(ctx, opcode, fields)
            assert done["error"] == Error.NONE
            wrong = np.argwhere(bench.memory != expected.feature)
            assert not len(wrong), f"{opcode.name} {fields}: {len(wrong)} bytes differ, first {wrong[0]}"
            assert {counter: done[counter] for counter in counters} == counters

    bench.run(testbench)


@pytest.mark.parametrize(("opcode", "change"), [
    (Opcode.MEAN, {"multiplier": 1 << 31}), (Opcode.MEAN, {"shift": 8}), (Opcode.MEAN, {"shift": -32}),
    (Opcode.MUL, {"sum_shift": -32}), (Opcode.MUL, {"flags": int(Flag.PACKED)}), (Opcode.MEAN, {"dilation_y": 2}),
])
def test_bad_commands_are_refused(opcode, change):
    rng = seeded()
    bench = Bench(CONFIGS["nano"], rng)

    async def testbench(ctx):
        done = await bench.execute(ctx, opcode, random_fields(rng, opcode, bench.config) | change, limit=1000)
        assert done["error"] == Error.BAD_COMMAND

    bench.run(testbench)
