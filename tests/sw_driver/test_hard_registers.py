"""Flip-flops that move into multipliers and block RAMs: a netlist does the same before and after, cycle by cycle.

Netlists are made at random around both hard blocks, and simulated by a few lines of Python that know the cells.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sw_driver.boards.hard_registers import absorb

CLOCK, OTHER_CLOCK = 2, 3
ENABLES = (4, 5)
RESET = 6
FREE = 10  # the first net that is for the netlist itself

#: Multiplier bits in use, of each side; the others are 0, or copies of the last one (a sign).
BITS = 5
#: Of a block RAM.
DATA, ADDRESS = 4, 3


class Maker:
    """Makes a netlist at random. `outputs` are looked at."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.next = FREE
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.cells: dict[str, Any] = {}

    def net(self) -> int:
        self.next += 1
        return self.next

    def new_inputs(self, count: int) -> list[int]:
        nets = [self.net() for _ in range(count)]
        self.inputs += nets
        return nets

    def control(self) -> dict[str, Any]:
        """Of flip-flops, mostly such as can move."""
        rng = self.rng
        reset = RESET if rng.random() < 0.15 else "0"
        return {"clock": OTHER_CLOCK if rng.random() < 0.05 else CLOCK, "reset": reset,
                "enable": str(rng.choice(["1 ", "CE", "INV"])), "enabled_by": int(rng.choice(ENABLES)),
                "set": "SET" if rng.random() < 0.08 else "RESET"}

    def flip_flop(self, bit: int, control: dict[str, Any]) -> int:
        q = self.net()
        ports = {"CLK": [control["clock"]], "DI": [bit], "LSR": [control["reset"]], "Q": [q]}
        if control["enable"] != "1 ":
            ports["CE"] = [control["enabled_by"]]
        self.cell("TRELLIS_FF", ports, {"Q"}, {"CEMUX": control["enable"], "CLKMUX": "CLK", "REGSET": control["set"]})
        return q

    def flip_flops(self, bits: list[int]) -> list[int]:
        control, odd = self.control(), self.control() if self.rng.random() < 0.1 else None
        return [self.flip_flop(bit, odd if odd and i == 0 else control) for i, bit in enumerate(bits)]

    def cell(self, kind: str, ports: dict[str, list], driven: set[str], parameters: dict[str, str]) -> None:
        self.cells[f"{kind}{len(self.cells)}"] = {
            "type": kind, "parameters": dict(parameters), "connections": ports,
            "port_directions": {port: "output" if port in driven else "input" for port in ports},
        }

    def watch(self, bits: list[int]) -> None:
        """Behind a hard block: flip-flops or none, and mostly nothing else."""
        if self.rng.random() < 0.85:
            self.outputs += self.flip_flops(bits)
            if self.rng.random() < 0.2:
                self.outputs.append(bits[int(self.rng.integers(len(bits)))])
        else:
            self.outputs += bits

    def multiplier(self) -> None:
        ports: dict[str, list] = {}
        for side in "AB":
            bits = self.new_inputs(BITS)
            if self.rng.random() < 0.8:
                bits = self.flip_flops(bits)
                if self.rng.random() < 0.15:
                    self.outputs.append(bits[0])
            top: Any = bits[-1] if self.rng.random() < 0.5 else str(self.rng.choice(["0", "0", "1"]))
            ports |= {f"{side}{i}": [bits[i] if i < BITS else top] for i in range(18)}
        products = [self.net() for _ in range(36)]
        ports |= {f"P{i}": [net] for i, net in enumerate(products)}
        self.cell("MULT18X18D", ports, {f"P{i}" for i in range(36)}, {})
        self.watch(products[: int(self.rng.integers(2, 36))])

    def memory(self) -> None:
        """A ROM, which says of an address its own bits, turned."""
        address, data = self.new_inputs(ADDRESS), [self.net() for _ in range(DATA)]
        ports = {f"ADB{i}": [net] for i, net in enumerate(address)} | {f"DOB{i}": [net] for i, net in enumerate(data)}
        ports |= {"CLKA": [CLOCK], "RSTA": ["0"], "CLKB": [CLOCK], "RSTB": ["0"],
                  "CEB": [int(self.rng.choice(ENABLES))], "OCEB": ["1"]}
        self.cell("DP16KD", ports, {f"DOB{i}" for i in range(DATA)}, {
            "REGMODE_A": "NOREG", "REGMODE_B": "NOREG", "CLKAMUX": "CLKA", "CLKBMUX": "CLKB"})
        self.watch(data)

    def module(self) -> dict[str, Any]:
        return {"cells": self.cells, "ports": {"o": {"direction": "output", "bits": self.outputs}}}


