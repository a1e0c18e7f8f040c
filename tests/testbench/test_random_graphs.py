"""The generator of random graphs: what it makes is supported, runs on TFLite Micro, and comes back from its seed."""

import collections
import os

import numpy as np
import pytest

from hw.contract.config import preset
from sw_driver.oracle import run_oracle_tensors
from sw_driver.tflite.reader import load_graph
from sw_driver.tflite.support import COMPARISONS, LOGICAL_OPERATORS, TABLE_OPERATORS, check
from testbench.random_graphs import SIZES, random_graph
from testbench.random_tensors import random_activations, random_mask

SEED = int(os.environ.get("LACUNA_SEED", "1"))


def macs(graph):
    """Multiply-accumulates of a graph, and bytes of weights of each layer."""
    weighted = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    layers = [operator for operator in graph.operators if operator.op in weighted]
    weights = [graph.tensors[operator.inputs[1]] for operator in layers]
    total = sum(graph.tensors[operator.outputs[0]].elements * tensor.elements
                // tensor.shape[3 if operator.op == "DEPTHWISE_CONV_2D" else 0]
                for operator, tensor in zip(layers, weights, strict=True))
    return total, [tensor.elements for tensor in weights]


def test_the_same_seed_gives_the_same_graph():
    first, second, other = (random_graph(np.random.default_rng(seed), "small", runs=2) for seed in (5, 5, 6))
    assert first.model == second.model != other.model
    for a, b in zip(first.inputs, second.inputs, strict=True):
        assert a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a)
    assert any((first.inputs[0][name] != first.inputs[1][name]).any() for name in first.inputs[0])


@pytest.mark.parametrize(("size", "count"), [("tiny", 200), ("small", 80), ("medium", 10)])
def test_graphs_are_supported_and_run_on_tflite_micro(size, count):
    print(f"LACUNA_SEED={SEED}")
    ops = collections.Counter()
    varied = []
    for number in range(count):
        model, runs = random_graph(np.random.default_rng([SEED, number]), size)
        graph = load_graph(model)
        assert check(graph) == [], f"graph {number}"
        assert macs(graph)[0] <= SIZES[size].macs
        tensors = run_oracle_tensors(model, runs[0])
        ops.update(operator.op for operator in graph.operators)
        for operator in graph.operators:
            values = tensors[operator.outputs[0]]
            if values.dtype != np.bool_:
                varied.append(len(np.unique(values)) / min(256, values.size))
    if count >= 80:
        assert set(ops) == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "AVERAGE_POOL_2D",
                            "MAX_POOL_2D", "RESHAPE", "SOFTMAX", "SELECT_V2", "MUL", "MEAN", "PAD", "CONCATENATION",
                            "RESIZE_NEAREST_NEIGHBOR", *TABLE_OPERATORS, *COMPARISONS, *LOGICAL_OPERATORS}
        assert np.median(varied) > 0.15  # few results are constant or clamped; of few graphs that may be chance


def test_masks_and_activations_have_every_density():
    rng = np.random.default_rng(SEED)
    masks = [random_mask(rng, (1, 10, 10, 1)) for _ in range(400)]
    assert {0.0, 0.1, 0.5, 0.9, 1.0} <= {round(float(mask.mean()), 1) for mask in masks}
    assert any(mask.sum() == 1 for mask in masks)
    assert any(mask[0, 0].all() and not mask[0, 1:-1, 1:-1].any() for mask in masks)
    maps = [random_activations(rng, (1, 10, 10, 4), -7) for _ in range(400)]
    assert {0.0, 0.1, 0.5, 0.9, 1.0} <= {round(float((values != -7).mean()), 1) for values in maps}


def test_bounds_are_kept():
    for number in range(30):
        model, _runs = random_graph(np.random.default_rng([SEED, number]), "small", max_macs=20_000, max_weights=512)
        total, weights = macs(load_graph(model))
        assert total <= 20_000
        assert max(weights, default=0) <= 512


def test_graphs_fit_a_configuration():
    config = preset("nano")
    for number in range(30):
        model, _runs = random_graph(np.random.default_rng([SEED, number]), "tiny", fits=config)
        graph = load_graph(model)
        for operator in graph.operators:
            if operator.op == "CONV_2D":
                _outputs, height, width, channels = graph.tensors[operator.inputs[1]].shape
                tiles = height * width * -(-channels // config.lanes)
                assert tiles * config.lanes**2 <= config.weight_bytes
                assert tiles <= config.weight_maps


@pytest.mark.parametrize("gated", [True, False])
def test_gates_on_request(gated):
    for number in range(20):
        model, _runs = random_graph(np.random.default_rng([SEED, number]), gated=gated)
        assert any(operator.op == "SELECT_V2" for operator in load_graph(model).operators) == gated
