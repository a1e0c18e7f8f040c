"""A board top on its board: the pins of the serial line, two lights, the clock."""

from __future__ import annotations

import importlib
import re
from typing import Any

from amaranth import ClockDomain, Const, Elaboratable, Instance, Module
from amaranth.lib import io

from hw.boards.board_top import BoardTop
from hw.boards.catalogue import Board, Flash
from hw.boards.clocking import Clocking, dividers_of
from hw.contract.config import preset

#: Names of the top module and of its files.
TOP = "board"


def platform_of(board: Board) -> Any:
    """The board's platform of amaranth-boards, a new one. Raises ModuleNotFoundError where that is not installed."""
    module, _colon, name = board.platform.partition(":")
    return getattr(importlib.import_module(module), name)()


class PlatformTop(Elaboratable):
    """What a board is programmed with. Raises ValueError for a board whose clock, baud rate or memory can't be made."""

    def __init__(self, board: Board):
        self.board = board
        self.dividers = dividers_of(board.family, board.oscillator_hz, board.clock_hz)
        self.clock_hz = round(self.dividers.clock_hz) if self.dividers else board.oscillator_hz
        self.top = BoardTop(preset(board.preset), clock_hz=self.clock_hz, baud=board.baud,
                            memory_bytes=board.memory_bytes, flash_offset=board.flash.offset if board.flash else 0,
                            flash_bytes=board.flash.size if board.flash else 0)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.clocking = Clocking(self.board.family, self.board.oscillator_hz, self.dividers,
                                         platform.request(platform.default_clk, dir="-"))
        m.submodules.top = top = self.top
        pins = {pin.name: "-" for pin in platform.lookup("uart", 0).ios}
        line = platform.request("uart", 0, dir=pins)
        m.submodules.rx = rx = io.Buffer("i", line.rx)
        m.submodules.tx = tx = io.Buffer("o", line.tx)
        m.d.comb += [top.rx.eq(rx.i), tx.o.eq(top.tx)]
        for name, (resource, number), light in zip(("busy", "error"), self.board.lights, (top.busy, top.error),
                                                   strict=True):
            m.submodules[f"{name}_light"] = out = io.Buffer("o", platform.request(resource, number, dir="-"))
            m.d.comb += out.o.eq(light)
        if self.board.flash is not None:
            self._flash_pins(m, platform, self.board.flash)
        return m

    def _flash_pins(self, m: Module, platform: Any, flash: Flash) -> None:
        """The flash that the FPGA is configured from."""
        top = self.top
        pins = {pin.name: "-" for pin in platform.lookup(flash.resource, 0).ios}
        chip = platform.request(flash.resource, 0, dir=pins)
        m.submodules.flash_cs = cs = io.Buffer("o", chip.cs)
        m.submodules.flash_copi = copi = io.Buffer("o", chip.copi)
        m.submodules.flash_cipo = cipo = io.Buffer("i", chip.cipo)
        m.d.comb += [cs.o.eq(top.flash_cs), copi.o.eq(top.flash_copi), top.flash_cipo.eq(cipo.i)]
        for name in ("wp", "hold"):  # neither write protection nor hold
            if name in pins:
                m.submodules[f"flash_{name}"] = io.Buffer("o", getattr(chip, name))
        if "clk" in pins:
            m.submodules.flash_clk = clk = io.Buffer("o", chip.clk)
            m.d.comb += clk.o.eq(top.flash_clk)
        else:  # an ECP5's configuration clock
            m.submodules.flash_clk = Instance("USRMCLK", i_USRMCLKI=top.flash_clk, i_USRMCLKTS=Const(0))


def without_brackets(netlist: str) -> str:
    """RTLIL whose names have no brackets, as Amaranth gives them to elements of arrays (`\\windows[1]`): abc9 takes
    such a name for one bit of a wire, and then misses that wire."""
    return re.sub(r"(?<!\S)\\\S*\[\d+\]\S*", lambda name: re.sub(r"[\[\]]", "_", name.group()), netlist)


def design_files(board: Board) -> dict[str, str]:
    """Netlist and constraints for the open tools, by name: `board.il` and `board.lpf` or `board.pcf`."""
    plan = platform_of(board).prepare(PlatformTop(board), TOP, emit_src=False)
    wanted = {f"{TOP}.{ending}" for ending in ("il", "lpf", "pcf")}
    files = {name: text if isinstance(text, str) else text.decode()
             for name, text in plan.files.items() if name in wanted}
    return {**files, f"{TOP}.il": without_brackets(files[f"{TOP}.il"])}
