"""A program in the flash of a simulated board: run from there, exact; whatever else the flash holds is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import PRESETS
from hw.contract.flash import flash_content
from hw.contract.image import Program
from sw_driver.command_line import main
from sw_driver.device import Device, DeviceError
from sw_driver.links.uart import open_uart
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from testbench.board_line import SimulatedBoard

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

NANO = PRESETS["nano"]


def model(seed: int) -> bytes:
    """Two convolutions; the seed decides about their weights alone."""
    rng = np.random.default_rng(seed)
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 6, 7, 3), scale=0.05, zero_point=3)
    for channels, before in ((8, 3), (12, 8)):
        weights = rng.integers(-60, 60, (channels, 3, 3, before)).astype(np.int8)
        x = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3)
    builder.add_output(x)
    return builder.to_bytes()


def test_a_program_in_flash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = tmp_path / "right.tflite", tmp_path / "wrong.tflite"
    right.write_bytes(model(1))
    wrong.write_bytes(model(2))
    x = np.random.default_rng(3).integers(-128, 128, (1, 6, 7, 3)).astype(np.int8)
    np.save(tmp_path / "x.npy", x)
    image, flash, out = tmp_path / "right.lacuna", tmp_path / "right.bin", tmp_path / "out.json"
    assert main(["compile", str(right), "--preset", "nano", "-o", str(image), "--flash-out", str(flash)]) == 0
    assert "bytes for a board's flash" in capsys.readouterr().out
    program = Program.from_bytes(image.read_bytes())
    assert flash.read_bytes() == flash_content(program)

    # Of block RAM there is too little for the image.
    with SimulatedBoard(NANO, memory_bytes=3 * 4096, flash=flash.read_bytes()) as board:
        run = ["--input", str(tmp_path / "x.npy"), "--preset", "nano", "--device", f"uart:{board.path}"]
        assert main(["run", str(right), *run, "--flash", "--json", str(out)]) == 0
        (entry,) = json.loads(out.read_text())["runs"]
        assert entry["exact"] is True
        # A byte takes 16 cycles.
        assert entry["cycles"] > 16 * len(program.image)
        capsys.readouterr()
        assert main(["run", str(right), *run]) == 1
        assert "bytes of external memory" in capsys.readouterr().err
        assert main(["run", str(wrong), *run, "--flash"]) == 1
        assert "The flash does not hold this program, but another program" in capsys.readouterr().err
        with Device(open_uart(board.path), NANO) as device:
            device.from_flash = True
            with pytest.raises(DeviceError, match="does not hold this program"):
                device.run(_changed(program), x)
            (found,) = device.run(program, x).outputs.values()
        np.testing.assert_array_equal(found, run_oracle(right.read_bytes(), [x])[0])


def _changed(program: Program) -> Program:
    """The same program with one bit of its weights changed."""
    data = bytearray(program.image)
    data[-1] ^= 1
    return Program(**{**vars(program), "image": bytes(data)})
