"""The quantiser: ranges, rounding, errors, and that the model in the repository is what it makes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from models import digits_data
from models.digits_network import NETWORK
from models.float_reference import forward
from models.layers import INPUT, Layer, Network
from models.quantise import (
    FLOAT_WEIGHTS,
    MODEL,
    activation_for,
    build,
    calibrate,
    quantise_bias,
    quantise_weights,
)

SEED = int(os.environ.get("LACUNA_SEED", "1"))


@pytest.fixture
def generator() -> np.random.Generator:
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng(SEED)


@pytest.fixture(scope="module")
def float_weights() -> dict[str, np.ndarray]:
    with np.load(FLOAT_WEIGHTS) as stored:
        return dict(stored)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_within_half_a_step(generator: np.random.Generator, per_channel: bool) -> None:
    weights = generator.normal(size=(8, 3, 3, 5)) * generator.uniform(0.01, 10, (8, 1, 1, 1))
    stored, scales = quantise_weights(weights, per_channel)
    assert stored.dtype == np.int8
    assert scales.dtype == np.float32
    assert scales.shape == ((8,) if per_channel else (1,))
    step = scales.reshape(-1, 1, 1, 1).astype(float)
    assert (np.abs(stored * step - weights) <= step * 0.5001).all()
    largest = np.abs(stored.astype(int)).reshape(8, -1).max(axis=1)
    assert (largest == 127).all() if per_channel else largest.max() == 127


def test_a_channel_of_zeros_stays_zeros() -> None:
    weights = np.array([[0.0, 0.0], [-1.0, 0.5]])
    stored, scales = quantise_weights(weights, per_channel=True)
    assert stored.tolist() == [[0, 0], [-127, 64]]
    assert scales[0] == 1


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 are not"):
        quantise_weights(np.array([[np.nan, 1.0]]), per_channel=True)


def test_bias_is_at_the_scale_of_the_accumulator() -> None:
    bias = quantise_bias(np.array([0.5, -0.25]), 0.5, np.array([0.01, 0.1], np.float32))
    assert bias.dtype == np.int32
    assert bias.tolist() == [100, -5]


def test_a_bias_beyond_int32_is_refused() -> None:
    with pytest.raises(ValueError, match="output channel 1, 3"):
        quantise_bias(np.array([0.0, 3.0]), 1e-6, np.array([1e-3, 1e-6], np.float32))


def test_zero_is_exact_and_the_range_is_covered(generator: np.random.Generator) -> None:
    for _ in range(100):
        low, high = np.sort(generator.normal(size=2) * 10 ** generator.uniform(-3, 3))
        activation = activation_for(low, high)
        assert -128 <= activation.zero_point <= 127
        assert (-128 - activation.zero_point) * activation.scale <= min(low, 0) + activation.scale
        assert (127 - activation.zero_point) * activation.scale >= max(high, 0) - activation.scale


def test_values_of_a_relu_have_zero_point_minus_128() -> None:
    assert activation_for(0.0, 2.55) == activation_for(0.5, 2.55)
    assert activation_for(0.0, 2.55).zero_point == -128
    assert activation_for(0.0, 2.55).scale == float(np.float32(0.01))


def test_calibration_gives_up_a_lone_outlier(generator: np.random.Generator) -> None:
    values = np.append(generator.uniform(0, 1, 100_000), 1.2)
    assert calibrate(values).scale < 1.1 / 255
    assert calibrate(np.zeros(4)).scale == 1


def test_float_convolution_equals_a_plain_loop(generator: np.random.Generator, float_weights: dict) -> None:
    images = generator.uniform(size=(1, 28, 28, 1))
    known = forward(NETWORK, float_weights, images)
    assert {name: value.shape for name, value in known.items()} == NETWORK.shapes
    layer = next(layer for layer in NETWORK.layers if layer.stride == 2 and layer.kernel == 3)
    source = known[layer.inputs[0]][0]
    kernel = float_weights[f"{layer.name}_weights"].astype(float)
    expected = np.tile(float_weights[f"{layer.name}_bias"].astype(float), (7, 7, 1))
    for y, x, ky, kx in np.ndindex(7, 7, 3, 3):
        row, column = 2 * y + ky, 2 * x + kx  # 14 -> 7, SAME: no padding before, one row and column after
        if row < 14 and column < 14:
            expected[y, x] += kernel[:, ky, kx] @ source[row, column]
    np.testing.assert_allclose(known[layer.name][0], np.maximum(expected, 0), atol=1e-9)


def test_an_unknown_operator_is_refused() -> None:
    odd = Network("odd", 28, (Layer("odd", "TANH", (INPUT,)),))
    with pytest.raises(ValueError, match="odd: no floating-point rule for operator TANH"):
        forward(odd, {}, np.zeros((1, 28, 28, 1)))


def test_the_model_is_what_the_quantiser_makes(float_weights: dict) -> None:
    for layer in NETWORK.weighted_layers:
        assert float_weights[f"{layer.name}_weights"].shape == NETWORK.weight_shape(layer)
    calibration, _held_out = digits_data.load_samples()
    assert build(NETWORK, float_weights, calibration.images).to_bytes() == MODEL.read_bytes(), (
        "models/digits.tflite differs from its sources: python -m models.quantise")
