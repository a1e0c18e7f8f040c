"""Running models on one device, each result compared with TFLite Micro."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.layers import Convolution, random_mask
from hw.contract.config import Config
from hw.contract.image import Program
from sw_driver.compiler import compile_model
from sw_driver.device import Device
from sw_driver.inputs import load_input
from sw_driver.oracle import run_oracle
from sw_driver.result import LayerResult, RunResult
from sw_driver.tflite.reader import load_graph

ROOT = Path(__file__).resolve().parent.parent

#: Real models that lie beside the project; where they are absent, their rows are left out and that is said.
SHARED_MODELS = ROOT.parent / "shared" / "models"
RESNET = SHARED_MODELS / "ic" / "pretrainedResnet_quant.tflite"
DIGITS = ROOT / "models" / "digits.tflite"

#: Seed of all synthetic layers, activations and masks.
SEED = 20


class NotExact(RuntimeError):
    """A result that differs from TFLite Micro: no figure of such a run may be reported."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A model with one input, and input files for it."""

    name: str
    model: Path
    files: list[Path]

    def inputs(self, file: Path) -> dict[str, np.ndarray]:
        """The content of a file, as a run takes it."""
        graph = load_graph(self.model)
        return {graph.input_names[0]: load_input(file, graph.tensors[graph.inputs[0]])}


def real_networks() -> list[Network]:
    """The networks that are there, ResNet-8 first."""
    found = [Network("digits", DIGITS, sorted((DIGITS.parent / "digits_inputs").iterdir()))]
    if RESNET.exists():
        found.insert(0, Network("ResNet-8", RESNET, sorted((RESNET.parent / "inputs").iterdir())))
    return found


@dataclasses.dataclass
class Bench:
    """A device to measure on. progress : told what runs."""

    device: Device
    progress: Callable[[str], None]

    def __post_init__(self) -> None:
        self._model: tuple[bytes | Path, bool] | None = None
        self._program: Program | None = None

    @property
    def config(self) -> Config:
        """The device's sizes."""
        return self.device.config

    def run(self, model: bytes | Path, inputs: Mapping[str, np.ndarray], label: str, *,
            folding: bool = True) -> RunResult:
        """Compile, unless it is the last model again; run, compare. Raises NotExact."""
        self.progress(label)
        if self._program is None or self._model != (model, folding):
            self._model, self._program = (model, folding), compile_model(model, self.config, folding=folding)
        result = self.device.run(self._program, inputs)
        expected = run_oracle(model, inputs)
        for (name, found), wanted in zip(result.outputs.items(), expected, strict=True):
            if not np.array_equal(found, wanted):
                raise NotExact(f"{label}: output {name!r} differs from TFLite Micro in "
                               f"{np.count_nonzero(found != wanted)} of {found.size} elements")
        return result

    def convolution(self, layer: Convolution, label: str) -> LayerResult:
        """The convolution alone, ungated."""
        return _only_convolution(self.run(layer.model(), {"x": layer.activations}, label))

    def gated(self, layer: Convolution, density: float, label: str, number: int = 0) -> tuple[LayerResult, float]:
        """The convolution behind the random mask of this number, and the mask's exact density."""
        generator = np.random.default_rng([SEED, round(1000 * density), number])
        shape = layer.output_shape
        mask = random_mask((*shape[:3], 1), density, generator)
        skip = generator.integers(-128, 128, shape, dtype=np.int8)
        result = self.run(layer.model(gated=True), {"x": layer.activations, "mask": mask, "skip": skip}, label)
        return _only_convolution(result), float(mask.mean())


def _only_convolution(result: RunResult) -> LayerResult:
    (layer,) = [layer for layer in result.layers if layer.engine == "conv"]
    return layer
