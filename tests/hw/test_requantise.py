"""Requantisation in hardware against the formulas of TFLite's kernels, written again here from their C++."""

from __future__ import annotations

import os

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.requantise import Requantise, ResidualAdd

INT32 = (-(1 << 31), (1 << 31) - 1)


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.SeedSequence().entropy % (1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


# ---- gemmlowp and TFLite, from their C++, on Python integers -------------------------------------


def wrap(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def truncating_division(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def saturating_rounding_doubling_high_mul(a: int, b: int) -> int:
    product = a * b
    nudge = (1 << 30) if product >= 0 else 1 - (1 << 30)
    return truncating_division(product + nudge, 1 << 31)


def rounding_divide_by_pot(x: int, exponent: int) -> int:
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def multiply_by_quantized_multiplier(x: int, multiplier: int, shift: int) -> int:
    left, right = max(shift, 0), max(-shift, 0)
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(wrap(x << left), multiplier), right)


def requantise(accumulator, bias, multiplier, shift, zero_point, minimum, maximum) -> int:
    value = multiply_by_quantized_multiplier(wrap(accumulator + bias), multiplier, shift)
    return min(max(wrap(value + zero_point), minimum), maximum)


def residual_add(a, b, k) -> int:
    scaled_a = multiply_by_quantized_multiplier((a - k["a_zero_point"]) << 20, k["a_multiplier"], k["a_shift"])
    scaled_b = multiply_by_quantized_multiplier((b - k["b_zero_point"]) << 20, k["b_multiplier"], k["b_shift"])
    return requantise(scaled_a, scaled_b, k["sum_multiplier"], k["sum_shift"], k["sum_zero_point"], k["sum_min"],
                      k["sum_max"])


# ---- test values -----------------------------------------------------------------------------------


def random_int32(rng: np.random.Generator) -> int:
    """Any magnitude, with the values around powers of two and the ends of the range often among them."""
    kind = rng.integers(4)
    if kind == 0:
        return int(rng.integers(*INT32, endpoint=True))
    if kind == 1:
        return int(rng.choice([INT32[0], INT32[0] + 1, -1, 0, 1, INT32[1] - 1, INT32[1]]))
    magnitude = 1 << int(rng.integers(31))
    if kind == 2:
        return int(rng.choice([-1, 1])) * magnitude + int(rng.integers(-2, 2))
    return int(rng.integers(-magnitude, magnitude, endpoint=True))


def random_multiplier(rng: np.random.Generator) -> int:
    if rng.integers(4) == 0:
        return int(rng.choice([0, 1, 1 << 30, (1 << 30) + 1, INT32[1]]))
    return int(rng.integers(1 << 30, 1 << 31)) >> int(rng.integers(31) if rng.integers(4) == 0 else 0)


def random_clamp(rng: np.random.Generator) -> tuple[int, int]:
    if rng.integers(2):
        return -128, 127
    low, high = sorted(int(x) for x in rng.integers(-128, 128, 2))
    return low, high


def simulate(dut, testbench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("lanes", [1, 4])
def test_requantise(lanes):
    rng = seeded()
    dut = Requantise(lanes)

    async def testbench(ctx):
        for _ in range(12):
            zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
            low, high = random_clamp(rng)
            ctx.set(dut.zero_point, zero_point)
            ctx.set(dut.minimum, low)
            ctx.set(dut.maximum, high)
            expected = []
            for cycle in range(100 + dut.LATENCY - 1):
                # Valid and invalid cycles mixed; the pipeline is drained before the constants change.
                valid = bool(cycle < 100 and rng.integers(4) > 0)
                lanes_in = [(random_int32(rng), random_int32(rng) >> int(rng.integers(32)), random_multiplier(rng),
                             int(rng.integers(-31, 32)) if rng.integers(3) else int(rng.integers(-12, 3)))
                            for _ in range(lanes)]
                ctx.set(dut.i_valid, valid)
                for port, column in zip((dut.i_accumulator, dut.i_bias, dut.i_multiplier, dut.i_shift),
                                        zip(*lanes_in, strict=True), strict=True):
                    ctx.set(port, list(column))
                expected.append([requantise(*lane, zero_point, low, high) for lane in lanes_in] if valid else None)
                await ctx.tick()
                at = cycle + 1 - dut.LATENCY
                assert ctx.get(dut.o_valid) == (at >= 0 and expected[at] is not None)
                if at >= 0 and expected[at] is not None:
                    assert [ctx.get(dut.o_value[i]) for i in range(lanes)] == expected[at]

    simulate(dut, testbench)


@pytest.mark.parametrize("positive_shifts", [False, True])
def test_residual_add(positive_shifts):
    rng = seeded()
    lanes = 4
    dut = ResidualAdd(lanes)

    async def testbench(ctx):
        for _ in range(16):
            constants = {}
            for name in ("a", "b", "sum"):
                constants[f"{name}_multiplier"] = random_multiplier(rng)
                constants[f"{name}_shift"] = (int(rng.integers(-31, 32)) if positive_shifts
                                              else -int(rng.integers(0, 4 if name != "sum" else 22)))
                constants[f"{name}_zero_point"] = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
            constants["sum_min"], constants["sum_max"] = random_clamp(rng)
            ctx.set(dut.constants, constants)
            expected = []
            for cycle in range(64 + dut.LATENCY - 1):
                valid = cycle < 64
                a, b = ([int(x) for x in np.where(rng.integers(4, size=lanes) == 0, rng.choice([-128, 127], lanes),
                                                  rng.integers(-128, 128, lanes))] for _ in range(2))
                ctx.set(dut.i_valid, valid)
                ctx.set(dut.i_a, a)
                ctx.set(dut.i_b, b)
                expected.append([residual_add(x, y, constants) for x, y in zip(a, b, strict=True)])
                await ctx.tick()
                at = cycle + 1 - dut.LATENCY
                assert ctx.get(dut.o_valid) == (at >= 0)
                if at >= 0:
                    assert [ctx.get(dut.o_value[i]) for i in range(lanes)] == expected[at]

    simulate(dut, testbench)
