"""Integer arithmetic of TFLite Micro's reference kernels, in NumPy.

Sources: `MultiplyByQuantizedMultiplier`, `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT` of
TensorFlow Lite (kernels/internal/common.h, double rounding) and gemmlowp (fixedpoint.h); `ADD` for int8
(kernels/internal/reference/add.h, left shift 20); `AVERAGE_POOL_2D` (integer_ops/pooling.h).

Values are int64 arrays that hold int32 numbers; where the C code works in int32, the result is wrapped to it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]

#: Bits that ADD shifts its operands left by before scaling them.
ADD_LEFT_SHIFT = 20


def wrap32(values: ArrayLike) -> Int64:
    """The int32 number with the same low 32 bits."""
    return np.asarray(values, dtype=np.int64).astype(np.int32).astype(np.int64)


def rounding_doubling_high_multiply(values: ArrayLike, multiplier: ArrayLike) -> Int64:
    """Round(values * multiplier / 2**31), ties up: SaturatingRoundingDoublingHighMul for multipliers >= 0."""
    product = np.asarray(values, dtype=np.int64) * np.asarray(multiplier, dtype=np.int64)
    return (product + (1 << 30)) >> 31


def rounding_divide_by_power_of_two(values: ArrayLike, exponent: ArrayLike) -> Int64:
    """Values / 2**exponent, ties away from zero; exponent is 0 to 31."""
    values = np.asarray(values, dtype=np.int64)
    exponent = np.asarray(exponent, dtype=np.int64)
    mask = (np.int64(1) << exponent) - 1
    threshold = (mask >> 1) + (values < 0)
    return (values >> exponent) + ((values & mask) > threshold)


def multiply_by_quantized_multiplier(values: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Int64:
    """Values * multiplier / 2**31 * 2**shift with TFLite's double rounding.

    `multiplier` is Q31, 0 to 2**31 - 1; `shift` is the exponent, -31 to 31, positive is left (before the
    multiplication, wrapping int32). Arrays broadcast.
    """
    shift = np.clip(np.asarray(shift, dtype=np.int64), -31, 31)
    shifted = wrap32(np.asarray(values, dtype=np.int64) << np.maximum(shift, 0))
    return rounding_divide_by_power_of_two(
        rounding_doubling_high_multiply(shifted, multiplier), np.maximum(-shift, 0))


def requantise(accumulators: ArrayLike, bias: ArrayLike, multiplier: ArrayLike, shift: ArrayLike,
               zero_point: int, low: int, high: int) -> Int64:
    """int8 results of a convolution: wrap, add bias (wrapping), scale, add zero point, clamp to low..high."""
    biased = wrap32(wrap32(accumulators) + np.asarray(bias, dtype=np.int64))
    return np.clip(multiply_by_quantized_multiplier(biased, multiplier, shift) + zero_point, low, high)


@dataclasses.dataclass(frozen=True)
class Addition:
    """The constants of a quantised ADD; multipliers are Q31, shifts are exponents (positive is left)."""

    a_zero_point: int
    a_multiplier: int
    a_shift: int
    b_zero_point: int
    b_multiplier: int
    b_shift: int
    sum_zero_point: int
    sum_multiplier: int
    sum_shift: int
    sum_min: int
    sum_max: int

    def compute(self, a: ArrayLike, b: ArrayLike) -> Int64:
        """int8 sums of int8 operands of equal shape."""
        a = (np.asarray(a, dtype=np.int64) - self.a_zero_point) << ADD_LEFT_SHIFT
        b = (np.asarray(b, dtype=np.int64) - self.b_zero_point) << ADD_LEFT_SHIFT
        total = wrap32(multiply_by_quantized_multiplier(a, self.a_multiplier, self.a_shift)
                       + multiply_by_quantized_multiplier(b, self.b_multiplier, self.b_shift))
        scaled = multiply_by_quantized_multiplier(total, self.sum_multiplier, self.sum_shift)
        return np.clip(scaled + self.sum_zero_point, self.sum_min, self.sum_max)


def average(total: ArrayLike, count: ArrayLike) -> Int64:
    """Total / count (count >= 1), ties away from zero."""
    total, count = np.asarray(total, dtype=np.int64), np.asarray(count, dtype=np.int64)
    return np.sign(total) * ((np.abs(total) + count // 2) // count)