class Simulator:
    """Runs a netlist: all cells' registers at once, then what hangs on them."""

    def __init__(self, module: dict[str, Any]):
        self.cells = list(module["cells"].items())
        self.outputs = module["ports"]["o"]["bits"]
        self.state: dict[tuple[str, str], int] = {}
        for name, cell in self.cells:
            if cell["type"] == "TRELLIS_FF":
                self.state[name, "Q"] = int(cell["parameters"]["REGSET"] == "SET")
        self.nets: dict[int, int] = {}

    def _value(self, bit: Any) -> int:
        return self.nets.get(bit, 0) if isinstance(bit, int) else int(bit)

    def _bus(self, cell: dict[str, Any], prefix: str, bits: int) -> int:
        return sum(self._value(cell["connections"].get(f"{prefix}{i}", ["0"])[0]) << i for i in range(bits))

    def _settle(self) -> None:
        for _ in range(6):  # longer than any way through the netlist without a register
            for name, cell in self.cells:
                connections, parameters = cell["connections"], cell["parameters"]
                if cell["type"] == "TRELLIS_FF":
                    self.nets[connections["Q"][0]] = self.state[name, "Q"]
                elif cell["type"] == "LUT4":
                    at = sum(self._value(connections[port][0]) << i for i, port in enumerate("ABCD"))
                    self.nets[connections["Z"][0]] = int(parameters["INIT"][::-1][at])
                elif cell["type"] == "MULT18X18D":
                    a, b = (self.state.get((name, side), 0) if self._registered(cell, f"INPUT{side}")
                            else self._bus(cell, side, 18) for side in "AB")
                    product = self.state.get((name, "P"), 0) if self._registered(cell, "OUTPUT") else a * b
                    self._drive(cell, "P", product)
                else:
                    registered = parameters["REGMODE_B"] == "OUTREG"
                    self._drive(cell, "DOB", self.state.get((name, "register" if registered else "latch"), 0))

    def _drive(self, cell: dict[str, Any], prefix: str, value: int) -> None:
        for port, bits in cell["connections"].items():
            if port.startswith(prefix) and port[len(prefix):].isdigit():
                self.nets[bits[0]] = value >> int(port[len(prefix):]) & 1

    @staticmethod
    def _registered(cell: dict[str, Any], register: str) -> bool:
        return cell["parameters"].get(f"REG_{register}_CLK", "NONE") != "NONE"

    def _enabled(self, cell: dict[str, Any], register: str) -> bool:
        return bool(self._value(cell["connections"][cell["parameters"][f"REG_{register}_CE"]][0]))

    def tick(self, values: dict[int, int], clocks: set[int]) -> list[int]:
        """The outputs at the end of a cycle with these inputs, before the edges of `clocks`."""
        self.nets.update(values)
        self._settle()
        seen = [self._value(bit) for bit in self.outputs]
        new = dict(self.state)
        for name, cell in self.cells:
            connections, parameters = cell["connections"], cell["parameters"]
            if cell["type"] == "TRELLIS_FF":
                enable = {"1": 1, "CE": self._value(connections.get("CE", ["0"])[0])}.get(parameters["CEMUX"].strip())
                enable = 1 - self._value(connections["CE"][0]) if enable is None else enable
                if connections["CLK"][0] not in clocks:
                    continue
                if self._value(connections["LSR"][0]):
                    new[name, "Q"] = int(parameters["REGSET"] == "SET")
                elif enable:
                    new[name, "Q"] = self._value(connections["DI"][0])
            elif cell["type"] == "MULT18X18D":
                a, b = (self.state.get((name, side), 0) if self._registered(cell, f"INPUT{side}")
                        else self._bus(cell, side, 18) for side in "AB")
                if "CLK0" not in connections or connections["CLK0"][0] not in clocks:
                    continue
                for side in "AB":
                    if self._registered(cell, f"INPUT{side}") and self._enabled(cell, f"INPUT{side}"):
                        new[name, side] = self._bus(cell, side, 18)
                if self._registered(cell, "OUTPUT") and self._enabled(cell, "OUTPUT"):
                    new[name, "P"] = a * b
            elif cell["type"] == "DP16KD" and CLOCK in clocks:
                address = self._bus(cell, "ADB", ADDRESS)
                if self._value(connections["CEB"][0]):
                    new[name, "latch"] = address * 5 % (1 << DATA)
                if parameters["REGMODE_B"] == "OUTREG" and self._value(connections["OCEB"][0]):
                    new[name, "register"] = self.state.get((name, "latch"), 0)
        self.state = new
        return seen


