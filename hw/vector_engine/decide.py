"""Decisions: reduced words become mask bits, mask bits become mask words."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite
from hw.vector_engine.reduce import Reduced
from hw.vector_engine.settings import Settings


class Decide(wiring.Component):
    """One bit per result: lane 0 at least the bound, or not; or some lane other than the bound. A row of bits starts
    a new word.

    Members
    -------
    settings : Settings, stable while busy. start : a command begins.
    result : stream of Reduced, all pixels of a row, then of the next. write : the mask memory.
    active : a bit was set in this cycle. busy : a word waits.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "result": In(stream.Signature(Reduced(config))),
            "write": Out(MaskWrite(config)),
            "active": Out(1),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, result, request = self.settings, self.result, self.write.request
        column, address = Signal(16), Signal.like(request.payload.address)
        word = Signal(MASK_WORD_BITS)
        bit, differs, accept, last_of_row, full = Signal(), Signal(), Signal(), Signal(), Signal()
        within = column[: (MASK_WORD_BITS - 1).bit_length()]
        filled = Signal(MASK_WORD_BITS)
        m.d.comb += [
            differs.eq(Cat(value != settings.bound for part in result.payload.values for value in part).any()),
            bit.eq(Mux(settings.any_lane, differs, result.payload.values[0][0] >= settings.bound) ^ settings.invert),
            result.ready.eq(~request.valid | request.ready),
            accept.eq(result.valid & result.ready),
            last_of_row.eq(column == settings.output_width - 1),
            full.eq(last_of_row | within.all()),
            filled.eq(word | Cat(bit & (within == i) for i in range(MASK_WORD_BITS))),
            self.active.eq(accept & bit),
            self.busy.eq(request.valid),
        ]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(accept):
            m.d.sync += [column.eq(Mux(last_of_row, 0, column + 1)), word.eq(Mux(full, 0, filled))]
            with m.If(full):
                m.d.sync += [request.valid.eq(1), request.payload.address.eq(address),
                             request.payload.data.eq(filled), address.eq(address + 1)]
        with m.If(self.start):
            m.d.sync += [column.eq(0), word.eq(0), address.eq(settings.mask_base)]
        return m
