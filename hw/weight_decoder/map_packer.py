"""The map packer: row maps, one after the other -> entries of the map memory (`layouts`)."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class MapPacker(wiring.Component):
    """Fills entries of 64 bits from below.

    Members
    -------
    push : append `row_map`; `last` ends the entry. Not while `entries` has one that isn't taken.
    start : pulse; a new block.
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "start": In(1),
            "push": In(1),
            "row_map": In(lanes),
            "last": In(1),
            "entries": Out(stream.Signature(unsigned(64))),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        maps = 64 // self.lanes
        position = Signal(range(maps))
        entry = Signal(64)
        filled = Signal(64)
        m.d.comb += [filled.eq(entry), filled.word_select(position, self.lanes).eq(self.row_map)]
        with m.If(self.entries.ready):
            m.d.sync += self.entries.valid.eq(0)
        with m.If(self.push):
            with m.If(self.last | (position == maps - 1)):
                m.d.sync += [self.entries.payload.eq(filled), self.entries.valid.eq(1), entry.eq(0), position.eq(0)]
            with m.Else():
                m.d.sync += [entry.eq(filled), position.eq(position + 1)]
        with m.If(self.start):
            m.d.sync += [position.eq(0), entry.eq(0)]
        return m
