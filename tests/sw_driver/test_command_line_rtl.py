"""`lacuna run` on the simulated hardware, and what is left of it after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sw_driver.command_line import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits.tflite"
PICTURE = ROOT / "models" / "digits_inputs" / "digit_7.png"

pytestmark = pytest.mark.rtl


def test_a_picture_on_the_rtl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["run", str(MODEL), "--input", str(PICTURE), "--preset", "small", "--json", str(out)]) == 0
    value = json.loads(out.read_text())
    assert value["simulator"]["name"] == "verilator"
    assert value["simulator"]["cycles_per_second"] > 0
    (run,) = value["runs"]
    assert run["exact"] is True
    (outputs,) = run["outputs"]
    assert outputs.index(max(outputs)) == 7
    assert sum(layer["macs"] for layer in value["layers"]) == 2_622_016
    assert "block3_add" in capsys.readouterr().out


def _children(pid: int) -> list[int]:
    """Processes that descend from `pid`."""
    everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    found = [child for child in everyone if _state_and_parent(child)[1] == str(pid)]
    return found + [grandchild for child in found for grandchild in _children(child)]


def _alive(pid: int) -> bool:
    return _state_and_parent(pid)[0] not in ("", "Z")


def _state_and_parent(pid: int) -> tuple[str, str]:
    """As /proc has them; empty for a process that is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return state, parent


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_runs_on_after_the_end(tmp_path: Path, number: int, status: int) -> None:
    program = "import sys; from sw_driver.command_line import main; sys.exit(main())"
    arguments = ["run", str(MODEL), "--preset", "small", *["--input", str(PICTURE)] * 400]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if "cycles, exact" in line:
            break
    started = _children(process.pid)
    assert started, "the simulator was not found"
    process.send_signal(number)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in err
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(map(_alive, started)):
        time.sleep(0.1)
    assert not [pid for pid in started if _alive(pid)]
