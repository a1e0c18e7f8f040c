"""The TFLite writer: what it writes is what the reader reads, and what TFLite Micro takes."""

import numpy as np
import pytest

from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.reader import load_graph


def ramp(*shape):
    """int8 values of all kinds."""
    return (np.arange(np.prod(shape)) * 37 % 251 - 125).astype(np.int8).reshape(shape)


def one_of_each():
    """A model with every operator that the device supports."""
    builder = TfliteBuilder("one of each")
    x = builder.add_input("input", (1, 9, 8, 3), scale=0.01, zero_point=5)
    mask = builder.add_input("mask", (1, 5, 4, 1), "bool")
    y = builder.add_conv_2d(x, ramp(7, 3, 2, 3), np.arange(7, dtype=np.int32), np.linspace(0.01, 0.02, 7), scale=0.1,
                            zero_point=-3, stride=2, activation="RELU6", name="first")
    z = builder.add_conv_2d(y, ramp(7, 1, 1, 7), None, 0.01, scale=0.1, zero_point=-3, dilation=(1, 2))
    selected = builder.add_select_v2(mask, z, y)
    total = builder.add_add(selected, y, scale=0.2, zero_point=1, activation="RELU")
    pooled = builder.add_max_pool_2d(total, 2, stride=1, padding="SAME")
    pooled = builder.add_average_pool_2d(pooled, (5, 4))
    flat = builder.add_reshape(pooled, (1, -1))
    logits = builder.add_fully_connected(flat, ramp(10, 7), np.arange(10, dtype=np.int32), 0.02, scale=0.1,
                                         zero_point=0)
    builder.add_output(builder.add_softmax(logits, beta=0.5))
    builder.add_output(total)
    return builder


def test_what_is_written_is_read_back():
    graph = load_graph(one_of_each().to_bytes())
    assert [operator.op for operator in graph.operators] == [
        "CONV_2D", "CONV_2D", "SELECT_V2", "ADD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED",
        "SOFTMAX"]
    assert graph.name == "one of each"
    assert graph.input_names == ["input", "mask"]
    first, second = graph.operators[:2]
    assert first.name == "first"
    assert first.options == {"padding": "SAME", "activation": "RELU6", "stride_h": 2, "stride_w": 2,
                             "dilation_h": 1, "dilation_w": 1}
    assert (second.options["dilation_h"], second.options["dilation_w"]) == (1, 2)
    x, weights, bias = (graph.tensors[index] for index in first.inputs)
    assert (x.shape, x.dtype, x.zero_point, x.constant) == ((1, 9, 8, 3), "int8", 5, False)
    assert x.scale == np.float32(0.01)
    np.testing.assert_array_equal(weights.data, ramp(7, 3, 2, 3))
    np.testing.assert_array_equal(weights.scales, np.linspace(0.01, 0.02, 7).astype(np.float32))
    np.testing.assert_array_equal(bias.data, np.arange(7))
    assert bias.scales == pytest.approx(0.01 * weights.scales)
    assert graph.tensors[first.outputs[0]].shape == (1, 5, 4, 7)
    assert len(second.inputs) == 2
    pool = graph.operators[5]
    assert (pool.options["filter_h"], pool.options["filter_w"], pool.options["stride_h"]) == (5, 4, 5)
    assert graph.operators[6].options == {"new_shape": (1, 7)}
    assert graph.operators[8].options == {"beta": 0.5}


def test_tflite_micro_runs_it():
    outputs = run_oracle(one_of_each().to_bytes(), [ramp(1, 9, 8, 3), np.ones((1, 5, 4, 1), bool)])
    assert [output.shape for output in outputs] == [(1, 10), (1, 5, 4, 7)]


def test_operators_for_later_slices_run_too():
    builder = TfliteBuilder()
    x = builder.add_input("input", (1, 6, 6, 4), scale=0.05, zero_point=0)
    y = builder.add_depthwise_conv_2d(x, ramp(1, 3, 3, 8), np.zeros(8, np.int32), 0.01, scale=0.05, zero_point=2)
    gate = builder.add_logistic(builder.add_average_pool_2d(y, 6))
    y = builder.add_mul(y, gate, scale=0.05, zero_point=2)
    y = builder.add_concatenation([y, y])
    y = builder.add_pad(y, [(0, 0), (1, 1), (1, 1), (0, 0)])
    threshold = builder.add_constant("threshold", np.zeros((1, 1, 1, 1), np.int8), scale=0.05, zero_point=2)
    mask = builder.add_greater_equal(y, threshold)
    builder.add_output(builder.add_select_v2(mask, y, y))
    (output,) = run_oracle(builder.to_bytes(), [ramp(1, 6, 6, 4)])
    assert output.shape == (1, 8, 8, 16)


def test_constants_are_aligned_to_16_bytes():
    data = one_of_each().to_bytes()
    for tensor in load_graph(data).tensors:
        if tensor.data is not None and tensor.data.nbytes >= 32:  # shorter ones may be found elsewhere too
            assert data.index(tensor.data.tobytes()) % 16 == 0, tensor


@pytest.mark.parametrize(("build", "message"), [
    (lambda b, x: b.add_tensor("t", (3,), data=np.zeros(4, np.int8)), r"data of tensor 't' must be int8 \(3,\)"),
    (lambda b, x: b.add_conv_2d(x, ramp(4, 3, 3, 2), None, [1, 2], scale=1, zero_point=0, name="c"), "1 or 4 scales"),
    (lambda b, x: b.add_max_pool_2d(x, 9, name="p"), "'p' would have an empty output"),
    (lambda b, x: b.add_select_v2(x, x, b.add_add(x, x, scale=3.0, zero_point=0)), "same scale and zero point"),
    (lambda b, x: b.to_bytes(), "no output"),
])
def test_mistakes_are_refused(build, message):
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 8, 8, 2), scale=1.0)
    with pytest.raises(ValueError, match=message):
        build(builder, x)
