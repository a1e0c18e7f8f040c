"""The pixel walker: a command's output region and its mask -> waves of active pixels.

For each group of output blocks it walks the region once, row by row; a mask word of 64 inactive pixels
takes one cycle. Pixels are gathered into waves; for each, two tables are filled: where its input window
starts (for the activation fetch) and where its output lies (for the drain).

    mask memory -> word read -> word, chunks of 8 pixels left -> chunk -> pending: one pixel per cycle
        -> place in its chunk's -> tables

What lies a pixel apart, times 0 to 7, stands in a small memory that is filled while the command is set up: with it
the place of a chunk in its word, and of a pixel in its chunk, take an addition each.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.conv_engine.bits import encode, two_or_more, up_to
from hw.ports import MemoryRead, word_address_bits
from hw.register_slice import RegisterSlice

#: Waves in whose input table, and in whose output table, the walker may be ahead.
INPUT_WAVES = 2
OUTPUT_WAVES = 4

#: Pixels of a mask word that are looked at together.
CHUNK = 8


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


class Place(data.StructLayout):
    """Of a pixel: its input window's address and column, its output's offset; all modulo their width."""

    def __init__(self, config: Config):
        super().__init__({"address": byte_address_bits(config), "x": 18, "output": word_address_bits(config)})


class PixelWalker(wiring.Component):
    """Walks the active pixels of a command.

    Members
    -------
    steps_known : pulse, CHUNK - 4 cycles before `start` at least; stride_x, pixel_step and output_pixel_stride are
        stable from then on.
    start : pulse; the values below are stable from then on.
    gated, whole, output_rows, output_blocks, mask_base, unrolling, stride_y, stride_x, pad_left : from the command.
        width_last : one less than its output_width. first_y : input row of the first output row's window (may be
        negative).
    first_address : input address of that row's position 0 - pad_left. row_step, pixel_step : input
        address from an output row, pixel, to the next. output_row_stride, output_pixel_stride : words.
    mask : the mask memory.
    input_write : an entry of the input table, at `slot` * wave_pixels + `index`.
    output_write : the offset in words of a pixel's output, in the output table.
    wave : one item per wave. input_freed, output_freed : a slot of a table became free.
    done : no further wave will come (level, until the next start).
    active_pixels : pixels found in the first group.
    """

    def __init__(self, config: Config):
        self.config = config
        address = byte_address_bits(config)
        index = (config.wave_pixels - 1).bit_length()
        super().__init__({
            "steps_known": In(1),
            "start": In(1),
            "gated": In(1),
            "whole": In(1),
            "output_rows": In(16),
            "width_last": In(16),
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
        rows_log2 = (config.rows - 1).bit_length()
        place_layout = Place(config)
        chunks = MASK_WORD_BITS // CHUNK
        bit_bits, chunk_bits, word_bits = ((n - 1).bit_length() for n in (CHUNK, chunks, MASK_WORD_BITS))

        def plus(name, place, offset, shift=0):
            """A place and, 2**shift times, an offset."""
            total = Signal(place_layout, name=name)
            m.d.comb += [total[part].eq(place[part] + (offset[part] << shift)) for part in ("address", "x", "output")]
            return total

        # ---- a pixel's step, times 0 to 7 -----------------------------------------------------------------
        step = Signal(place_layout)
        m.d.comb += [step.address.eq(self.pixel_step), step.x.eq(self.stride_x),
                     step.output.eq(self.output_pixel_stride)]
        m.submodules.multiples = multiples = Memory(shape=unsigned(place_layout.size), depth=CHUNK, init=[])
        fill = multiples.write_port()
        of_bit, of_chunk = multiples.read_port(domain="comb"), multiples.read_port(domain="comb")
        fill_at = Signal(range(CHUNK + 1), init=CHUNK)
        multiple = Signal(place_layout)
        m.d.comb += [fill.addr.eq(fill_at), fill.data.eq(multiple), fill.en.eq(fill_at != CHUNK)]
        with m.If(self.steps_known):
            m.d.sync += [fill_at.eq(0), multiple.eq(0)]
        with m.Elif(fill.en):
            m.d.sync += [fill_at.eq(fill_at + 1), multiple.eq(plus("next_multiple", multiple, step))]

        # ---- position of the mask word that is read -------------------------------------------------------
        row = Signal(16)  # from 1 on
        words_left = Signal(16 - word_bits)  # of the row
        row_address = Signal(byte_address_bits(config))
        row_output = Signal(word_address_bits(config))
        row_y = Signal(signed(18))
        read_place = Signal(place_layout)
        first_block = Signal(16)
        blocks_left = Signal(16)
        mask_at = Signal.like(self.mask.address)
        blocks_at_once = Signal(rows_log2 + 1)
        last_group, first_group = Signal(), Signal()
        group_blocks = Signal(config.rows.bit_length())
        m.d.comb += blocks_at_once.eq(1 << self.unrolling)

        # ---- stages: each holds what follows the one after it ---------------------------------------------
        word_layout = data.StructLayout({  # final: the word's last pixel inside
            "data": MASK_WORD_BITS, "at": place_layout, "y": signed(18), "final": word_bits})
        m.submodules.words = words = RegisterSlice(word_layout)  # that were read, at the front
        read, word = words.o.payload, Signal(word_layout)
        chunk_at, pixel_at, placing_at = (
            Signal(place_layout, name=f"{name}_place") for name in ("chunk", "pixel", "placing"))
        chunk_y, pixel_y = (Signal(signed(18), name=f"{name}_y") for name in ("chunk", "pixel"))
        all_active = Signal()
        capture, word_taken, chunk_loaded, chunk_taken, take = (Signal() for _ in range(5))

        left = Signal(chunks)  # chunks of the word that have not gone on
        some_left, several_left = Signal(), Signal()
        present = Signal(chunks)
        m.d.comb += present.eq(Cat(
            read.data.word_select(c, CHUNK).any() & (c <= read.final[bit_bits:] if c else 1)
            for c in range(chunks)))
        left_reached = up_to(m, left, "left_reached")
        left_rest = Signal(chunks)
        m.d.comb += [
            left_rest.eq(left & (left_reached << 1)),
            words.o.ready.eq(~some_left | (~several_left & chunk_loaded)),
            word_taken.eq(words.o.valid & words.o.ready),
        ]
        with m.If(word_taken):
            m.d.sync += [
                word.eq(read), left.eq(present),
                some_left.eq(present.any()), several_left.eq(two_or_more(m, present, "present")),
            ]
        with m.Elif(chunk_loaded):
            m.d.sync += [left.eq(left_rest), some_left.eq(several_left),
                         several_left.eq(two_or_more(m, left_rest, "left_rest"))]

        chunk = Signal(CHUNK)
        chunk_valid = Signal()
        chunk_index, next_index = Signal(chunk_bits), encode(m, left & ~(left_reached << 1), "next_chunk")
        chunk_is_final, chunk_final = Signal(), Signal(bit_bits)
        m.d.comb += chunk_loaded.eq(some_left & (~chunk_valid | chunk_taken))
        with m.If(chunk_loaded):
            m.d.sync += [
                chunk.eq(word.data.word_select(next_index, CHUNK)), chunk_index.eq(next_index), chunk_at.eq(word.at),
                chunk_y.eq(word.y), chunk_is_final.eq(next_index == word.final[bit_bits:]),
                chunk_final.eq(word.final[:bit_bits]),
            ]
        with m.If(chunk_loaded | chunk_taken):
            m.d.sync += chunk_valid.eq(chunk_loaded)

        pending, inside = Signal(CHUNK), Signal(CHUNK)
        some, several = Signal(), Signal()
        active = Signal(CHUNK)
        reached = up_to(m, pending, "reached")
        rest = Signal(CHUNK)
        closed = Signal()  # no pixel can be taken
        m.d.comb += [
            inside.eq(Cat(1, *(~chunk_is_final | (i <= chunk_final) for i in range(1, CHUNK)))),
            active.eq(chunk & inside),
            rest.eq(pending & (reached << 1)),
            take.eq(some & ~closed),
            chunk_taken.eq(chunk_valid & (~some | (take & ~several))),
            of_chunk.addr.eq(chunk_index),
        ]
        with m.If(chunk_taken):
            m.d.sync += [
                pending.eq(active), some.eq(active.any()), several.eq(two_or_more(m, active, "active")),
                pixel_at.eq(plus("chunk_start", chunk_at, data.View(place_layout, of_chunk.data), bit_bits)),
                pixel_y.eq(chunk_y),
            ]
        with m.Elif(take):
            m.d.sync += [pending.eq(rest), some.eq(several), several.eq(two_or_more(m, rest, "rest"))]

        # ---- waves ----------------------------------------------------------------------------------------
        count = Signal(range(config.wave_pixels + 1))  # pixels gathered in the open wave
        capacity = Signal.like(count)
        input_slot = Signal(range(INPUT_WAVES))
        output_slot = Signal(range(OUTPUT_WAVES))
        input_free = Signal(range(INPUT_WAVES + 1), init=INPUT_WAVES)
        output_free = Signal(range(OUTPUT_WAVES + 1), init=OUTPUT_WAVES)
        input_free_next, output_free_next = Signal.like(input_free), Signal.like(output_free)
        full, full_next = Signal(), Signal()
        closing = Signal()
        group_ended = Signal()  # in a register: after a group's last pixel the tables settle anyway
        settling = Signal(2)  # pixels on their way to the tables
        m.d.comb += [
            capacity.eq(config.wave_pixels >> self.unrolling),
            self.wave.payload.pixels.eq(count),
            self.wave.payload.blocks.eq(group_blocks),
            self.wave.payload.first_block.eq(first_block),
            self.wave.payload.last_group.eq(last_group),
            self.wave.payload.last_in_group.eq(group_ended),
            self.wave.valid.eq(((full & some) | (group_ended & (count != 0))) & (settling == 0)),
            closing.eq(self.wave.valid & self.wave.ready),
            input_free_next.eq(input_free + self.input_freed - closing),
            output_free_next.eq(output_free + self.output_freed - closing),
        ]
        m.d.sync += [
            input_free.eq(input_free_next),
            output_free.eq(output_free_next),
            # A full wave stays open until the next active pixel, or the end of the group, is seen, so that
            # the last wave of a group is known as such.
            full.eq(full_next),
            closed.eq(full_next | (input_free_next == 0) | (output_free_next == 0)),
            settling.eq(Cat(take, settling[0])),
        ]
        m.d.comb += full_next.eq(Mux(take, count == (capacity - 1)[: len(count)], full & ~closing))
        with m.If(closing):
            m.d.sync += [count.eq(0), input_slot.eq(input_slot + 1), output_slot.eq(output_slot + 1)]
        with m.If(take):
            m.d.sync += count.eq(count + 1)
        with m.If(settling[0] & first_group):
            m.d.sync += self.active_pixels.eq(self.active_pixels + 1)

        # ---- walk: read a mask word, hand it over when the one before has gone on -------------------------
        row_last = Signal()
        m.d.comb += [
            row_last.eq(words_left == 0),
            # The words of a region follow one another: the next is read while this one is taken.
            self.mask.address.eq(Mux(capture, mask_at + 1, mask_at)),
        ]
        front = words.i.payload
        m.d.comb += [
            front.data.eq(self.mask.data | all_active.replicate(MASK_WORD_BITS)),
            front.at.eq(read_place),
            front.y.eq(row_y),
            front.final.eq(Mux(row_last, self.width_last[:word_bits], MASK_WORD_BITS - 1)),
            capture.eq(words.i.valid & words.i.ready),
        ]
        with m.If(capture):
            m.d.sync += [
                mask_at.eq(mask_at + 1),
                words_left.eq(words_left - 1),
                read_place.eq(plus("next_word", read_place, step, word_bits)),
            ]
        group_begins = Signal()
        row_begins = Signal()
        next_address, next_output = Signal.like(row_address), Signal.like(row_output)
        m.d.comb += [
            row_begins.eq(capture & row_last),
            next_address.eq(row_address + self.row_step),
            next_output.eq(row_output + self.output_row_stride),
        ]
        with m.If(row_begins):
            m.d.sync += [
                row.eq(row + 1), row_address.eq(next_address), row_output.eq(next_output),
                row_y.eq(row_y + self.stride_y), read_place.address.eq(next_address), read_place.output.eq(next_output),
            ]
        with m.If(group_begins):
            m.d.sync += [
                row.eq(1), row_address.eq(self.first_address), row_output.eq(0),
                row_y.eq(self.first_y), read_place.address.eq(self.first_address), read_place.output.eq(0),
                mask_at.eq(self.mask_base),
            ]
        with m.If(row_begins | group_begins):
            m.d.sync += [words_left.eq(self.width_last[word_bits:]), read_place.x.eq(-self.pad_left)]

        m.d.sync += group_ended.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.done.eq(1)
                m.d.sync += [first_block.eq(0), blocks_left.eq(self.output_blocks), first_group.eq(1)]
                with m.If(self.start):
                    m.d.comb += group_begins.eq(1)
                    m.d.sync += [self.active_pixels.eq(0), all_active.eq(~self.gated)]
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                with m.If(blocks_left <= blocks_at_once):
                    m.d.sync += [last_group.eq(1), group_blocks.eq(blocks_left)]
                with m.Else():
                    m.d.sync += [last_group.eq(0), group_blocks.eq(blocks_at_once)]
                with m.If(self.whole & first_group):
                    m.next = "WHOLE"
                with m.Else():
                    m.next = "WORD"
            with m.State("WHOLE"):  # one bit says whether there is anything to do: for all groups
                m.d.sync += all_active.eq(self.mask.data[0])
                m.next = "WHOLE_KNOWN"
            with m.State("WHOLE_KNOWN"):
                with m.If(all_active):
                    m.next = "WORD"
                with m.Else():
                    m.next = "IDLE"
            with m.State("WORD"):
                m.d.comb += words.i.valid.eq(1)
                with m.If(row_begins & (row == self.output_rows)):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += group_ended.eq(~(words.o.valid | some_left | chunk_valid | some))
                with m.If(group_ended):
                    with m.If((count == 0) | closing):
                        m.d.sync += group_ended.eq(0)
                        with m.If(last_group):
                            m.next = "IDLE"
                        with m.Else():
                            m.d.sync += [first_block.eq(first_block + blocks_at_once), first_group.eq(0),
                                         blocks_left.eq(blocks_left - blocks_at_once)]
                            m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += group_begins.eq(1)
                m.next = "ADDRESS"

        # ---- the pixel taken: its place in its chunk, added -----------------------------------------------
        tag_layout = data.StructLayout({
            "valid": 1, "input_slot": range(INPUT_WAVES), "output_slot": range(OUTPUT_WAVES),
            "index": (config.wave_pixels - 1).bit_length(), "y": signed(18),
        })
        placing, placed = Signal(tag_layout), Signal(tag_layout)
        placed_at = Signal(place_layout)
        bit = Signal(bit_bits)
        m.d.sync += [
            placing.valid.eq(take),
            placing.input_slot.eq(input_slot),
            placing.output_slot.eq(output_slot),
            placing.index.eq(count),
            placing.y.eq(pixel_y),
            placing_at.eq(pixel_at),
            bit.eq(encode(m, pending & ~(reached << 1), "lowest")),
            placed.eq(placing),
            placed_at.eq(plus("pixel_start", placing_at, data.View(place_layout, of_bit.data))),
        ]
        m.d.comb += [
            of_bit.addr.eq(bit),
            self.input_write.valid.eq(placed.valid),
            self.input_write.slot.eq(placed.input_slot),
            self.input_write.index.eq(placed.index),
            self.input_write.data.address.eq(placed_at.address),
            self.input_write.data.y.eq(placed.y),
            self.input_write.data.x.eq(placed_at.x.as_signed()),
            self.output_write.valid.eq(placed.valid),
            self.output_write.slot.eq(placed.output_slot),
            self.output_write.index.eq(placed.index),
            self.output_write.data.eq(placed_at.output),
        ]
        return m
