"""Random graphs, compiled and run on the golden model, against TFLite Micro: equal bit for bit.

Every run draws other graphs. A failure names the seed and the numbers of the graphs:
LACUNA_SEED=<seed> draws the same graphs again, LACUNA_GRAPH=<number> only that one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import PRESETS
from sw_driver.compiler import CapacityError, compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
ONLY = os.environ.get("LACUNA_GRAPH")

#: Graphs of each size that every preset runs, and drawings allowed to find as many that fit its memories.
COUNTS = {"tiny": 50, "small": 10}
DRAWINGS = 3

#: Stripes that layers are cut into, in turn; None: as the compiler thinks best.
STRIPES = (None, 2, 3, 7)

RESNET = Path(__file__).parents[3] / "shared" / "models" / "ic"


def mismatch(seed: list[int], size: str, preset: str) -> str | None:
    """What is wrong with one random graph on one preset; None: nothing. Raises CapacityError where it does not fit."""
    graph = random_graph(np.random.default_rng(seed), size, runs=2, all_outputs=seed[-1] % 3 == 0)
    program = compile_model(graph.model, preset, stripes=STRIPES[seed[-1] % len(STRIPES)])
    with open_device("golden", preset) as device:
        for number, inputs in enumerate(graph.inputs):
            result = device.run(program, inputs)
            for (name, got), want in zip(result.outputs.items(), run_oracle(graph.model, inputs), strict=True):
                if got.shape != want.shape or not np.array_equal(got, want):
                    return f"run {number}: output {name!r} differs in {np.count_nonzero(got != want)} of {want.size}"
            for layer in result.layers:
                if layer.skipped_activation < 0 or layer.macs_issued < 0 or layer.gated < 0:
                    return f"run {number}: the counters of layer {layer.name!r} don't add up: {layer}"
    return None


@pytest.mark.parametrize("size", COUNTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_random_graphs(preset: str, size: str) -> None:
    print(f"LACUNA_SEED={SEED}")
    failures: list[str] = []
    done = 0
    numbers = range(DRAWINGS * COUNTS[size]) if ONLY is None else [int(ONLY)]
    for number in numbers:
        if done == COUNTS[size]:
            break
        try:
            problem = mismatch([SEED, list(PRESETS).index(preset), list(COUNTS).index(size), number], size, preset)
        except CapacityError:
            continue
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        done += 1
        if problem is not None:
            failures.append(f"LACUNA_SEED={SEED} LACUNA_GRAPH={number}: {problem}")
    assert not failures, f"{len(failures)} of {done} graphs, {size} on {preset}:\n" + "\n".join(failures[:10])
    assert done == COUNTS[size] or ONLY is not None, f"only {done} of {len(numbers)} graphs fit preset {preset}"


@pytest.mark.skipif(not RESNET.is_dir(), reason="../shared/models/ic is not here")
@pytest.mark.parametrize("preset", ["small", "medium", "large", "xlarge"])
def test_resnet_8(preset: str) -> None:
    model = RESNET / "pretrainedResnet_quant.tflite"
    program = compile_model(model, preset)
    with open_device("golden", preset) as device:
        for file in sorted((RESNET / "inputs").glob("*.npy")):
            inputs = np.load(file).reshape(1, 32, 32, 3)
            np.testing.assert_array_equal(device.run(program, inputs).output, run_oracle(model, [inputs])[0])
