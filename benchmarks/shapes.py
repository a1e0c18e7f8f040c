"""Cycles of the shapes that open accelerators were measured on, beside theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layers import synthetic
from benchmarks.measuring import SEED, Bench
from benchmarks.tables import Section

#: Name: height, width, channels; output channels; kernel.
SHAPES: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "L1": ((32, 32, 16), 16, 3), "L2": ((16, 16, 32), 32, 3), "L3": ((8, 8, 64), 64, 3), "L4": ((25, 5, 64), 64, 1),
}

#: Cycles of other designs on the same shapes, each measured in its own RTL simulation, whatever the zeros.
PEERS: dict[str, dict[str, int]] = {
    "NNgen 1.3.4 (144 multipliers, AXI 128 bit)": {"L1": 19_969, "L2": 18_241, "L3": 19_945, "L4": 6_625},
    "NNgen 1.3.4 (144, AXI 32 bit)": {"L1": 38_833, "L2": 21_649, "L3": 29_569, "L4": 11_145},
    "OpenEye (384, raw sums only)": {"L1": 10_017, "L2": 11_113, "L3": 17_809},
    "NVDLA nv_small (64, results wrong on these shapes)": {"L1": 41_838, "L2": 41_268, "L3": 39_330, "L4": 14_174},
}


def peers(bench: Bench) -> Section:
    """Cycles of each shape, dense and with half of the activations zero."""
    rows: list[list[Any]] = []
    for zeros in (0.0, 0.5):
        ours: list[Any] = [f"Lacuna {bench.config.name} ({bench.config.macs_per_cycle}), {zeros:.0%} zeros"]
        for name, (shape, outputs, kernel) in SHAPES.items():
            layer = synthetic(shape, outputs, kernel, zeros, np.random.default_rng([SEED, round(100 * zeros)]))
            found = bench.convolution(layer, f"{name}, {zeros:.0%} zeros")
            ours += [found.cycles, f"{found.macs / (found.cycles * bench.config.macs_per_cycle):.0%}"]
        rows.append(ours)
    for peer, cycles in PEERS.items():
        multipliers = int(peer.partition("(")[2].split(",")[0].split()[0])
        row: list[Any] = [peer]
        for name, (shape, outputs, kernel) in SHAPES.items():
            macs = shape[0] * shape[1] * shape[2] * outputs * kernel * kernel
            row += [cycles[name], f"{macs / (cycles[name] * multipliers):.0%}"] if name in cycles else ["", ""]
        rows.append(row)
    columns = [column for name in SHAPES for column in (name, "of peak")]
    return Section(
        "peers", "Shapes of the peers",
        "Cycles and share of the peak, all multiply-accumulates / (cycles x multipliers): above 100% what is skipped "
        "outweighs all losses. L1: 32x32x16 to 16, L2: 16x16x32 to 32, L3: 8x8x64 to 64, all 3x3; L4: 25x5x64 to 64, "
        "1x1. The peers' figures were measured in RTL simulation of these designs; zeros don't change them.",
        ["design (multipliers)", *columns], rows)
