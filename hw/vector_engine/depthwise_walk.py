"""Walks over the lines of taps of a depthwise kernel, and reads each word that a line does not hold yet.

A line is three neighbouring taps of a kernel row. From an output pixel to the next in a row it moves on by the
stride, and all but that many of its words are still there (see `depthwise_mac`); a pixel after a gap reads all
three. Two words are read at a time: a pixel takes one cycle per line, or two where it reads three words.
"""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.contract.config import KERNEL_MAX, Config
from hw.contract.layouts import DEPTHWISE_TAPS, depthwise_lines
from hw.ports import word_address_bits
from hw.vector_engine.settings import CORNER_BITS, Settings
from hw.vector_engine.window_generator import Window
from hw.vector_engine.word_reader import Fetch

#: Windows that wait: what the window generator does not make while it goes from a row to the next.
_WINDOWS = 4

#: Bits of a line's number within a kernel.
LINE_BITS = (KERNEL_MAX * depthwise_lines(KERNEL_MAX) - 1).bit_length()


class LineTag(data.StructLayout):
    """What is known of a step.

    line : its number. parity : of the channel block. pair : words a and b are both new, else only b.
    first_word : only a is new, and the oldest; there is more to come. clear : the oldest word is padding.
    first, last : line of the pixel. output : word of the result.
    """

    def __init__(self, config: Config):
        super().__init__({
            "last": 1,
            "output": unsigned(word_address_bits(config)),
            "first": 1,
            "parity": 1,
            "pair": 1,
            "first_word": 1,
            "clear": 1,
            "line": unsigned(LINE_BITS),
        })


