"""Cells of a placed netlist that move: time by hand, moves that help, places that are legal, random netlists."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from sw_driver.boards.refine import Placement, refine


def _seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def _cell(kind: str, bel: str, output: str, _parameters: dict[str, str] | None = None, **nets: Any) -> dict[str, Any]:
    outputs = output.split()
    return {"type": kind, "parameters": _parameters or {}, "attributes": {"NEXTPNR_BEL": bel},
            "port_directions": {port: "output" if port in outputs else "input" for port in nets},
            "connections": {port: [net] for port, net in nets.items()}}


def _lut(bel: str, **nets: Any) -> dict[str, Any]:
    return _cell("TRELLIS_COMB", bel, "F", **nets)


def _flip_flop(bel: str, **nets: Any) -> dict[str, Any]:
    return _cell("TRELLIS_FF", bel, "Q", None, **nets)


def _wire(a: tuple[int, int], b: tuple[int, int]) -> float:
    """nextpnr's prediction, in ns: 6 steps of 120 ps, one for a tile, a second one for each of the first five."""
    return 0.12 * sum((6, *(d + min(d, 5) for d in (abs(a[0] - b[0]), abs(a[1] - b[1])))))


def _place(cell: dict[str, Any]) -> tuple[int, int]:
    x, y, _ = cell["attributes"]["NEXTPNR_BEL"].split("/")
    return int(x[1:]), int(y[1:])


def test_time_of_a_path_by_hand() -> None:
    """A flip-flop, a LUT, a carry chain of two, a flip-flop behind it; and a block RAM without its register."""
    carry = {"MODE": "CCU2"}
    cells = {
        "from": _flip_flop("X10/Y10/SLICEA.FF0", Q=1, M=9),
        "lut": _lut("X14/Y10/SLICEB.K1", A=1, F=2),
        "low": _cell("TRELLIS_COMB", "X30/Y12/SLICEA.K0", "F FCO", carry, A=2, F=3, FCO=4),
        "high": _cell("TRELLIS_COMB", "X30/Y12/SLICEA.K1", "F FCO", carry, FCI=4, F=5),
        "to": _flip_flop("X30/Y12/SLICEA.FF1", Q=6, DI=5),
        "memory": _cell("DP16KD", "X40/Y9/EBR", "DOA0", {"REGMODE_A": "NOREG"}, DOA0=7),
        "last": _flip_flop("X40/Y12/SLICEA.FF1", Q=8, M=7),
    }
    longest = Placement({"cells": cells}).time()[2]
    chain = (0.52 + _wire((10, 10), (14, 10)) + 0.24 + _wire((14, 10), (30, 12)) + 0.45 + 0.4 + 0.2)
    memory = 5.7 + _wire((40, 9), (40, 12)) + 0.2
    assert sorted(longest) == pytest.approx(sorted([memory, *[chain] * 4]))
    cells["memory"]["parameters"]["REGMODE_A"] = "OUTREG"
    assert Placement({"cells": cells}).time()[2].max() == pytest.approx(chain)


def test_a_lut_beside_the_way_moves_onto_it() -> None:
    """Between two multipliers, which stay; where a tile has slices is known from what is placed there."""
    cells = {
        "from": _cell("MULT18X18D", "X10/Y10/MULT", "P0", P0=1), "to": _cell("MULT18X18D", "X14/Y10/MULT", "P0", A0=3),
        "lut": _lut("X60/Y40/SLICEA.K0", A=1, F=3), "other": _lut("X12/Y10/SLICEA.K0", A=4, F=5),
    }
    before, after = refine({"cells": cells})
    assert before == pytest.approx(1.0 + _wire((10, 10), (60, 40)) + 0.24 + _wire((60, 40), (14, 10)) + 0.2)
    assert after == pytest.approx(1.0 + _wire((10, 10), (12, 10)) + 0.24 + _wire((12, 10), (14, 10)) + 0.2)
    assert _place(cells["lut"]) == (12, 10)


