"""Frames on a stream of bytes: flags between them, escapes within them (hw.contract.bridge)."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.bridge import ESCAPE, FLAG, TOGGLE

#: A byte of a frame, or with `flag` the end of one.
SYMBOL = data.StructLayout({"byte": 8, "flag": 1})


class FrameReceiver(wiring.Component):
    """Bytes from the line to symbols. Never waits.

    Members
    -------
    i : bytes of the line. o : symbols; one that is not taken at once is lost.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(unsigned(8))), "o": Out(stream.Signature(SYMBOL))})

    def elaborate(self, platform) -> Module:
        m = Module()
        escaped = Signal()
        flag, escape = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(1),
            flag.eq(self.i.payload == FLAG),
            escape.eq(self.i.payload == ESCAPE),
            self.o.valid.eq(self.i.valid & ~escape),
            self.o.payload.byte.eq(self.i.payload),
            self.o.payload.flag.eq(flag),
        ]
        with m.If(escaped & ~flag):
            m.d.comb += self.o.payload.byte.eq(self.i.payload ^ TOGGLE)
        with m.If(self.i.valid):
            m.d.sync += escaped.eq(escape)
        return m


class FrameTransmitter(wiring.Component):
    """Symbols to bytes of the line.

    Members
    -------
    i : symbols. o : bytes.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(SYMBOL)), "o": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform) -> Module:
        m = Module()
        symbol = self.i.payload
        special, escaped = Signal(), Signal()
        m.d.comb += [
            special.eq(~symbol.flag & ((symbol.byte == FLAG) | (symbol.byte == ESCAPE))),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & (~special | escaped)),
        ]
        with m.If(symbol.flag):
            m.d.comb += self.o.payload.eq(FLAG)
        with m.Elif(special & ~escaped):
            m.d.comb += self.o.payload.eq(ESCAPE)
        with m.Elif(special):
            m.d.comb += self.o.payload.eq(symbol.byte ^ TOGGLE)
        with m.Else():
            m.d.comb += self.o.payload.eq(symbol.byte)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += escaped.eq(special & ~escaped)
        return m