class DepthwiseWalk(wiring.Component):
    """For every window, for every line with rows inside the input: one step, or two.

    Members
    -------
    settings : Settings, stable while busy. window : stream of Window, all of a channel block, then of the next.
    start : a command begins. fetch : stream of Fetch; the tag starts with a LineTag.
    busy : a window is under way.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "window": In(stream.Signature(Window(config))),
            "fetch": Out(stream.Signature(Fetch(config, tag_bits))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, fetch = self.config, self.settings, self.fetch
        address_bits = word_address_bits(config)
        position = signed(CORNER_BITS)

        # ---- windows wait here, so that the way from a row to the next costs nothing -------------------------------
        m.submodules.windows = windows = SyncFIFO(width=Window(config).size, depth=_WINDOWS)
        window = data.View(Window(config), windows.r_data)

        # ---- the first kernel row inside the input: looked for while the pixel before is being worked on ----------
        looking, found, begins_inside = Signal(), Signal(), Signal()
        first_ky, first_y, first_line = Signal(8), Signal(position), Signal(LINE_BITS)
        first_offset = Signal(address_bits)
        ready_window = Signal()
        m.d.comb += [
            begins_inside.eq(window.new_row & (window.row >= 0)),
            ready_window.eq(windows.r_rdy & (~window.new_row | found | begins_inside)),
        ]
        with m.If(self.start):
            m.d.sync += [looking.eq(0), found.eq(0)]
        with m.Elif(windows.r_rdy & window.new_row & ~found & ~begins_inside):
            with m.If(~looking):
                m.d.sync += [looking.eq(1), first_ky.eq(1), first_y.eq(window.row), first_line.eq(0),
                             first_offset.eq(0)]
            with m.Elif((first_y < 0) & (first_ky != settings.kernel_height)):
                m.d.sync += [
                    first_ky.eq(first_ky + 1),
                    first_y.eq(first_y + settings.dilation_y),
                    first_line.eq(first_line + settings.lines),
                    first_offset.eq(first_offset + settings.tap_row_step),
                ]
            with m.Else():
                m.d.sync += [looking.eq(0), found.eq(1)]

        # ---- the pixel that is being worked on -------------------------------------------------------------------
        active, second = Signal(), Signal()
        ky, y, line, group = Signal(8), Signal(position), Signal(LINE_BITS), Signal(3)
        row_address, address = Signal(address_bits), Signal(address_bits)
        pixel_column, column, last_column = Signal(position), Signal(position), Signal(position)
        output, parity = Signal(address_bits), Signal()
        new = Signal(2)  # words of a line that are new, 1 to 3

        row_inside, next_y = Signal(), Signal(position)
        last_row, last_group = Signal(), Signal()
        wanted = Signal(DEPTHWISE_TAPS)
        taps = [Signal(address_bits, name=f"tap_{j}") for j in range(DEPTHWISE_TAPS)]
        at = [Signal(position, name=f"column_{j}") for j in range(DEPTHWISE_TAPS)]
        m.d.comb += [
            next_y.eq(y + settings.dilation_y),
            row_inside.eq((y >= 0) & (y < settings.input_height)),
            last_row.eq((ky == settings.kernel_height) | (next_y >= settings.input_height)),
            last_group.eq(group == settings.lines),
        ]
        for j in range(DEPTHWISE_TAPS):
            inside = (at[j] >= 0) & (at[j] < settings.input_width) & row_inside
            used = (group != 1) | (settings.unused_taps <= j)
            m.d.comb += [
                taps[j].eq(address + (0, settings.tap_column_step, settings.tap_column_step << 1)[j]),
                at[j].eq(column + (0, settings.dilation_x, settings.dilation_x << 1)[j]),
                wanted[j].eq(inside & used & (new >= DEPTHWISE_TAPS - j)),
            ]
        first_word, step, end_of_line, end_of_pixel = Signal(), Signal(), Signal(), Signal()
        tag = Signal(LineTag(config))
        first = Signal()
        m.d.comb += [
            first_word.eq(wanted[0] & ~second),
            fetch.valid.eq(active),
            fetch.payload.read_a.eq(Mux(first_word, 1, wanted[1])),
            fetch.payload.read_b.eq(~first_word & wanted[2]),
            fetch.payload.a.eq(Mux(first_word, taps[0], taps[1])),
            fetch.payload.b.eq(taps[2]),
            fetch.payload.tag.eq(tag),
            tag.line.eq(line),
            tag.parity.eq(parity),
            tag.pair.eq(new != 1),
            tag.first_word.eq(first_word),
            tag.clear.eq((new == DEPTHWISE_TAPS) & ~wanted[0]),
            tag.first.eq(first),
            tag.last.eq(last_row & last_group),
            tag.output.eq(output),
            step.eq(fetch.valid & fetch.ready),
            end_of_line.eq(step & ~first_word),
            end_of_pixel.eq(end_of_line & last_row & last_group),
            self.busy.eq(active | windows.r_rdy),
        ]
        with m.If(step):
            m.d.sync += second.eq(first_word)
        with m.If(end_of_line):
            m.d.sync += [first.eq(0), line.eq(line + 1)]
            with m.If(~last_group):
                m.d.sync += [
                    group.eq(group + 1),
                    address.eq(taps[2] + settings.tap_column_step),
                    column.eq(at[2] + settings.dilation_x),
                ]
            with m.Else():
                next_row = Signal(address_bits)
                m.d.comb += next_row.eq(row_address + settings.tap_row_step)
                m.d.sync += [
                    ky.eq(ky + 1), y.eq(next_y), row_address.eq(next_row), address.eq(next_row),
                    column.eq(pixel_column), group.eq(1),
                ]

        # ---- the next pixel --------------------------------------------------------------------------------------
        take = Signal()
        distance = Signal(position)
        start_address = Signal(address_bits)
        m.d.comb += [
            take.eq(~active | end_of_pixel),
            windows.w_data.eq(self.window.payload),
            windows.w_en.eq(self.window.valid),
            self.window.ready.eq(windows.w_rdy),
            windows.r_en.eq(take & ready_window),
            distance.eq(window.column - last_column),
            start_address.eq(window.a + Mux(begins_inside, 0, first_offset)),
        ]
        with m.If(take):
            m.d.sync += active.eq(ready_window)
            with m.If(ready_window):
                m.d.sync += [
                    found.eq(0),
                    first.eq(1), group.eq(1), ky.eq(first_ky), y.eq(first_y), line.eq(first_line),
                    row_address.eq(start_address), address.eq(start_address),
                    pixel_column.eq(window.column), column.eq(window.column),
                    last_column.eq(window.column),
                    output.eq(window.output), parity.eq(window.parity),
                    new.eq(Mux(window.new_row | ~settings.kept | (distance > 2), DEPTHWISE_TAPS,
                               distance[:2])),
                ]
                with m.If(begins_inside):
                    for now, kept, value in ((ky, first_ky, 1), (y, first_y, window.row), (line, first_line, 0)):
                        m.d.sync += [now.eq(value), kept.eq(value)]
                    m.d.sync += first_offset.eq(0)
        return m
