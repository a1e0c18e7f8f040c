"""Constant inputs of an ECP5's carry cells move into their tables.

nextpnr takes the constant inputs of a LUT into its table, but not those of a carry cell: each becomes a wire from a
LUT that says 0, and in a design with five thousand carry cells that is one net with 2,700 ends all over the FPGA.

A CCU2C holds two tables of 16 bits with inputs A to D, one for each of its bits. The bit's sum is entry DCBA, plus the
carry; its carry, where it makes one by itself, is entry 00BA of the same table (Lattice FPGA-TN-02026, and the model of
the cell in Yosys' `lattice/cells_sim.v`). A table that does not change with an input does not read it.
"""

from __future__ import annotations

from typing import Any

_CARRY = "CCU2C"

#: Inputs that both the sum and the carry read; what is C or D for one is 0 for the other.
_INPUTS = "AB"


def fold_constants(module: dict[str, Any]) -> int:
    """Fold constants at inputs A and B into the tables of the carry cells of `module`, flat as Yosys' JSON has it.

    Returns how many inputs were folded; they are left open.
    """
    folded = 0
    for cell in module["cells"].values():
        if cell["type"] != _CARRY:
            continue
        for half in "01":
            for place, letter in enumerate(_INPUTS):
                bits = cell["connections"].get(letter + half)
                if bits not in (["0"], ["1"]):
                    continue
                constant = int(bits[0]) << place
                table = int(cell["parameters"]["INIT" + half], 2)
                entries = (table >> (entry & ~(1 << place) | constant) & 1 for entry in range(16))
                cell["parameters"]["INIT" + half] = "".join(map(str, entries))[::-1]
                del cell["connections"][letter + half]
                folded += 1
    return folded
