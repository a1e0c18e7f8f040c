"""`make demo`'s example reads pictures, shows where it looked, and writes that as PNGs, on the golden model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "models" / "scenes" / "inputs"


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "examples/scenes.py", "--device", "golden", *arguments], cwd=ROOT, text=True,
                          check=False, capture_output=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "COLUMNS": "140"})


def test_a_picture_is_read_and_its_mask_written(tmp_path: Path) -> None:
    finished = run_example(str(INPUTS / "scene_3.png"), "--masks", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert "gated     a 3, probability" in finished.stdout
    assert "equal bit for bit" in finished.stdout
    with Image.open(tmp_path / "scene_3_mask.png") as picture:
        colours = np.asarray(picture)
    assert colours.shape == (512, 512, 3)
    looked = (colours[..., 0] == colours[..., 2]).mean()
    assert 0.02 < looked < 0.3


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "wide.png")
    finished = run_example(str(tmp_path / "wide.png"))
    assert finished.returncode == 2
    assert "must have 64 x 64 pixels, not 30 x 20" in finished.stderr
