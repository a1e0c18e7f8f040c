"""How much of what could be skipped is: zero activations, and pixels that a mask switches off."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layers import Convolution, cut_out, synthetic
from benchmarks.measuring import DIGITS, RESNET, SEED, Bench
from benchmarks.tables import Section
from sw_driver.inputs import load_input
from sw_driver.oracle import run_oracle_tensors
from sw_driver.tflite.reader import load_graph

ZEROS = (0.0, 0.25, 0.5, 0.75, 0.9)
DENSITIES = (1.0, 0.75, 0.5, 0.25, 0.1)

#: Height, width, channels of the synthetic layer, and its output channels.
SHAPE, OUTPUTS = (16, 16, 64), 64


def zero_activations(bench: Bench) -> Section:
    """Utilisation of the synthetic layer by its share of zeros, and of a real network's layers by theirs."""
    rows: list[list[Any]] = []
    for zeros in ZEROS:
        layer = synthetic(SHAPE, OUTPUTS, 3, zeros, np.random.default_rng([SEED, round(100 * zeros)]))
        found = bench.convolution(layer, f"{layer.name}, {zeros:.0%} zeros")
        rows.append([layer.name, "random", f"{zeros:.0%}", found.macs, found.macs_issued, found.cycles,
                     round(found.utilisation, 3)])
    network, model, file = _network()
    graph = load_graph(model)
    inputs = {graph.input_names[0]: load_input(file, graph.tensors[graph.inputs[0]])}
    for found in bench.run(model, inputs, network).layers:
        if found.engine == "conv":
            zeros = found.skipped_activation / found.macs
            rows.append([f"{network}: {_short(found.name)}", "real", f"{zeros:.0%}", found.macs, found.macs_issued,
                         found.cycles, round(found.utilisation, 3)])
    return Section(
        "zero_activations", "Zero activations",
        "Utilisation: multiply-accumulates with a non-zero activation and weight row / (cycles x multipliers). Cycles: "
        "of the layer's commands, weights on chip. Zeros of real layers include padding.",
        ["layer", "activations", "zeros", "MACs", "non-zero MACs", "cycles", "utilisation"], rows)


def decision_masks(bench: Bench) -> Section:
    """Efficiency of gating: of the synthetic layer, and of a real network's convolutions, each behind a mask."""
    layers = [synthetic(SHAPE, OUTPUTS, 3, 0.0, np.random.default_rng(SEED)), *_real_convolutions()]
    rows: list[list[Any]] = []
    for layer in layers:
        dense = bench.convolution(layer, f"{_short(layer.name)}, no mask").cycles
        row: list[Any] = [_short(layer.name), dense]
        for density in DENSITIES:
            found, exact_density = bench.gated(layer, density, f"{_short(layer.name)}, mask of density {density:g}")
            row += [found.cycles, round(dense * exact_density / found.cycles, 3)]
        rows.append(row)
    columns = [column for density in DENSITIES for column in (f"cycles at {density:g}", f"eff. at {density:g}")]
    return Section(
        "decision_masks", "Decision masks",
        "Efficiency: dense cycles x density / cycles, with random masks of exactly this density; dense: the layer "
        "without a mask. The first layer has no zeros; the others have real activations, and are gated one by one.",
        ["layer", "dense cycles", *columns], rows)


def _network() -> tuple[str, Any, Any]:
    if RESNET.exists():
        return "ResNet-8", RESNET, sorted((RESNET.parent / "inputs").iterdir())[0]
    return "digits", DIGITS, sorted((DIGITS.parent / "digits_inputs").iterdir())[0]


def _real_convolutions() -> list[Convolution]:
    _name, model, file = _network()
    graph = load_graph(model)
    inputs = {graph.input_names[0]: load_input(file, graph.tensors[graph.inputs[0]])}
    tensors = run_oracle_tensors(model, inputs)
    return [cut_out(graph, operator, tensors) for operator in graph.operators if operator.op == "CONV_2D"]


def _short(name: str) -> str:
    return name.partition(";")[0].rpartition("model/")[2]
