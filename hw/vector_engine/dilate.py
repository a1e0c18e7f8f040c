"""Dilation of masks: from the pixels that a convolution computes to those that it reads, 64 at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite, MemoryRead
from hw.vector_engine.settings import Settings

_COLUMN_BITS = (MASK_WORD_BITS - 1).bit_length()

#: Bits of a row, which may lie before the first: of the input, behind its padding.
_ROW_BITS = 18

#: Bits of a byte's place in a row of the source's mask: 8 pixels each, from far left of the row to its end and padding.
_BYTE_BITS = 15


class Dilate(wiring.Component):
    """For every word of the input's mask: the OR of all pixels of the output's mask that some tap reads there.

    Tap (ky, kx) of output pixel (y', x') reads y = y' * stride - pad + ky * dilation, and so does x. Bits x = 64 w ..
    64 w + 63 of the input's mask are therefore bits (x + pad - kx * dilation) / stride of the output's, of all rows
    that some ky reads there. These rows are gathered first, a word at a time: their OR is one row of source bits,
    spread by the stride. It passes through a window of 64 bits from its end to its begin, in steps of 8 bits or
    of one; where the window stands as a tap sees it, it goes to the result.

    Cycles: `sim.golden.masks.dilate` counts them.

    Members
    -------
    settings : Settings, stable while busy. start : a DILATE command begins.
    mask, write : the mask memory; the data written is zero while not busy.
    busy : from the cycle after `start` until the last word is written.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "write": Out(MaskWrite(config)),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, request, mask = self.settings, self.write.request, self.mask
        wide_y, wide_x = settings.stride_y[1], settings.stride_x[1]  # strides of 2
        last_target = settings.last_column[_COLUMN_BITS:]
        words = Signal(17 - _COLUMN_BITS)  # of a source row
        m.d.sync += words.eq(settings.last_pixel[_COLUMN_BITS:] + 1)

        # ---- target rows and their words; the last source row that they need, and its place ------------------------
        rows_left, word = Signal(16), Signal(16 - _COLUMN_BITS)
        top_row, top_place = Signal(17), Signal(len(mask.address) + 1)
        last_word, next_row = Signal(), Signal()
        m.d.comb += last_word.eq(word == last_target)
        with m.If(next_row):
            m.d.sync += [top_row.eq(top_row + 1), top_place.eq(top_place + words)]

        # ---- the row of source bits, a byte at a time from its end ------------------------------------------------
        # Where a byte lies is known when its turn comes: it is looked at as the one behind it is taken.
        at, next_at, place = (Signal(signed(_BYTE_BITS), name=name) for name in ("at", "next_at", "place"))
        gathered = Signal(MASK_WORD_BITS)  # the word that `at` lies in, of all rows
        there = Signal()  # it is complete
        ends, inside, leaves_word = Signal(), Signal(), Signal()
        step = Signal()  # to the next byte
        source, spread = Signal(8), Signal(8)
        half = Signal(4)
        last_byte = settings.last_pixel[3:]
        end = settings.last_pixel[:3]
        row_end = Cat(Const(1, 1), (end >= i for i in range(1, 8)))
        next_place = Signal.like(place)
        m.d.comb += [
            next_place.eq(Mux(wide_x, next_at >> 1, next_at)),
            source.eq(gathered.word_select(place[:3], 8) & (row_end | (~ends).replicate(8))),
            half.eq(Mux(at[0], source[4:], source[:4])),
            spread.eq(Mux(wide_x, Cat(Cat(half[i], Const(0, 1)) for i in range(4)), source)),
        ]
        with m.If(step):
            m.d.sync += [
                at.eq(next_at), next_at.eq(next_at - 1), place.eq(next_place), ends.eq(next_place == last_byte),
                inside.eq(~next_place[-1] & (next_place <= last_byte)),
                leaves_word.eq((next_place[:3] == 0) & ~(wide_x & next_at[0])),
            ]

        # ---- the window, and what comes next into it ---------------------------------------------------------------
        window, result = Signal(MASK_WORD_BITS, reset_less=True), Signal(MASK_WORD_BITS)
        byte, bits_left, loaded = Signal(8, reset_less=True), Signal(3), Signal()
        steps, taps_left = Signal(9), Signal(5)
        walk, tap, eight, one, load = Signal(), Signal(), Signal(), Signal(), Signal()
        again = Signal()  # another tap follows
        m.d.comb += [
            again.eq(taps_left != 1),
            tap.eq(walk & (steps == 0)),
            eight.eq(walk & loaded & (steps[3:] != 0) & (bits_left == 7)),
            one.eq(walk & loaded & ~eight & (~tap | again)),
            load.eq(walk & (~loaded | eight | (one & (bits_left == 0)))),
        ]
        with m.If(eight | one):
            m.d.sync += [window.eq(Mux(eight, Cat(byte, window), Cat(byte[7], window))),
                         steps.eq(Mux(tap, settings.dilation_x, steps) - Mux(eight, 8, 1))]
        with m.If(one):
            m.d.sync += bits_left.eq(bits_left - 1)
            with m.If(tap):
                m.d.sync += taps_left.eq(taps_left - 1)
        fill = Signal()
        m.d.comb += fill.eq(inside & ~there)
        with m.If(load):
            m.d.sync += [byte.eq(Mux(inside, spread, 0)), loaded.eq(~fill)]
            with m.If(~fill):
                m.d.comb += step.eq(1)
                with m.If(leaves_word):
                    m.d.sync += there.eq(0)
        with m.Elif(one):
            m.d.sync += byte.eq(byte << 1)

        # The word's bits past the row's end go in two steps: those of its last byte, then the bytes behind it. What
        # the last tap saw goes with them.
        trim, drop = Signal(), Signal()
        target_end, target_byte = settings.last_column[:3], settings.last_column[3:_COLUMN_BITS]
        kept_bits, kept_bytes = Signal(8), Signal(8)
        m.d.comb += [
            kept_bits.eq(Mux(trim, Cat(Const(1, 1), (target_end >= i for i in range(1, 8))), 0)),
            kept_bytes.eq(Cat(Mux(trim, target_byte != i, ~drop | (target_byte >= i) if i else 1) for i in range(8))),
        ]
        written, gather = Signal(), Signal()
        kept = Signal(MASK_WORD_BITS)
        m.d.comb += kept.eq(Cat(kept_bits | kept_bytes[i].replicate(8) for i in range(8)))
        with m.If(trim):
            m.d.sync += window.eq(0)
        with m.If(written):
            m.d.sync += result.eq(0)
        with m.Elif(tap | trim | drop):
            m.d.sync += result.eq((result | window) & kept)

        # ---- the rows of a source word ------------------------------------------------------------------------------
        row, row_place = Signal(signed(_ROW_BITS)), Signal.like(top_place)
        taps_above, rows_to_tap, one_row_less = Signal(5), Signal(8), Signal(8)
        limit, row_there = Signal(17), Signal()
        asked, arriving = Signal(), Signal()
        m.d.comb += [
            one_row_less.eq(rows_to_tap - 1),
            limit.eq(Mux(wide_y, settings.output_rows << 1, settings.output_rows)),
            row_there.eq(~row[-1] & ~(wide_y & row[0]) & (row[:17] < limit)),
        ]
        m.d.sync += [asked.eq(0), arriving.eq(asked)]
        with m.If(gather):
            m.d.sync += gathered.eq(0)
        with m.Elif(arriving):
            m.d.sync += gathered.eq(gathered | mask.data)

        m.d.comb += request.payload.data.eq(result)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [top_row.eq(0), top_place.eq(0), word.eq(0), rows_to_tap.eq(settings.pad_top),
                             rows_left.eq(settings.input_height), request.payload.address.eq(settings.target_base)]
                with m.If(self.start):
                    m.next = "PADDING"
            with m.State("PADDING"):
                m.d.sync += rows_to_tap.eq(one_row_less)
                with m.If(rows_to_tap == 0):
                    m.next = "BEGIN"
                with m.Else():
                    m.d.comb += next_row.eq(1)
            with m.State("BEGIN"):
                # The byte behind the last that tap 0 sees.
                pad = settings.pad_left[:8]
                m.d.sync += [
                    next_at.eq(Cat(Const(7, 3), word) + ((pad + 7) >> 3)),
                    steps.eq(Cat((-pad)[:3], Const(8, 4))),
                    taps_left.eq(settings.kernel_width), bits_left.eq(7), loaded.eq(0), there.eq(0),
                ]
                m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += step.eq(1)
                m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += walk.eq(1)
                m.d.sync += [row.eq(top_row), row_place.eq(top_place), taps_above.eq(settings.kernel_height),
                             rows_to_tap.eq(1)]
                with m.If(tap & ~again):
                    m.next = "WRITE"
                    with m.If(last_word):
                        m.next = "TRIM"
                with m.Elif(load & fill):
                    m.d.comb += gather.eq(1)
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.sync += [
                    row.eq(row - 1), row_place.eq(row_place - words),
                    mask.address.eq(settings.mask_base + place[3:]
                                    + Mux(wide_y, row_place[1:], row_place[: len(mask.address)])),
                ]
                with m.If(rows_to_tap == 1):
                    m.d.sync += [asked.eq(row_there), rows_to_tap.eq(settings.dilation_y),
                                 taps_above.eq(taps_above - 1)]
                    with m.If(taps_above == 1):
                        m.next = "ARRIVE"
                with m.Else():
                    m.d.sync += rows_to_tap.eq(one_row_less)
            with m.State("ARRIVE"):
                with m.If(~asked):
                    m.d.sync += there.eq(1)
                    m.next = "WALK"
            with m.State("TRIM"):
                m.d.comb += trim.eq(1)
                m.next = "DROP"
            with m.State("DROP"):
                m.d.comb += drop.eq(1)
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += request.valid.eq(1)
                with m.If(request.ready):
                    m.d.comb += written.eq(1)
                    m.d.sync += [request.payload.address.eq(request.payload.address + 1), word.eq(word + 1)]
                    m.next = "BEGIN"
                    with m.If(last_word):
                        m.d.comb += next_row.eq(1)
                        m.d.sync += [word.eq(0), rows_left.eq(rows_left - 1)]
                        with m.If(rows_left == 1):
                            m.next = "IDLE"
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m
