"""The steps of a build: design, synthesis, place and route, bitstream; and what is said about them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hw.boards.catalogue import Board
from hw.contract.config import preset
from sw_driver.boards.carry_constants import fold_constants
from sw_driver.boards.floorplan import HARD, floorplan, netlist_of_sites, sites_of
from sw_driver.boards.global_nets import promote, roots_of
from sw_driver.boards.hard_registers import absorb
from sw_driver.boards.refine import refine
from sw_driver.boards.synthesis import TOP, script
from sw_driver.boards.timing import (
    cells_by_block,
    clocks,
    overfull,
    placed_clocks,
    resources,
    slowest_ends,
    slowest_path,
)
from sw_driver.boards.tools import (
    ECPPACK,
    ICEPACK,
    NEXTPNR_ECP5,
    NEXTPNR_ICE40,
    YOSYS,
    Tool,
    ToolError,
    require,
    run_process,
)

#: Seconds that a step may take unless LACUNA_STEP_LIMIT says otherwise: the largest board on a busy machine.
STEP_LIMIT_S = 7200.0
LIMIT_VARIABLE = "LACUNA_STEP_LIMIT"

#: Place and route begin somewhere: always in the same place.
SEED = "1"

_PLACE_AND_ROUTE: dict[str, tuple[Tool, tuple[str, ...]]] = {
    # The static placer takes half of HeAP's time or less, and a quarter less wire. The catalogue says which router:
    # where there is room router1's wires are faster; router2 comes to an end on the ULX3S-85F, where router1 does not.
    "ecp5": (NEXTPNR_ECP5, ("--placer", "static", "--lpf", f"{TOP}.lpf", "--textcfg", f"{TOP}.config")),
    "ice40": (NEXTPNR_ICE40, ("--pcf", f"{TOP}.pcf", "--asc", f"{TOP}.asc")),
}

_PACK: dict[str, tuple[Tool, tuple[str, ...], str]] = {
    "ecp5": (ECPPACK, ("--compress", "--input", f"{TOP}.config", "--bit", f"{TOP}.bit"), f"{TOP}.bit"),
    "ice40": (ICEPACK, (f"{TOP}.asc", f"{TOP}.bin"), f"{TOP}.bin"),
}


class Unfinished(ToolError):
    """There is no bitstream. `report` is what is known all the same."""

    def __init__(self, message: str, report: dict[str, Any]):
        super().__init__(message)
        self.report = report


class DoesNotFit(Unfinished):
    """The device is too large for the board's FPGA."""


class NotRouted(Unfinished):
    """The device fits, but the router failed, or did not end in time."""


def step_limit() -> float:
    """Seconds that a step may take. Raises ToolError."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else STEP_LIMIT_S
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ToolError(f"{LIMIT_VARIABLE} must be a number of seconds above 0, not {text!r}")
    return limit


def build(board: Board, directory: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Build a board's bitstream in `directory`, which exists, and return the report that `report_of` describes.

    Raises ToolError when a tool is missing, fails or takes too long, DoesNotFit when the FPGA is too small, NotRouted
    when that happens to the router.
    """
    limit_s = step_limit()
    router, files = _PLACE_AND_ROUTE[board.family]
    packer, pack_arguments, bitstream = _PACK[board.family]
    versions = require([YOSYS, router], [("amaranth-boards", "amaranth_boards"), ("amaranth", "amaranth"),
                                         ("scipy", "scipy")])
    versions = {"lacuna": _own_version(), **versions, "python": platform.python_version()}
    seconds: dict[str, float] = {}

    def step(name: str, what: str, command: list[str], where: Path) -> str:
        started = time.monotonic()
        try:
            return run_process(what, command, where, limit_s)
        finally:
            seconds[name] = round(time.monotonic() - started, 1)
            say(f"{name}: {seconds[name]:,.0f} s")

    root = Path(__file__).resolve().parents[2]
    step("design", "Amaranth", [sys.executable, "-m", "hw.boards", "--board", board.name, "--out",
                                str(directory.resolve())], root)
    (directory / f"{TOP}.ys").write_text(script(board.family, (directory / f"{TOP}.il").read_text()))
    step("synthesis", YOSYS.name, [*YOSYS.command, "-q", "-l", f"{TOP}.yosys.log", "-s", f"{TOP}.ys"], directory)
    netlist = json.loads((directory / f"{TOP}.json").read_text())
    if board.family == "ecp5":
        module = netlist["modules"][TOP]
        say(f"{absorb(module):,} flip-flops moved into multipliers and block RAMs")
        say(f"{fold_constants(module):,} constants moved into carry cells")
        promoted = promote(module, roots_of(board.part))
        say(f"{len(promoted)} enables and resets with {sum(promoted.values()):,} users moved to global nets")
        started = time.monotonic()
        sites = _sites(router, board, directory, limit_s)
        say(f"{floorplan(module, sites):,} multipliers and block RAMs have their sites")
        seconds["floorplan"] = round(time.monotonic() - started, 1)
        (directory / f"{TOP}.json").write_text(json.dumps(netlist))
        del module
    blocks = cells_by_block(netlist, TOP, board.family)
    del netlist

    place_log, log, timing = (directory / f"{TOP}.{name}" for name in ("place.log", "nextpnr.log", "timing.json"))
    for file in (place_log, log, timing):
        file.unlink(missing_ok=True)
    command = [*router.command, *board.place_and_route, *files, "--seed", SEED, "--quiet", "--timing-allow-fail"]
    reports = ["--log", log.name, "--report", timing.name, "--detailed-timing-report"]
    try:
        if board.family == "ecp5":
            placed_file = directory / f"{TOP}.placed.json"
            step("place", router.name, [*command, "--json", f"{TOP}.json", "--no-route", "--write", placed_file.name,
                                        "--log", place_log.name], directory)
            started = time.monotonic()
            before, after = _refine(placed_file, board.clock_hz)
            say(f"longest path as nextpnr predicts wires: {before:.1f} ns; {after:.1f} ns after cells have moved")
            seconds["refine"] = round(time.monotonic() - started, 1)
            step("route", router.name, [*command, "--json", placed_file.name, "--no-pack", "--no-place", *reports],
                 directory)
        else:
            step("place and route", router.name, [*command, "--json", f"{TOP}.json", *reports], directory)
    except ToolError as error:
        said = next((file.read_text() for file in (place_log, log) if file.exists()), "")
        used, placed = resources(said, board.family), placed_clocks(said)
        lacking = overfull(used)
        report = report_of(board, seconds, versions, used, blocks, None, fits=not lacking, placed=placed)
        if lacking:
            message = (f"preset {board.preset} does not fit the {board.part} of {board.title}: {'; '.join(lacking)}; "
                       "choose a larger board or a smaller preset")
            raise DoesNotFit(message, report) from error
        if placed:
            estimates = ", ".join(f"{clock['fmax_hz'] / 1e6:.1f} MHz" for clock in placed)
            raise NotRouted(f"preset {board.preset} fits the {board.part} of {board.title} (an estimate after "
                            f"placement: {estimates}), but was not routed: {error}", report) from error
        raise
    step("bitstream", packer.name, [*packer.command, *pack_arguments], directory)
    report = report_of(board, seconds, versions, resources(log.read_text(), board.family), blocks,
                       json.loads(timing.read_text()))
    report["bitstream"] = {"file": bitstream, "bytes": (directory / bitstream).stat().st_size}
    return report


