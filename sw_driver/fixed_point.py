"""Fixed-point arithmetic of gemmlowp (fixedpoint/fixedpoint.h), on int64 arrays of int32 values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

Fixed = NDArray[np.int64] | np.int64


def multiply(a: Fixed, b: Fixed) -> Fixed:
    """SaturatingRoundingDoublingHighMul."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return np.minimum(np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31)), INT32_MAX)


def divide_by_power_of_two(x: Fixed, exponent: Fixed | int) -> Fixed:
    """RoundingDivideByPOT: half away from zero."""
    mask = (np.int64(1) << exponent) - 1
    remainder = x & mask
    return (x >> exponent) + (remainder > (mask >> 1) + (x < 0))


def _shift_left(x: Fixed, bits: int) -> Fixed:
    """SaturatingRoundingMultiplyByPOT with a positive exponent."""
    return np.clip(x << bits, INT32_MIN, INT32_MAX)


def _exp_between_negative_quarter_and_0(a: Fixed) -> Fixed:
    """exp of Q0.31 in [-1/4, 0): Taylor's expansion around -1/8."""
    constant_term, one_third = np.int64(1895147668), np.int64(715827883)
    x = a + (1 << 28)
    x2 = multiply(x, x)
    x3 = multiply(x2, x)
    x4 = multiply(x2, x2)
    x4_over_4 = divide_by_power_of_two(x4, 2)
    tail = divide_by_power_of_two(multiply(x4_over_4 + x3, one_third) + x2, 1)
    return constant_term + multiply(constant_term, x + tail)


def exp_on_negative_values(a: Fixed, integer_bits: int) -> Fixed:
    """exp of values up to 0 with so many integer bits (4 or 5), as Q0.31."""
    quarter = 1 << (31 - integer_bits - 2)
    within = (a & (quarter - 1)) - quarter
    result = _exp_between_negative_quarter_and_0(within << integer_bits)
    remainder = within - a
    # exp(-2**e) as Q0.31 for e = -2 .. 4
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for index, factor in enumerate(factors[: integer_bits + 2]):
        bit = quarter << index
        result = np.where(remainder & bit, multiply(result, np.int64(factor)), result)
    return np.where(a == 0, INT32_MAX, result)


def _inverse_of_half(a: Fixed) -> Fixed:
    """2 / (1 + a) of Q0.31 in [0, 1), as Q2.29: three Newton-Raphson steps."""
    total = a + INT32_MAX
    half_denominator = (total + 1) >> 1
    one = np.int64(1 << 29)
    x = 1515870810 + multiply(half_denominator, np.int64(-1010580540))
    for _step in range(3):
        error = one - multiply(half_denominator, x)
        x = x + _shift_left(multiply(x, error), 2)
    return x


def one_over_one_plus_x(a: Fixed) -> Fixed:
    """1 / (1 + a) of Q0.31 in [0, 1)."""
    return _shift_left(_inverse_of_half(a), 1)


def one_minus_x_over_one_plus_x(a: Fixed) -> Fixed:
    """(1 - a) / (1 + a) of Q0.31 in [0, 1)."""
    return _shift_left(_inverse_of_half(a) - (1 << 29), 2)
