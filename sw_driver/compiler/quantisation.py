"""Scales to integers, exactly as TensorFlow Lite Micro does it in its Prepare functions.

Sources: tensorflow/lite/kernels/internal/quantization_util.cc (QuantizeMultiplier), kernels/kernel_util.cc
(CalculateActivationRangeQuantized, PopulateConvolutionQuantizationParams, GetQuantizedConvolutionMultipler),
micro/kernels/add_common.cc.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from hw.contract.commands import LEFT_SHIFT_MAX
from sim.golden.numerics import multiply_by_quantized_multiplier

#: ADD shifts its operands left by this many bits before it scales them (add_common.cc, int8).
ADD_LEFT_SHIFT = 20

_INT8_MIN, _INT8_MAX = -128, 127

#: Real bounds of the activations that a clamp can express; None is the type's own bound.
ACTIVATION_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU6": (0.0, 6.0),
}


def quantise_multiplier(real: float) -> tuple[int, int]:
    """Q31 multiplier and exponent (positive is left) of a non-negative real factor; (0, 0) below 2**-32."""
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return multiplier, shift


def check_shifts(shifts: ArrayLike, smallest: int = -31, largest: int = LEFT_SHIFT_MAX) -> None:
    """Raises ValueError when an exponent of a multiplier is outside what the device takes."""
    for shift in np.atleast_1d(np.asarray(shifts)).tolist():
        if not smallest <= shift <= largest:
            raise ValueError(f"its scales make a factor of about 2^{shift}; "
                             f"the device takes 2^{smallest} to 2^{largest}")


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """Smallest and largest int8 output of a layer with that activation. `scale` is a float32 value.

    Raises KeyError for an activation that is not in ACTIVATION_BOUNDS.
    """
    low, high = ACTIVATION_BOUNDS[activation]

    def quantise(real: float) -> int:
        ratio = float(np.float32(real) / np.float32(scale))
        return zero_point + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))

    minimum = _INT8_MIN if low is None else max(_INT8_MIN, quantise(low))
    maximum = _INT8_MAX if high is None else min(_INT8_MAX, quantise(high))
    return minimum, maximum


def output_multipliers(input_scale: float, filter_scales: np.ndarray, output_scale: float, channels: int,
                       ) -> tuple[np.ndarray, np.ndarray]:
    """int32 [channels] multipliers and int8 [channels] shifts of CONV_2D and FULLY_CONNECTED.

    Products of scales are in double, also for FULLY_CONNECTED per tensor, where older sources of TFLite multiply
    in float32: the pinned tflite-micro does not (a test tells the two apart).
    """
    scales = np.broadcast_to(np.asarray(filter_scales, np.float32), (channels,))
    pairs = [quantise_multiplier(float(input_scale) * float(scale) / float(output_scale)) for scale in scales]
    return np.array([m for m, _s in pairs], np.int32), np.array([s for _m, s in pairs], np.int8)


@dataclasses.dataclass(frozen=True)
class AddParameters:
    """Integers of an ADD: Q31 multipliers, exponents (positive is left), zero points, clamp."""

    a_multiplier: int
    a_shift: int
    b_multiplier: int
    b_shift: int
    sum_multiplier: int
    sum_shift: int
    a_zero_point: int
    b_zero_point: int
    sum_zero_point: int
    sum_min: int
    sum_max: int

    def swapped(self) -> AddParameters:
        """The same addition with the operands exchanged."""
        return dataclasses.replace(self, a_multiplier=self.b_multiplier, a_shift=self.b_shift,
                                   a_zero_point=self.b_zero_point, b_multiplier=self.a_multiplier,
                                   b_shift=self.a_shift, b_zero_point=self.a_zero_point)


def exact_sum(zero_point: int) -> AddParameters:
    """Integers of an ADD of the same quantisation everywhere: (a - zero_point) + (b - zero_point), with the multipliers
    1/2 = 2^30 * 2^-31 and, because operands come times 2^20, 2^-19 = 2^30 * 2^(-18 - 31)."""
    half = 1 << 30
    return AddParameters(half, 0, half, 0, half, -18, zero_point, zero_point, zero_point, -128, 127)


def add_parameters(a: tuple[float, int], b: tuple[float, int], output: tuple[float, int],
                   activation: str) -> AddParameters:
    """Integers of an ADD from the (scale, zero point) of its operands and output.

    Raises ValueError when the output scale is so small that TFLite would not take it (multiplier of 1 or more).
    """
    twice_max = 2.0 * max(a[0], b[0])
    reals = (a[0] / twice_max, b[0] / twice_max, twice_max / ((1 << ADD_LEFT_SHIFT) * output[0]))
    if reals[2] >= 1:
        raise ValueError(f"output scale {output[0]} is too small for operand scales {a[0]} and {b[0]}")
    (a_multiplier, a_shift), (b_multiplier, b_shift), (sum_multiplier, sum_shift) = map(quantise_multiplier, reals)
    low, high = activation_range(activation, *output)
    return AddParameters(a_multiplier, a_shift, b_multiplier, b_shift, sum_multiplier, sum_shift,
                         a[1], b[1], output[1], low, high)


@dataclasses.dataclass(frozen=True)
class MeanParameters:
    """Integers of a MEAN: what is added to the sum, Q31 multiplier, exponent (positive is left), zero point."""

    bias: int
    multiplier: int
    shift: int
    output_zero_point: int


def mean_parameters(count: int, x: tuple[float, int], output: tuple[float, int]) -> MeanParameters:
    """Integers of a MEAN of `count` values, from (scale, zero point) of input and output.

    Source: QuantizedMeanOrSum in kernels/internal/reference/reduce.h: the division by `count` is folded into the
    multiplier, whose bits it makes room for first.
    """
    multiplier, shift = quantise_multiplier(x[0] / output[0])
    room = min(count.bit_length() - 1, 32, 31 + shift)
    return MeanParameters(-x[1] * count, (multiplier << room) // count, shift - room, output[1])


def decision(op: str, x: tuple[float, int], constant: tuple[float, int], value: int, *,
             swapped: bool) -> tuple[int, bool]:
    """A comparison of an int8 tensor with a constant `value`, as (bound, invert): (x >= bound) != invert.

    `swapped`: the constant is on the left. Both sides are scaled as in micro/kernels/comparisons.cc, which keeps
    their order: one bound tells.
    """
    def scaled(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
        return multiply_by_quantized_multiplier((values - zero_point) << 8, *quantise_multiplier(scale))

    left = scaled(np.arange(-128, 128), *x)
    right = scaled(np.array([value]), *constant)
    if swapped:
        left, right = right, left
    true = {"GREATER": np.greater, "GREATER_EQUAL": np.greater_equal, "LESS": np.less,
            "LESS_EQUAL": np.less_equal}[op](left, right)
    invert = bool(true[0])
    above = np.flatnonzero(true != invert)
    return (int(above[0]) - 128 if above.size else 128), invert


def product_multiplier(a: float, b: float, output: float) -> tuple[int, int]:
    """Q31 multiplier and exponent of a MUL, from the scales of its operands and output (mul_common.cc)."""
    return quantise_multiplier(a * b / output)
