"""Weights and commands from a slow flash, features from a fast memory: exact, and as slow as the flash makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import preset
from sw_driver.command_line import main
from sw_driver.compiler import compile_model
from sw_driver.device import Device
from sw_driver.links.rtl import RtlLink, open_rtl
from sw_driver.oracle import run_oracle
from sw_driver.result import RunResult

pytestmark = pytest.mark.rtl

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits.tflite"
PICTURE = ROOT / "models" / "digits_inputs" / "digit_7.png"


@pytest.fixture(scope="module")
def link() -> Iterator[RtlLink]:
    with open_rtl("small") as opened:
        yield opened


def run(link: RtlLink, **memory: float | None) -> RunResult:
    """The digits model on the RTL with such a memory; checks that it is exact."""
    link.configure(**{"latency": 20, "bandwidth": 8, "flash_latency": 20, "flash_bandwidth": None, "stall_seed": 0}
                   | memory)
    x = np.random.default_rng(1).integers(-128, 128, (1, 28, 28, 1), dtype=np.int8)
    result = Device(link, preset("small")).run(compile_model(MODEL, "small"), x)
    for found, expected in zip(result.outputs.values(), run_oracle(MODEL, [x]), strict=True):
        np.testing.assert_array_equal(found, expected)
    return result


def test_flash_bandwidth(link: RtlLink) -> None:
    program = compile_model(MODEL, "small")
    plain = run(link).cycles
    cycles = {bandwidth: run(link, flash_bandwidth=bandwidth).cycles for bandwidth in (8, 1, 0.5, 0.25)}
    assert cycles[8] < 1.01 * plain
    assert plain < cycles[1] < cycles[0.5] < cycles[0.25]
    assert cycles[0.25] > len(program.image) / 0.25  # everything in it is read once, commands too
    everything_slow = run(link, bandwidth=0.25).cycles
    assert len(program.image) / 0.25 < cycles[0.25] < everything_slow


def test_commands_come_from_the_flash(link: RtlLink) -> None:
    near, far = run(link), run(link, flash_bandwidth=8, flash_latency=5000)
    assert min(span.start for span in near.timeline) < 500
    assert min(span.start for span in far.timeline) > 5000


def test_flash_under_random_stalls(link: RtlLink) -> None:
    for seed in (1, 2):
        run(link, flash_bandwidth=2, flash_latency=90, stall_seed=seed, bandwidth=4)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run", str(MODEL), "--input", str(PICTURE), "--preset", "small"]
    assert main([*common, "--flash-bandwidth", "1", "--flash-latency", "100"]) == 0
    assert "bit for bit" in capsys.readouterr().out
    assert main([*common, "--flash-latency", "100"]) == 1
    assert "it needs --flash-bandwidth BYTES" in capsys.readouterr().err
    assert main([*common, "--flash-bandwidth", "1", "--device", "golden"]) == 1
    assert "it needs --device rtl" in capsys.readouterr().err
