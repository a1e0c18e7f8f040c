"""A register slice: cuts a stream's paths in both directions without losing throughput."""

from __future__ import annotations

from amaranth import Module, ShapeLike, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class RegisterSlice(wiring.Component):
    """A queue of two entries with registered outputs on both sides; latency 1, one payload per cycle.

    Parameters
    ----------
    shape : shape of the payload.

    Members
    -------
    i, o : the stream before and after. drop : what is in here is forgotten.
    """

    drop: Signal
    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike):
        self.shape = shape
        super().__init__({"drop": In(1), "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        payload, spare = Signal(self.shape, reset_less=True), Signal(self.shape, reset_less=True)
        spare_valid = Signal()
        advance = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            advance.eq(~self.o.valid | self.o.ready),
            self.o.payload.eq(payload),
        ]
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spare_valid),
                spare_valid.eq(0),
            ]
            with m.If(spare_valid):
                m.d.sync += payload.eq(spare)
            with m.Else():
                m.d.sync += payload.eq(self.i.payload)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += spare_valid.eq(1)
        with m.If(self.i.ready):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(self.drop):
            m.d.sync += [self.o.valid.eq(0), spare_valid.eq(0)]
        return m
