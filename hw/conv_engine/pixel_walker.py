"""The pixel walker: a command's output region and its mask -> waves of active pixels.

For each group of output blocks it walks the region once, row by row; a mask word of 64 inactive pixels
takes one cycle. Pixels are gathered into waves; for each, two tables are filled: where its input window
starts (for the activation fetch) and where its output lies (for the drain).
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MemoryRead, word_address_bits

#: Waves in whose input table, and in whose output table, the walker may be ahead.
INPUT_WAVES = 2
OUTPUT_WAVES = 4


def byte_address_bits(config: Config) -> int:
    """Bits of a feature memory byte address."""
    return (config.feature_bytes - 1).bit_length()


class Wave(data.StructLayout):
    """A wave, as its consumers see it.

    Members
    -------
    pixels : its active pixels, at least 1. blocks : output blocks of its group.
    first_block : first output block of its group, counted from the command's first.
    last_in_group : no further wave of this group. last_group : the group is the command's last.
    """

    def __init__(self, config: Config):
        super().__init__({
            "pixels": unsigned(config.wave_pixels.bit_length()),
            "blocks": unsigned(config.rows.bit_length()),
            "first_block": 16,
            "last_in_group": 1,
            "last_group": 1,
        })


class WindowStart(data.StructLayout):
    """Where a pixel's input window starts: `address` in words (packed: bytes) modulo memory; row y, column x."""

    def __init__(self, config: Config):
        super().__init__({"address": byte_address_bits(config), "y": signed(18), "x": signed(18)})


