"""The scenes: their making, the networks' gates, the models in the repository."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from models.digits_data import as_input
from models.evaluate_scenes import Measured, measure, scenes
from models.float_reference import forward
from models.layers import INPUT, Layer, Network
from models.quantise import build
from models.quantise_scenes import PICTURES, calibration_scenes, float_weights, model_path, quantised
from models.scenes_data import held_out_scenes, load_held_out, make_scenes
from models.scenes_network import BUDGETS, NETWORKS, SCENE_SIZE, UNGATED, scenes_network
from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle, run_oracle_tensors
from sw_driver.tflite.reader import load_graph

SEED = int(os.environ.get("LACUNA_SEED", "1"))


def random_weights(network: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of a size that keeps activations at theirs."""
    weights = {}
    for layer in network.weighted_layers:
        shape = network.weight_shape(layer)
        weights[f"{layer.name}_weights"] = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape).astype(np.float32)
        weights[f"{layer.name}_bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return weights


# ---- data -----------------------------------------------------------------------------------------------------


def test_held_out_scenes_are_the_held_out_digits_somewhere() -> None:
    digits, found = load_held_out(), held_out_scenes(load_held_out())
    assert found.images.shape == (1000, SCENE_SIZE, SCENE_SIZE)
    assert np.bincount(found.labels).tolist() == [100] * 10
    assert found.corners.min() >= 0
    assert found.corners.max() <= SCENE_SIZE - 28
    assert len(np.unique(found.corners, axis=0)) > 300
    for image, digit, (y, x) in zip(found.images[::50], digits.images[::50], found.corners[::50], strict=True):
        assert (image[y : y + 28, x : x + 28] >= digit).all()


def test_scenes_follow_from_their_seed() -> None:
    digits = load_held_out().take(np.arange(5))
    first, again, other = (make_scenes(digits.images, digits.labels, digits.images, np.random.default_rng(seed))
                           for seed in (3, 3, 4))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_clutter_grows() -> None:
    digits = load_held_out().take(np.arange(40))
    ink = [make_scenes(digits.images, digits.labels, digits.images, np.random.default_rng(SEED), clutter).images.mean()
           for clutter in (0.0, 0.5, 1.0)]
    assert ink[0] == pytest.approx(digits.images.mean() * 28**2 / SCENE_SIZE**2)
    assert ink == sorted(ink)


def test_pictures_are_held_out_scenes() -> None:
    everything = held_out_scenes(load_held_out())
    for digit in range(10):
        with Image.open(PICTURES / f"scene_{digit}.png") as picture:
            first = everything.images[everything.labels == digit][0]
            assert np.array_equal(np.asarray(picture), first)


# ---- networks -------------------------------------------------------------------------------------------------


def test_gates_cost_next_to_nothing_and_static_networks_much_less() -> None:
    dense = NETWORKS[UNGATED].macs
    for budget in BUDGETS:
        assert dense < NETWORKS[f"gated_{round(100 * budget)}"].macs < 1.001 * dense
    assert NETWORKS["static_10"].macs < NETWORKS["static_20"].macs < 0.35 * dense


def test_a_dilated_convolution_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(SEED)
    network = Network("dilated", 9, (Layer("conv", "CONV_2D", (INPUT,), 2, kernel=3, dilation=3),))
    weights = random_weights(network, rng)
    image = rng.normal(size=(1, 9, 9, 1))
    found = forward(network, weights, image)["conv"][0]
    padded = np.pad(image[0, :, :, 0], 3)
    for y, x in np.ndindex(9, 9):
        window = padded[y : y + 7 : 3, x : x + 7 : 3]
        expected = (weights["conv_weights"][..., 0].astype(float) * window).sum(axis=(1, 2)) + weights["conv_bias"]
        np.testing.assert_allclose(found[y, x], expected)


def test_gates_are_quantised_in_the_pattern_that_the_device_decides() -> None:
    rng = np.random.default_rng(SEED)
    network = scenes_network("small", gated=True, blocks=2, channels=16, head=16)
    images = rng.integers(0, 256, (4, SCENE_SIZE, SCENE_SIZE), dtype=np.uint8)
    weights = random_weights(network, rng)
    model = build(network, weights, images).to_bytes()
    graph = load_graph(model)
    selects = [operator for operator in graph.operators if operator.op == "SELECT_V2"]
    assert len(selects) == 2
    for operator in selects:
        _mask, branch, skip = (graph.tensors[index] for index in operator.inputs)
        result = graph.tensors[operator.outputs[0]]
        assert (branch.scale, branch.zero_point) == (skip.scale, skip.zero_point) == (result.scale, result.zero_point)
    inputs = {INPUT: as_input(images[:1])}
    tensors = {graph.tensors[index].name: value for index, value in run_oracle_tensors(model, inputs).items()}
    score = next(tensor for tensor in graph.tensors if tensor.name == "score")
    assert np.array_equal(tensors["mask"], tensors["score"] >= score.zero_point)
    agree = tensors["mask"][0] == forward(network, weights, images[:1, ..., np.newaxis] / 255)["mask"][0]
    assert agree.mean() > 0.97
    with open_device("golden", "small") as device:
        program = compile_model(model, "small", also=["score"])
        result = device.run(program, inputs)
    assert np.array_equal(result.outputs["probabilities"], run_oracle(model, inputs)[0])
    assert np.array_equal(result.outputs["score"], tensors["score"])


def test_a_tensor_that_is_not_computed_cannot_be_brought_back() -> None:
    with pytest.raises(KeyError, match="0 computed tensors of the model are called 'nothing'"):
        compile_model(model_path(UNGATED), also=["nothing"])


# ---- the models in the repository -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_10", "static_10"])
def test_the_model_is_what_the_quantiser_makes(name: str) -> None:
    assert quantised(name).to_bytes() == model_path(name).read_bytes(), (
        f"models/scenes/{name}.tflite differs from its sources: python -m models.quantise_scenes")


def test_every_network_has_its_weights_and_its_model() -> None:
    for name, network in NETWORKS.items():
        weights = float_weights(name)
        assert sum(values.size for values in weights.values()) == network.parameters
        graph = load_graph(model_path(name))
        assert [operator.op for operator in graph.operators] == [layer.operator for layer in network.layers]
    assert calibration_scenes().shape[1:] == (SCENE_SIZE, SCENE_SIZE)


def test_the_gated_network_is_right_where_it_looks_and_saves_what_it_should() -> None:
    some = scenes(20)
    gated, dense = (measure(model_path(name), some.images) for name in ("gated_10", UNGATED))
    assert (gated.guesses == some.labels).mean() >= 0.8
    assert 0.05 < gated.active.mean() < 0.15
    assert (dense.active == 1).all()
    saved = (dense.cycles.mean() / gated.cycles.mean()) / (dense.macs.mean() / gated.macs.mean())
    assert saved >= 0.95


def test_parts_are_joined_in_order() -> None:
    some = scenes(4)
    whole = measure(model_path("static_10"), some.images)
    joined = Measured.joined([measure(model_path("static_10"), some.images[part]) for part in (slice(3), slice(3, 4))])
    for field in dataclasses.fields(Measured):
        assert np.array_equal(getattr(whole, field.name), getattr(joined, field.name))
