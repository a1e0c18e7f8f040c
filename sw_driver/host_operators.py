"""Operators that the host runs on what the device made, bit-exact to TensorFlow Lite Micro."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.contract.image import HostStep
from sw_driver.compiler.quantisation import quantise_multiplier

_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1

#: Integer bits of softmax's scaled differences and of its sums (reference/softmax.h).
_DIFFERENCE_BITS = 5
_SUM_BITS = 12


def run_host_step(step: HostStep, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """The output of a host step, given the tensors computed before it. Raises ValueError for an unknown operator."""
    x = values[step.inputs[0]]
    if step.op == "RESHAPE":
        return x.reshape(step.parameters["shape"])
    if step.op == "SOFTMAX":
        return softmax(x, step.parameters["scale"], step.parameters["beta"])
    raise ValueError(f"The host has no operator {step.op}")


def softmax(x: np.ndarray, scale: float, beta: float) -> np.ndarray:
    """int8 softmax along the last dimension; the result has scale 1/256 and zero point -128.

    Source: tensorflow/lite/kernels/internal/reference/softmax.h and quantization_util.cc
    (PreprocessSoftmaxScaling, CalculateInputRadius). `scale` is the input's.
    """
    real = min(beta * scale * (1 << (31 - _DIFFERENCE_BITS)), (1 << 31) - 1.0)
    multiplier, left_shift = quantise_multiplier(real)
    if left_shift < 0 or real <= 1:
        raise ValueError(f"SOFTMAX: input scale {scale} times beta {beta} is too small")
    radius = math.floor(((1 << _DIFFERENCE_BITS) - 1) * (1 << (31 - _DIFFERENCE_BITS)) / (1 << left_shift))

    rows = x.reshape(-1, x.shape[-1] if x.ndim else 1).astype(np.int64)
    difference = rows - rows.max(axis=1, keepdims=True)
    counted = difference >= -radius
    scaled = np.where(counted, difference, 0) << left_shift
    exponentials = _exp_on_negative_values(_multiply(scaled, np.int64(multiplier)))
    sums = np.where(counted, _divide_by_power_of_two(exponentials, _SUM_BITS), 0).sum(axis=1, keepdims=True)
    headroom = np.array([32 - int(value).bit_length() for value in sums.reshape(-1)], np.int64).reshape(sums.shape)
    reciprocal = _one_over_one_plus_x((sums << headroom) - (1 << 31))
    exponent = _SUM_BITS - headroom + 31 - 8
    products = _divide_by_power_of_two(_multiply(reciprocal, exponentials), exponent)
    return np.where(counted, np.clip(products - 128, -128, 127), -128).astype(np.int8).reshape(x.shape)


# ---- fixed-point arithmetic of gemmlowp (fixedpoint/fixedpoint.h), on int64 arrays of int32 values ---------------

Fixed = NDArray[np.int64] | np.int64


def _multiply(a: Fixed, b: Fixed) -> Fixed:
    """SaturatingRoundingDoublingHighMul."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return np.minimum(np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31)), _INT32_MAX)


def _divide_by_power_of_two(x: Fixed, exponent: Fixed | int) -> Fixed:
    """RoundingDivideByPOT: half away from zero."""
    mask = (np.int64(1) << exponent) - 1
    remainder = x & mask
    return (x >> exponent) + (remainder > (mask >> 1) + (x < 0))


def _shift_left(x: Fixed, bits: int) -> Fixed:
    """SaturatingRoundingMultiplyByPOT with a positive exponent."""
    return np.clip(x << bits, _INT32_MIN, _INT32_MAX)


def _exp_between_negative_quarter_and_0(a: Fixed) -> Fixed:
    """exp of Q0.31 in [-1/4, 0): Taylor's expansion around -1/8."""
    constant_term, one_third = np.int64(1895147668), np.int64(715827883)
    x = a + (1 << 28)
    x2 = _multiply(x, x)
    x3 = _multiply(x2, x)
    x4 = _multiply(x2, x2)
    x4_over_4 = _divide_by_power_of_two(x4, 2)
    tail = _divide_by_power_of_two(_multiply(x4_over_4 + x3, one_third) + x2, 1)
    return constant_term + _multiply(constant_term, x + tail)


def _exp_on_negative_values(a: Fixed) -> Fixed:
    """exp of Q5.26 values up to 0, as Q0.31."""
    quarter = 1 << (31 - _DIFFERENCE_BITS - 2)
    within = (a & (quarter - 1)) - quarter
    result = _exp_between_negative_quarter_and_0(within << _DIFFERENCE_BITS)
    remainder = within - a
    # exp(-2**e) as Q0.31 for e = -2 .. 4
    for index, factor in enumerate((1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)):
        bit = quarter << index
        result = np.where(remainder & bit, _multiply(result, np.int64(factor)), result)
    return np.where(a == 0, _INT32_MAX, result)


def _one_over_one_plus_x(a: Fixed) -> Fixed:
    """1 / (1 + a) of Q0.31 in [0, 1): three Newton-Raphson steps in Q2.29."""
    total = a + _INT32_MAX
    half_denominator = (total + 1) >> 1
    one = np.int64(1 << 29)
    x = 1515870810 + _multiply(half_denominator, np.int64(-1010580540))
    for _step in range(3):
        error = one - _multiply(half_denominator, x)
        x = x + _shift_left(_multiply(x, error), 2)
    return _shift_left(x, 1)
