"""Yosys' scripts: a design as `python -m hw.boards` writes it, mapped to the cells of a family of FPGAs."""

from __future__ import annotations

import re

#: The top module's name and that of its files, as `python -m hw.boards` writes them.
TOP = "board"

#: Picoseconds that abc9 counts for the way from a LUT to the next, of the order of what nextpnr reports for wires. With
#: synth_lattice's own 300, it saves LUTs on what becomes the longest paths.
WIRE_PS = 900

#: Picoseconds that a path may take before abc9 spends LUTs on it: the period at 80 MHz. Without, each block would be as
#: fast as its own slowest path allows, for a sixth more LUTs.
PATH_PS = 12_500

#: How deep a block lies that is mapped by itself: TOP.top.device.ENGINE.BLOCK, and all between it and TOP.top.
BLOCK_DEPTH = 5

# Yosys looks at a memory's `no_rw_check` where it joins a read port to its register, so that the two are taken apart
# first; without, it builds a bypass for each bit of each block RAM. abc9 knows the delays of carry chains and wide
# multiplexers: a tenth fewer LUTs than abc, on shorter paths.
_READ = f"""\
read_rtlil {TOP}.il
hierarchy -top {TOP}
proc
memory_nordff
"""

_ECP5 = f"synth_lattice -family ecp5 -abc9 -top {TOP}"

_ICE40 = _READ + f"synth_ice40 -device u -dsp -abc9 -top {TOP} -json {TOP}.json\n"


def blocks(rtlil: str) -> list[str]:
    """Modules of a design, in the order of its text, that are blocks: those of the device and of what is around it, not
    deeper than BLOCK_DEPTH; not those of pins and clocks."""
    names = re.findall(r"^module \\(\S+)", rtlil, re.MULTILINE)
    return [name for name in names if name.startswith(f"{TOP}.top.") and len(name.split(".")) <= BLOCK_DEPTH]


def script(family: str, rtlil: str) -> str:
    """The script for `family`, of a design whose RTLIL is `rtlil` and lies in TOP.il; it writes TOP.json, flat.

    For an ECP5, each block is mapped by itself and the whole becomes flat afterwards. Mapped as a whole, blocks share
    LUTs wherever they compute the same of a signal that both see, and each such LUT ties two places of the FPGA
    together: 3% more wire, and the longest paths.
    """
    if family == "ice40":
        return _ICE40
    if family != "ecp5":
        raise ValueError(f"there is no script for the family {family!r}; the families are ecp5, ice40")
    keep = "".join(f"setattr -mod -set keep_hierarchy 1 \\{name}\n" for name in blocks(rtlil))
    # With the family's cells read before anything is cleaned up: some have no outputs, and are to be kept.
    return _READ + keep + f"""\
{_ECP5} -run begin:coarse
flatten
opt_hier
opt_clean
opt_hier
{_ECP5} -run coarse:map_luts
check -latchonly -assert
abc9 -W {WIRE_PS} -D {PATH_PS}
clean
setattr -mod -unset keep_hierarchy *
flatten
opt_clean
{_ECP5} -run map_cells: -json {TOP}.json
"""
