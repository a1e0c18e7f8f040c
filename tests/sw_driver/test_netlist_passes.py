"""What is done to a board's netlist between synthesis and placement, but for hard blocks (test_hard_registers)."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from hw.boards.catalogue import BOARDS
from sw_driver.boards.carry_constants import fold_constants
from sw_driver.boards.global_nets import promote, roots_of
from sw_driver.boards.synthesis import blocks, script


def _seed() -> int:
    seed = int(os.environ.get("LACUNA_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"LACUNA_SEED={seed} repeats it")
    return seed


# ---- constants of carry cells ------------------------------------------------------------------------


def _bit(table: int, inputs: dict[str, int], carry: int) -> tuple[int, int]:
    """Sum and carry of half a CCU2C, INJECT1 being "NO": the equations of Lattice's cell."""
    a, b, c, d = (inputs[letter] for letter in "ABCD")
    sum4 = table >> (a | b << 1 | c << 2 | d << 3) & 1
    sum2 = table >> (a | b << 1) & 1
    return sum4 ^ carry, carry if sum4 else sum2


def _carry_cell(tables: list[int], connections: dict[str, Any]) -> dict[str, Any]:
    return {"type": "CCU2C", "connections": connections,
            "parameters": {f"INIT{half}": f"{table:016b}" for half, table in enumerate(tables)}}


def test_folded_carry_cells_compute_the_same_whatever_an_open_input_reads() -> None:
    rng = random.Random(_seed())
    folded_of_all = 0
    for _ in range(300):
        tables = [rng.randrange(1 << 16) for _ in range(2)]
        given: dict[str, list[Any]] = {
            f"{letter}{half}": rng.choice([["0"], ["1"], [10 + place]])
            for place, letter in enumerate("ABCD") for half in range(2)}
        cell = _carry_cell(tables, dict(given))
        folded = fold_constants({"cells": {"cell": cell, "other": {"type": "LUT4", "connections": {"A": ["0"]}}}})
        assert folded == sum(isinstance(given[port][0], str) for port in ("A0", "B0", "A1", "B1"))
        folded_of_all += folded
        for half in range(2):
            after = int(cell["parameters"][f"INIT{half}"], 2)
            for values in range(64):
                wires, open_input, carry = values & 15, values >> 4 & 1, values >> 5
                def read(connections: dict[str, Any], letter: str, half: int = half, wires: int = wires,
                         open_input: int = open_input) -> int:
                    bits = connections.get(f"{letter}{half}")
                    if bits is None:
                        return open_input
                    return int(bits[0]) if isinstance(bits[0], str) else wires >> (bits[0] - 10) & 1
                before = _bit(tables[half], {letter: read(given, letter) for letter in "ABCD"}, carry)
                now = _bit(after, {letter: read(cell["connections"], letter) for letter in "ABCD"}, carry)
                assert before == now
    assert folded_of_all > 300


# ---- enables and resets on global nets ---------------------------------------------------------------


def _flip_flop(q: int, **inputs: int) -> dict[str, Any]:
    return {"type": "TRELLIS_FF", "connections": {"Q": [q], **{port: [net] for port, net in inputs.items()}},
            "port_directions": {"Q": "output", **dict.fromkeys(inputs, "input")}}


def _netlist() -> dict[str, Any]:
    """Nets 2 (of a flip-flop) and 3 (of a LUT) enable 20 flip-flops each, net 4 resets 30 others."""
    cells: dict[str, Any] = {
        "source2": _flip_flop(2, DI=9), "source4": _flip_flop(4, DI=9),
        "source3": {"type": "LUT4", "connections": {"Z": [3], "A": [2]},
                    "port_directions": {"Z": "output", "A": "input"}},
    }
    for i in range(20):
        cells[f"two{i}"] = _flip_flop(100 + i, DI=2, CE=2)
        cells[f"three{i}"] = _flip_flop(200 + i, DI=9, CE=3)
    for i in range(30):
        cells[f"four{i}"] = _flip_flop(300 + i, DI=9, LSR=4)
    return {"cells": cells, "netnames": {"unused": {"bits": [999]}}}


def test_wide_nets_of_registers_are_promoted_and_nothing_else() -> None:
    module = _netlist()
    assert promote(module, ["A", "B", "C"], fewest=20) == {4: 30, 2: 20}
    cells = module["cells"]
    roots = {cell["connections"]["CLKI"][0]: cell["connections"]["CLKO"][0] for cell in cells.values()
             if cell["type"] == "DCCA"}
    assert set(roots) == {2, 4}
    assert min(roots.values()) > 999, "a net of its own"
    assert len(set(roots.values())) == 2
    for i in range(20):
        assert cells[f"two{i}"]["connections"] == {"Q": [100 + i], "DI": [2], "CE": [roots[2]]}
        assert cells[f"three{i}"]["connections"]["CE"] == [3], "a LUT's net would come late"
    assert all(cells[f"four{i}"]["connections"]["LSR"] == [roots[4]] for i in range(30))
    assert cells["source3"]["connections"]["A"] == [2], "logic stays on the fabric"


def test_the_widest_nets_have_the_global_nets_that_there_are() -> None:
    module = _netlist()
    assert promote(module, ["A"], fewest=1) == {4: 30}
    assert [cell["attributes"] for cell in module["cells"].values() if cell["type"] == "DCCA"] == [{"BEL": "A"}]
    assert promote(_netlist(), ["A", "B"], fewest=21) == {4: 30}
    assert promote(_netlist(), [], fewest=1) == {}


def test_boards_on_an_ecp5_have_roots() -> None:
    for board in BOARDS.values():
        if board.family == "ecp5":
            assert 4 <= len(set(roots_of(board.part))) <= 7
    assert roots_of("LFE5U-25F-6") == ()


# ---- the script ------------------------------------------------------------------------------------------

RTLIL = r"""
attribute \top 1
module \board
end
module \board.clocking
end
module \board.top
end
module \board.top.device
end
module \board.top.device.conv$7
end
module \board.top.device.conv$7.row_0
end
module \board.top.device.conv$7.row_0.fifo
end
module \board.led.buf
end
"""


def test_blocks_are_mapped_by_themselves() -> None:
    names = ["board.top.device", "board.top.device.conv$7", "board.top.device.conv$7.row_0"]
    assert blocks(RTLIL) == names
    lines = script("ecp5", RTLIL).splitlines()
    kept = [line.rsplit("\\", 1)[1] for line in lines if "-set keep_hierarchy" in line]
    assert kept == names
    mapped, flat = (next(i for i, line in enumerate(lines) if part in line) for part in ("abc9 -W", "-unset"))
    cells_known = next(i for i, line in enumerate(lines) if "-run begin:" in line)
    assert cells_known < min(i for i, line in enumerate(lines) if line.startswith(("flatten", "opt"))), (
        "cells that have no outputs are cleaned up until they are known")
    assert mapped < flat < lines.index("flatten", flat) < len(lines) - 1
    assert "keep_hierarchy" not in script("ice40", RTLIL)
    with pytest.raises(ValueError, match="gowin"):
        script("gowin", RTLIL)