# Around X10/Y10, where a flip-flop at X80 wants to be; each tile has something that forbids it.
NEIGHBOURS = {
    "another reset": [_flip_flop("X{x}/Y{y}/SLICEA.FF0", Q=100, LSR=50, M=101)],
    "LUT RAM": [_cell("TRELLIS_RAMW", "X{x}/Y{y}/SLICEC.RAMW", "", A0=51),
                _lut("X{x}/Y{y}/SLICED.K0", A=101, F=100)],
    "another enable": [_flip_flop(f"X{{x}}/Y{{y}}/SLICE{s}.FF0", Q=102 + i, CE=52, M=101)
                       for i, s in enumerate("ABCD")],
    "full of others": [_flip_flop(f"X{{x}}/Y{{y}}/SLICE{s}.FF{k}", Q=110 + 2 * i + k, CE=52, M=101)
                       for i, s in enumerate("ABCD") for k in range(2)],
    "carries": [_cell("TRELLIS_COMB", f"X{{x}}/Y{{y}}/SLICE{s}.K{k}", "F", {"MODE": "CCU2"}, A=101, F=130 + 2 * i + k)
                for i, s in enumerate("ABCD") for k in range(2)],
}


@pytest.mark.parametrize("what", [*NEIGHBOURS, None])
def test_places_that_are_taken_or_illegal_are_left(what: str | None) -> None:
    cells = {"from": _cell("MULT18X18D", "X10/Y10/MULT", "P0", P0=1),
             "moves": _flip_flop("X80/Y10/SLICEA.FF0", Q=2, M=1)}
    for x in range(80):
        for y in range(30):
            if (x, y) == (10, 10):
                continue
            for i, neighbour in enumerate(NEIGHBOURS[what] if what else [_lut("X{x}/Y{y}/SLICEA.K0", A=101, F=100)]):
                cell = copy.deepcopy(neighbour)
                cell["attributes"]["NEXTPNR_BEL"] = cell["attributes"]["NEXTPNR_BEL"].format(x=x, y=y)
                cell["connections"] = {port: [net[0] + 1000 * (100 * x + y) if net[0] >= 100 else net[0]]
                                       for port, net in cell["connections"].items()}
                cells[f"{x} {y} {i}"] = cell
    refine({"cells": cells})
    assert (_place(cells["moves"]) == (80, 10)) == (what is not None)


def test_where_all_is_full_cells_change_places() -> None:
    """Two LUTs, each at the other's end of the FPGA; all places between them are taken by flip-flops' LUTs."""
    cells: dict[str, Any] = {}
    for i, x in enumerate((10, 60)):
        cells[f"from{i}"] = _cell("MULT18X18D", f"X{x}/Y9/MULT", "P0", P0=1 + i, A0=11 + i)
        cells[f"lut{i}"] = _lut(f"X{70 - x}/Y10/SLICEA.K0", A=1 + i, F=11 + i)
    for tile in range(5, 70):
        for s in "ABCD":
            for k in range(2):
                if (tile, s, k) not in ((10, "A", 0), (60, "A", 0)):
                    place, net = f"X{tile}/Y10/SLICE{s}.", 100 + 8 * tile + 2 * "ABCD".index(s) + k
                    cells[f"{place}K{k}"] = _lut(f"{place}K{k}", F=net)
                    cells[f"{place}FF{k}"] = _flip_flop(f"{place}FF{k}", DI=net, Q=1000 + net)
    before, after = refine({"cells": cells})
    assert [_place(cells[f"lut{i}"]) for i in range(2)] == [(10, 10), (60, 10)]
    assert after < before / 3


