"""Masks combined: the AND of two masks and, through inversions, their OR, or NOT of one, a quarter word at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite, MemoryRead
from hw.vector_engine.settings import Settings

_COLUMN_BITS = (MASK_WORD_BITS - 1).bit_length()

#: Parts of a word that are worked on one after the other, and the bits of one.
_PARTS = 4
_PART = MASK_WORD_BITS // _PARTS


class Combine(wiring.Component):
    """result = ((first ^ inverted 0) & (second ^ inverted 1)) ^ inverted 2, within the rows. A word takes nine cycles.

    Members
    -------
    settings : Settings, stable while busy. start : a COMBINE command begins.
    mask, write : the mask memory; the data written is zero while not busy.
    active : bits set in a part of a word, in one cycle for each part; else 0. The last ones come up to a cycle after
    `busy`. busy : from the cycle after `start` until the last word is written.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "write": Out(MaskWrite(config)),
            "active": Out(range(_PART + 1)),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, request, mask = self.settings, self.write.request, self.mask
        rows_left = Signal(16)
        words_left = Signal(16 - _COLUMN_BITS)  # of the row, behind this one
        place = Signal.like(mask.address)  # of the word, from the masks' bases
        last_of_row = Signal()
        first, second = Signal(MASK_WORD_BITS, reset_less=True), Signal(MASK_WORD_BITS, reset_less=True)

        # ---- a part of the word, in two steps: the lowest of `first` and `second`, which move down ------------------
        part, entering, leaving = Signal(range(_PARTS)), Signal(), Signal()
        last_part = settings.last_pixel[4:_COLUMN_BITS]
        row_end = Signal(_PART, reset_less=True)  # the bits of a row's last part that are pixels
        whole, cut = Signal(), Signal()
        within_row, combined = Signal(_PART, reset_less=True), Signal(_PART)
        shared = Signal(2, reset_less=True)  # the lowest bits of the words
        operands = []
        for number, word in enumerate((first, second)):
            # A bit that stands for all takes the place of the bits, which are masked.
            constant, variable = Signal(name=f"constant_{number}"), Signal(name=f"variable_{number}")
            operand = Signal(_PART, name=f"operand_{number}", reset_less=True)
            m.d.comb += [
                constant.eq((settings.spread[number] & shared[number]) ^ settings.inverted[number]),
                variable.eq(~settings.spread[number]),
            ]
            m.d.sync += operand.eq(word[:_PART] & variable.replicate(_PART) ^ constant.replicate(_PART))
            operands.append(operand)
        m.d.comb += [
            last_of_row.eq(words_left == 0),
            whole.eq(~last_of_row | (part < last_part)),
            cut.eq(part == last_part),
            combined.eq(((operands[0] & operands[1]) ^ settings.inverted[2].replicate(_PART)) & within_row),
        ]
        m.d.sync += [
            row_end.eq(Cat(Const(1, 1), (settings.last_pixel[:4] >= i for i in range(1, _PART)))),
            within_row.eq(whole.replicate(_PART) | (row_end & cut.replicate(_PART))),
            leaving.eq(entering),
        ]
        with m.If(entering):
            m.d.sync += [part.eq(part + 1), first.eq(first >> _PART), second.eq(second >> _PART)]
        gone = Signal()
        m.d.comb += gone.eq(request.valid & request.ready)
        with m.If(gone):
            m.d.sync += request.payload.data.eq(0)
        with m.Elif(leaving):
            m.d.sync += request.payload.data.eq(Cat(request.payload.data, combined)[_PART:])
        # Bits are counted behind their way to the memory.
        counted = Signal(_PART)
        m.d.sync += [counted.eq(Mux(leaving, combined, 0)), self.active.eq(_bits_set(counted))]

        # ---- words one after the other --------------------------------------------------------------------------
        free, last_leaves = Signal(), Signal()
        m.d.comb += free.eq(~last_leaves & (~request.valid | request.ready))
        m.d.sync += last_leaves.eq(entering & (part == _PARTS - 1))
        with m.If(last_leaves):
            m.d.sync += request.valid.eq(1)
        with m.Elif(gone):
            m.d.sync += [request.valid.eq(0), request.payload.address.eq(request.payload.address + 1)]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [rows_left.eq(settings.output_rows), place.eq(0),
                                 request.payload.address.eq(settings.target_base),
                                 words_left.eq(settings.last_pixel[_COLUMN_BITS:])]
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.sync += mask.address.eq(settings.mask_base + Mux(settings.spread[0], 0, place))
                with m.If(free):  # what was written last may be read now
                    m.next = "SECOND"
            with m.State("SECOND"):
                m.d.sync += mask.address.eq(settings.other_base + Mux(settings.spread[1], 0, place))
                m.next = "TAKE_FIRST"
            with m.State("TAKE_FIRST"):
                m.d.sync += [first.eq(mask.data), shared[0].eq(mask.data[0])]
                m.next = "TAKE_SECOND"
            with m.State("TAKE_SECOND"):
                m.d.sync += [second.eq(mask.data), shared[1].eq(mask.data[0])]
                m.next = "COMBINE"
            with m.State("COMBINE"):
                m.d.comb += entering.eq(1)
                with m.If(part == _PARTS - 1):
                    m.d.sync += [place.eq(place + 1), words_left.eq(
                        Mux(last_of_row, settings.last_pixel[_COLUMN_BITS:], words_left - 1))]
                    m.next = "FIRST"
                    with m.If(last_of_row):
                        m.d.sync += rows_left.eq(rows_left - 1)
                        with m.If(rows_left == 1):
                            m.next = "IDLE"
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE") | last_leaves | request.valid)
        return m


def _bits_set(word):
    """Bits that are set, by a tree of adders."""
    sums = list(word)
    while len(sums) > 1:
        sums = [sum(sums[i + 1 : i + 2], start=sums[i]) for i in range(0, len(sums), 2)]
    return sums[0]
