"""Real models on the RTL: every output equal to TFLite Micro's, cycles within what is promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle

pytestmark = pytest.mark.rtl

MODELS = Path(__file__).parents[2] / "models"
SHARED = Path(__file__).parents[3] / "shared" / "models"
RESNET = SHARED / "ic"

#: What ResNet-8 may take on `large` from doorbell to interrupt, everything included.
RESNET_CYCLES = 65_000

needs_resnet = pytest.mark.skipif(not RESNET.is_dir(), reason="../shared/models/ic is not here")


def check(model: Path, inputs: list[np.ndarray], preset: str) -> list[int]:
    """Run the inputs one after the other; returns the cycles. Every output must be TFLite Micro's."""
    program = compile_model(model, preset)
    cycles = []
    with open_device("rtl", preset) as device:
        for x in inputs:
            result = device.run(program, x)
            np.testing.assert_array_equal(result.output, run_oracle(model, [x])[0])
            cycles.append(result.cycles)
    print(f"{model.name} on {preset}: {cycles} cycles")
    return cycles


@needs_resnet
@pytest.mark.parametrize(("preset", "count"), [("small", 1), pytest.param("medium", 1, marks=pytest.mark.slow),
                                               pytest.param("large", 5, marks=pytest.mark.slow)])
def test_resnet_8(preset: str, count: int) -> None:
    files = sorted((RESNET / "inputs").glob("*.npy"))
    assert len(files) >= count
    # On `large` every input that there is.
    files = files if preset == "large" else files[:count]
    inputs = [np.load(file).reshape(1, 32, 32, 3) for file in files]
    cycles = check(RESNET / "pretrainedResnet_quant.tflite", inputs, preset)
    if preset == "large":
        assert max(cycles) <= RESNET_CYCLES


def test_digits() -> None:
    files = sorted((MODELS / "digits_inputs").glob("*.png"))[:3]
    assert files
    pictures = [np.asarray(Image.open(file).convert("L")) for file in files]
    inputs = [(picture.astype(np.int16) - 128).astype(np.int8).reshape(1, 28, 28, 1) for picture in pictures]
    check(MODELS / "digits.tflite", inputs, "small")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "cycles"), [
    ("ic", (1, 32, 32, 3), 61_000), ("kws", (1, 49, 10, 1), 15_000), ("vww", (1, 96, 96, 3), 70_000)])
def test_resident_weights_at_one_byte_per_cycle(name: str, shape: tuple[int, ...], cycles: int) -> None:
    """Loaded once, then no run waits for weights: exact, at a memory whose bandwidth the weights alone would take."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/models/{name} is not here")
    (model,) = (SHARED / name).glob("*.tflite")
    files = sorted((SHARED / name / "inputs").glob("*.npy"))[:3]
    program = compile_model(model, "large", weights="resident")
    with open_device("rtl", "large", bandwidth=1) as device:
        for number, file in enumerate(files):
            x = np.load(file).reshape(shape)
            result = device.run(program, x)
            np.testing.assert_array_equal(result.output, run_oracle(model, [x])[0])
            assert (result.loading is not None) is (number == 0)
            assert result.cycles < cycles
