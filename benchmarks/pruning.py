"""Pruned weights: bytes, cycles and accuracy of the digits network, with and without training after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import DIGITS, SHARED_MODELS, Bench, Network, real_networks
from benchmarks.tables import Section
from models.digits_data import as_input
from models.pruned_digits import ROW_LANES, VARIANTS, Variant, model_path
from models.scenes_data import load_held_out
from sw_driver.compiler import compile_model
from sw_driver.oracle import run_oracle
from sw_driver.pruning import prune_model
from sw_driver.tflite.reader import load_graph, read_model


def pruned(model: Path, variant: Variant) -> bytes:
    """A model's file, pruned and not trained again."""
    data = read_model(model)
    return prune_model(data, load_graph(data), variant.share, ROW_LANES if variant.granule == "rows" else None)[0]


def accuracy(model: bytes | Path, held_out: int | None) -> float:
    """Per cent of the held-out digits, or of the first so many, that TFLite Micro gets right."""
    digits = load_held_out()
    images = as_input(digits.images[:held_out])
    data = model if isinstance(model, bytes) else model.read_bytes()
    guesses = [int(run_oracle(data, [image[np.newaxis]])[0].argmax()) for image in images]
    return round(100 * float(np.mean(np.array(guesses) == digits.labels[:held_out])), 1)


def _row(bench: Bench, network: Network, model: bytes | Path, label: str, files: list[Path]) -> list[Any]:
    """What a model takes, and its mean cycles and multiplications."""
    runs = [bench.run(model, network.inputs(file), f"{network.name}, {label}: {file.name}") for file in files]
    total = compile_model(model, bench.config).report["weights_total"]
    return [round(float(np.mean([sum(layer.macs_issued for layer in run.layers) for run in runs]))),
            round(float(np.mean([run.cycles for run in runs]))), total["weight_bytes"],
            round(8 * total["weight_bytes"] / total["raw_bytes"], 2), f"{total['rows_skipped']:,} of {total['rows']:,}"]


def pruning(bench: Bench, held_out: int | None = None, inputs: int | None = None) -> Section:
    """The digits network in every variant, accuracy included; the networks beside the project without training.

    held_out : digits that accuracy is measured on; all by default. inputs : input files of each network; likewise.
    """
    assert bench.config.lanes <= ROW_LANES, "rows of fewer outputs than there are lanes are not passed over"
    rows: list[list[Any]] = []
    digits = next(network for network in real_networks() if network.model == DIGITS)
    rows.append(["digits", "-", accuracy(DIGITS, held_out), "-",
                 *_row(bench, digits, DIGITS, "dense", digits.files[:inputs])])
    for name, variant in VARIANTS.items():
        path = model_path(name)
        rows.append(["digits", f"{variant.share:.0%} of the {variant.granule}", accuracy(path, held_out),
                     accuracy(pruned(DIGITS, variant), held_out),
                     *_row(bench, digits, path, name, digits.files[:inputs])])
    for path in sorted(SHARED_MODELS.glob("*/*.tflite")):
        network = Network(path.parent.name, path, sorted((path.parent / "inputs").iterdir()))
        rows.append([network.name, "-", "-", "-", *_row(bench, network, path, "dense", network.files[:1])])
        rows += [[network.name, f"{variant.share:.0%} of the {variant.granule}", "-", "-",
                  *_row(bench, network, pruned(path, variant), variant.name, network.files[:1])]
                 for variant in VARIANTS.values() if variant.share >= 0.5]
    return Section(
        "pruning", "Pruned weights",
        f"Pruned by magnitude, of every layer the same share: single weights, or weight rows (one input channel at one "
        f"tap, to {ROW_LANES} outputs), which are neither stored nor multiplied. Digits: trained on after pruning "
        "(`python -m models.prune_digits`); accuracy on the held-out digits, TFLite Micro, in per cent, and beside it "
        "without that training. Other networks: pruned only, one input. Means over the inputs; cycles from doorbell to "
        "interrupt; every output equals TFLite Micro's bit for bit.",
        ["network", "pruned", "accuracy %", "untrained %", "multiplied", "cycles", "weight bytes", "bits per weight",
         "rows skipped"], rows)
