"""Operators that the host runs on what the device made, bit-exact to TensorFlow Lite Micro."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hw.contract.image import HostStep
from sw_driver.compiler.quantisation import quantise_multiplier
from sw_driver.fixed_point import divide_by_power_of_two, exp_on_negative_values, multiply, one_over_one_plus_x

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
    exponentials = exp_on_negative_values(multiply(scaled, np.int64(multiplier)), _DIFFERENCE_BITS)
    sums = np.where(counted, divide_by_power_of_two(exponentials, _SUM_BITS), 0).sum(axis=1, keepdims=True)
    headroom = np.array([32 - int(value).bit_length() for value in sums.reshape(-1)], np.int64).reshape(sums.shape)
    reciprocal = one_over_one_plus_x((sums << headroom) - (1 << 31))
    exponent = _SUM_BITS - headroom + 31 - 8
    products = divide_by_power_of_two(multiply(reciprocal, exponentials), exponent)
    return np.where(counted, np.clip(products - 128, -128, 127), -128).astype(np.int8).reshape(x.shape)
