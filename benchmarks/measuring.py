"""Running models on one device, each result compared with TFLite Micro."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.layers import Convolution, random_mask
from hw.contract.config import Config
from sw_driver.compiler import compile_model
from sw_driver.device import Device
from sw_driver.oracle import run_oracle
from sw_driver.result import LayerResult, RunResult

ROOT = Path(__file__).resolve().parent.parent

#: Real models that lie beside the project; where they are absent, their rows are left out and that is said.
SHARED_MODELS = ROOT.parent / "shared" / "models"
RESNET = SHARED_MODELS / "ic" / "pretrainedResnet_quant.tflite"
DIGITS = ROOT / "models" / "digits.tflite"

#: Seed of all synthetic layers, activations and masks.
SEED = 20


class NotExact(RuntimeError):
    """A result that differs from TFLite Micro: no figure of such a run may be reported."""


@dataclasses.dataclass
class Bench:
    """A device to measure on. progress : told what runs."""

    device: Device
    progress: Callable[[str], None]

    @property
    def config(self) -> Config:
        """The device's sizes."""
        return self.device.config

    def run(self, model: bytes | Path, inputs: Mapping[str, np.ndarray], label: str) -> RunResult:
        """Compile, run, compare. Raises NotExact."""
        self.progress(label)
        result = self.device.run(compile_model(model, self.config), inputs)
        expected = run_oracle(model, inputs)
        for (name, found), wanted in zip(result.outputs.items(), expected, strict=True):
            if not np.array_equal(found, wanted):
                raise NotExact(f"{label}: output {name!r} differs from TFLite Micro in "
                               f"{np.count_nonzero(found != wanted)} of {found.size} elements")
        return result

    def convolution(self, layer: Convolution, label: str) -> LayerResult:
        """The convolution alone, ungated."""
        return _only_convolution(self.run(layer.model(), {"x": layer.activations}, label))

    def gated(self, layer: Convolution, density: float, label: str) -> tuple[LayerResult, float]:
        """The convolution behind a random mask, and the mask's exact density."""
        generator = np.random.default_rng([SEED, round(1000 * density)])
        model = layer.model(gated=True)
        shape = _output_shape(layer)
        mask = random_mask((*shape[:3], 1), density, generator)
        skip = generator.integers(-128, 128, shape, dtype=np.int8)
        result = self.run(model, {"x": layer.activations, "mask": mask, "skip": skip}, label)
        return _only_convolution(result), float(mask.mean())


def _only_convolution(result: RunResult) -> LayerResult:
    (layer,) = [layer for layer in result.layers if layer.engine == "conv"]
    return layer


def _output_shape(layer: Convolution) -> tuple[int, int, int, int]:
    pixels = layer.macs // layer.weights.size
    columns = layer.activations.shape[2]
    if layer.padding == "VALID":
        columns -= layer.weights.shape[2] - 1
    columns = -(-columns // layer.stride[1])
    return (1, pixels // columns, columns, layer.weights.shape[0])
