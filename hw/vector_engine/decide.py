"""Decisions: reduced words become mask bits, mask bits become mask words."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite
from hw.vector_engine.reduce import Reduced
from hw.vector_engine.settings import Settings

#: Values that one look-up table compares with the bound, in one of their bits.
_COMPARED = 3


class Decide(wiring.Component):
    """One bit per result: lane 0 at least the bound, or not; or some lane other than the bound. A row of bits starts
    a new word.

    Members
    -------
    settings : Settings, stable while busy. start : a command begins.
    result : stream of Reduced, int8 values, all pixels of a row, then of the next.
    write : the mask memory; its data is zero while nothing is written.
    active : a bit was set. busy : a bit or a word is under way.
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
        flush, advance = Signal(), Signal(init=1)  # from a register: everything in front hangs on it
        m.d.comb += result.ready.eq(advance)

        # ---- comparisons, a step for their look-up tables and one to gather them ---------------------------------
        values = [value for part in result.payload.values for value in part]
        outside = Signal()  # no int8 equals the bound
        differences = [outside]
        m.d.comb += outside.eq((settings.bound[7:] != 0) & ~settings.bound[7:].all())
        for bit in range(8):
            expected = settings.bound[bit]
            differences += [Cat(value[bit] ^ expected for value in values[at : at + _COMPARED]).any()
                            for at in range(0, len(values), _COMPARED)]
        compared, differ = Signal(), Signal(len(differences), reset_less=True)
        at_least = Signal(reset_less=True)
        decided, bit = Signal(), Signal(reset_less=True)
        with m.If(advance):
            m.d.sync += [
                compared.eq(result.valid),
                differ.eq(Cat(differences)),
                at_least.eq(values[0] >= settings.bound),
                decided.eq(compared),
                bit.eq(Mux(settings.any_lane, differ.any(), at_least) ^ settings.invert),
            ]

        # ---- bits become words ------------------------------------------------------------------------------------
        place = Signal((MASK_WORD_BITS - 1).bit_length())  # of the bit in its word
        pixels_left = Signal(16)  # in the row
        address = Signal.like(request.payload.address)
        word = Signal(MASK_WORD_BITS)
        last_of_row, full, set_bit = Signal(), Signal(), Signal()
        eighth, within = Signal(8), Signal(8)
        m.d.comb += [
            last_of_row.eq(pixels_left == 1),
            full.eq(last_of_row | place.all()),
            set_bit.eq(decided & bit),
            eighth.eq(1 << place[3:]),
            within.eq(Mux(set_bit, 1 << place[:3], 0)),
            self.busy.eq(compared | decided | flush | request.valid),
        ]
        m.d.sync += self.active.eq(advance & set_bit)
        moved, gone = Signal(), Signal()
        m.d.comb += [moved.eq(advance & flush), gone.eq(request.ready & ~moved)]
        with m.If(gone):
            m.d.sync += [request.valid.eq(0), request.payload.data.eq(0)]
        with m.Elif(moved):
            m.d.sync += [request.valid.eq(1), request.payload.address.eq(address), request.payload.data.eq(word),
                         address.eq(address + 1)]
        # A full word waits until the one before it is gone, which is known a cycle later.
        flush_next = Signal()
        m.d.comb += flush_next.eq(Mux(advance, decided & full, flush))
        m.d.sync += [flush.eq(flush_next), advance.eq(~(flush_next & (moved | request.valid)))]
        with m.If(advance):
            m.d.sync += word.eq(Cat((word[i] & ~flush) | (eighth[i // 8] & within[i % 8])
                                    for i in range(MASK_WORD_BITS)))
            with m.If(decided):
                m.d.sync += [place.eq(Mux(full, 0, place + 1)),
                             pixels_left.eq(Mux(last_of_row, settings.output_width, pixels_left - 1))]
        with m.If(self.start):
            m.d.sync += [place.eq(0), pixels_left.eq(settings.output_width), address.eq(settings.mask_base)]
        return m