def differences(before: dict[str, Any], after: dict[str, Any], inputs: list[int], rng: np.random.Generator) -> int:
    """Cycles out of 40 in which two netlists' outputs differ."""
    first, second = Simulator(before), Simulator(after)
    differ = 0
    for _ in range(40):
        values = {net: int(rng.integers(2)) for net in (*inputs, *ENABLES)} | {RESET: int(rng.random() < 0.1)}
        clocks = {clock for clock in (CLOCK, OTHER_CLOCK) if rng.random() < 0.9}
        differ += first.tick(values, clocks) != second.tick(values, clocks)
    return differ


@pytest.mark.parametrize("seed", range(60))
def test_nothing_can_tell_the_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maker = Maker(rng)
    for _ in range(int(rng.integers(1, 5))):
        (maker.multiplier if rng.random() < 0.6 else maker.memory)()
    before = maker.module()
    after = copy.deepcopy(before)
    flip_flops = sum(cell["type"] == "TRELLIS_FF" for cell in before["cells"].values())
    moved = absorb(after)
    assert sum(cell["type"] == "TRELLIS_FF" for cell in after["cells"].values()) == flip_flops - moved
    assert not differences(before, after, maker.inputs, rng), f"seed {seed}"


def _simple(kind: str, **control: Any) -> tuple[dict[str, Any], int]:
    """A hard block with flip-flops, all alike, wherever they can be; and how many."""
    maker = Maker(np.random.default_rng(0))
    alike = {"clock": CLOCK, "reset": "0", "enable": "CE", "enabled_by": ENABLES[0], "set": "RESET"} | control
    maker.flip_flops = lambda bits: [maker.flip_flop(bit, alike) for bit in bits]
    if kind == "multiplier":
        sides = {side: maker.flip_flops(maker.new_inputs(18)) for side in "AB"}
        products = [maker.net() for _ in range(36)]
        ports = {f"{side}{i}": [bit] for side, bits in sides.items() for i, bit in enumerate(bits)}
        ports |= {f"P{i}": [net] for i, net in enumerate(products)}
        maker.cell("MULT18X18D", ports, {f"P{i}" for i in range(36)}, {})
        maker.outputs = maker.flip_flops(products)
    else:
        maker.rng = np.random.default_rng(3)
        maker.memory()
    return maker.module(), sum(cell["type"] == "TRELLIS_FF" for cell in maker.cells.values())


@pytest.mark.parametrize("kind", ["multiplier", "memory"])
@pytest.mark.parametrize("enable", ["1 ", "CE", "INV"])
def test_all_move_that_can(kind: str, enable: str) -> None:
    module, flip_flops = _simple(kind, enable=enable)
    assert flip_flops > 0
    assert absorb(module) == flip_flops
    assert not any(cell["type"] == "TRELLIS_FF" for cell in module["cells"].values())


@pytest.mark.parametrize("kind", ["multiplier", "memory"])
@pytest.mark.parametrize("control", [{"reset": RESET}, {"set": "SET"}])
def test_those_with_a_reset_stay(kind: str, control: dict[str, Any]) -> None:
    module, _flip_flops = _simple(kind, **control)
    assert absorb(module) == 0


def test_a_second_time_nothing_moves() -> None:
    module, _flip_flops = _simple("multiplier")
    assert absorb(module) > 0
    once = copy.deepcopy(module)
    assert absorb(module) == 0
    assert module == once
