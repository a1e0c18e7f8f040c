"""Dilation of masks: from the pixels that a convolution computes to those that it reads, 64 at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MaskWrite, MemoryRead
from hw.vector_engine.settings import CORNER_BITS, Settings

_COLUMN_BITS = (MASK_WORD_BITS - 1).bit_length()


class Dilate(wiring.Component):
    """For every word of the input's mask, for every tap: the word of the output's mask whose pixels read it there.

    Tap kx of output pixel x' reads x = x' * stride - pad + kx * dilation. Bits x = 64 w .. 64 w + 63 of the input's
    mask are therefore bits (x + pad - kx * dilation) / stride of the output's: two neighbouring words, shifted; with
    a stride of 2 every second bit. A tap takes three cycles.

    Members
    -------
    settings : Settings, stable while busy. start : a DILATE command begins.
    mask, write : the mask memory. busy : from the cycle after `start` until the last word is written.
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
        place = signed(CORNER_BITS)

        # ---- sizes in words --------------------------------------------------------------------------------------
        last_source, last_target = Signal(16 - _COLUMN_BITS), Signal(16 - _COLUMN_BITS)
        last_pixel, last_column = Signal(16), Signal(16)
        row_end = Signal(MASK_WORD_BITS)  # the bits of a row's last word that are pixels
        m.d.comb += [
            last_pixel.eq(settings.output_width - 1),
            last_column.eq(settings.input_width - 1),
            last_source.eq(last_pixel[_COLUMN_BITS:]),
            last_target.eq(last_column[_COLUMN_BITS:]),
            row_end.eq(Cat(Const(1, 1), (last_pixel[:_COLUMN_BITS] >= i for i in range(1, MASK_WORD_BITS)))),
        ]

        # ---- where the walk is: target row and word, kernel row and column ---------------------------------------
        y, word = Signal(16), Signal(16 - _COLUMN_BITS)
        ky, kx = Signal(5), Signal(5)
        row, column = Signal(place), Signal(place)  # y + pad - ky * dilation, and the same of the word's first x
        gathered = Signal(MASK_WORD_BITS)
        row_address = Signal.like(mask.address)
        source_row, source_column = Signal(place), Signal(place)
        row_there = Signal()
        m.d.comb += [
            source_row.eq(Mux(settings.stride_y == 2, row >> 1, row)),
            row_there.eq((row >= 0) & ~((settings.stride_y == 2) & row[0]) & (source_row < settings.output_rows)),
            source_column.eq(Mux(settings.stride_x == 2, (column + 1) >> 1, column)),
        ]

        # ---- two words of the source, and the 64 bits that begin in the first ------------------------------------
        index, next_index = Signal(signed(CORNER_BITS)), Signal(signed(CORNER_BITS))
        low = Signal(MASK_WORD_BITS)

        def there(at) -> Signal:
            return (at >= 0) & (at <= last_source)

        def pixels(at):
            """The word that arrives from index `at` of the row, without what lies past the row's end."""
            return Mux(there(at), Mux(at == last_source, mask.data & row_end, mask.data), 0)

        window = Signal(MASK_WORD_BITS)
        spread = Signal(MASK_WORD_BITS)
        both = Signal(2 * MASK_WORD_BITS)
        m.d.comb += [
            index.eq(source_column >> _COLUMN_BITS),
            next_index.eq(index + 1),
            both.eq(Cat(low, pixels(next_index))),
            window.eq(both >> source_column[:_COLUMN_BITS]),
            spread.eq(window),
        ]
        with m.If(settings.stride_x == 2):
            m.d.comb += spread.eq(Cat(Cat(window[i] & ~column[0], window[i] & column[0])
                                      for i in range(MASK_WORD_BITS // 2)))

        def next_kernel_row():
            with m.If(ky == settings.kernel_height - 1):
                m.next = "WRITE"
            with m.Else():
                m.d.sync += [ky.eq(ky + 1), row.eq(row - settings.dilation_y)]
                m.next = "ROW"

        def begin_word(at_row, at_word):
            m.d.sync += [ky.eq(0), gathered.eq(0), row.eq(at_row + settings.pad_top), word.eq(at_word), y.eq(at_row)]
            m.next = "ROW"

        m.d.comb += mask.address.eq(row_address + index)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += request.payload.address.eq(settings.target_base)
                    begin_word(0, 0)
            with m.State("ROW"):
                m.d.sync += [
                    row_address.eq(settings.mask_base + source_row * (last_source + 1)),
                    kx.eq(0),
                    column.eq((word << _COLUMN_BITS) + settings.pad_left),
                ]
                with m.If(row_there):
                    m.next = "LOW"
                with m.Else():
                    next_kernel_row()
            with m.State("LOW"):
                m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += mask.address.eq(row_address + next_index)
                m.d.sync += low.eq(pixels(index))
                m.next = "USE"
            with m.State("USE"):
                m.d.sync += [gathered.eq(gathered | spread), kx.eq(kx + 1), column.eq(column - settings.dilation_x)]
                with m.If(kx == settings.kernel_width - 1):
                    next_kernel_row()
                with m.Else():
                    m.next = "LOW"
            with m.State("WRITE"):
                m.d.comb += request.valid.eq(1)
                with m.If(request.ready):
                    m.d.sync += request.payload.address.eq(request.payload.address + 1)
                    with m.If(word != last_target):
                        begin_word(y, word + 1)
                    with m.Elif(y != settings.input_height - 1):
                        begin_word(y + 1, 0)
                    with m.Else():
                        m.next = "IDLE"
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        valid_bits = Signal(MASK_WORD_BITS)
        m.d.comb += [
            valid_bits.eq(Cat(Const(1, 1), (last_column[:_COLUMN_BITS] >= i for i in range(1, MASK_WORD_BITS)))),
            request.payload.data.eq(Mux(word == last_target, gathered & valid_bits, gathered)),
        ]
        return m
