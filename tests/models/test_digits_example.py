"""The example reads its ten pictures, on the golden model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "examples/digits.py", *arguments], cwd=ROOT, text=True, check=False,
                          capture_output=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"})


def test_every_picture_is_read() -> None:
    finished = run_example("--device", "golden")
    assert finished.returncode == 0, finished.stderr
    assert re.findall(r"digit_(\d)\.png", finished.stdout) == list("0123456789")
    assert re.findall(r"  a (\d), probability", finished.stdout) == list("0123456789")


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    from PIL import Image
    Image.new("L", (30, 20)).save(tmp_path / "wide.png")
    finished = run_example("--device", "golden", str(tmp_path / "wide.png"))
    assert finished.returncode == 2
    assert "must have 28 x 28 pixels, not 30 x 20" in finished.stderr
