"""The vector engine on random commands, against the operators written with NumPy from TFLite's definitions."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode
from hw.contract.config import Config, preset
from hw.contract.layouts import mask_row_words
from hw.contract.registers import Error
from testbench.vector_engine_bench import Bench

CONFIGS = {
    "nano": preset("nano"),  # 4 lanes, one requantised per cycle
    "small": preset("small"),
    "wide": dataclasses.replace(preset("nano"), name="wide", requantise_lanes=4, feature_banks=2, pool_area=100),
}


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.SeedSequence().entropy % (1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


# ---- reference: int64 arrays of any shape ------------------------------------------------------------


def scale(x: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    """MultiplyByQuantizedMultiplier of int32 values."""
    product = x.astype(np.int64) * multiplier
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    high = np.where(total >= 0, total >> 31, -(-total >> 31))
    mask = (1 << -shift) - 1
    return (high >> -shift) + ((high & mask) > (mask >> 1) + (high < 0))


def reference_add(a: np.ndarray, b: np.ndarray, f: dict[str, int]) -> np.ndarray:
    total = sum(scale((x - f[f"{name}_zero_point"]) << 20, f[f"{name}_multiplier"], f[f"{name}_shift"])
                for name, x in (("a", a.astype(np.int64)), ("b", b.astype(np.int64))))
    result = scale(total, f["sum_multiplier"], f["sum_shift"]) + f["sum_zero_point"]
    return np.clip(result, f["sum_min"], f["sum_max"]).astype(np.int8)


def reference_pool(window: np.ndarray, f: dict[str, int], average: bool) -> np.ndarray:
    """window: int8 [taps][channels]."""
    if average:
        count = len(window)
        total = window.astype(np.int64).sum(axis=0)
        away = np.where(total > 0, total + count // 2, total - count // 2)
        result = np.where(away >= 0, away // count, -(-away // count))
    else:
        result = window.max(axis=0)
    return np.clip(result, f["output_min"], f["output_max"]).astype(np.int8)


@dataclasses.dataclass
class Job:
    """A command, and what it does to the memory."""

    opcode: Opcode
    fields: dict[str, int]
    expected: np.ndarray
    active_pixels: int
    words_read: int
    words_written: int


def random_job(rng: np.random.Generator, config: Config, memory: np.ndarray, masks: np.ndarray) -> Job:
    """A random command on `memory` (int8 [words][lanes]); `masks` (uint64) is rewritten for it."""
    words = config.feature_words
    opcode = Opcode(rng.choice([Opcode.ADD, Opcode.AVERAGE_POOL, Opcode.MAX_POOL]))
    pool = opcode != Opcode.ADD
    blocks = int(rng.integers(1, 4))
    wide = rng.integers(3) == 0
    height, width = int(rng.integers(1, 6)), int(rng.integers(60, 140) if wide else rng.integers(1, 12))
    if wide:
        height, blocks = min(height, 3), 1
    f: dict[str, int] = {"output_y": int(rng.integers(0, 3)), "output_rows": height, "output_width": width,
                         "output_blocks": blocks}

    def place(rows: int, columns: int) -> tuple[int, int, int]:
        """Base, row stride and pixel stride of a tensor of rows x columns pixels, apart from all others."""
        nonlocal free
        pixel = blocks + int(rng.integers(0, 2))
        row = columns * pixel + int(rng.integers(0, 3))
        base = free
        free += rows * row + 8
        return base, row, pixel

    free = int(rng.integers(0, words))  # tensors may wrap around the end of the memory
    bottom = f["output_y"] + height
    f["output_base"], f["output_row_stride"], f["output_pixel_stride"] = place(bottom, width)
    if pool:
        if rng.integers(4) == 0 and not wide:  # large windows, up to the whole input
            f["kernel_height"] = int(rng.integers(1, min(20, config.pool_area) + 1))
            f["kernel_width"] = int(rng.integers(1, min(255, config.pool_area // f["kernel_height"]) + 1))
            f["output_rows"], f["output_width"] = height, width = 1, int(rng.integers(1, 3))
            f["output_blocks"] = blocks = 1
        else:
            f["kernel_height"], f["kernel_width"] = int(rng.integers(1, 5)), int(rng.integers(1, 5))
        kernel = f["kernel_height"], f["kernel_width"]
        f["stride_y"], f["stride_x"] = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        f["pad_top"], f["pad_left"] = (int(rng.integers(0, k)) for k in kernel)
        bottom = f["output_y"] + height
        # The input ends anywhere after the first pixel of the last window.
        last = ((bottom - 1) * f["stride_y"] - f["pad_top"], (width - 1) * f["stride_x"] - f["pad_left"])
        f["input_height"], f["input_width"] = (
            max(1, start + 1 + int(rng.integers(0, k + 1))) for start, k in zip(last, kernel, strict=True))
        f["dilation_y"] = f["dilation_x"] = 1
        f["input_base"], f["input_row_stride"], f["input_pixel_stride"] = place(f["input_height"], f["input_width"])
        f["output_min"], f["output_max"] = (-128, 127) if rng.integers(2) else (-70, 50)
    else:
        for name in ("a", "b"):
            if name == "a" and rng.integers(3) == 0:  # in place
                for field in ("base", "row_stride", "pixel_stride"):
                    f[f"a_{field}"] = f[f"output_{field}"]
            else:
                f[f"{name}_base"], f[f"{name}_row_stride"], f[f"{name}_pixel_stride"] = place(bottom, width)
        for name in ("a", "b", "sum"):
            f[f"{name}_multiplier"] = int(rng.integers(1 << 30, 1 << 31))
            f[f"{name}_shift"] = -int(rng.integers(17, 21) if name == "sum" else rng.integers(0, 4))
            f[f"{name}_zero_point"] = int(rng.integers(-128, 128))
        f["sum_min"], f["sum_max"] = (-128, 127) if rng.integers(2) else (-70, 50)
    if free - f["output_base"] > words:  # too large for the memory: the tensors would overlap
        return random_job(rng, config, memory, masks)

    active = np.ones((height, width), bool)
    if rng.integers(3):
        f["flags"] = int(Flag.GATED)
        row_words = mask_row_words(width)
        f["mask_base"] = int(rng.integers(0, config.mask_words))
        active = rng.random((height, width)) < rng.choice([0, 0.02, 0.1, 0.5, 0.9, 1])
        masks[:] = rng.integers(0, 1 << 64, len(masks), dtype=np.uint64)  # bits past a row's end are anything
        for y in range(height):
            for x in range(width):
                at = (f["mask_base"] + y * row_words + x // 64) % config.mask_words
                bit = np.uint64(1 << (x % 64))
                masks[at] = masks[at] | bit if active[y, x] else masks[at] & ~bit

    expected = memory.copy()
    read = 0
    for y, x in zip(*np.nonzero(active), strict=True):
        y, x = int(y) + f["output_y"], int(x)
        for block in range(blocks):
            if pool:
                window = []
                for i in range(f["kernel_height"]):
                    for j in range(f["kernel_width"]):
                        iy, ix = y * f["stride_y"] - f["pad_top"] + i, x * f["stride_x"] - f["pad_left"] + j
                        if 0 <= iy < f["input_height"] and 0 <= ix < f["input_width"]:
                            at = f["input_base"] + iy * f["input_row_stride"] + ix * f["input_pixel_stride"] + block
                            window.append(memory[at % words])
                read += len(window)
                value = reference_pool(np.array(window), f, opcode == Opcode.AVERAGE_POOL)
            else:
                a, b = (memory[(f[f"{name}_base"] + y * f[f"{name}_row_stride"] + x * f[f"{name}_pixel_stride"]
                                + block) % words] for name in ("a", "b"))
                read += 2
                value = reference_add(a, b, f)
            at = f["output_base"] + y * f["output_row_stride"] + x * f["output_pixel_stride"] + block
            expected[at % words] = value
    pixels = int(active.sum())
    f = {name: value % words if name.endswith("base") and name != "mask_base" else value for name, value in f.items()}
    return Job(opcode, f, expected, pixels, read, pixels * blocks)


@pytest.mark.parametrize("stalls", [False, True], ids=["no_stalls", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(name, stalls):
    rng = seeded()
    bench = Bench(CONFIGS[name], rng, stalls)

    async def testbench(ctx):
        for _ in range(6):
            job = random_job(rng, bench.config, bench.memory, bench.masks)
            done = await bench.execute(ctx, job.opcode, job.fields)
            assert done["error"] == Error.NONE
            wrong = np.argwhere(bench.memory != job.expected)
            assert not len(wrong), f"{job.opcode.name} {job.fields}: {len(wrong)} bytes differ, first {wrong[0]}"
            assert (done["active_pixels"], done["words_read"], done["words_written"]) == (
                job.active_pixels, job.words_read, job.words_written)

    bench.run(testbench)


# ---- cycles -----------------------------------------------------------------------------------------------

#: Cycles of a command besides its words: decoding, the first fetch, the pipeline, the last write.
OVERHEAD = 56

ADD_8X16 = {
    "output_base": 0, "output_row_stride": 16, "output_pixel_stride": 1, "output_rows": 8, "output_width": 16,
    "output_blocks": 1, "a_base": 0, "a_row_stride": 16, "a_pixel_stride": 1, "b_base": 128, "b_row_stride": 16,
    "b_pixel_stride": 1, "a_multiplier": 1 << 30, "b_multiplier": 1 << 30, "sum_multiplier": 1 << 30, "sum_shift": -19,
    "sum_min": -128, "sum_max": 127,
}
POOL_8X8 = {
    "output_base": 512, "output_row_stride": 8, "output_pixel_stride": 1, "output_rows": 8, "output_width": 8,
    "output_blocks": 1, "input_base": 0, "input_row_stride": 16, "input_pixel_stride": 1, "input_height": 16,
    "input_width": 16, "kernel_height": 2, "kernel_width": 2, "stride_y": 2, "stride_x": 2, "dilation_y": 1,
    "dilation_x": 1, "output_min": -128, "output_max": 127,
}


def execute_one(config: Config, opcode: Opcode, fields: dict[str, int], mask: int = 0) -> tuple[dict, Bench]:
    """Runs one command without stalls; every mask word is `mask`."""
    bench = Bench(config, seeded())
    bench.masks[:] = mask
    done = {}

    async def testbench(ctx):
        done.update(await bench.execute(ctx, opcode, fields))

    bench.run(testbench)
    return done, bench


@pytest.mark.parametrize(("name", "cycles_per_word"), [("nano", 8), ("wide", 2)])
def test_add_takes_as_long_as_its_requantisation(name, cycles_per_word):
    done, _ = execute_one(CONFIGS[name], Opcode.ADD, ADD_8X16)
    assert done["cycles"] <= 128 * cycles_per_word + OVERHEAD


def test_pool_takes_one_cycle_per_tap():
    done, _ = execute_one(CONFIGS["nano"], Opcode.MAX_POOL, POOL_8X8)
    assert done["words_read"] == 256
    assert done["cycles"] <= 256 + OVERHEAD


@pytest.mark.parametrize("name", ["nano", "wide"])
def test_words_wait_for_a_slow_write_port(name):
    bench = Bench(CONFIGS[name], seeded())
    bench.slow_write = True
    f = {"a_shift": 0, "b_shift": 0, "a_zero_point": 0, "b_zero_point": 0, "sum_zero_point": 0, **ADD_8X16,
         "output_base": 256}
    expected = reference_add(bench.memory[:128], bench.memory[128:256], f)

    async def testbench(ctx):
        await bench.execute(ctx, Opcode.ADD, f)
        assert (bench.memory[256:384] == expected).all()

    bench.run(testbench)


@pytest.mark.parametrize("opcode", [Opcode.ADD, Opcode.AVERAGE_POOL, Opcode.MAX_POOL])
def test_mask_without_active_pixels_costs_a_cycle_per_word(opcode):
    fields = ADD_8X16 if opcode == Opcode.ADD else POOL_8X8
    fields = {**fields, "output_rows": 10, "output_width": 200, "flags": int(Flag.GATED)}
    bench = Bench(CONFIGS["nano"], seeded())
    before = bench.memory.copy()

    async def testbench(ctx):
        done = await bench.execute(ctx, opcode, fields)
        assert done == {"active_pixels": 0, "words_read": 0, "words_written": 0, "cycles": done["cycles"], "error": 0}
        assert done["cycles"] <= 40 + 16
        assert (bench.memory == before).all()

    bench.run(testbench)


@pytest.mark.parametrize("opcode", [Opcode.ADD, Opcode.MAX_POOL])
def test_one_bit_gates_the_whole_command(opcode):
    """Bit 0 of the first word says so, whatever the bits and the words behind it hold; if it is clear, at once."""
    fields = {**(ADD_8X16 if opcode == Opcode.ADD else POOL_8X8), "flags": int(Flag.GATED | Flag.WHOLE),
              "mask_base": CONFIGS["nano"].mask_words - 1}
    pixels = fields["output_rows"] * fields["output_width"]
    bench = Bench(CONFIGS["nano"], seeded())

    async def testbench(ctx):
        for run in (1, 0):
            bench.masks[:] = 0 if run else (1 << 64) - 1
            bench.masks[-1] = 1 if run else (1 << 64) - 2
            done = await bench.execute(ctx, opcode, fields)
            assert done["active_pixels"] == run * pixels
            assert run or done["cycles"] <= 16

    bench.run(testbench)


def test_max_pool_of_one_pixel_copies():
    fields = {**POOL_8X8, "kernel_height": 1, "kernel_width": 1, "stride_y": 1, "stride_x": 1}
    _, bench = execute_one(CONFIGS["small"], Opcode.MAX_POOL, fields)
    for y in range(8):
        assert (bench.memory[512 + 8 * y : 520 + 8 * y] == bench.memory[16 * y : 16 * y + 8]).all()


# ---- commands that must be refused --------------------------------------------------------------------------


BAD_COMMANDS = [
    *((opcode, {field: 0}) for opcode in (Opcode.ADD, Opcode.AVERAGE_POOL)
      for field in ("output_rows", "output_width", "output_blocks")),
    *((Opcode.MAX_POOL, {field: 0}) for field in ("kernel_height", "kernel_width", "stride_y", "stride_x",
                                                  "input_height", "input_width")),
    (Opcode.AVERAGE_POOL, {"dilation_x": 2}),
    (Opcode.MAX_POOL, {"dilation_y": 0}),
    (Opcode.AVERAGE_POOL, {"kernel_height": 16, "kernel_width": 17}),
    (Opcode.MAX_POOL, {"kernel_height": 255, "kernel_width": 255}),
    (Opcode.ADD, {"a_shift": 1}),
    (Opcode.ADD, {"b_shift": -16}),
    (Opcode.ADD, {"sum_shift": 8}),
    (Opcode.ADD, {"sum_shift": -32}),
    (Opcode.ADD, {"b_multiplier": 1 << 31}),
    (Opcode.ADD, {"flags": int(Flag.ADD)}),
    (Opcode.MAX_POOL, {"flags": int(Flag.PACKED)}),
    (Opcode.CONV, {"flags": 0}),
    # Windows without an input pixel: below and right of the input, and all in the padding above and left.
    (Opcode.MAX_POOL, {"output_rows": 9}),
    (Opcode.AVERAGE_POOL, {"output_width": 9}),
    (Opcode.MAX_POOL, {"pad_top": 2}),
    (Opcode.MAX_POOL, {"pad_left": 255}),
]

#: Windows as large as nano's pool_area, or almost all padding.
GOOD_COMMANDS = [
    {"kernel_height": 16, "kernel_width": 16, "output_rows": 1},
    {"kernel_height": 255, "kernel_width": 1, "pad_top": 254, "output_rows": 1},
    {"stride_y": 255, "stride_x": 255, "output_rows": 1, "output_width": 1},
]


def test_bad_commands_are_refused_and_reset_recovers():
    bench = Bench(CONFIGS["nano"], seeded())

    async def testbench(ctx):
        for i, (opcode, change) in enumerate(BAD_COMMANDS):
            base = {Opcode.ADD: ADD_8X16, Opcode.CONV: {}}.get(opcode, POOL_8X8)
            done = await bench.execute(ctx, opcode, {**base, **change})
            assert done["error"] == Error.BAD_COMMAND, (opcode.name, change)
            await bench.reset_engine(ctx)
            if i < len(GOOD_COMMANDS):
                done = await bench.execute(ctx, Opcode.AVERAGE_POOL, {**POOL_8X8, **GOOD_COMMANDS[i]})
                assert done["error"] == Error.NONE, GOOD_COMMANDS[i]

    bench.run(testbench)
