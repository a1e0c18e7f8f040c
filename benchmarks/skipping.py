"""What skipping zero activations brings, and what it costs a layer that has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layers import short_name, synthetic
from benchmarks.measuring import SEED, Bench, real_networks
from benchmarks.tables import Section

ZEROS = (0.0, 0.25, 0.5, 0.75, 0.9)

#: Height, width, channels of the synthetic layer, and its output channels.
SHAPE, OUTPUTS = (16, 16, 64), 64

#: Layers without zeros: height, width, channels; kernel; padding. All have 64 output channels.
DENSE: tuple[tuple[tuple[int, int, int], int, str], ...] = (
    ((18, 18, 64), 3, "VALID"), ((16, 16, 64), 1, "VALID"), ((16, 16, 64), 3, "SAME"), ((32, 32, 64), 3, "SAME"),
)


def dense_layers(bench: Bench) -> Section:
    """Cycles of layers with nothing to skip, beside those of a dense array that never stalls."""
    rows: list[list[Any]] = []
    for shape, kernel, padding in DENSE:
        layer = synthetic(shape, OUTPUTS, kernel, 0.0, np.random.default_rng(SEED), padding)
        found = bench.convolution(layer, f"dense: {layer.name}, {padding}")
        limit = found.macs / bench.config.macs_per_cycle
        rows.append([layer.name, padding, found.macs, found.macs_issued, found.cycles, round(found.utilisation, 3),
                     round(limit / found.cycles, 3)])
    return Section(
        "dense_layers", "Dense layers",
        "No activation and no weight is zero. Utilisation: multiply-accumulates issued / (cycles x multipliers). Of "
        "dense: cycles of a dense array that never waits (all multiply-accumulates / multipliers) / cycles. Finding "
        "what to skip runs ahead of the multipliers and takes no cycle of theirs: with VALID padding, where nothing "
        "can be skipped, what is lost is the start of a command and its last drain. With SAME padding the padding is "
        "skipped, and the layer is faster than dense; pixel groups with a border column have less to do than others.",
        ["layer", "padding", "MACs", "MACs issued", "cycles", "utilisation", "of dense"], rows)


def zero_activations(bench: Bench) -> Section:
    """Utilisation of the synthetic layer by its share of zeros, and of a real network's layers by theirs."""
    rows: list[list[Any]] = []
    for zeros in ZEROS:
        layer = synthetic(SHAPE, OUTPUTS, 3, zeros, np.random.default_rng([SEED, round(100 * zeros)]))
        found = bench.convolution(layer, f"{layer.name}, {zeros:.0%} zeros")
        rows.append([layer.name, "random", f"{zeros:.0%}", found.macs, found.macs_issued, found.cycles,
                     round(found.utilisation, 3)])
    network = real_networks()[0]
    for found in bench.run(network.model, network.inputs(network.files[0]), network.name).layers:
        if found.engine == "conv":
            zeros = found.skipped_activation / found.macs
            rows.append([f"{network.name}: {short_name(found.name)}", "real", f"{zeros:.0%}", found.macs,
                         found.macs_issued, found.cycles, round(found.utilisation, 3)])
    return Section(
        "zero_activations", "Zero activations",
        "Utilisation: non-zero multiply-accumulates / (cycles x multipliers). Non-zero: of an activation that is not "
        "its zero point and a weight row that is not all zero; padding counts as zero. Cycles: of the layer's conv "
        "commands, from the start in their records to the end. In real layers, zeros include padding.",
        ["layer", "activations", "zeros", "MACs", "non-zero MACs", "cycles", "utilisation"], rows)
