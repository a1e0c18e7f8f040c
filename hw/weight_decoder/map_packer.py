"""The map packer: row maps, one after the other -> entries of the map memory (`layouts`)."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class MapPacker(wiring.Component):
    """Fills entries of 64 bits from below.

    Members
    -------
    start : pulse; a new block. push : append `row_map`; `last` ends the entry.
    entry, valid : an entry, in one cycle.
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "start": In(1),
            "push": In(1),
            "row_map": In(lanes),
            "last": In(1),
            "entry": Out(64),
            "valid": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        maps = 64 // self.lanes
        position = Signal(range(maps))
        entry = Signal(data.ArrayLayout(self.lanes, maps))
        m.d.comb += self.entry.eq(entry)
        m.d.sync += self.valid.eq(self.push & (self.last | (position == maps - 1)))
        with m.If(self.push):
            m.d.sync += position.eq(position + 1)
            for i in range(maps):
                with m.If(position == i):
                    m.d.sync += entry[i].eq(self.row_map)
                with m.Elif(position == 0):
                    m.d.sync += entry[i].eq(0)
            with m.If(self.last):
                m.d.sync += position.eq(0)
        with m.If(self.start):
            m.d.sync += position.eq(0)
        return m
