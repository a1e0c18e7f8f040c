"""The active pixels of a command, in row-major order, found a mask word at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MemoryRead
from hw.vector_engine.settings import POSITION_BITS, Settings

#: A row (`index` is y) comes before its pixels (`index` is x). Rows without active pixels don't come.
#: parity : changes from a pass to the next. first_pass : of several.
ITEM_LAYOUT = data.StructLayout({"is_row": 1, "index": unsigned(POSITION_BITS), "parity": 1, "first_pass": 1})


class PixelGenerator(wiring.Component):
    """Walks over a command's pixels, as often as it has passes; a mask word without active pixels takes one cycle, an
    active pixel one. Where one bit gates the whole command and is clear, nothing is walked.

    Members
    -------
    start : one cycle; the settings are stable from then until `busy` is low again.
    settings : Settings.
    mask : the mask memory, used when the settings say `gated`; otherwise every pixel is active.
    item : stream of ITEM_LAYOUT.
    busy : from the cycle after `start` until the last item was taken.
    moved : a mask word was passed in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1),
            "settings": In(Settings(config)),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "item": Out(stream.Signature(ITEM_LAYOUT)),
            "busy": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, mask = self.settings, self.mask
        column_bits = (MASK_WORD_BITS - 1).bit_length()

        # ---- the next mask word: its row, its place in the row; its data is there when `fetched` -------------
        walking = Signal()
        fetched = Signal()
        address = Signal.like(mask.address)
        row = Signal(POSITION_BITS)
        rows_left = Signal(16)
        passes_left = Signal(16)
        parity, first_pass = Signal(), Signal()
        again = Signal()
        word_column = Signal(16 - column_bits)
        last_of_row = Signal()
        # ---- the word being worked on: its pixels that are still to come --------------------------------------
        word = Signal(MASK_WORD_BITS)
        word_start = Signal(16 - column_bits)
        word_row = Signal(POSITION_BITS)
        word_parity, word_first = Signal(), Signal()
        announced = Signal()  # the row was sent

        word_empty = Signal()
        take = Signal()
        next_address = Signal.like(address)
        nothing = Signal()
        active = Signal(MASK_WORD_BITS)
        last_pixel = Signal(16)
        within_row = Signal(MASK_WORD_BITS)
        m.d.comb += [
            word_empty.eq(~word.any()),
            take.eq(walking & fetched & word_empty),
            again.eq(last_of_row & (rows_left == 1) & (passes_left != 1)),
            next_address.eq(Mux(again | settings.whole, settings.mask_base, address + 1)),
            nothing.eq(settings.whole & ~mask.data[0]),
            active.eq(Mux(settings.whole, mask.data[0].replicate(MASK_WORD_BITS), mask.data)),
            mask.address.eq(Mux(take, next_address, address)),
            last_pixel.eq(settings.output_width - 1),
            last_of_row.eq(word_column == last_pixel[column_bits:]),
            within_row.eq(Cat(Const(1, 1), *(~last_of_row | (last_pixel[:column_bits] >= i)
                                             for i in range(1, MASK_WORD_BITS)))),
            self.moved.eq(take),
        ]
        with m.If(self.start):
            m.d.sync += [
                walking.eq(1),
                fetched.eq(0),
                address.eq(settings.mask_base),
                row.eq(settings.output_y),
                rows_left.eq(settings.output_rows),
                word_column.eq(0),
                passes_left.eq(settings.passes),
                parity.eq(0),
                first_pass.eq(1),
            ]
        with m.Else():
            m.d.sync += fetched.eq(walking)
        with m.If(take):
            m.d.sync += [
                word.eq(Mux(settings.gated, active, Const(-1, MASK_WORD_BITS)) & within_row),
                word_start.eq(word_column),
                word_row.eq(row),
                word_parity.eq(parity),
                word_first.eq(first_pass),
                address.eq(next_address),
                word_column.eq(word_column + 1),
            ]
            with m.If(word_column == 0):
                m.d.sync += announced.eq(0)
            with m.If(last_of_row):
                m.d.sync += [word_column.eq(0), row.eq(row + 1), rows_left.eq(rows_left - 1)]
                with m.If(again):
                    m.d.sync += [
                        row.eq(settings.output_y), rows_left.eq(settings.output_rows),
                        passes_left.eq(passes_left - 1), parity.eq(~parity), first_pass.eq(0),
                    ]
                with m.Elif(rows_left == 1):
                    m.d.sync += walking.eq(0)
            with m.If(nothing):
                m.d.sync += walking.eq(0)

        # ---- items: the row, then its pixels from the lowest bit on -------------------------------------------
        lowest = Signal(MASK_WORD_BITS)
        column = Signal(column_bits)
        m.d.comb += [
            lowest.eq(word & -word),
            column.eq(Cat(Cat(lowest[i] for i in range(MASK_WORD_BITS) if i >> bit & 1).any()
                          for bit in range(column_bits))),
            self.busy.eq(walking | ~word_empty | self.item.valid),
        ]
        with m.If(~self.item.valid | self.item.ready):
            m.d.sync += [
                self.item.valid.eq(~word_empty),
                self.item.payload.is_row.eq(~announced),
                self.item.payload.parity.eq(word_parity),
                self.item.payload.first_pass.eq(word_first),
                self.item.payload.index.eq(Mux(announced, Cat(column, word_start), word_row)),
            ]
            with m.If(~word_empty):
                m.d.sync += announced.eq(1)
                with m.If(announced):
                    m.d.sync += word.eq(word & ~lowest)
        return m
