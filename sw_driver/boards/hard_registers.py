"""Registers around an ECP5's multipliers and block RAMs move into them.

Both have registers of their own, at their inputs or outputs, which cost nothing and are much faster than the way from
a hard block to a flip-flop: a block RAM without its register answers 5.7 ns after the clock, nearly half of a cycle.
Yosys does not use them on this family (0.70), so that flip-flops are moved here, in the netlist that it writes.

A flip-flop moves only if nothing can tell the difference: all bits of the port have one, each its own, nothing else
sees what is between it and the hard block, and all have the same clock and enable, no reset, and begin as 0. Where a
flip-flop's enable is active low, which a hard block's can't be, the block gets an inverter.

Parameters and ports of the primitives: Lattice TN1264 (memory), TN1267 (sysDSP).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

_FLIP_FLOP, _MULTIPLIER, _BLOCK_RAM = "TRELLIS_FF", "MULT18X18D", "DP16KD"


class Control(NamedTuple):
    """How a flip-flop is driven. `enable` is a net, or "1"; `active_low`, of the enable."""

    clock: int
    enable: int | str
    active_low: bool


class _Netlist:
    """A module of Yosys's JSON: which cells' ports each net (an int) comes from and goes to."""

    def __init__(self, module: dict[str, Any]):
        self.cells: dict[str, Any] = module["cells"]
        self.users: dict[int, set[tuple[str, str]]] = defaultdict(set)
        self.drivers: dict[int, str] = {}
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                for bit in bits:
                    if not isinstance(bit, int):
                        continue
                    if cell["port_directions"][port] == "input":
                        self.users[bit].add((name, port))
                    else:
                        self.drivers[bit] = name
        for name, port in module["ports"].items():
            for bit in port["bits"]:
                self.users[bit].add(("", name))
        self._inverted: dict[int, int] = {}
        self._last_net = max(self.users | self.drivers, default=1)

    def control(self, name: str | None) -> Control | None:
        """Of a flip-flop that a hard block could hold; else None."""
        cell = self.cells.get(name) if name else None
        if cell is None or cell["type"] != _FLIP_FLOP:
            return None
        parameters, connections = cell["parameters"], cell["connections"]
        enable = parameters["CEMUX"].strip()
        if (parameters["CLKMUX"] != "CLK" or parameters["REGSET"] != "RESET" or connections.get("LSR", ["0"]) != ["0"]
                or enable not in ("1", "CE", "INV")):
            return None
        return Control(connections["CLK"][0], "1" if enable == "1" else connections["CE"][0], enable == "INV")

    def enable(self, control: Control) -> int | str:
        """Net of an enable, active high, or "1"."""
        if not control.active_low:
            return control.enable
        net = control.enable
        assert isinstance(net, int)
        if net not in self._inverted:
            self._last_net += 1
            self._inverted[net] = self._last_net
            self.cells[f"$inverted_enable${net}"] = {
                "hide_name": 1, "type": "LUT4", "parameters": {"INIT": "0101010101010101"}, "attributes": {},
                "port_directions": {"A": "input", "B": "input", "C": "input", "D": "input", "Z": "output"},
                "connections": {"A": [net], "B": ["0"], "C": ["0"], "D": ["0"], "Z": [self._last_net]},
            }
        return self._inverted[net]

    def behind(self, bit: int) -> str | None:
        """The flip-flop that alone takes a net."""
        users = self.users[bit]
        if len(users) != 1:
            return None
        name, port = next(iter(users))
        return name if port == "DI" else None


def absorb(module: dict[str, Any]) -> int:
    """Move flip-flops of `module`, flat and mapped to ECP5 cells as Yosys's JSON has it; returns how many moved."""
    netlist = _Netlist(module)
    hard = [(name, cell) for name, cell in netlist.cells.items() if cell["type"] in (_MULTIPLIER, _BLOCK_RAM)]
    moved = 0
    for name, cell in hard:
        if cell["type"] == _MULTIPLIER:
            moved += _absorb_around_multiplier(netlist, name, cell)
        else:
            moved += sum(_absorb_behind_memory(netlist, cell, side) for side in "AB")
    return moved


