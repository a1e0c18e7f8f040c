"""Masks combined: the AND of two masks and, through inversions, their OR, or NOT of one, a word at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite, MemoryRead
from hw.vector_engine.settings import Settings

_COLUMN_BITS = (MASK_WORD_BITS - 1).bit_length()


class Combine(wiring.Component):
    """result = ((first ^ inverted 0) & (second ^ inverted 1)) ^ inverted 2, within the rows. A word takes four cycles.

    Members
    -------
    settings : Settings, stable while busy. start : a COMBINE command begins.
    mask, write : the mask memory. active : bits set in the word whose writing begins in this cycle; else 0.
    busy : from the cycle after `start` until the last word is written.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "write": Out(MaskWrite(config)),
            "active": Out(range(MASK_WORD_BITS + 1)),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, request, mask = self.settings, self.write.request, self.mask
        last_pixel = Signal(16)
        within_row = Signal(MASK_WORD_BITS)
        last_of_row = Signal()
        rows_left = Signal(16)
        column = Signal(16 - _COLUMN_BITS)  # of the word, in words
        place = Signal.like(mask.address)  # of the word, from the masks' bases
        first, combined = Signal(MASK_WORD_BITS), Signal(MASK_WORD_BITS)

        def operand(number: int):
            """What arrives of an operand: its word, or the bit that stands for all."""
            word = Mux(settings.spread[number], mask.data[0].replicate(MASK_WORD_BITS), mask.data)
            return word ^ settings.inverted[number].replicate(MASK_WORD_BITS)

        m.d.comb += [
            last_pixel.eq(settings.output_width - 1),
            last_of_row.eq(column == last_pixel[_COLUMN_BITS:]),
            within_row.eq(Cat(Const(1, 1), (~last_of_row | (last_pixel[:_COLUMN_BITS] >= i)
                                            for i in range(1, MASK_WORD_BITS)))),
            combined.eq(((first & operand(1)) ^ settings.inverted[2].replicate(MASK_WORD_BITS)) & within_row),
            request.payload.address.eq(settings.target_base + place),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [rows_left.eq(settings.output_rows), column.eq(0), place.eq(0)]
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.comb += mask.address.eq(settings.mask_base + Mux(settings.spread[0], 0, place))
                m.next = "SECOND"
            with m.State("SECOND"):
                m.d.comb += mask.address.eq(settings.other_base + Mux(settings.spread[1], 0, place))
                m.d.sync += first.eq(operand(0))
                m.next = "COMBINE"
            with m.State("COMBINE"):
                m.d.sync += request.payload.data.eq(combined)
                m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += self.active.eq(_bits_set(request.payload.data))
                m.d.comb += request.valid.eq(1)
                m.next = "WRITE"
                with m.If(request.ready):
                    self._step(m, place, column, rows_left, last_of_row)
            with m.State("WRITE"):
                m.d.comb += request.valid.eq(1)
                with m.If(request.ready):
                    self._step(m, place, column, rows_left, last_of_row)
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m

    def _step(self, m: Module, place: Signal, column: Signal, rows_left: Signal, last_of_row: Signal) -> None:
        """On to the next word."""
        m.d.sync += [place.eq(place + 1), column.eq(Mux(last_of_row, 0, column + 1))]
        m.next = "FIRST"
        with m.If(last_of_row):
            m.d.sync += rows_left.eq(rows_left - 1)
            with m.If(rows_left == 1):
                m.next = "IDLE"


def _bits_set(word):
    """Bits that are set, by a tree of adders."""
    sums = list(word)
    while len(sums) > 1:
        sums = [sum(sums[i + 1 : i + 2], start=sums[i]) for i in range(0, len(sums), 2)]
    return sums[0]
