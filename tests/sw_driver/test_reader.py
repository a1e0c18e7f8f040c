"""The TFLite reader: real models, and whatever is wrong with a file is one ModelError."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from sw_driver.graph import Graph, ModelError
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.reader import load_graph
from sw_driver.tflite.schema import load_schema
from sw_driver.tflite.support import UnsupportedError, check, require_supported
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED", "1"))

SHARED_MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"


@pytest.fixture
def shared_models():
    """The folder of real models that may lie beside the project."""
    if not SHARED_MODELS.is_dir():
        pytest.skip("../shared/models is not there: real models are not part of this repository")
    return SHARED_MODELS


def model(edit=None, **conv):
    """A convolution, and an edit of the file's objects before they are written."""
    builder = TfliteBuilder("model")
    x = builder.add_input("input", (1, 6, 5, 3), scale=0.1, zero_point=-7)
    weights = np.ones((4, 3, 3, 3), np.int8)
    options = {"scale": 0.2, "zero_point": 1, "name": "conv", **conv}
    y = builder.add_conv_2d(x, weights, np.zeros(4, np.int32), np.full(4, 0.01), **options)
    builder.add_output(y)
    data = builder.to_bytes()
    if edit is None:
        return data
    schema = load_schema()
    objects = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    edit(objects, objects.subgraphs[0])
    import flatbuffers

    writer = flatbuffers.Builder(1024)
    writer.Finish(objects.Pack(writer), file_identifier=b"TFL3")
    return bytes(writer.Output())


# ---- real files --------------------------------------------------------------------------------


def test_resnet_8(shared_models):
    graph = load_graph(shared_models / "ic" / "pretrainedResnet_quant.tflite")
    assert graph.name == "pretrainedResnet_quant"
    assert [operator.op for operator in graph.operators].count("CONV_2D") == 9
    assert graph.input_names == ["input_1_int8"]
    assert graph.input_position("input") == 0
    first = graph.operators[0]
    weights = graph.tensors[first.inputs[1]].data
    assert weights is not None
    assert weights.shape == (16, 3, 3, 3)
    assert len(graph.consumers(first.outputs[0])) == 2
    assert graph.producer(graph.outputs[0]) is graph.operators[-1]
    assert check(graph) == []


def test_unsupported_operators_are_listed_all_at_once():
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 4, 4, 8), scale=0.1)
    for _ in range(13):
        x = builder.add_unary("ELU", x, scale=0.1, zero_point=0)
    builder.add_output(x)
    graph = load_graph(builder.to_bytes())
    problems = check(graph)
    assert [problem.op for problem in problems] == ["ELU"] * 13
    with pytest.raises(UnsupportedError, match="13 things in this model can't run") as caught:
        require_supported(graph)
    assert caught.value.problems == problems
    assert "operator 1 ELU" in str(caught.value)


def test_separable_networks_are_supported(shared_models):
    for model in ("vww/vww_96_int8", "kws/kws_ref_model"):
        assert check(load_graph(shared_models / f"{model}.tflite")) == []


# ---- files that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.tflite", None, "can't be read: No such file"),
    ("empty.tflite", b"", "the file is empty"),
    ("short.tflite", b"TFL", "not a TFLite file"),
    ("text.tflite", b"hello, I am a model" * 10, "not a TFLite file: bytes 4 to 7 must be b'TFL3', not b'o, I'"),
    ("header.tflite", b"\x20\0\0\0TFL3", "damaged or cut short: it has 8 bytes and refers to byte 32"),
    ("zeros.tflite", b"\0\0\0\0TFL3" + bytes(100), "damaged"),
    ("ones.tflite", b"\xff\xff\xff\xffTFL3" + b"\xff" * 100, "damaged or cut short"),
])
def test_a_file_that_is_no_model(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_graph(path)
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="can't be read: Is a directory"):
        load_graph(tmp_path)


def test_every_truncation_is_refused():
    data = model()
    for length in range(0, len(data) - 1, 7):
        try:
            graph = load_graph(data[:length])
        except ModelError:
            continue
        # What is cut off at the end of a file may be bytes that nothing refers to.
        assert len(data) - length < 16
        assert isinstance(graph, Graph)