def _bits(cell: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Ports of a bus, `prefix` and a number, and the single bit that each has."""
    return {port: bits[0] for port, bits in cell["connections"].items()
            if port.startswith(prefix) and port[len(prefix):].isdigit() and bits}


def _take_outputs(netlist: _Netlist, cell: dict[str, Any], prefix: str, clock: int | None = None,
                  ) -> tuple[Control | None, int]:
    """The flip-flops behind a bus move into `cell`, if they can, and have `clock`: their control, and their number."""
    used = {port: bit for port, bit in _bits(cell, prefix).items() if isinstance(bit, int) and netlist.users[bit]}
    flip_flops = {port: netlist.behind(bit) for port, bit in used.items()}
    controls = {netlist.control(name) for name in flip_flops.values()}
    control = controls.pop() if len(controls) == 1 else None
    if control is None or control.clock != (clock or control.clock):
        return None, 0
    for port, name in flip_flops.items():
        assert name is not None
        cell["connections"][port] = netlist.cells.pop(name)["connections"]["Q"]
    return control, len(flip_flops)


def _absorb_behind_memory(netlist: _Netlist, cell: dict[str, Any], side: str) -> int:
    parameters, connections = cell["parameters"], cell["connections"]
    if (parameters[f"REGMODE_{side}"] != "NOREG" or parameters[f"CLK{side}MUX"] != f"CLK{side}"
            or connections[f"RST{side}"] != ["0"]):
        return 0
    control, moved = _take_outputs(netlist, cell, f"DO{side}", connections[f"CLK{side}"][0])
    if control is not None:
        parameters[f"REGMODE_{side}"] = "OUTREG"
        connections[f"OCE{side}"] = [netlist.enable(control)]
    return moved


def _absorb_around_multiplier(netlist: _Netlist, name: str, cell: dict[str, Any]) -> int:
    parameters = cell["parameters"]
    if any(value != "NONE" for key, value in parameters.items() if key.startswith("REG_") and key.endswith("_CLK")):
        return 0
    registered: dict[str, Control] = {}
    control, moved = _take_outputs(netlist, cell, "P")
    if control is not None:
        registered["OUTPUT"] = control
    inputs = {side: _input_flip_flops(netlist, name, cell, side) for side in "AB"}
    controls = {side: {netlist.control(flip_flop) for flip_flop in found.values()} for side, found in inputs.items()}
    # The timing of a multiplier with one input in a register is not known to nextpnr.
    if all(len(found) == 1 and None not in found for found in controls.values()):
        taken: set[str] = set()
        for side, found in inputs.items():
            (control,) = controls[side]
            assert control is not None
            registered[f"INPUT{side}"] = control
            taken |= set(found.values())
            for port, flip_flop in found.items():
                cell["connections"][port] = netlist.cells[flip_flop]["connections"]["DI"]
        for flip_flop in taken:
            del netlist.cells[flip_flop]
        moved += len(taken)
    clocks = {control.clock for control in registered.values()}
    if not registered:
        return 0
    assert len(clocks) == 1, f"{name}: registers of several clocks around a multiplier"
    enables = list(dict.fromkeys(netlist.enable(control) for control in registered.values()))
    for register, control in registered.items():
        parameters[f"REG_{register}_CLK"] = "CLK0"
        parameters[f"REG_{register}_CE"] = f"CE{enables.index(netlist.enable(control))}"
        parameters[f"REG_{register}_RST"] = "RST0"
    ports: dict[str, int | str] = {"CLK0": clocks.pop(), "RST0": "0"}
    ports.update({f"CE{i}": enable for i, enable in enumerate(enables)})
    for port, bit in ports.items():
        cell["connections"][port] = [bit]
        cell["port_directions"][port] = "input"
    parameters["GSR"] = "DISABLED"
    return moved


def _input_flip_flops(netlist: _Netlist, name: str, cell: dict[str, Any], side: str) -> dict[str, str]:
    """The flip-flops in front of one side of a multiplier, by port, if none drives anything else; bits that are
    constant must be 0, as their register begins."""
    found = {}
    for port, bit in _bits(cell, side).items():
        if bit == "0":
            continue
        flip_flop = netlist.drivers.get(bit) if isinstance(bit, int) else None
        if flip_flop not in netlist.cells or netlist.cells[flip_flop]["type"] != _FLIP_FLOP:
            return {}
        if any(user != name or not (port[0] == side and port[1:].isdigit()) for user, port in netlist.users[bit]):
            return {}
        found[port] = flip_flop
    return found
