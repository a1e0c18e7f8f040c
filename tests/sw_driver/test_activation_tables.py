"""Unary activations as tables: all 256 results against TFLite Micro, and the integers of MEAN and MUL."""

import os

import numpy as np
import pytest

from hw.contract.config import preset
from sim.golden.numerics import multiply_by_quantized_multiplier
from sw_driver.compiler import compile_model
from sw_driver.compiler.activation_tables import activation_table
from sw_driver.compiler.quantisation import activation_range, mean_parameters, product_multiplier
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.support import TABLE_OPERATORS

EVERY = np.arange(256).astype(np.uint8).view(np.int8).reshape(1, 16, 16, 1)


def seeded():
    seed = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def scale_and_zero_point(rng, low=-9.0, high=1.0):
    return float(np.float32(2.0 ** rng.uniform(low, high))), int(rng.integers(-128, 128))


@pytest.mark.parametrize("op", TABLE_OPERATORS)
def test_every_value(op):
    rng = seeded()
    for _ in range(12):
        x = scale_and_zero_point(rng)
        y = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "RELU6": x}.get(
            op, (float(np.float32(x[0] * 2.0 ** rng.uniform(-2, 2))), int(rng.integers(-128, 128))))
        alpha = float(np.float32(rng.uniform(-0.5, 1)))
        builder = TfliteBuilder()
        source = builder.add_input("x", EVERY.shape, scale=x[0], zero_point=x[1])
        builder.add_output(builder.add_logistic(source) if op == "LOGISTIC" else
                           builder.add_unary(op, source, scale=y[0], zero_point=y[1], alpha=alpha))
        want = run_oracle(builder.to_bytes(), [EVERY])[0].reshape(-1)
        np.testing.assert_array_equal(activation_table(op, {"alpha": alpha}, x, y), want, f"{op} {x} {y} {alpha}")


def test_mean():
    rng = seeded()
    for _ in range(20):
        height, width = (int(size) for size in rng.integers(1, 33, 2))
        x, y = scale_and_zero_point(rng), scale_and_zero_point(rng)
        values = rng.integers(-128, 128, (1, height, width, 3)).astype(np.int8)
        builder = TfliteBuilder()
        source = builder.add_input("x", values.shape, scale=x[0], zero_point=x[1])
        builder.add_output(builder.add_mean(source, [1, 2], scale=y[0], zero_point=y[1]))
        mean = mean_parameters(height * width, x, y)
        total = values.astype(np.int64).sum(axis=(0, 1, 2)) + mean.bias
        got = np.clip(multiply_by_quantized_multiplier(total, mean.multiplier, mean.shift) + y[1], -128, 127)
        np.testing.assert_array_equal(got, run_oracle(builder.to_bytes(), [values])[0].reshape(-1))


def test_mul():
    rng = seeded()
    for _ in range(20):
        a, b, y = (scale_and_zero_point(rng, -6, 0) for _ in range(3))
        values = rng.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8)
        gate = rng.integers(-128, 128, (1, 1, 1, 4)).astype(np.int8)
        builder = TfliteBuilder()
        left = builder.add_input("a", values.shape, scale=a[0], zero_point=a[1])
        right = builder.add_input("b", gate.shape, scale=b[0], zero_point=b[1])
        builder.add_output(builder.add_mul(left, right, scale=y[0], zero_point=y[1], activation="RELU6"))
        product = (values.astype(np.int64) - a[1]) * (gate.astype(np.int64) - b[1])
        got = multiply_by_quantized_multiplier(product, *product_multiplier(a[0], b[0], y[0])) + y[1]
        want = run_oracle(builder.to_bytes(), [values, gate])[0]
        np.testing.assert_array_equal(np.clip(got, *activation_range("RELU6", *y)), want)


def test_a_table_stays_while_weights_stream_past():
    """The layer's weights are several times what the weight store of nano holds: they come in several commands and take
    the table's place."""
    rng = np.random.default_rng(0)
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 6, 6, 160), scale=0.05, zero_point=-3)
    weights = rng.integers(-60, 60, (1, 7, 7, 160)).astype(np.int8)
    y = builder.add_depthwise_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=-3)
    builder.add_output(builder.add_logistic(y))
    model = builder.to_bytes()
    program = compile_model(model, "nano")
    assert [layer.op for layer in program.layers] == ["DEPTHWISE_CONV_2D+LOGISTIC"]
    assert program.report["weights"][0]["store_bytes"] > 2 * preset("nano").weight_bytes
    inputs = {"x": rng.integers(-128, 128, (1, 6, 6, 160)).astype(np.int8)}
    with open_device("golden", "nano") as device:
        np.testing.assert_array_equal(device.run(program, inputs).output, run_oracle(model, inputs)[0])