def test_bit_flips_give_a_graph_or_a_model_error():
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    files = [model(), random_graph(rng, "tiny", gated=True).model]
    refused = 0
    for number in range(3000):
        data = bytearray(files[number % 2])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            if rng.random() < 0.5:
                data[at] ^= 1 << int(rng.integers(8))
            else:
                at -= at % 4
                data[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])))
        try:
            graph = load_graph(bytes(data))
        except ModelError:
            refused += 1
            continue
        check(graph)
    assert refused > 300


# ---- files that contradict themselves ----------------------------------------------------------


def set_attribute(path, value):
    """An edit that sets e.g. 'tensors[0].shape' of the subgraph (or, with 'model.', of the model)."""

    def edit(objects, subgraph):
        owner, _, last = path.rpartition(".")
        scope = {"model": objects, "subgraph": subgraph, **vars(subgraph)}
        setattr(eval(owner or "subgraph", scope), last, value)

    return edit


CONV_OUTPUT = 3  # tensors: input, weights, bias, output

INCONSISTENT = [
    ("model.version", 4, "schema version must be 3, not 4"),
    ("model.subgraphs", [], "one subgraph, not 0"),
    ("tensors[0].shape", [1, -6, 5, 3], "dimensions must not be negative"),
    ("tensors[0].shape", [1, 7, 5, 3], r"output tensor 3 'conv' \(1x6x5x4 int8\) must be 1x7x5x4"),
    ("tensors[0].shape", [1, 6, 5, 5], "does not match the channels"),
    ("tensors[0].shape", [1, 1 << 16, 1 << 15, 3], "2147483647 bytes at most"),
    ("tensors[0].shape", [6, 5, 3], "4 dimensions"),
    ("tensors[0].shape", [1] * 9, "9 dimensions; a tensor may have 8 at most"),
    ("tensors[0].shape", [0, 1 << 30, 1 << 30], "2147483647 bytes at most"),
    ("tensors[0].buffer", 99, "refers to buffer 99, but there are"),
    ("tensors[0].quantization.scale", [float("nan")], "scales must be finite and positive"),
    ("tensors[0].quantization.scale", [0.0], "scales must be finite and positive"),
    ("tensors[0].quantization.zeroPoint", [300], "zero points must be in -128 to 127"),
    ("tensors[0].quantization.zeroPoint", [1, 2], "1 scales and 2 zero points"),
    ("tensors[1].shape", [4, 3, 3, 2], r"108 bytes, its shape and type need 72"),
    ("tensors[1].type", 2, r"108 bytes, its shape and type need 432"),
    ("tensors[1].quantization.scale", [0.1] * 3, "3 scales"),
    ("tensors[1].quantization.quantizedDimension", 1, "along dimension 1"),
    ("tensors[2].quantization.scale", [0.1] * 2, "2 scales"),
    ("operators[0].inputs", [0, 1, 9], "refer to tensor 9, but there are 4"),
    ("operators[0].inputs", [0, -1, 2], "an input is absent"),
    ("operators[0].inputs", [0], "must have 2 to 3 inputs, not 1"),
    ("operators[0].inputs", [3, 1, 2], "nothing before it computes"),
    ("operators[0].outputs", [3, 3], "which is computed already"),
    ("operators[0].outputs", [0], "which is a graph input or constant"),
    ("operators[0].opcodeIndex", 5, "operator code 5, but there are 1"),
    ("operators[0].builtinOptions.strideW", 0, "stride must be 1 to 65535, not 1x0"),
    ("operators[0].builtinOptions.dilationHFactor", -1, "dilation must be 1 to 65535"),
    ("operators[0].builtinOptions.padding", 7, "there is no padding 7"),
    ("operators[0].builtinOptions.fusedActivationFunction", 77, "there is no activation 77"),
    ("operators[0].builtinOptionsType", 5, "options of type Conv2DOptions, not Pool2DOptions"),
    ("inputs", [1], "is a constant"),
    ("inputs", [0, 0], "twice"),
    ("inputs", [], "nothing before it computes"),
    ("outputs", [], "no outputs"),
    ("outputs", [-1], "refer to tensor -1"),
]


@pytest.mark.parametrize(("path", "value", "message"), INCONSISTENT)
def test_a_contradiction_is_refused(path, value, message):
    with pytest.raises(ModelError, match=message):
        load_graph(model(set_attribute(path, value)))


def test_an_output_of_another_shape_is_refused():
    data = model(set_attribute(f"tensors[{CONV_OUTPUT}].shape", [1, 6, 5, 5]))
    with pytest.raises(ModelError, match="must be 1x6x5x4"):
        load_graph(data)


