"""Scales to integers, judged by TFLite Micro where it shows the difference."""

import math
import os

import numpy as np
import pytest

from sw_driver.compiler.quantisation import (
    activation_range,
    add_parameters,
    check_shifts,
    output_multipliers,
    quantise_multiplier,
)
from sw_driver.host_operators import softmax
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder

SEED = int(os.environ.get("LACUNA_SEED", "1"))


@pytest.mark.parametrize(("real", "expected"), [
    (0.0, (0, 0)),
    (1.0, (1 << 30, 1)),
    (0.5, (1 << 30, 0)),
    (0.75, (3 << 29, 0)),
    (2.0 ** -32, (1 << 30, -31)),
    (math.nextafter(2.0 ** -32, 0), (1 << 30, -31)),  # rounds up to the next power of two before it is judged
    (2.0 ** -33, (0, 0)),
    (1 - 2.0 ** -40, (1 << 30, 1)),
])
def test_quantise_multiplier(real, expected):
    assert quantise_multiplier(real) == expected


@pytest.mark.parametrize(("activation", "scale", "zero_point", "expected"), [
    ("NONE", 0.1, 5, (-128, 127)),
    ("RELU", 0.1, 5, (5, 127)),
    ("RELU6", 0.1, -128, (-128, -68)),
    ("RELU_N1_TO_1", 0.1, 0, (-10, 10)),
    ("RELU6", 0.001, 0, (0, 127)),
    ("RELU_N1_TO_1", 0.4, 0, (-3, 3)),  # 2.5 rounds away from zero
])
def test_activation_range(activation, scale, zero_point, expected):
    assert activation_range(activation, float(np.float32(scale)), zero_point) == expected


def test_add_refuses_a_vanishing_output_scale():
    with pytest.raises(ValueError, match="output scale 1e-09 is too small"):
        add_parameters((1.0, 0), (1.0, 0), (1e-9, 0), "NONE")


@pytest.mark.parametrize(("shifts", "named"), [([-31, 0, 8], r"2\^8"), ([-32, 7], r"2\^-32")])
def test_factors_beyond_the_device_are_refused(shifts, named):
    check_shifts([-31, 0, 7])
    with pytest.raises(ValueError, match=rf"a factor of about {named}; the device takes 2\^-31 to 2\^7"):
        check_shifts(shifts)


def requantise(accumulator, multiplier, shift):
    """MultiplyByQuantizedMultiplier in Python's integers, positive accumulators and right shifts only."""
    high = (int(accumulator) * int(multiplier) + (1 << 30)) >> 31
    return (high + (1 << (-shift - 1))) >> -shift


def test_fully_connected_multiplies_scales_in_double():
    """Biases that put accumulators on the edge between two results tell double from float32 products."""
    rng = np.random.default_rng(SEED)
    print(f"LACUNA_SEED={SEED}")
    told_apart = 0
    for _ in range(8):
        scales = [float(np.float32(scale)) for scale in rng.uniform(0.001, 0.01, 2)]
        output_scale = float(np.float32(scales[0] * scales[1] * 2.0 ** 22))
        product = float(np.float32(scales[0]) * np.float32(scales[1]))
        channels = 64
        multipliers, shifts = output_multipliers(scales[0], np.array([scales[1]], np.float32), output_scale, channels)
        single = quantise_multiplier(product / output_scale)
        real = (product / output_scale + scales[0] * scales[1] / output_scale) / 2
        bias = np.round((rng.integers(20, 120, channels) + 0.5) / real).astype(np.int32)
        builder = TfliteBuilder()
        x = builder.add_input("input", (1, 4), scale=scales[0], zero_point=0)
        builder.add_output(builder.add_fully_connected(x, np.ones((channels, 4), np.int8), bias, scales[1],
                                                       scale=output_scale, zero_point=0))
        (output,) = run_oracle(builder.to_bytes(), [np.zeros((1, 4), np.int8)])
        assert output[0].tolist() == [requantise(value, multipliers[0], int(shifts[0])) for value in bias]
        told_apart += sum(requantise(value, *single) != got for value, got in zip(bias, output[0], strict=True))
    assert told_apart


@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_softmax(count):
    """Bit-exact to TFLite Micro over scales, betas and inputs from one-hot to flat."""
    rng = np.random.default_rng([SEED, count])
    print(f"LACUNA_SEED={SEED}")
    for _ in range(12):
        scale, beta = float(np.float32(2.0 ** rng.uniform(-8, 3))), float(np.float32(rng.choice([1.0, 0.5, 2.0])))
        builder = TfliteBuilder()
        rows = 5
        x = builder.add_input("input", (rows, count), scale=scale, zero_point=int(rng.integers(-128, 128)))
        builder.add_output(builder.add_softmax(x, beta=beta))
        spread = rng.choice([1, 10, 128], (rows, 1))
        array = np.clip(rng.normal(0, spread, (rows, count)), -128, 127).astype(np.int8)
        (expected,) = run_oracle(builder.to_bytes(), [array])
        np.testing.assert_array_equal(softmax(array, scale, beta), expected, f"scale {scale}, beta {beta}")
