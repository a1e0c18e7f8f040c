"""The pruned digits networks: as many zeros as they say, made of their float weights, and still right."""

import numpy as np
import pytest

from benchmarks.pruning import pruned
from models import digits_data
from models.digits_network import NETWORK
from models.evaluate import int8_probabilities
from models.pruned_digits import ROW_LANES, VARIANTS, model_path
from models.quantise import MODEL, build
from sw_driver.compiler import compile_model
from sw_driver.tflite.reader import load_graph

#: Of the 200 held-out samples, at least so many are right; a digit that is guessed is right in 20.
LEAST = {"weights_50": 196, "weights_75": 194, "rows_25": 196, "rows_50": 194, "rows_75": 180}


def weights_of(path):
    """int8 weights of the layers, output channels first."""
    graph = load_graph(path)
    found = [graph.tensors[operator.inputs[1]].data for operator in graph.operators
             if operator.op in ("CONV_2D", "FULLY_CONNECTED")]
    return [weights for weights in found if weights is not None]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_has_its_share_of_zeros(name):
    variant = VARIANTS[name]
    layers = weights_of(model_path(name))
    assert len(layers) == len(NETWORK.weighted_layers)
    for weights in layers:
        if variant.granule == "rows":
            starts = np.arange(0, len(weights), ROW_LANES)
            granules = np.add.reduceat(np.abs(weights.astype(int)), starts, axis=0)
        else:
            granules = weights
        zeros = np.count_nonzero(granules == 0)
        assert zeros >= round(variant.share * granules.size)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_model_is_what_the_quantiser_makes_of_its_weights(name):
    calibration, _held_out = digits_data.load_samples()
    with np.load(model_path(name).with_suffix(".npz")) as weights:
        made = build(NETWORK, dict(weights), calibration.images).to_bytes()
    assert made == model_path(name).read_bytes(), f"{name} differs from its sources: python -m models.prune_digits"


@pytest.mark.parametrize("name", VARIANTS)
def test_it_recognises_held_out_digits(name):
    _calibration, held_out = digits_data.load_samples()
    right = np.count_nonzero(int8_probabilities(model_path(name), held_out.images).argmax(axis=1) == held_out.labels)
    assert right >= LEAST[name]


def test_rows_of_zeros_save_bytes_and_cycles():
    dense, half = (compile_model(path, "large").report["weights_total"] for path in (MODEL, model_path("rows_50")))
    assert half["weight_bytes"] < 0.55 * dense["weight_bytes"]
    assert half["rows_skipped"] > 0.45 * half["rows"]


def test_pruning_alone_is_not_what_the_variants_are(tmp_path):
    """Without training, as many zeros cost accuracy; `benchmarks.pruning` states both."""
    _calibration, held_out = digits_data.load_samples()
    path = tmp_path / "pruned.tflite"
    path.write_bytes(pruned(MODEL, VARIANTS["rows_50"]))
    right = np.count_nonzero(int8_probabilities(path, held_out.images).argmax(axis=1) == held_out.labels)
    assert right < 100
