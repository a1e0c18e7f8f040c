"""What gating saves on a trained network, the whole of it: multiply-accumulates, cycles, accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measuring import Bench
from benchmarks.tables import Section
from models.digits_data import as_input
from models.evaluate_scenes import Measured, measure_all, scenes
from models.layers import INPUT
from models.quantise_scenes import model_path
from models.scenes_network import NETWORKS, UNGATED

#: Scenes that accuracy is measured on, on the golden model, and scenes that run on the benchmark's device.
SCENES, DEVICE_SCENES = 1000, 20


def dynamic(bench: Bench, held_out: int = SCENES, on_device: int = DEVICE_SCENES) -> Section:
    """Budgets of the gated network beside the same network without gates and smaller ones of equal cost."""
    everything, some = scenes(held_out), as_input(scenes(on_device).images)
    rows: list[list[Any]] = []
    dense: Measured | None = None
    for name in NETWORKS:
        path = model_path(name)
        bench.progress(f"{name}: {held_out} scenes on the golden model")
        whole = measure_all(path, everything.images, bench.config.name)
        found = Measured.of([bench.run(path, {INPUT: image[np.newaxis]}, f"{name}, scene {number}")
                             for number, image in enumerate(some)])
        dense = found if name == UNGATED else dense
        assert dense is not None
        fewer_macs = dense.macs.mean() / found.macs.mean()
        fewer_cycles = dense.cycles.mean() / found.cycles.mean()
        ratios = (dense.cycles / found.cycles) / (dense.macs / found.macs)
        rows.append([
            name.replace("_", " "), round(100 * float((whole.guesses == everything.labels).mean()), 1),
            round(100 * float(whole.active.mean()), 1), round(found.macs.mean()), round(found.issued.mean()),
            round(found.cycles.mean()), round(fewer_macs, 2), round(fewer_cycles, 2),
            round(fewer_cycles / fewer_macs, 3), round(float(ratios.min()), 3),
            round(float((dense.cycles.mean() / found.cycles.mean()) / (dense.issued.mean() / found.issued.mean())), 3)])
    return Section(
        "dynamic", "A trained dynamic network",
        f"Handwritten digits in cluttered 64x64 scenes, int8: the network finds the digit with a decision on the "
        f"device and looks closer at the pixels that it chose. Accuracy and active pixels: {held_out:,} held-out "
        f"scenes, golden model. Everything else: {on_device} of them on this device, means; every output equals TFLite "
        "Micro's bit for bit. MACs: of the whole network, decision included, dense but for the pixels that no mask "
        "demands; multiplied: without zero activations and zero weight rows. Cycles: doorbell to interrupt. Ratio: "
        "cycle reduction / MAC reduction, of the means, and the least of a scene; of multiplied: the same with what "
        "is multiplied in place of MACs. Static networks have fewer channels and blocks, and cost about what the "
        "gated network of the budget in their name does.",
        ["network", "accuracy %", "active %", "MACs", "multiplied", "cycles", "fewer MACs", "fewer cycles", "ratio",
         "least ratio", "of multiplied"], rows)