def _random_netlist(rng: np.random.Generator) -> dict[str, Any]:
    """LUTs and flip-flops in a dense corner of an FPGA, legally placed, wired at random without loops."""
    cells: dict[str, Any] = {}
    net = 10
    sources = [2, 3, 4]
    for i, start in enumerate(sources):
        cells[f"start{i}"] = _flip_flop(f"X{90 + i}/Y3/SLICEA.FF0", Q=start, M=2)
    for x in range(2, 12):
        for y in range(2, 8):
            reset = {"LSR": int(rng.choice([5, 6]))}
            for s in "ABCD":
                enable = {"CE": int(rng.choice([7, 8]))}
                multiplexer = rng.random() < 0.2
                for k in range(2):
                    inputs: dict[str, Any] = {port: int(rng.choice(sources[-60:])) for port in "ABCD"}
                    f, o, q = net, net + 1, net + 2
                    net += 3
                    bel = f"X{x}/Y{y}/SLICE{s}."
                    lut = multiplexer or rng.random() < 0.5
                    if multiplexer and k == 0:
                        cells[bel + "K0"] = _cell("TRELLIS_COMB", bel + "K0", "F OFX", F=f, OFX=o, F1=net,
                                                  M=int(rng.choice(sources)), **inputs)
                        sources.append(o)
                    elif lut:
                        cells[bel + f"K{k}"] = _lut(bel + f"K{k}", F=f, **inputs)
                        if not multiplexer:
                            sources.append(f)
                    if rng.random() < 0.5:
                        follows = lut and rng.random() < 0.5
                        if multiplexer and k == 0:
                            data = {"DI": o}
                        elif follows or multiplexer:
                            data = {"DI": f}
                        else:
                            data = {"M": int(rng.choice(sources))}
                        cells[bel + f"FF{k}"] = _flip_flop(bel + f"FF{k}", Q=q, **data, **reset, **enable)
                        sources.append(q)
    return {"cells": cells}


def _broken_rules(cells: dict[str, Any]) -> list[str]:
    """What nextpnr requires of an ECP5's tiles, looked at from scratch."""
    broken = []
    tiles: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for cell in cells.values():
        tile, _, slot = cell["attributes"]["NEXTPNR_BEL"].rpartition("/")
        if slot in tiles[tile]:
            broken.append(f"{tile}/{slot} twice")
        tiles[tile][slot] = cell
    for tile, slots in tiles.items():
        flip_flops = {slot: cell["connections"] for slot, cell in slots.items() if cell["type"] == "TRELLIS_FF"}
        if len({str(nets.get("LSR")) for nets in flip_flops.values()}) > 1:
            broken.append(f"{tile}: resets")
        for s in "ABCD":
            if len({str(nets.get("CE")) for slot, nets in flip_flops.items() if slot.startswith(f"SLICE{s}")}) > 1:
                broken.append(f"{tile}/{s}: enables")
            first = slots.get(f"SLICE{s}.K0", {"connections": {}})["connections"]
            second = slots.get(f"SLICE{s}.K1", {"connections": {}})["connections"]
            if "F1" in first and second.get("F") != first["F1"]:
                broken.append(f"{tile}/{s}: half of a multiplexer")
            if "M" in first and "M" in flip_flops.get(f"SLICE{s}.FF0", {}):
                broken.append(f"{tile}/{s}: M twice")
            for k, lut in enumerate((first, second)):
                data = flip_flops.get(f"SLICE{s}.FF{k}", {}).get("DI")
                if data and data not in (lut.get("F"), lut.get("OFX")):
                    broken.append(f"{tile}/{s}.FF{k}: not behind its LUT")
    return broken


def test_random_netlists_stay_legal_and_become_no_slower() -> None:
    rng = _seeded()
    gained = 0.0
    for _ in range(12):
        module = _random_netlist(rng)
        assert _broken_rules(module["cells"]) == []
        nets = {name: cell["connections"] for name, cell in module["cells"].items()}
        before, after = refine(module, rounds=8)
        assert _broken_rules(module["cells"]) == []
        assert {name: cell["connections"] for name, cell in module["cells"].items()} == nets
        assert after == pytest.approx(Placement(module).time()[2].max())
        gained += before - after
    assert gained > 0
