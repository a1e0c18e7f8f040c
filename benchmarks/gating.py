"""How much of what a decision mask switches off is saved."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layers import cut_out, short_name, synthetic
from benchmarks.measuring import SEED, Bench, real_networks
from benchmarks.skipping import OUTPUTS, SHAPE
from benchmarks.tables import Section
from sw_driver.oracle import run_oracle_tensors
from sw_driver.tflite.reader import load_graph

DENSITIES = (1.0, 0.75, 0.5, 0.25, 0.1)

#: Random masks of each density (there is only one of density 1).
MASKS = 16


def decision_masks(bench: Bench) -> Section:
    """Efficiency of gating the synthetic layer, over many random masks."""
    layer = synthetic(SHAPE, OUTPUTS, 3, 0.0, np.random.default_rng(SEED))
    dense = bench.convolution(layer, f"{layer.name}, no mask")
    full, _one = bench.gated(layer, 1.0, f"{layer.name}, mask of ones")
    rows: list[list[Any]] = []
    for density in DENSITIES:
        masks = 1 if density == 1 else MASKS
        runs = [bench.gated(layer, density, f"{layer.name}, mask {number} of density {density:g}", number)
                for number in range(masks)]
        cycles = np.array([found.cycles for found, _density in runs])
        exact = np.array([exact for _found, exact in runs])
        used = np.array([found.utilisation for found, _density in runs])
        rows.append([f"{density:g}", masks, round(cycles.mean()), *_mean_and_least(dense.cycles * exact / cycles),
                     *_mean_and_least(full.cycles * exact / cycles), *_mean_and_least(used)])
    return Section(
        "decision_masks", "Decision masks",
        f"{layer.name}, no zeros, behind a SELECT_V2 with random masks of exactly this density. Efficiency: dense "
        f"cycles x density / cycles; dense: {dense.cycles:,} cycles, the layer without a mask. The compiler gives more "
        "rows to output channels and fewer to pixels when a layer is gated, so that few active pixels still fill "
        "them; hence also against the mask of all ones, which runs that way too. Pixels at the border have up to 5/9 "
        "less to do, and how many of them a mask holds is chance: this makes the least differ from the mean, and "
        "utilisation, which counts the work that is there, is free of it.",
        ["density", "masks", "cycles", "efficiency", "least", "against all ones", "least", "utilisation", "least"],
        rows)


def gated_layers(bench: Bench) -> Section:
    """Efficiency of gating each convolution of a real network on its own, with real activations."""
    network = real_networks()[0]
    graph = load_graph(network.model)
    tensors = run_oracle_tensors(network.model, network.inputs(network.files[0]))
    rows: list[list[Any]] = []
    for operator in graph.operators:
        if operator.op != "CONV_2D":
            continue
        layer = cut_out(graph, operator, tensors)
        name = short_name(layer.name)
        dense = bench.convolution(layer, f"{name}, no mask").cycles
        row: list[Any] = [name, "x".join(map(str, layer.output_shape[1:])), dense]
        for density in DENSITIES:
            found, exact = bench.gated(layer, density, f"{name}, mask of density {density:g}")
            row += [found.cycles, round(dense * exact / found.cycles, 3)]
        rows.append(row)
    columns = [column for density in DENSITIES for column in (f"cycles at {density:g}", f"eff. at {density:g}")]
    return Section(
        "gated_layers", f"Decision masks on the layers of {network.name}",
        "Each convolution alone, with its real activations, behind one random mask of each density. Efficiency as "
        "above. Small layers are left with a handful of pixels: start and drain of a command show, and each weight "
        "is read once however few pixels use it (8x8x64 to 64, 3x3: 1,152 cycles).",
        ["layer", "output", "dense cycles", *columns], rows)


def _mean_and_least(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 3), round(float(values.min()), 3)]