def _refine(placed: Path, clock_hz: float) -> tuple[float, float]:
    """Move cells of a placed netlist; the longest path before and after, in ns."""
    netlist = json.loads(placed.read_text())
    (module,) = netlist["modules"].values()
    lengths = refine(module)
    # Clock constraints do not come back; what is asked where there is none does.
    module.setdefault("settings", {})["target_freq"] = f"{clock_hz:.6f}"
    # nextpnr does not read ports back that nothing is connected to, and then leaves them open where it ties those of
    # multipliers and block RAMs to a constant in the bitstream.
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            cell["connections"][port] = bits or ["x"]
    placed.write_text(json.dumps(netlist))
    return lengths


def _sites(router: Tool, board: Board, directory: Path, limit_s: float) -> dict[str, list[str]]:
    """Where an FPGA has its hard blocks: nextpnr knows, and says it of a netlist that has nothing else."""
    source, placed, used = (directory / f"sites{ending}.json" for ending in ("", ".placed", ".used"))

    def place(counts: dict[str, int]) -> None:
        source.write_text(json.dumps(netlist_of_sites(counts)))
        run_process(router.name, [*router.command, *board.place_and_route, "--json", source.name, "--no-route",
                                  "--placer", "sa", "--write", placed.name, "--report", used.name, "--quiet"],
                    directory, limit_s)

    place({HARD[0]: 1})  # for how many there are
    available = json.loads(used.read_text())["utilization"]
    place({kind: available[kind]["available"] for kind in HARD})
    return sites_of(json.loads(placed.read_text()))


def report_of(board: Board, seconds: dict[str, float], versions: dict[str, str], used: dict[str, dict[str, int]],
              blocks: dict[str, dict[str, int]], timing: dict[str, Any] | None, *, fits: bool = True,
              placed: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What docs/generate.py shows of a build: plain data, for JSON.

    fits; resources (used, available); clocks (Hz); placed: clocks as estimated where there was no routing;
    slowest_path, slowest_ends (ns); blocks (cells); seconds by step; tools (versions).
    """
    return {
        "board": board.name, "title": board.title, "part": board.part, "preset": board.preset,
        "configuration_hash": f"{preset(board.preset).hash:#010x}", "clock_hz": board.clock_hz,
        "memory_bytes": board.memory_bytes, "fits": fits, "resources": used,
        "clocks": clocks(timing) if timing else [],
        "placed": list(placed),
        "slowest_path": slowest_path(timing) if timing else None,
        "slowest_ends": slowest_ends(timing) if timing else [],
        "blocks": blocks, "seconds": dict(seconds), "processors": os.cpu_count(), "tools": versions,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("lacuna")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