class PixelWalker(wiring.Component):
    """Walks the active pixels of a command.

    Members
    -------
    start : pulse; the values below are stable from then on.
    gated, whole, output_rows, output_width, output_blocks, mask_base, unrolling, stride_y, stride_x, pad_left :
        from the command. first_y : input row of the first output row's window (may be negative).
    first_address : input address of that row's position 0 - pad_left. row_step, pixel_step : input
        address from an output row, pixel, to the next. output_row_stride, output_pixel_stride : words.
    mask : the mask memory.
    input_write : an entry of the input table, at `slot` * wave_pixels + `index`.
    output_write : the offset in words of a pixel's output, in the output table.
    wave : one item per wave. waves_free_input, waves_free_output : a slot of a table became free.
    done : no further wave will come (level, until the next start).
    active_pixels : pixels found in the first group.
    """

    def __init__(self, config: Config):
        self.config = config
        address = byte_address_bits(config)
        index = (config.wave_pixels - 1).bit_length()
        super().__init__({
            "start": In(1),
            "gated": In(1),
            "whole": In(1),
            "output_rows": In(16),
            "output_width": In(16),
            "output_blocks": In(16),
            "mask_base": In(16),
            "unrolling": In(range(len(config.unrollings))),
            "stride_y": In(8),
            "stride_x": In(8),
            "pad_left": In(8),
            "first_y": In(signed(18)),
            "first_address": In(address),
            "row_step": In(address),
            "pixel_step": In(address),
            "output_row_stride": In(16),
            "output_pixel_stride": In(16),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "input_write": Out(wiring.Signature({
                "valid": Out(1), "slot": Out(range(INPUT_WAVES)), "index": Out(index), "data": Out(WindowStart(config)),
            })),
            "output_write": Out(wiring.Signature({
                "valid": Out(1), "slot": Out(range(OUTPUT_WAVES)), "index": Out(index),
                "data": Out(word_address_bits(config)),
            })),
            "wave": Out(stream.Signature(Wave(config))),
            "input_freed": In(1),
            "output_freed": In(1),
            "done": Out(1),
            "active_pixels": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        address_bits = byte_address_bits(config)
        block_shift = self.unrolling
        rows_log2 = (config.rows - 1).bit_length()
        capacity = Signal(range(config.wave_pixels + 1))
        m.d.comb += capacity.eq(config.wave_pixels >> block_shift)

        # ---- position: row and mask word ------------------------------------------------------------------
        y = Signal(16)
        word_x = Signal(16)  # first pixel of the mask word
        first_block = Signal(17)
        row_address = Signal(address_bits)
        row_y = Signal(signed(18))
        row_output = Signal(word_address_bits(config))
        mask_at = Signal(16)

        remaining_width = Signal(16)
        remaining_blocks = Signal(16)
        word_is_row_last = Signal()
        row_is_last = Signal()
        group_blocks = Signal(config.rows.bit_length())
        last_group = Signal()
        blocks_at_once = Signal(rows_log2 + 1)
        next_word = Signal()
        m.d.comb += [
            remaining_width.eq(self.output_width - word_x),
            word_is_row_last.eq(remaining_width <= MASK_WORD_BITS),
            row_is_last.eq(y == self.output_rows - 1),
            blocks_at_once.eq(1 << block_shift),
            remaining_blocks.eq(self.output_blocks - first_block),
            last_group.eq(remaining_blocks <= blocks_at_once),
            group_blocks.eq(Mux(last_group, remaining_blocks, blocks_at_once)),
            # The words of a region follow one another: the next is read while this one is taken.
            self.mask.address.eq(mask_at + (next_word & ~self.whole)),
        ]
        active = Signal(MASK_WORD_BITS)
        with m.If(self.whole):
            m.d.comb += active.eq(self.mask.data[0].replicate(MASK_WORD_BITS))
        with m.Elif(self.gated):
            m.d.comb += active.eq(self.mask.data)
        with m.Else():
            m.d.comb += active.eq(-1)

        # ---- the word being walked: one pixel per cycle ---------------------------------------------------
        pending = Signal(MASK_WORD_BITS)
        lowest = Signal(MASK_WORD_BITS)
        rest = Signal(MASK_WORD_BITS)
        bit = Signal(range(MASK_WORD_BITS))
        m.d.comb += [rest.eq(pending & (pending - 1)), lowest.eq(pending & ~rest)]
        m.d.comb += bit.eq(Cat(
            Cat(lowest[i] for i in range(MASK_WORD_BITS) if i >> j & 1).any()
            for j in range(MASK_WORD_BITS.bit_length() - 1)))
        walked_x = Signal(16)
        walked_address = Signal(address_bits)
        walked_y = Signal(signed(18))
        walked_output = Signal.like(row_output)
        inside = Signal(MASK_WORD_BITS)
        with m.If(word_is_row_last):
            m.d.comb += inside.eq((1 << remaining_width[:7]) - 1)
        with m.Else():
            m.d.comb += inside.eq(-1)

        # ---- waves ----------------------------------------------------------------------------------------
        count = Signal(range(config.wave_pixels + 1))  # pixels gathered in the open wave
        input_slot = Signal(range(INPUT_WAVES))
        output_slot = Signal(range(OUTPUT_WAVES))
        input_free = Signal(range(INPUT_WAVES + 1), init=INPUT_WAVES)
        output_free = Signal(range(OUTPUT_WAVES + 1), init=OUTPUT_WAVES)
        slots_free = Signal()
        closing = Signal()
        full = Signal()
        take = Signal()
        group_ended = Signal()
        m.d.comb += [
            full.eq(count == capacity),
            slots_free.eq((input_free != 0) & (output_free != 0)),
            # A full wave stays open until the next active pixel, or the end of the group, is seen, so that
            # the last wave of a group is known as such.
            take.eq(pending.any() & ~full & slots_free),
            self.wave.payload.pixels.eq(count),
            self.wave.payload.blocks.eq(group_blocks),
            self.wave.payload.first_block.eq(first_block),
            self.wave.payload.last_group.eq(last_group),
            self.wave.payload.last_in_group.eq(group_ended),
        ]
        settling = Signal(2)  # pixels on their way to the tables
        m.d.comb += self.wave.valid.eq(
            ((full & pending.any()) | (group_ended & (count != 0))) & (settling == 0))
        m.d.comb += closing.eq(self.wave.valid & self.wave.ready)
        m.d.sync += [
            input_free.eq(input_free + self.input_freed - closing),
            output_free.eq(output_free + self.output_freed - closing),
        ]
        with m.If(closing):
            m.d.sync += [count.eq(0), input_slot.eq(input_slot + 1), output_slot.eq(output_slot + 1)]
        with m.If(take):
            m.d.sync += [count.eq(count + 1), pending.eq(rest)]
            with m.If(first_block == 0):
                m.d.sync += self.active_pixels.eq(self.active_pixels + 1)

        # ---- walk: fetch a mask word, hand it over when the one before is walked --------------------------
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.done.eq(1)
                with m.If(self.start):
                    m.d.sync += [
                        first_block.eq(0),
                        y.eq(0),
                        word_x.eq(0),
                        mask_at.eq(self.mask_base),
                        row_address.eq(self.first_address),
                        row_y.eq(self.first_y),
                        row_output.eq(0),
                        self.active_pixels.eq(0),
                    ]
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.next = "WORD"
            with m.State("WORD"):
                with m.If((pending == 0) | ((rest == 0) & take)):
                    m.d.comb += next_word.eq(1)
                    m.d.sync += [
                        pending.eq(active & inside),
                        walked_x.eq(word_x),
                        walked_address.eq(row_address),
                        walked_y.eq(row_y),
                        walked_output.eq(row_output),
                        mask_at.eq(mask_at + ~self.whole),
                        word_x.eq(word_x + MASK_WORD_BITS),
                    ]
                    with m.If(word_is_row_last):
                        m.d.sync += [
                            word_x.eq(0),
                            y.eq(y + 1),
                            row_address.eq(row_address + self.row_step),
                            row_y.eq(row_y + self.stride_y),
                            row_output.eq(row_output + self.output_row_stride),
                        ]
                        with m.If(row_is_last):
                            m.next = "DRAIN"
                    with m.If(self.whole & ~self.mask.data[0]):
                        m.next = "IDLE"
            with m.State("DRAIN"):
                with m.If(pending == 0):
                    m.d.comb += group_ended.eq(1)
                    with m.If((count == 0) | closing):
                        with m.If(last_group):
                            m.next = "IDLE"
                        with m.Else():
                            m.d.sync += [
                                first_block.eq(first_block + blocks_at_once),
                                y.eq(0),
                                mask_at.eq(self.mask_base),
                                row_address.eq(self.first_address),
                                row_y.eq(self.first_y),
                                row_output.eq(0),
                            ]
                            m.next = "ADDRESS"

        # ---- addresses of the pixel taken: multiply, then add ---------------------------------------------
        multiplied = Signal(data.StructLayout({
            "valid": 1, "x": 16, "input_slot": range(INPUT_WAVES), "output_slot": range(OUTPUT_WAVES),
            "index": (config.wave_pixels - 1).bit_length(), "address": address_bits, "y": signed(18),
            "output": word_address_bits(config),
        }))
        x = Signal(16)
        m.d.comb += x.eq(walked_x + bit)
        m.d.sync += [
            multiplied.valid.eq(take),
            multiplied.x.eq(x),
            multiplied.input_slot.eq(input_slot),
            multiplied.output_slot.eq(output_slot),
            multiplied.index.eq(count),
            multiplied.address.eq(walked_address),
            multiplied.y.eq(walked_y),
            multiplied.output.eq(walked_output),
        ]
        input_offset = Signal(address_bits)
        output_offset = Signal(word_address_bits(config))
        column = Signal(signed(26))
        added = Signal.like(multiplied)
        m.d.sync += [
            added.eq(multiplied),
            input_offset.eq(multiplied.x * self.pixel_step),
            output_offset.eq(multiplied.x * self.output_pixel_stride),
            column.eq(multiplied.x * self.stride_x),
        ]
        m.d.sync += settling.eq(Cat(take, settling[0]))
        m.d.comb += [
            self.input_write.valid.eq(added.valid),
            self.input_write.slot.eq(added.input_slot),
            self.input_write.index.eq(added.index),
            self.input_write.data.address.eq(added.address + input_offset),
            self.input_write.data.y.eq(added.y),
            self.input_write.data.x.eq(column - self.pad_left),
            self.output_write.valid.eq(added.valid),
            self.output_write.slot.eq(added.output_slot),
            self.output_write.index.eq(added.index),
            self.output_write.data.eq(added.output + output_offset),
        ]
        return m
