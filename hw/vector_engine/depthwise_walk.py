"""Walks over the lines of taps of a depthwise kernel, and reads each word that a line does not hold yet.

A line is three neighbouring taps of a kernel row. From an output pixel to the next in a row it moves on by the
stride, and all but that many of its words are still there (see `depthwise_mac`); a pixel after a gap reads all
three. Two words are read at a time: a pixel takes one cycle per line, or two where it reads three words.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.contract.config import KERNEL_MAX, Config
from hw.contract.layouts import DEPTHWISE_TAPS, depthwise_lines
from hw.ports import word_address_bits
from hw.register_slice import RegisterSlice
from hw.vector_engine.settings import Settings
from hw.vector_engine.window_generator import Window
from hw.vector_engine.word_reader import Fetch

#: Windows that wait: what the window generator does not make while it goes from a row to the next.
_WINDOWS = 4

#: A kernel row's taps, those of lines that are not used included, lie at most this many columns apart.
_KERNEL_REACH = (depthwise_lines(KERNEL_MAX) * DEPTHWISE_TAPS - 1) * 255

#: Distances from an edge of the input, signed, are exact as far as a kernel reaches, and no farther.
_DISTANCE_BITS = _KERNEL_REACH.bit_length() + 1

#: Distances of a window's first tap before the first column or row: padding is less than this.
_BEFORE_BITS = 11

#: Bits of a row or column whose place in the input matters: all of the others lie behind it.
_PLACE_BITS = 17

#: Bits of a kernel row's number, from 1 on.
_KY_BITS = KERNEL_MAX.bit_length()

#: Bits of a line's number within a kernel.
LINE_BITS = (KERNEL_MAX * depthwise_lines(KERNEL_MAX) - 1).bit_length()


class LineTag(data.StructLayout):
    """What is known of a step.

    line : its number. parity : of the channel block. pair : words a and b are both new, else only b.
    first_word : only a is new, and the oldest; there is more to come. clear : the oldest word is padding.
    last : line of the pixel. output : word of the result.
    """

    def __init__(self, config: Config):
        super().__init__({
            "last": 1,
            "output": unsigned(word_address_bits(config)),
            "parity": 1,
            "pair": 1,
            "first_word": 1,
            "clear": 1,
            "line": unsigned(LINE_BITS),
        })


class _Waiting(data.StructLayout):
    """A window that waits, in the terms of the walk.

    a : word of the first tap in the first kernel row that is inside the input. output, parity : as in Window.
    new : words of a line that it does not share with the pixel before, 1 to 3. three : it shares none, and its row is
    inside.
    next_ky, line : the number of the row behind this one, from 1 on, and that of this one's first line. last_ky : this
    is the kernel's last row. row_inside : this row is inside the input, else none is, and it is the last one.
    next_past : distance of the next row from the one behind the input, negative if it is inside.
    before, past : distance of the first tap from the first column (0 if it is not before it), and from the column
    behind the input.
    """

    def __init__(self, config: Config):
        super().__init__({
            "a": unsigned(word_address_bits(config)),
            "output": unsigned(word_address_bits(config)),
            "parity": 1,
            "new": 2,
            "three": 1,
            "next_ky": unsigned(_KY_BITS),
            "last_ky": 1,
            "line": unsigned(LINE_BITS),
            "row_inside": 1,
            "next_past": signed(_DISTANCE_BITS),
            "before": signed(_BEFORE_BITS),
            "past": signed(_DISTANCE_BITS),
        })


class DepthwiseWalk(wiring.Component):
    """For every window, for every line with rows inside the input: one step, or two.

    Members
    -------
    settings : Settings, stable while busy. window : stream of Window, all of a channel block, then of the next.
    fetch : stream of Fetch; the tag starts with a LineTag.
    busy : a window is under way.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        super().__init__({
            "settings": In(Settings(config)),
            "window": In(stream.Signature(Window(config))),
            "fetch": Out(stream.Signature(Fetch(config, tag_bits))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings = self.config, self.settings
        m.submodules.slice = slice_ = RegisterSlice(Fetch(config, self.tag_bits))
        wiring.connect(m, slice_.o, wiring.flipped(self.fetch))
        fetch = slice_.i
        address_bits = word_address_bits(config)
        distance = signed(_DISTANCE_BITS)
        m.submodules.windows = windows = SyncFIFO(width=_Waiting(config).size, depth=_WINDOWS)
        arriving = self._prepare(m, windows)
        window = data.View(_Waiting(config), windows.r_data)

        # ---- the pixel that is being worked on -------------------------------------------------------------------
        active, second = Signal(), Signal()
        # Whether a row or a line is the last one is known before its turn: numbers run one ahead.
        next_ky, line, next_group = Signal(_KY_BITS), Signal(LINE_BITS), Signal(3)
        last_ky, first_group, last_group = Signal(), Signal(), Signal()
        row_address, address = Signal(address_bits), Signal(address_bits)
        output, parity = Signal(address_bits), Signal()
        new, three = Signal(2), Signal()
        first_used = Signal()  # the line's first tap is one of the kernel's
        before, past = Signal(distance), Signal(distance)  # of the line's first tap, across
        row_before, row_past = Signal(signed(_BEFORE_BITS)), Signal(distance)  # of the row's
        next_past, row_inside = Signal(distance), Signal()

        last_row = Signal()
        wanted, inside = Signal(DEPTHWISE_TAPS), Signal(DEPTHWISE_TAPS)
        # The line's three taps, and the one that the next line begins with.
        taps = [address] + [Signal(address_bits, name=f"tap_{j}") for j in range(1, DEPTHWISE_TAPS + 1)]
        befores = [before] + [Signal(distance, name=f"before_{j}") for j in range(1, DEPTHWISE_TAPS + 1)]
        pasts = [past] + [Signal(distance, name=f"past_{j}") for j in range(1, DEPTHWISE_TAPS + 1)]
        for j, of, by in ((1, 0, 0), (2, 0, 1), (3, 2, 0)):
            m.d.comb += [
                taps[j].eq(taps[of] + (settings.tap_column_step << by)),
                befores[j].eq(befores[of] + (settings.dilation_x << by)),
                pasts[j].eq(pasts[of] + (settings.dilation_x << by)),
            ]
        m.d.comb += [
            last_row.eq(last_ky | ~next_past[-1]),
        ]
        row_begins = [next_group.eq(2), first_group.eq(1), last_group.eq(settings.lines == 1),
                      first_used.eq(settings.unused_taps == 0)]
        for j in range(DEPTHWISE_TAPS):
            used = ~first_group | (settings.unused_taps <= j)
            m.d.comb += [
                inside[j].eq(~befores[j][-1] & pasts[j][-1] & row_inside & used),
                wanted[j].eq(inside[j] & (new >= DEPTHWISE_TAPS - j)),
            ]
        # The first word decides about everything here: from as few bits as can be.
        first_word, end_of_line, end_of_pixel = Signal(), Signal(), Signal()
        tag = Signal(LineTag(config))
        m.d.comb += [
            first_word.eq(three & first_used & ~before[-1] & past[-1] & ~second),
            tag.line.eq(line),
            tag.parity.eq(parity),
            tag.pair.eq(new != 1),
            tag.first_word.eq(first_word),
            tag.clear.eq((new == DEPTHWISE_TAPS) & ~inside[0]),
            tag.last.eq(last_row & last_group),
            tag.output.eq(output),
            fetch.valid.eq(active),
            fetch.payload.read_a.eq(first_word | wanted[1]),
            fetch.payload.read_b.eq(~first_word & wanted[2]),
            fetch.payload.a.eq(Mux(first_word, taps[0], taps[1])),
            fetch.payload.b.eq(taps[2]),
            fetch.payload.tag.eq(tag),
            end_of_line.eq(active & fetch.ready & ~first_word),
            end_of_pixel.eq(end_of_line & last_row & last_group),
            self.busy.eq(active | windows.r_rdy | arriving | self.fetch.valid),
        ]
        with m.If(fetch.ready):
            m.d.sync += second.eq(active & first_word)
        with m.If(end_of_line):
            m.d.sync += line.eq(line + 1)
            with m.If(~last_group):
                m.d.sync += [
                    next_group.eq(next_group + 1), last_group.eq(next_group == settings.lines),
                    first_group.eq(0), first_used.eq(1),
                    address.eq(taps[-1]), before.eq(befores[-1]), past.eq(pasts[-1]),
                ]
            with m.Else():
                next_row = Signal(address_bits)
                m.d.comb += next_row.eq(row_address + settings.tap_row_step)
                m.d.sync += [
                    next_ky.eq(next_ky + 1), last_ky.eq(next_ky == settings.kernel_height),
                    next_past.eq(next_past + settings.dilation_y),
                    row_address.eq(next_row), address.eq(next_row), before.eq(row_before), past.eq(row_past),
                    *row_begins,
                ]

        # ---- the next pixel --------------------------------------------------------------------------------------
        m.d.comb += windows.r_en.eq(~active | end_of_pixel)
        with m.If(windows.r_en):
            m.d.sync += [
                active.eq(windows.r_rdy),
                next_ky.eq(window.next_ky), last_ky.eq(window.last_ky), line.eq(window.line),
                next_past.eq(window.next_past), row_inside.eq(window.row_inside),
                row_address.eq(window.a), address.eq(window.a),
                before.eq(window.before), row_before.eq(window.before),
                past.eq(window.past), row_past.eq(window.past),
                output.eq(window.output), parity.eq(window.parity), new.eq(window.new), three.eq(window.three),
                *row_begins,
            ]
        return m

    def _prepare(self, m: Module, windows: SyncFIFO) -> Signal:
        """Put windows into the queue, at the first kernel row inside the input: whether one is on its way.

        The row is looked for where one starts. Windows of the row before wait in the queue meanwhile, so that the way
        from a row to the next costs nothing.
        """
        settings, source = self.settings, self.window
        address_bits = word_address_bits(self.config)
        arrived = Signal()
        accept, new_row, row_starts, look = Signal(), Signal(), Signal(), Signal()
        a, output, parity = Signal(address_bits), Signal(address_bits), Signal()
        m.d.comb += [
            source.ready.eq(~arrived | (windows.w_rdy & ~look)),
            accept.eq(source.valid & source.ready),
            row_starts.eq(accept & source.payload.new_row),
        ]
        with m.If(source.ready):
            m.d.sync += arrived.eq(source.valid)
        with m.If(accept):
            m.d.sync += [
                a.eq(source.payload.a), output.eq(source.payload.output), parity.eq(source.payload.parity),
                new_row.eq(source.payload.new_row),
            ]

        # ---- columns ---------------------------------------------------------------------------------------------
        column, row = (_place(m, source.payload[name], name) for name in ("column", "row"))
        before, past = Signal.like(column, name="before_input"), Signal.like(column, name="past_input")
        moved = Signal(len(column))
        with m.If(accept):
            m.d.sync += [before.eq(column), past.eq(column - settings.input_width), moved.eq(column - before)]

        # ---- rows ------------------------------------------------------------------------------------------------
        row_before, rows_past = Signal(signed(_BEFORE_BITS)), Signal.like(row, name="rows_past_input")
        next_ky, line, offset = Signal(_KY_BITS), Signal(LINE_BITS), Signal(address_bits)
        last_ky = Signal()
        m.d.comb += look.eq(row_before[-1] & ~last_ky)
        with m.If(row_starts):
            m.d.sync += [
                row_before.eq(_limited(row, _BEFORE_BITS)), rows_past.eq(row - settings.input_height),
                next_ky.eq(2), last_ky.eq(settings.kernel_height == 1), line.eq(0), offset.eq(0),
            ]
        with m.Elif(look):
            m.d.sync += [
                row_before.eq(row_before + settings.dilation_y), rows_past.eq(rows_past + settings.dilation_y),
                next_ky.eq(next_ky + 1), last_ky.eq(next_ky == settings.kernel_height),
                line.eq(line + settings.lines), offset.eq(offset + settings.tap_row_step),
            ]

        entry = Signal(_Waiting(self.config))
        m.d.comb += [
            entry.a.eq(a + offset), entry.output.eq(output), entry.parity.eq(parity),
            entry.new.eq(Mux(new_row | ~settings.kept | moved[2:].any(), DEPTHWISE_TAPS, moved[:2])),
            entry.three.eq((entry.new == DEPTHWISE_TAPS) & entry.row_inside),
            entry.next_ky.eq(next_ky), entry.last_ky.eq(last_ky), entry.line.eq(line),
            entry.row_inside.eq(~row_before[-1] & rows_past[-1]),
            entry.next_past.eq(_limited(rows_past, _DISTANCE_BITS).as_signed() + settings.dilation_y),
            entry.before.eq(_limited(before, _BEFORE_BITS)),
            entry.past.eq(_limited(past, _DISTANCE_BITS)),
            windows.w_data.eq(entry),
            windows.w_en.eq(arrived & ~look),
        ]
        return arrived


def _place(m: Module, value: Value, name: str) -> Signal:
    """A row or column, exact where the input may have it; all others behind the input stay behind it."""
    place = Signal(signed(_PLACE_BITS + 2), name=f"place_{name}")
    m.d.comb += place.eq(Cat(value[:_PLACE_BITS], value[_PLACE_BITS:].any(), value[-1]))
    return place


def _limited(value: Value, bits: int) -> Value:
    """A distance, signed: 0 where it is not negative, and no less than `bits` bits hold."""
    return Cat(value[: bits - 1] & value[bits - 1 :].all().replicate(bits - 1), value[-1])
