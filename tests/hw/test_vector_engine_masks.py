"""DECIDE, DILATE and COMBINE on the vector engine against the golden model."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest

from hw.contract.commands import Opcode
from hw.contract.config import preset
from hw.contract.layouts import mask_row_words
from hw.contract.registers import Error
from sim.golden import masks
from testbench.vector_engine_bench import Bench

CONFIG = preset("nano")


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.SeedSequence().entropy % (1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def decide_fields(rng: np.random.Generator) -> dict[str, int]:
    height = int(rng.integers(1, 4))
    width = int(rng.choice([1, 9, 63, 64, 65, 130]))
    return {"flags": 0, "output_y": 0, "output_rows": height, "output_width": width, "output_blocks": 1,
            "input_base": int(rng.integers(CONFIG.feature_words)), "input_row_stride": width, "input_pixel_stride": 1,
            "input_height": height, "input_width": width, "kernel_height": 1, "kernel_width": 1, "stride_y": 1,
            "stride_x": 1, "dilation_y": 1, "dilation_x": 1, "pad_top": 0, "pad_left": 0,
            "mask_base": int(rng.integers(CONFIG.mask_words)), "bound": int(rng.integers(-129, 130)),
            "invert": int(rng.integers(2)), "any_lane": int(rng.integers(2))}


def combine_fields(rng: np.random.Generator) -> dict[str, int]:
    values = {"flags": 0, "output_y": 0, "output_rows": int(rng.integers(1, 5)), "output_blocks": 1,
              "output_width": int(rng.choice([1, 9, 63, 64, 65, 130])), "inverted": int(rng.integers(8)),
              "spread": int(rng.choice([0, 0, 0, 1, 2, 3]))}
    values |= {name: int(rng.integers(CONFIG.mask_words)) for name in ("mask_base", "other_base", "target_base")}
    if rng.random() < 0.3:
        values["target_base"] = values[str(rng.choice(["mask_base", "other_base"]))]
    return values


def dilate_fields(rng: np.random.Generator) -> dict[str, int]:
    stride = [int(rng.integers(1, 3)), int(rng.integers(1, 3))]
    f = {"flags": 0, "output_y": 0, "output_rows": int(rng.integers(1, 6)), "output_blocks": 1,
         "output_width": int(rng.choice([1, 5, 31, 32, 33, 63, 64, 65, 100, 129])), "stride_y": stride[0],
         "stride_x": stride[1], "kernel_height": int(rng.integers(1, 5)),
         "kernel_width": int(rng.choice([1, 3, 3, 5, 16])), "dilation_y": int(rng.integers(1, 3)),
         "dilation_x": int(rng.choice([1, 1, 2, 40])),
         "mask_base": int(rng.integers(CONFIG.mask_words))}
    for i, (name, pad) in enumerate((("height", "pad_top"), ("width", "pad_left"))):
        reach = (f[f"kernel_{name}"] - 1) * f[f"dilation_{'yx'[i]}"]
        f[pad] = min(255, int(rng.integers(0, reach + 2)))
        f[f"input_{name}"] = max(1, f[("output_rows", "output_width")[i]] * stride[i] + int(rng.integers(-3, 4)))
    words = f["output_rows"] * mask_row_words(f["output_width"])
    f["target_base"] = (f["mask_base"] + words) % CONFIG.mask_words
    return f


FIELDS = {Opcode.DECIDE: decide_fields, Opcode.DILATE: dilate_fields, Opcode.COMBINE: combine_fields}


@pytest.mark.parametrize(("opcode", "config"), [*((opcode, CONFIG) for opcode in FIELDS),
                                                (Opcode.DECIDE, preset("small"))],
                         ids=lambda value: value.name)
def test_random_commands(opcode, config):
    rng = seeded()
    bench = Bench(config, rng, stalls=True)

    async def testbench(ctx):
        for _ in range(16):
            fields = FIELDS[opcode](rng)
            if opcode is Opcode.DECIDE and fields["any_lane"]:  # most words hold the bound, in every lane but one
                closed = np.full_like(bench.memory, np.clip(fields["bound"], -128, 127))
                one = np.flatnonzero(rng.random(len(closed)) < 0.5)
                closed[one, rng.integers(config.lanes, size=len(one))] = rng.integers(-128, 128, len(one))
                bench.memory[:] = np.where(rng.random((len(closed), 1)) < 0.9, closed, bench.memory)
            bench.masks[:] = rng.integers(0, 1 << 64, len(bench.masks), dtype=np.uint64)
            for _ in range(int(rng.integers(4))):
                bench.masks[:] &= rng.integers(0, 1 << 64, len(bench.masks), dtype=np.uint64)
            expected = copy.deepcopy(bench.chip)
            if opcode is Opcode.DECIDE:
                counters = masks.decide(fields, expected, config)
            elif opcode is Opcode.COMBINE:
                counters, steps = masks.combine(fields, expected, config), 0
            else:
                counters, steps = masks.dilate(fields, expected, config)
            done = await bench.execute(ctx, opcode, fields)
            assert done["error"] == Error.NONE, fields
            for space, entries in expected.entries.items():
                wrong = np.argwhere(bench.chip.entries[space] != entries)
                assert not len(wrong), f"{fields}: {space.name}, {len(wrong)} bytes differ, first {wrong[0]}"
            assert {name: done[name] for name in counters} == counters
            if opcode is Opcode.DILATE:
                assert steps <= done["cycles"]

    bench.run(testbench)


@pytest.mark.parametrize(("opcode", "change"), [
    (Opcode.DECIDE, {"output_blocks": 2}), (Opcode.DECIDE, {"flags": 1}), (Opcode.DECIDE, {"invert": 2}),
    (Opcode.DILATE, {"stride_x": 3}), (Opcode.DILATE, {"flags": 1}), (Opcode.DILATE, {"kernel_width": 17}),
    (Opcode.DILATE, {"dilation_y": 0}), (Opcode.DECIDE, {"any_lane": 2}), (Opcode.COMBINE, {"flags": 1}),
    (Opcode.COMBINE, {"inverted": 8}), (Opcode.COMBINE, {"spread": 4}), (Opcode.COMBINE, {"output_blocks": 2}),
    (Opcode.COMBINE, {"output_width": 0}),
])
def test_bad_commands_are_refused(opcode, change):
    rng = seeded()
    bench = Bench(CONFIG, rng)
    fields = FIELDS[opcode](rng) | change

    async def testbench(ctx):
        assert (await bench.execute(ctx, opcode, fields, limit=1000))["error"] == Error.BAD_COMMAND

    bench.run(testbench)
