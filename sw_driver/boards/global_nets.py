"""Enables and resets with many users go over an ECP5's global nets, whose wires nothing else needs.

nextpnr puts only clocks there: an enable with two thousand flip-flops all over the FPGA takes wires of the fabric, and
the few ways into each tile's enables. Of the 16 global nets, 8 reach enables and resets too (Lattice FPGA-TN-02200,
primary clock routing); a DCCA (the buffer at the root of one) in the netlist makes nextpnr use one.

Only nets that a flip-flop drives move: the way to the root and back costs time, which a net that comes out of logic
does not have. What else uses such a net (a LUT's input) stays on the fabric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

#: Sites of DCCAs, as nextpnr names them, at the right and lower side of an FPGA: four wires of the fabric reach the
#: roots of a side. Where nextpnr finds sites itself, it takes the upper side first, where clocks come from, and with a
#: clock from a pin one way was missing. At most seven: one of the eight global nets that reach enables is the clock's.
ROOTS = {
    "LFE5U-45F": (*(f"X87/Y34/RDCC{i}" for i in range(4)), *(f"X40/Y71/BDCC{i}" for i in range(3))),
    # Not at the lower side: ecppack (nextpnr 0.11.1) does not know all the ways to it that nextpnr takes.
    "LFE5U-85F": tuple(f"X123/Y46/RDCC{i}" for i in range(4)),
}

#: A net with fewer users than this stays on the fabric.
FEWEST_USERS = 400

_CONTROLS = ("CE", "LSR")


def roots_of(part: str) -> tuple[str, ...]:
    """Where the roots of global nets are in `part`; none where that is not known, so that no net moves."""
    return next((roots for name, roots in ROOTS.items() if part.startswith(name)), ())


def promote(module: dict[str, Any], roots: Sequence[str], fewest: int = FEWEST_USERS) -> dict[int, int]:
    """Drive enables and resets of `module`, flat and mapped to ECP5 cells as Yosys's JSON has it, through DCCAs.

    Returns the users that moved, by net: the widest nets, as many as there are roots.
    """
    cells = module["cells"]
    users: dict[int, list[tuple[str, str]]] = defaultdict(list)
    drivers: dict[int, str] = {}
    last_net = max((bit for net in module.get("netnames", {}).values() for bit in net["bits"] if isinstance(bit, int)),
                   default=1)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if not isinstance(bit, int):
                    continue
                last_net = max(last_net, bit)
                if cell["port_directions"][port] == "output":
                    drivers[bit] = cell["type"]
                elif cell["type"] == "TRELLIS_FF" and port in _CONTROLS:
                    users[bit].append((name, port))
    widest = sorted((net for net in users if drivers.get(net) == "TRELLIS_FF" and len(users[net]) >= fewest),
                    key=lambda net: (-len(users[net]), net))[:len(roots)]
    for net, root in zip(widest, roots, strict=False):
        last_net += 1
        cells[f"$global${net}"] = {
            "hide_name": 1, "type": "DCCA", "parameters": {}, "attributes": {"BEL": root},
            "port_directions": {"CLKI": "input", "CLKO": "output"},
            "connections": {"CLKI": [net], "CLKO": [last_net]},
        }
        for name, port in users[net]:
            cells[name]["connections"][port] = [last_net]
    return {net: len(users[net]) for net in widest}
