"""A board top on its board: the pins of the serial line, two lights, the clock."""

from __future__ import annotations

import importlib
from typing import Any

from amaranth import ClockDomain, Elaboratable, Module
from amaranth.lib import io

from hw.boards.board_top import BoardTop
from hw.boards.catalogue import Board
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
                            memory_bytes=board.memory_bytes)

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
        return m


def design_files(board: Board) -> dict[str, str]:
    """Netlist and constraints for the open tools, by name: `board.il` and `board.lpf` or `board.pcf`."""
    plan = platform_of(board).prepare(PlatformTop(board), TOP, emit_src=False)
    wanted = {f"{TOP}.{ending}" for ending in ("il", "lpf", "pcf")}
    return {name: text if isinstance(text, str) else text.decode()
            for name, text in plan.files.items() if name in wanted}
