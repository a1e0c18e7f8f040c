"""Unary activations as tables of 256 results, bit-exact to TensorFlow Lite Micro's int8 kernels.

A table is int8 [256]; entry x modulo 256 is the result for the int8 value x. Sources, in TensorFlow Lite:
kernels/internal/reference/integer_ops/logistic.h and tanh.h, reference/hard_swish.h, reference/leaky_relu.h,
micro/kernels/activations_common.cc, logistic_common.cc, tanh.cc, hard_swish_common.cc; gemmlowp's fixedpoint.h.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.contract.layouts import TABLE_BYTES
from sim.golden.numerics import Int64, multiply_by_quantized_multiplier, rounding_divide_by_power_of_two
from sw_driver.compiler.quantisation import quantise_multiplier
from sw_driver.fixed_point import INT32_MAX, exp_on_negative_values, one_minus_x_over_one_plus_x, one_over_one_plus_x

#: Integer bits of LOGISTIC's and TANH's input.
_INPUT_BITS = 4

Quantisation = tuple[float, int]


def activation_table(op: str, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> NDArray[np.int8]:
    """int8 [256] of `op` with (scale, zero point) of its input and output. Raises KeyError for another operator."""
    values = np.arange(TABLE_BYTES).astype(np.uint8).view(np.int8).astype(np.int64)
    results = {
        "RELU": _relu, "RELU6": _relu6, "LEAKY_RELU": _leaky_relu, "LOGISTIC": _logistic,
        "TANH": _tanh, "HARD_SWISH": _hard_swish,
    }[op](values, options, x, y)
    return np.clip(results, -128, 127).astype(np.int8)


def _round(ratio: float) -> int:
    """roundf: halves away from zero."""
    return int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))


def _relu(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    del options
    ratio = float(np.float32(x[0]) / np.float32(y[0]))
    scaled = multiply_by_quantized_multiplier(values - x[1], *quantise_multiplier(ratio))
    return np.maximum(scaled + y[1], y[1])


def _relu6(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    del options, y  # the kernel only clamps: it takes the output's quantisation for the input's
    six = x[1] + _round(float(np.float32(6) / np.float32(x[0])))
    return np.clip(values, x[1], min(six, 127))


def _leaky_relu(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    ratio = np.float32(x[0]) / np.float32(y[0])
    slope = np.float32(x[0]) * np.float32(options["alpha"]) / np.float32(y[0])
    centred = values - x[1]
    sign = -1 if slope < 0 else 1
    negative = sign * multiply_by_quantized_multiplier(centred, *quantise_multiplier(abs(float(slope))))
    positive = multiply_by_quantized_multiplier(centred, *quantise_multiplier(float(ratio)))
    return np.where(centred >= 0, positive, negative) + y[1]


def _scaled_input(values: Int64, x: Quantisation) -> tuple[Int64, int]:
    """The input with 4 integer bits, and the largest value that these hold."""
    multiplier, shift = quantise_multiplier(float(x[0]) * (1 << (31 - _INPUT_BITS)))
    radius = math.floor(((1 << _INPUT_BITS) - 1) * (1 << (31 - _INPUT_BITS)) / 2.0**shift)
    centred = values - x[1]
    inside = np.where(np.abs(centred) < radius, centred, 0)
    return multiply_by_quantized_multiplier(inside, multiplier, shift), radius


def _saturated(results: Int64, values: Int64, radius: int, zero_point: int) -> Int64:
    centred = values - zero_point
    return np.where(centred <= -radius, -128, np.where(centred >= radius, 127, results))


def _logistic(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    del options, y  # the output's quantisation is fixed
    scaled, radius = _scaled_input(values, x)
    positive = one_over_one_plus_x(exp_on_negative_values(-np.abs(scaled), _INPUT_BITS))
    result = np.where(scaled > 0, positive, np.where(scaled == 0, 1 << 30, INT32_MAX - positive))
    return _saturated(rounding_divide_by_power_of_two(result, 31 - 8) - 128, values, radius, x[1])


def _tanh(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    del options, y  # the output's quantisation is fixed
    scaled, radius = _scaled_input(values, x)
    # exp of twice the input: the same bits with one integer bit more.
    magnitude = one_minus_x_over_one_plus_x(exp_on_negative_values(-np.abs(scaled), _INPUT_BITS + 1))
    result = np.where(scaled == 0, 0, np.where(scaled < 0, -magnitude, magnitude))
    return _saturated(rounding_divide_by_power_of_two(result, 31 - 7), values, radius, x[1])


# ---- HARD_SWISH: 16-bit fixed point --------------------------------------------------------------------------------


def _int16_multiplier(real: float) -> tuple[int, int]:
    multiplier, shift = quantise_multiplier(real)
    rounded = (1 << 15) - 1 if multiplier >= (1 << 31) - 1 - (1 << 15) else (multiplier + (1 << 15)) >> 16
    return rounded, shift


def _saturate16(values: Int64) -> Int64:
    return np.clip(values, -(1 << 15), (1 << 15) - 1)


def _rounding_high16(a: Int64, b: Int64 | int) -> Int64:
    """SaturatingRoundingDoublingHighMul of int16: the sum of product and nudge is divided towards zero."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return _saturate16(np.where(nudged >= 0, nudged >> 15, -(-nudged >> 15)))


def _high16(a: Int64, b: Int64) -> Int64:
    """SaturatingDoublingHighMul of int16: towards zero."""
    product = a * b
    return _saturate16(np.where(product >= 0, product >> 15, -(-product >> 15)))


def _hard_swish(values: Int64, options: Mapping[str, Any], x: Quantisation, y: Quantisation) -> Int64:
    del options
    fine = np.float32(1 / 128) * np.float32(x[0])
    output_multiplier, output_shift = _int16_multiplier(float(fine / np.float32(y[0])))
    reluish_multiplier, reluish_shift = _int16_multiplier(float(fine / np.float32(3 / 32768)))
    hires = (values - x[1]) * (1 << 7)
    on_output_scale = _rounding_high16(hires, output_multiplier)
    reluish = hires
    if reluish_shift > 0:
        reluish = _saturate16(reluish << (reluish_shift - 1))
    reluish = _rounding_high16(reluish, reluish_multiplier)
    if reluish_shift > 0:
        reluish = _saturate16(reluish << 1)
    if reluish_shift < 0:
        reluish = rounding_divide_by_power_of_two(reluish, -reluish_shift)
    reluish = (reluish + (1 << 15)) >> 1
    return rounding_divide_by_power_of_two(_high16(reluish, on_output_scale), -output_shift) + y[1]
