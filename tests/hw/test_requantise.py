"""Requantisation in hardware against the formulas of TFLite's kernels, written again here from their C++."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.contract.commands import LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN
from hw.requantise import AddOperands, Requantise

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
    return min(max(value + zero_point, minimum), maximum)


def requantise_once(accumulator, bias, multiplier, shift, zero_point, minimum, maximum) -> int:
    """One rounding, halves up, of the exact product."""
    product = wrap(wrap(accumulator + bias) << max(shift, 0)) * multiplier
    value = math.floor(Fraction(product, 1 << 31 - min(shift, 0)) + Fraction(1, 2))
    return min(max(value + zero_point, minimum), maximum)


def operand_sum(a, b, k) -> int:
    return wrap(multiply_by_quantized_multiplier((a - k["a_zero_point"]) << 20, k["a_multiplier"], k["a_shift"])
                + multiply_by_quantized_multiplier((b - k["b_zero_point"]) << 20, k["b_multiplier"], k["b_shift"]))


def product(a, b, k) -> int:
    return (a - k["a_zero_point"]) * (b - k["b_zero_point"])


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


def random_range(rng: np.random.Generator) -> dict[str, int]:
    low, high = random_clamp(rng)
    return {"zero_point": int(rng.choice([-128, 127, 0, rng.integers(-128, 128)])), "minimum": low, "maximum": high}


def random_lane(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Accumulator, bias, multiplier, shift: any, or such that the result, before it is rounded, is near a half."""
    shift = int(rng.integers(-31, LEFT_SHIFT_MAX + 1)) if rng.integers(3) else int(rng.integers(-12, 3))
    if rng.integers(2):
        return random_int32(rng), random_int32(rng) >> int(rng.integers(32)), random_multiplier(rng), shift
    # value * multiplier * 2^(shift - 31) near target + 1/2, by one unit of the multiplier or of the value.
    target = int(rng.integers(-300, 300))
    value = random_int32(rng) or 1
    multiplier = abs(((2 * target + 1) << 30 - min(shift, 0)) // (value << max(shift, 0))) + int(rng.integers(-1, 2))
    if not 0 <= multiplier <= INT32[1]:
        multiplier = 1 << int(rng.integers(20, 31))
        value = ((2 * target + 1) << 30 - min(shift, 0)) // (multiplier << max(shift, 0)) + int(rng.integers(-1, 2))
        value = min(max(value, INT32[0]), INT32[1])
    bias = random_int32(rng)
    return wrap(value - bias), bias, multiplier, shift


def enable(rng: np.random.Generator, expected: list, latency: int) -> bool:
    """Set while anything of the last `latency` cycles is under way; else anything."""
    return any(each is not None for each in expected[-latency:]) or bool(rng.integers(2))


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("lanes", [1, 4])
def test_requantise(lanes, once):
    """Values of both ranges mixed, valid and invalid cycles too; the pipeline is empty before the ranges change."""
    rng = seeded()
    dut = Requantise(lanes)

    async def testbench(ctx):
        ctx.set(dut.once, once)
        for _ in range(12):
            ranges = [random_range(rng) for _ in range(2)]
            ctx.set(dut.range_0, ranges[0])
            ctx.set(dut.range_1, ranges[1])
            expected = []
            for cycle in range(200 + dut.LATENCY - 1):
                valid = bool(cycle < 200 and rng.integers(4) > 0)
                lanes_in = [random_lane(rng) for _ in range(lanes)]
                which = int(rng.integers(2))
                ctx.set(dut.i_valid, valid)
                ctx.set(dut.i_range, which)
                for port, column in zip((dut.i_accumulator, dut.i_bias, dut.i_multiplier, dut.i_shift),
                                        zip(*lanes_in, strict=True), strict=True):
                    ctx.set(port, list(column))
                function = requantise_once if once else requantise
                expected.append((which, [function(*lane, *ranges[which].values()) for lane in lanes_in])
                                if valid else None)
                ctx.set(dut.enable, enable(rng, expected, dut.LATENCY))
                await ctx.tick()
                at = cycle + 1 - dut.LATENCY
                assert ctx.get(dut.o_valid) == (at >= 0 and expected[at] is not None)
                if at >= 0 and expected[at] is not None:
                    assert (ctx.get(dut.o_range), [ctx.get(dut.o_value[i]) for i in range(lanes)]) == expected[at]

    simulate(dut, testbench)


@pytest.mark.parametrize(("built_to_multiply", "multiply"), [(False, False), (True, False), (True, True)])
def test_add_operands(built_to_multiply, multiply):
    """Pairs back to back and with gaps; operands of ADD, differences of MUL where the hardware is there."""
    rng = seeded()
    lanes = 4
    dut = AddOperands(lanes, multiply=built_to_multiply)

    async def testbench(ctx):
        ctx.set(dut.multiply, multiply)
        for shift in range(-OPERAND_SHIFT_MIN + 1):
            constants = {}
            for name in ("a", "b"):
                constants[f"{name}_multiplier"] = random_multiplier(rng)
                constants[f"{name}_shift"] = -shift if name == "a" else int(rng.integers(OPERAND_SHIFT_MIN, 1))
                constants[f"{name}_zero_point"] = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
            ctx.set(dut.constants, constants)
            expected: list = []
            cycles = 128
            for cycle in range(cycles + dut.LATENCY):
                second = bool(expected and expected[-1])
                valid = bool(cycle < cycles and not second and rng.integers(4) > 0)
                for port in (dut.i_a, dut.i_b):
                    any_value, end = rng.integers(-128, 128, lanes), rng.choice([-128, 127], lanes)
                    operand = [int(x) for x in np.where(rng.integers(4, size=lanes) == 0, end, any_value)]
                    ctx.set(port, operand)
                    if port is dut.i_a and valid:
                        a = operand
                    if port is dut.i_b and second:
                        function = product if multiply else operand_sum
                        expected[-1] = [function(x, y, constants) for x, y in zip(a, operand, strict=True)]
                ctx.set(dut.i_valid, valid)
                expected.append([0] if valid else None)
                ctx.set(dut.enable, enable(rng, expected, dut.LATENCY))
                await ctx.tick()
                at = cycle + 1 - dut.LATENCY
                assert ctx.get(dut.o_valid) == (at >= 0 and expected[at] is not None)
                if at >= 0 and expected[at] is not None:
                    assert [ctx.get(dut.o[i]) for i in range(lanes)] == expected[at]

    simulate(dut, testbench)
