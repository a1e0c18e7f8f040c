"""What nextpnr and Yosys report, as tables: resources, clocks, slowest paths, cells by block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hw.boards.catalogue import EARLY_CLOCK, EARLY_DOMAIN

#: Resources in the tables, by FPGA family: nextpnr's name for each, and the table's.
RESOURCES: dict[str, dict[str, str]] = {
    "ecp5": {"TRELLIS_COMB": "LUTs", "TRELLIS_FF": "flip-flops", "DP16KD": "block RAM", "MULT18X18D": "multipliers"},
    "ice40": {"ICESTORM_LC": "logic cells", "ICESTORM_RAM": "block RAM", "ICESTORM_DSP": "multipliers",
              "ICESTORM_SPRAM": "SPRAM"},
}

#: Cells in the table by block, by FPGA family: patterns of their types, and the table's name.
CELLS: dict[str, dict[str, str]] = {
    "ecp5": {r"LUT4": "LUTs", r"CCU2C": "carry (2 LUTs)", r"TRELLIS_FF": "flip-flops",
             r"TRELLIS_DPR16X4": "LUT RAM 16x4", r"DP16KD": "block RAM", r"MULT18X18D": "multipliers"},
    "ice40": {r"SB_LUT4": "LUTs", r"SB_CARRY": "carry", r"SB_DFF\w*": "flip-flops", r"SB_RAM40_4K\w*": "block RAM",
              r"SB_MAC16": "multipliers", r"SB_SPRAM256KA": "SPRAM"},
}

#: Slowest ends of paths that are kept.
ENDS = 25

_UTILISATION = re.compile(r"^Info:\s+(\w+):\s*(\d+)/\s*(\d+)\s+\d+%$", re.MULTILINE)

_ESTIMATE = re.compile(r"^Info: Max frequency for clock\s+'([^']+)': ([\d.]+) MHz \(\w+ at ([\d.]+) MHz\)$",
                       re.MULTILINE)

#: What Yosys' autoname puts behind the name of a register, and the bit of one.
_MADE_UP = re.compile(r"_(?:TRELLIS_|LUT4|PFUMX|L6MUX21|CCU2C|DP16KD|MULT18X18D|SB_).*$|(?:\[\d+\])+$|\.\d+(?:\.\d+)*$")

#: Below it, each instance is a block; elsewhere on the board those of the board top are.
_DEVICE = ("top", "device")


def resources(log: str, family: str) -> dict[str, dict[str, int]]:
    """Used and available, by resource, from nextpnr's log: it is there whether the design fits or not."""
    section = log.partition("Device utilisation:")[2].partition("\n\n")[0]
    names = RESOURCES[family]
    return {names[kind]: {"used": int(used), "available": int(available)}
            for kind, used, available in _UTILISATION.findall(section) if kind in names}


def overfull(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Resources that are not enough, in words."""
    return [f"{name} {numbers['used']:,} of {numbers['available']:,}" for name, numbers in found.items()
            if numbers["used"] > numbers["available"]]


def clocks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Achieved and asked frequency of every clock of the device, in Hz, from nextpnr's JSON report."""
    return [{"clock": _plain(name.removeprefix("$glbnet$")), "fmax_hz": round(1e6 * numbers["achieved"]),
             "asked_hz": round(1e6 * numbers["constraint"])} for name, numbers in report["fmax"].items()
            if not _early(name)]


def placed_clocks(log: str) -> list[dict[str, Any]]:
    """The same as nextpnr estimates it after placement, from its log; nothing where it did not come so far."""
    before_routing = log.partition("Setting up routing")[0]
    return [{"clock": _plain(name.removeprefix("$glbnet$")), "fmax_hz": round(1e6 * float(achieved)),
             "asked_hz": round(1e6 * float(asked))} for name, achieved, asked in _ESTIMATE.findall(before_routing)
            if not _early(name)]


def _early(clock: str) -> bool:
    """Whether it is the clock of the few registers that wait for the PLL, which holds nothing back."""
    return clock.rpartition(".")[2] in (EARLY_CLOCK, f"{EARLY_DOMAIN}_clk")


def register_of(cell: str) -> str:
    """A register's hierarchical name from that of a cell or net."""
    return _MADE_UP.sub("", _plain(cell))


def block_of(name: str) -> str:
    """Which block of the board a cell or net belongs to: the device's own by their name in docs/architecture.md."""
    # A name with __ in it is that of a port, whose fields have dots as well.
    parts = _plain(name).partition("__")[0].split(".")
    if tuple(parts[:2]) == _DEVICE:
        return parts[2] if len(parts) > 3 else "device"
    if parts[0] == "top" and len(parts) > 2:
        return parts[1]
    return "clocking" if parts[0] == "clocking" else "board"


def slowest_path(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The slowest path within a clock: where it begins and ends, its time in ns, and the nets that it takes."""
    within = [path for path in report["critical_paths"]
              if path["from"] == path["to"] and path["from"].startswith(("posedge", "negedge"))]
    best: dict[str, Any] | None = None
    for path in within:
        steps = path["path"]
        total = sum(step["delay"] for step in steps)
        if best is None or total > best["ns"]:
            nets = [register_of(step["net"]) for step in steps if step["type"] == "routing"]
            best = {
                "from": register_of(steps[0]["from"]["cell"]), "to": register_of(steps[-1]["to"]["cell"]),
                "ns": round(total, 2),
                "routing_ns": round(sum(step["delay"] for step in steps if step["type"] == "routing"), 2),
                "levels": sum(step["type"] == "logic" for step in steps),
                "through": list(dict.fromkeys(nets)),
            }
    return best


def slowest_ends(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Registers at which the slowest paths end, one entry each, slowest first: arrival in ns after the clock's edge."""
    worst: dict[str, float] = {}
    for net in report.get("detailed_net_timings", []):
        for end in net["endpoints"]:
            if end["event"] == net["event"]:
                name = register_of(end["cell"])
                worst[name] = max(worst.get(name, 0.0), end["delay"][-1])
    return [{"register": name, "ns": round(delay, 2)}
            for name, delay in sorted(worst.items(), key=lambda item: (-item[1], item[0]))[:ENDS]]


def cells_by_block(netlist: Mapping[str, Any], top: str, family: str) -> dict[str, dict[str, int]]:
    """Cells of each block from Yosys' JSON netlist, and of "all". Of what was merged across blocks, one has it."""
    kinds = {re.compile(pattern): name for pattern, name in CELLS[family].items()}
    found: dict[str, Counter[str]] = {"all": Counter()}
    for name, cell in netlist["modules"][top]["cells"].items():
        kind = next((title for pattern, title in kinds.items() if pattern.fullmatch(cell["type"])), None)
        if kind is not None:
            found["all"][kind] += 1
            found.setdefault(block_of(name), Counter())[kind] += 1
    return {block: {title: found[block][title] for title in kinds.values()}
            for block in sorted(found, key=lambda block: (block != "all", block))}


def _plain(name: str) -> str:
    return name.replace("\\", "").removeprefix("$abc$").removeprefix("$auto$")
