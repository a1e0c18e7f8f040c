"""The hourglass on the golden model: exact, and every gated block computes what its decision asks for only."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.contract.commands import Opcode
from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from testbench.hourglass import Hourglass

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))

#: Gated blocks by their last layer.
BLOCKS = 6


def run(preset: str, level: int, size: int = 32):
    """Compile, run, compare: the program and the run."""
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    model = Hourglass(rng, size=size, level=level).to_bytes()
    inputs = {"image": rng.integers(-128, 128, (1, size, size, 3)).astype(np.int8)}
    program = compile_model(model, preset)
    with open_device("golden", preset) as device:
        result = device.run(program, inputs)
    np.testing.assert_array_equal(result.output, run_oracle(model, inputs)[0])
    return program, result


@pytest.mark.parametrize("preset", ["small", "medium", "large"])
def test_exact_and_gated(preset: str) -> None:
    program, result = run(preset, level=20)
    assert sum("SELECT_V2" in layer.op for layer in program.layers) == BLOCKS
    opcodes = [record["opcode"] for record in result.records]
    assert opcodes.count(Opcode.DECIDE) == BLOCKS
    assert opcodes.count(Opcode.DILATE) == BLOCKS  # every block has one 3x3 layer behind another layer
    gated = {layer.name for layer in program.layers} & set(program.report["gated_layers"])
    assert len(gated) == 3 * 2 + 3 * 3
    assert 0 < sum(layer.gated for layer in result.layers) < sum(layer.macs for layer in result.layers)
    assert all(layer.gated for layer in result.layers if layer.op == "DEPTHWISE_CONV_2D")


def test_fewer_active_pixels_take_fewer_cycles() -> None:
    cycles = [run("large", level)[1].cycles for level in (-128, 20, 127)]
    assert cycles == sorted(cycles, reverse=True)


def test_by_stripes_on_the_smallest_preset() -> None:
    run("nano", level=20, size=24)