def test_names_of_inputs_are_always_different():
    builder = TfliteBuilder()
    a, b, c = (builder.add_input(name, (1, 4), scale=1.0) for name in ("x", "x", ""))
    builder.add_output(builder.add_add(builder.add_add(a, b, scale=1.0, zero_point=0), c, scale=1.0, zero_point=0))
    graph = load_graph(builder.to_bytes())
    assert graph.input_names == ["input_0", "input_1", "input_2"]
    assert graph.input_position("input_1") == 1
    with pytest.raises(KeyError, match="no input 'x'; its inputs are 'input_0'"):
        graph.input_position("x")


# ---- what the device can't do ------------------------------------------------------------------


def problems_of(build):
    builder = TfliteBuilder("unsupported")
    x = builder.add_input("x", (1, 20, 20, 4), scale=0.1)
    builder.add_output(build(builder, x))
    return check(load_graph(builder.to_bytes()))


def conv(builder, x, kernel=(1, 1), channels=4, **options):
    weights = np.ones((4, *kernel, channels), np.int8)
    return builder.add_conv_2d(x, weights, None, 0.1, scale=0.1, zero_point=0, **options)


def other_scale(builder, y):
    builder._tensors[y].quantization.scale = np.array([0.7], np.float32)
    return y


@pytest.mark.parametrize(("build", "reason"), [
    (lambda b, x: conv(b, x, (17, 1)), "its kernel is 17x1"),
    (lambda b, x: conv(b, x, channels=2), "it is grouped"),
    (lambda b, x: conv(b, x, stride=300), "its stride is 300x300"),
    (lambda b, x: conv(b, x, (3, 3), dilation=260), "its dilation is 260x260"),
    (lambda b, x: conv(b, x, (16, 16), dilation=90), "it is padded by 675 rows"),
    (lambda b, x: conv(b, x, activation="TANH"), "its fused activation is TANH"),
    (lambda b, x: b.add_max_pool_2d(b.add_reshape(x, (1, 1, 400, 4)), (1, 400)), "its window is 1x400"),
    (lambda b, x: other_scale(b, b.add_average_pool_2d(x, 2)), "has scale 0.1"),
    (lambda b, x: other_scale(b, b.add_softmax(x)), "its output has the scale 0.7"),
    (lambda b, x: conv(b, b.add_softmax(x)), "which runs on the host"),
    (lambda b, x: b.add_add(x, b.add_average_pool_2d(x, 20), scale=1.0, zero_point=0), "are broadcast"),
    (lambda b, x: b.add_add(x, b.add_constant("c", np.ones((1, 20, 20, 4), np.int8), scale=1.0), scale=1.0,
                            zero_point=0), "is a constant"),
    (lambda b, x: b.add_unary("ELU", x, scale=1.0, zero_point=0), "operator ELU is not supported"),
    (lambda b, x: other_scale(b, b.add_logistic(x)), "its output has the scale 0.7"),
    (lambda b, x: other_scale(b, b.add_pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])), "has scale 0.1"),
    (lambda b, x: b.add_pad(x, [(0, 0), (1, 1), (1, 1), (0, 4)]), "beyond rows and columns"),
    (lambda b, x: b.add_mean(x, [1], scale=1.0, zero_point=0), "the mean over axes [1]"),
    (lambda b, x: b.add_mul(x, b.add_max_pool_2d(x, (20, 1)), scale=1.0, zero_point=0), "its operands are"),
    (lambda b, x: b.add_select_v2(b.add_greater_equal(x, x), x, x), "is not a graph input"),
    (lambda b, x: b.add_select_v2(b.add_input("m", (1, 20, 20, 4), "bool"), x, x), "its mask is"),
    (lambda b, x: conv(b, b.add_input("y", (2, 3, 3, 4), scale=1.0)), "has a batch of 2"),
    (lambda b, x: conv(b, b.add_input("y", (1, 3, 3, 4), "int16", scale=1.0)), "input 'y' is int16"),
    (lambda b, x: x, "output 'x' is a graph input or a constant"),
])
def test_what_the_device_can_not_do_is_said(build, reason):
    problems = problems_of(build)
    assert any(reason in problem.reason for problem in problems), [str(problem) for problem in problems]
    assert all(problem.limit and problem.remedy for problem in problems)
