"""`lacuna verilog`: the hardware as Verilog, and the C driver beside it. Amaranth runs in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

from sw_driver.c.export import copy_driver
from sw_driver.command_line.failure import Failure


def handle(options: argparse.Namespace) -> int:
    """Write the files. Raises Failure with what the generator said."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{options.out} can't be made a directory: {error.strerror}") from None
    command = [sys.executable, "-m", "hw.delivery", "--preset", options.preset, "--out", str(options.out)]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        raise Failure(f"the Verilog of {options.preset} could not be written: {lines[-1]}")
    try:
        copy_driver(options.out)
    except OSError as error:
        raise Failure(f"the C driver could not be written to {options.out}: {error.strerror}") from None
    for path in sorted(options.out.iterdir()):
        print(path)
    return 0
