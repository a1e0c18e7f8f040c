"""`lacuna build`: a board's bitstream, with tables of resources and timing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from hw.boards.catalogue import BOARDS
from sw_driver.boards.build import Unfinished, build
from sw_driver.boards.tools import ToolError
from sw_driver.command_line.failure import Failure
from sw_driver.command_line.output import require_writable, wide_console, write_json

#: Where builds go when nothing else is said; beside each other, by name of the board.
OUT = Path("build/boards")

#: In the build's folder, whatever else is asked for.
REPORT = "report.json"


def handle(options: argparse.Namespace) -> int:
    """Build and print. Raises Failure with the reason."""
    board = BOARDS[options.board]
    if options.out is None:
        options.out = OUT / board.name
    require_writable(options.json)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{options.out} can't be made a directory: {error.strerror}") from None
    console = wide_console()
    console.print(f"{board.title}, {board.part}: preset {board.preset} at {board.clock_hz / 1e6:g} MHz")
    try:
        report = build(board, options.out, console.print)
    except Unfinished as error:
        _print(console, error.report)
        _write(options, error.report)
        raise Failure(str(error)) from None
    except ToolError as error:
        raise Failure(str(error)) from None
    _print(console, report)
    _write(options, report)
    for clock in report["clocks"]:
        if clock["fmax_hz"] >= clock["asked_hz"]:
            continue
        path = report["slowest_path"]
        raise Failure(f"{clock['clock']} runs at {clock['fmax_hz'] / 1e6:.1f} MHz, not at the "
                      f"{clock['asked_hz'] / 1e6:.1f} MHz that the board gives it: don't use the bitstream. The "
                      f"slowest path goes from {path['from']} to {path['to']}")
    console.print(options.out / report["bitstream"]["file"])
    return 0


def _write(options: argparse.Namespace, report: dict[str, Any]) -> None:
    for path in {options.out / REPORT, options.json} - {None}:
        write_json(path, report)


def _print(console: Any, report: dict[str, Any]) -> None:
    table = Table("resource", "used", "available", "%")
    for name, numbers in report["resources"].items():
        table.add_row(name, f"{numbers['used']:,}", f"{numbers['available']:,}",
                      f"{100 * numbers['used'] / numbers['available']:.0f}" if numbers["available"] else "")
    console.print(table)
    for clock in report["clocks"]:
        console.print(f"{clock['clock']}: {clock['fmax_hz'] / 1e6:.1f} MHz (asked: {clock['asked_hz'] / 1e6:.1f})")
    path = report["slowest_path"]
    if path:
        console.print(f"Slowest path: {path['from']} to {path['to']}, {path['ns']} ns, {path['levels']} levels")
    if not report["fits"]:
        blocks = report["blocks"]
        table = Table("block", *blocks["all"])
        for block, cells in blocks.items():
            table.add_row(block, *(f"{count:,}" for count in cells.values()))
        console.print(table)
