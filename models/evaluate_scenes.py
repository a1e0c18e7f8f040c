"""Measure the scenes models: `python -m models.evaluate_scenes [NAME ...]`, on the 1,000 held-out scenes.

The int8 file is run by the golden model, which equals TFLite Micro bit for bit (and is compared with it on the
first scenes). A scene counts as right when the largest of the ten int8 probabilities is its label's (of equal ones,
the first).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Opcode
from models.digits_data import as_input
from models.layers import INPUT
from models.quantise_scenes import model_path
from models.scenes_data import Scenes, held_out_scenes, load_held_out
from models.scenes_network import NETWORKS
from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.result import RunResult

#: Scenes of every part of the work whose output is compared with TFLite Micro's.
_COMPARED = 2


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a model did with some scenes, one element for each.

    Parameters
    ----------
    guesses : the digits found. cycles : from doorbell to interrupt.
    macs : multiply-accumulates of the whole network, of the pixels that are demanded (all, without gates).
    issued : of these, those that were multiplied: neither activation nor weight row is zero.
    active : share of pixels that the decision switches on; 1 without gates.
    """

    guesses: NDArray[np.int64]
    cycles: NDArray[np.int64]
    macs: NDArray[np.int64]
    issued: NDArray[np.int64]
    active: NDArray[np.float64]

    @classmethod
    def of(cls, runs: list[RunResult]) -> Measured:
        """From the results of runs."""
        return cls(np.array([int(run.output.argmax()) for run in runs]), np.array([run.cycles for run in runs]),
                   np.array([sum(layer.macs - layer.gated for layer in run.layers) for run in runs]),
                   np.array([sum(layer.macs_issued for layer in run.layers) for run in runs]),
                   np.array([active_share(run) for run in runs]))

    @classmethod
    def joined(cls, parts: list[Measured]) -> Measured:
        """Several, one behind the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts])
                     for field in dataclasses.fields(cls)))


def active_share(run: RunResult) -> float:
    """Share of active pixels of a run's decision, as the device counted them; 1 without one."""
    decided = [record for record in run.records if record["opcode"] == Opcode.DECIDE]
    if not decided:
        return 1.0
    pixels = sum(layer.shape[1] * layer.shape[2] for layer in run.layers if layer.op == "GREATER_EQUAL")
    return sum(record["active_pixels"] for record in decided) / pixels


def measure(model: Path, images: NDArray[np.uint8], preset: str = "large") -> Measured:
    """Run uint8 scenes [n][64][64] on the golden model. Raises RuntimeError where it differs from TFLite Micro."""
    program = compile_model(model, preset)
    runs = []
    with open_device("golden", preset) as device:
        for number, image in enumerate(as_input(images)):
            runs.append(device.run(program, image[np.newaxis]))
            if number < _COMPARED and not np.array_equal(runs[-1].output,
                                                         run_oracle(model, {INPUT: image[np.newaxis]})[0]):
                raise RuntimeError(f"{model.name}: the golden model differs from TFLite Micro on scene {number}")
    return Measured.of(runs)


def measure_all(model: Path, images: NDArray[np.uint8], preset: str = "large") -> Measured:
    """As `measure`, on all processors."""
    workers = os.cpu_count() or 1
    parts = np.array_split(images, workers)
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        return Measured.joined(list(pool.map(measure, [model] * workers, parts, [preset] * workers)))


def scenes(count: int | None = None) -> Scenes:
    """The held-out scenes, or `count` of them, taken evenly so that all digits are among them."""
    everything = held_out_scenes(load_held_out())
    if count is None or count >= len(everything):
        return everything
    chosen = np.arange(count) * len(everything) // count
    return Scenes(everything.images[chosen], everything.labels[chosen], everything.corners[chosen])


def main() -> None:
    """Print accuracy, active pixels, multiply-accumulates and predicted cycles."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate_scenes",
                                     description="Accuracy and cost of the scenes models on the golden model.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--scenes", type=int, help="so many of the 1,000")
    parser.add_argument("--preset", default="large")
    arguments = parser.parse_args()
    held_out = scenes(arguments.scenes)
    for name in arguments.names or NETWORKS:
        started = time.perf_counter()
        found = measure_all(model_path(name), held_out.images, arguments.preset)
        print(f"{name:10} {(found.guesses == held_out.labels).mean():7.2%} of {len(held_out)} scenes right, "
              f"{found.active.mean():6.1%} of the pixels active, {found.macs.mean() / 1e6:6.2f} M MACs, "
              f"{found.issued.mean() / 1e6:6.2f} M multiplied, {found.cycles.mean():9,.0f} cycles predicted "
              f"({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
