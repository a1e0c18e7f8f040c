"""LUTs and flip-flops of a placed ECP5 move to where they shorten the longest paths.

nextpnr's static placer looks at the length of wires, hardly at time. A LUT between nets with many users costs it
nothing wherever it lies inside their bounding boxes, so that a path of three LUTs crosses the FPGA three times. Here,
between placement and routing, each cell is offered the free places around the weighted median of what it is connected
to, the weight being how long the longest path through the connection is. The others save wire: 3% on `medium`.

Delays are those that nextpnr predicts for a placed design: 120 ps for a tile, more for the first. Places are legal by
rules stricter than nextpnr's: a tile with LUT RAM takes nothing, a slice with carries or a wide multiplexer no LUT; the
flip-flops of a tile share clock, reset and its mode, those of a slice also the enable. Carry chains stay.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

_COMB, _FLIP_FLOP, _LUT_RAM = "TRELLIS_COMB", "TRELLIS_FF", "TRELLIS_RAMW"
_BEL = re.compile(r"X(\d+)/Y(\d+)/SLICE([A-D])\.(K|FF)(\d)")
_PLACE = re.compile(r"X(\d+)/Y(\d+)/")

#: Nanoseconds: clock to output of a flip-flop, a multiplier's and a block RAM's register, a block RAM without; setup.
_CLOCK_TO_OUT, _HARD_OUT, _MEMORY_OUT, _SETUP = 0.52, 1.0, 5.7, 0.2
_LUT, _MUX, _CARRY_IN, _CARRY, _CARRY_OUT = 0.24, 0.2, 0.45, 0.06, 0.4
_NS_PER_TILE = 0.12

#: What a tile of wire costs beside a nanosecond on the longest path.
_WIRE_COST = 0.02
#: How fast a path's cost falls where it is shorter than the longest.
_SHARPNESS = 10
#: Rounds end when fewer than this part of the cells have moved.
_FEW = 0.001
#: With how many others a cell tries to change places.
_SWAPS = 4
#: What a move must save.
_LEAST_GAIN = 1e-3
#: How far around the median places are looked for, in tiles; users up to which a net's length counts; rounds.
_RADIUS, _MOST_USERS, ROUNDS = 6, 40, 4


class Placement:
    """A placed netlist, as nextpnr writes it: cells, places, and the connections that time passes through."""

    def __init__(self, module: dict[str, Any]):
        self.module = module
        self.names = [name for name, cell in module["cells"].items() if _PLACE.match(_bel(cell))]
        self.cells = [module["cells"][name] for name in self.names]
        places = [_PLACE.match(_bel(cell)) for cell in self.cells]
        self.x = np.array([int(place[1]) for place in places if place], dtype=np.int64)
        self.y = np.array([int(place[2]) for place in places if place], dtype=np.int64)
        self._connect()
        self._order()

    # ---- connections ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        drivers: dict[int, tuple[int, str]] = {}
        users: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for number, cell in enumerate(self.cells):
            for port, bits in cell["connections"].items():
                for bit in bits:
                    if not isinstance(bit, int):
                        continue
                    if cell["port_directions"][port] == "output":
                        drivers[bit] = number, port
                    else:
                        users[bit].append((number, port))
        nets = [net for net in drivers if users[net] and "PACKER" not in self.names[drivers[net][0]]
                and self.cells[drivers[net][0]]["type"] != "DCCA"]
        index = {net: i for i, net in enumerate(nets)}
        self.net_driver = np.array([drivers[net][0] for net in nets])
        self.pins = [np.array([drivers[net][0], *(user for user, _port in users[net])]) for net in nets]
        self.start = np.array([_start(self.cells[drivers[net][0]], drivers[net][1]) for net in nets])
        source, sink, target, inside, free = [], [], [], [], []
        for net in nets:
            for user, port in users[net]:
                if port in ("CLK", "WCK", "CLKA", "CLKB", "CLK0"):
                    continue
                cell = self.cells[user]
                none = ((drivers[net][1], port) == ("FCO", "FCI") or port in ("FXA", "FXB", "F1")
                        or (port == "DI" and drivers[net][1] in ("F", "OFX")))
                outputs = [(-1, _SETUP)]
                if cell["type"] == _COMB:
                    outputs = [(index[bits[0]], _through(port, out)) for out, bits in cell["connections"].items()
                               if cell["port_directions"][out] == "output" and bits and bits[0] in index]
                for out, delay in outputs:
                    source.append(index[net])
                    sink.append(user)
                    target.append(out)
                    inside.append(delay)
                    free.append(none)
        self.source, self.sink, self.target = np.array(source), np.array(sink), np.array(target)
        self.inside, self.free = np.array(inside), np.array(free)
        self.driver = self.net_driver[self.source]
        self.into, self.out_of, self.nets_of = defaultdict(list), defaultdict(list), defaultdict(set)
        for edge, (driver, user) in enumerate(zip(self.driver, self.sink, strict=True)):
            self.into[int(user)].append(edge)
            self.out_of[int(driver)].append(edge)
        for net, pins in enumerate(self.pins):
            if len(pins) <= _MOST_USERS:
                for pin in set(pins.tolist()):
                    self.nets_of[pin].add(net)

    def _order(self) -> None:
        """Levels of nets: those of a level come from those of levels below. What is in a loop has none."""
        level = np.zeros(len(self.pins), dtype=np.int64)
        inner = np.flatnonzero(self.target >= 0)
        waiting = np.bincount(self.target[inner], minlength=len(level))
        after = defaultdict(list)
        for edge in inner:
            after[int(self.source[edge])].append(int(self.target[edge]))
        ready = np.flatnonzero(waiting == 0).tolist()
        while ready:
            net = ready.pop()
            for out in after[net]:
                level[out] = max(level[out], level[net] + 1)
                waiting[out] -= 1
                if waiting[out] == 0:
                    ready.append(out)
        inner = inner[waiting[self.target[inner]] == 0]
        self.ends = np.flatnonzero(self.target < 0)
        forward, backward = level[self.target[inner]], level[self.source[inner]]
        self.forward = [inner[forward == i] for i in range(1, level.max() + 1)]
        self.backward = [inner[backward == i] for i in range(level.max(), -1, -1)]

    # ---- time -----------------------------------------------------------------------------------------

    def delays(self) -> np.ndarray:
        """Nanoseconds of each connection's wire."""
        across = _wire(np.abs(self.x[self.driver] - self.x[self.sink]), np.abs(self.y[self.driver] - self.y[self.sink]))
        return np.where(self.free, 0.0, across)

    def time(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nanoseconds: when each net has its value; from there to the farthest register; the longest path through each
        connection, from register to register."""
        step = self.delays() + self.inside
        arrival, left = self.start.copy(), np.zeros(len(self.pins))
        for edges in self.forward:
            np.maximum.at(arrival, self.target[edges], arrival[self.source[edges]] + step[edges])
        np.maximum.at(left, self.source[self.ends], step[self.ends])
        for edges in self.backward:
            np.maximum.at(left, self.source[edges], step[edges] + left[self.target[edges]])
        return arrival, left, arrival[self.source] + step + np.where(self.target < 0, 0.0, left[self.target])


def _bel(cell: dict[str, Any]) -> str:
    return cell["attributes"].get("NEXTPNR_BEL", "")


def _wire(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """nextpnr's prediction for an ECP5 of speed grade 6 (`predictDelay`)."""
    near = np.minimum(across, 5) + np.minimum(down, 5)
    far = np.maximum(across - 5, 0) + np.maximum(down - 5, 0)
    return _NS_PER_TILE * (6 + far + 2 * near)


def _start(cell: dict[str, Any], port: str) -> float:
    """When a register's output comes; 0 behind logic."""
    if cell["type"] == _COMB:
        return 0.0
    if cell["type"] == "DP16KD":
        return _HARD_OUT if cell["parameters"].get(f"REGMODE_{port[2]}", "").strip() == "OUTREG" else _MEMORY_OUT
    return _HARD_OUT if cell["type"] == "MULT18X18D" else _CLOCK_TO_OUT


def _through(port: str, out: str) -> float:
    if port == "FCI":
        return _CARRY if out == "FCO" else _CARRY_OUT
    if out == "FCO":
        return _CARRY_IN
    return _MUX if port in ("M", "FXA", "FXB", "F1") else _LUT


class Slots:
    """What each tile of slices holds, and what it could take."""

    def __init__(self, placement: Placement):
        self.placement = placement
        self.held: dict[tuple[int, int], dict[tuple[str, int], int]] = defaultdict(dict)
        self.closed: set[tuple[int, int]] = set()  # tiles with LUT RAM
        self.at: dict[int, tuple[tuple[int, int], str, int]] = {}
        for number, cell in enumerate(placement.cells):
            match = _BEL.fullmatch(_bel(cell))
            tile = int(placement.x[number]), int(placement.y[number])
            if match:
                kind, slot = match[4], 2 * "ABCD".index(match[3]) + int(match[5])
                self.held[tile][kind, slot] = number
                self.at[number] = tile, kind, slot
            if cell["type"] == _LUT_RAM or cell["parameters"].get("MODE") in ("DPRAM", "RAMW_BLOCK"):
                self.closed.add(tile)
        self.unit_of: dict[int, list[int]] = {}
        self.plain = [self._has_only(cell, "ABCDF") for cell in placement.cells]
        self.wide = [self._has_only(cell, ("A", "B", "C", "D", "M", "F", "F1", "OFX")) for cell in placement.cells]
        self.reset, self.control = {}, {}
        for number, cell in enumerate(placement.cells):
            if cell["type"] == _FLIP_FLOP:
                nets, parameters = cell["connections"], cell["parameters"]
                self.reset[number] = (tuple(nets.get("CLK", [])), tuple(nets.get("LSR", [])), parameters.get("CLKMUX"),
                                      parameters.get("LSRMUX"), parameters.get("SRMODE"))
                self.control[number] = (tuple(nets.get("CE", [])), parameters.get("CEMUX"))

    @staticmethod
    def _has_only(cell: dict[str, Any], ports: Collection[str]) -> bool:
        """Whether it is a LUT, no carry and no LUT RAM, and no other ports are connected."""
        return (cell["type"] == _COMB and cell["parameters"].get("MODE", "LOGIC") == "LOGIC"
                and all(port in ports for port, bits in cell["connections"].items() if bits))

    def units(self) -> list[list[int]]:
        """Cells that may move, each with what has to stay with it: the flip-flop behind a LUT; the second LUT of a wide
        multiplexer, whose first is the unit's first."""
        found = []
        for number, (tile, kind, slot) in self.at.items():
            if kind == "FF":
                if not self._follows(number):
                    found.append([number])
                continue
            held = self.held[tile]
            unit = [number]
            if self._is_multiplexer(number):
                second = held.get(("K", slot ^ 1))
                if second is None or not self.plain[second]:
                    continue
                unit.append(second)
            elif not self.plain[number] or self._is_multiplexer(held.get(("K", slot ^ 1))):
                continue
            behind = [held.get(("FF", self.at[cell][2])) for cell in unit]
            found.append(unit + [cell for cell in behind if cell is not None and self._follows(cell)])
        return found

    def _follows(self, flip_flop: int) -> bool:
        """Whether a flip-flop has its input from the LUT in its slot."""
        return bool(self.placement.cells[flip_flop]["connections"].get("DI"))

    def _is_multiplexer(self, cell: int | None) -> bool:
        return cell is not None and self.wide[cell] and not self.plain[cell]

    def slot_for(self, unit: list[int], tile: tuple[int, int]) -> int | None:
        """A slot of `tile` for the first of `unit`; the others then keep their distance to it. None: there is none."""
        if tile in self.closed or tile not in self.held:
            return None
        held = self.held[tile]
        flip_flops = [cell for cell in unit if cell in self.reset]
        if any(self.reset[other] != self.reset[flip_flop] for flip_flop in flip_flops
               for (kind, _slot), other in held.items() if kind == "FF" and other not in unit):
            return None
        multiplexer = self._is_multiplexer(unit[0])
        for slot in range(0, 8, 2) if multiplexer else range(8):
            if any(held.get(place, cell) not in unit for cell, place in self._places(unit, slot)):
                continue
            slots = slot, slot ^ 1
            luts = [held.get(("K", each)) for each in slots]
            if any(cell is not None and cell not in unit and not self.plain[cell] for cell in luts):
                continue
            beside = [cell for each in slots if (cell := held.get(("FF", each))) is not None and cell not in unit]
            if multiplexer and ("FF", slot) in held and held["FF", slot] not in unit:
                continue  # both would take the slice's M
            if any(self.control[other] != self.control[flip_flop] for flip_flop in flip_flops for other in beside):
                continue
            return slot
        return None

    def _places(self, unit: list[int], slot: int) -> list[tuple[int, tuple[str, int]]]:
        first = self.at[unit[0]][2]
        return [(cell, (self.at[cell][1], self.at[cell][2] ^ first ^ slot)) for cell in unit]

    def kind_of(self, unit: list[int]) -> tuple[Any, ...]:
        """Units of a kind are legal in each other's places."""
        return (self._is_multiplexer(unit[0]), *((self.at[cell][1], self.reset.get(cell), self.control.get(cell))
                                                 for cell in unit))

    def like(self, unit: list[int], tile: tuple[int, int]) -> list[int] | None:
        """A unit of `tile` that can change places with `unit`."""
        if self._is_multiplexer(unit[0]):
            return None
        wanted = self.kind_of(unit)
        for cell in self.held.get(tile, {}).values():
            other = self.unit_of.get(cell)
            if other is not None and other is not unit and self.kind_of(other) == wanted:
                return other
        return None

    def swap(self, unit: list[int], other: list[int]) -> None:
        for a, b in zip(unit, other, strict=True):
            self.at[a], self.at[b] = self.at[b], self.at[a]
            for cell in (a, b):
                tile, kind, slot = self.at[cell]
                self.held[tile][kind, slot] = cell
                self.placement.x[cell], self.placement.y[cell] = tile
                self.placement.cells[cell]["attributes"]["NEXTPNR_BEL"] = _name(tile, kind, slot)

    def move(self, unit: list[int], tile: tuple[int, int], slot: int) -> None:
        places = self._places(unit, slot)
        for cell in unit:
            before, kind, old = self.at[cell]
            del self.held[before][kind, old]
        for cell, (kind, new) in places:
            self.held[tile][kind, new] = cell
            self.at[cell] = tile, kind, new
            self.placement.x[cell], self.placement.y[cell] = tile
            self.placement.cells[cell]["attributes"]["NEXTPNR_BEL"] = _name(tile, kind, new)


def _name(tile: tuple[int, int], kind: str, slot: int) -> str:
    return f"X{tile[0]}/Y{tile[1]}/SLICE{'ABCD'[slot // 2]}.{kind}{slot % 2}"


def _median(values: np.ndarray, weights: np.ndarray) -> int:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return int(values[order][np.searchsorted(total, total[-1] / 2)])


class _Moves:
    """Moves of a round: what time is, when it begins."""

    def __init__(self, placement: Placement, slots: Slots):
        self.placement, self.slots = placement, slots
        self.arrival, left, self.longest = placement.time()
        self.worst = float(self.longest.max())
        self.beyond = placement.inside + np.where(placement.target < 0, 0.0, left[placement.target])

    def cost(self, unit: list[int], cx: np.ndarray, cy: np.ndarray) -> np.ndarray:
        """Of `unit` at each of some places: the paths through it, the longer the worse, and wire."""
        placement = self.placement

        def wires(edges: list[int], others: np.ndarray) -> np.ndarray:
            across = _wire(np.abs(cx[:, None] - placement.x[others]), np.abs(cy[:, None] - placement.y[others]))
            return np.where(placement.free[edges], 0.0, across)

        flip_flops = [cell for cell in unit if cell in self.slots.reset]
        groups = [[cell for cell in unit if cell not in self.slots.reset], *([cell] for cell in flip_flops)]
        cost = np.zeros(len(cx))
        for cells in filter(None, groups):
            into = [edge for cell in cells for edge in placement.into[cell] if placement.driver[edge] not in unit]
            out_of = [edge for cell in cells for edge in placement.out_of[cell] if placement.sink[edge] not in unit]
            come = self.arrival[placement.source[into]] + wires(into, placement.driver[into])
            go = wires(out_of, placement.sink[out_of]) + self.beyond[out_of]
            if cells[0] in self.slots.reset:  # paths end and begin
                come, go = come + _SETUP, go + _CLOCK_TO_OUT
            else:
                come = come + placement.inside[into]
                behind = _SETUP if flip_flops else 0.0
                ahead, reached = go.max(axis=1, initial=behind), come.max(axis=1, initial=0.0)
                come, go = come + ahead[:, None], go + reached[:, None]
            for paths in (come, go):
                cost += ((paths / self.worst) ** _SHARPNESS).sum(axis=1)
        for net in set().union(*(placement.nets_of[cell] for cell in unit)):
            pins = placement.pins[net]
            pins = pins[~np.isin(pins, unit)]
            if len(pins):
                x, y = placement.x[pins], placement.y[pins]
                cost += _WIRE_COST * (np.maximum(cx, x.max()) - np.minimum(cx, x.min())
                                      + np.maximum(cy, y.max()) - np.minimum(cy, y.min()))
        return cost

    def improve(self, unit: list[int]) -> bool:
        """Move `unit` to the best place around the median of what it is connected to, if that is better; where none is
        free, change places with its like."""
        placement, slots = self.placement, self.slots
        edges = [edge for cell in unit for edge in (*placement.into[cell], *placement.out_of[cell])]
        others = np.array([placement.driver[edge] if placement.driver[edge] not in unit else placement.sink[edge]
                           for edge in edges])
        pull = (self.longest[edges] / self.worst) ** _SHARPNESS + 1e-6
        middle = _median(placement.x[others], pull), _median(placement.y[others], pull)
        near = np.arange(-_RADIUS, _RADIUS + 1)
        here = slots.at[unit[0]][0]
        # Around the median, and on the way there.
        way = np.linspace(0, 1, 5)[1:-1]
        cx = np.concatenate([(middle[0] + near).repeat(len(near)), (here[0] + way * (middle[0] - here[0])).astype(int),
                             [here[0]]])
        cy = np.concatenate([np.tile(middle[1] + near, len(near)), (here[1] + way * (middle[1] - here[1])).astype(int),
                             [here[1]]])
        cost = self.cost(unit, cx, cy)
        trials = _SWAPS
        for i in np.argsort(cost, kind="stable"):
            if cost[i] > cost[-1] - _LEAST_GAIN:
                return False
            tile = int(cx[i]), int(cy[i])
            slot = slots.slot_for(unit, tile)
            if slot is not None:
                slots.move(unit, tile, slot)
                return True
            other = slots.like(unit, tile) if trials else None
            if other is None:
                continue
            trials -= 1
            there, back = self.cost(other, np.array([tile[0], here[0]]), np.array([tile[1], here[1]]))
            if cost[i] + back < cost[-1] + there - _LEAST_GAIN:
                slots.swap(unit, other)
                return True
        return False


def refine(module: dict[str, Any], rounds: int = ROUNDS,
           say: Callable[[str], None] | None = None) -> tuple[float, float]:
    """Move LUTs and flip-flops of `module`, as nextpnr's --write has it after placement, in place.

    Returns nanoseconds of the longest path, before and after.
    """
    placement = Placement(module)
    slots = Slots(placement)
    units = slots.units()
    unit_of = {cell: i for i, unit in enumerate(units) for cell in unit}
    slots.unit_of = {cell: unit for unit in units for cell in unit}
    before = float(placement.time()[2].max())
    for number in range(rounds):
        moves = _Moves(placement, slots)
        critical = moves.longest / moves.worst
        turn = dict.fromkeys(unit_of[cell] for edge in np.argsort(-critical)
                             for cell in (int(placement.driver[edge]), int(placement.sink[edge])) if cell in unit_of)
        moved = sum(moves.improve(units[i]) for i in turn)
        if say:
            say(f"round {number}: {moves.worst:.2f} ns, {moved:,} of {len(turn):,} cells moved")
        if moved < _FEW * len(units):
            break
    return before, float(placement.time()[2].max())
