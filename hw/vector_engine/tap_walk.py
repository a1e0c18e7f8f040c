"""Walks over the taps of windows: ADD's pairs of words, and the windows of pools."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import word_address_bits
from hw.register_slice import RegisterSlice
from hw.vector_engine.settings import Settings
from hw.vector_engine.window_generator import Window
from hw.vector_engine.word_reader import Fetch


class TapTag(data.StructLayout):
    """What is known of a tap: with the last one of a window, the word that its result goes to."""

    def __init__(self, config: Config):
        super().__init__({"last": 1, "output": unsigned(word_address_bits(config))})


class TapWalk(wiring.Component):
    """For every window, for every channel block, for every valid tap: one fetch of a, and of b for ADD.

    Members
    -------
    settings : Settings, stable while busy.
    window : stream of Window. fetch : stream of Fetch, one per cycle; the tag starts with a TapTag.
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
        config, settings, window = self.config, self.settings, self.window
        m.submodules.slice = slice_ = RegisterSlice(Fetch(config, self.tag_bits))
        wiring.connect(m, slice_.o, wiring.flipped(self.fetch))
        fetch = slice_.i
        address_bits = word_address_bits(config)

        # ---- columns of a row, rows of a window, channel blocks of a pixel ---------------------------------------
        # Whether one is the last of its kind is known from the step before it: `next_` counts one ahead.
        active = Signal()
        size = Signal(data.StructLayout({"rows": 8, "columns": 8}), reset_less=True)
        next_column, next_row, next_block = Signal(8), Signal(8), Signal(16)
        last_column, last_row, last_block = Signal(), Signal(), Signal()
        one_column, one_row = Signal(), Signal()
        a, row_start, block_start = Signal(address_bits), Signal(address_bits), Signal(address_bits)
        b, output = Signal(address_bits), Signal(address_bits)
        issue, last_tap = Signal(), Signal()
        m.d.comb += [
            last_tap.eq(last_column & last_row),
            fetch.valid.eq(active),
            fetch.payload.read_a.eq(1),
            fetch.payload.read_b.eq(settings.two_operands),
            fetch.payload.a.eq(a),
            fetch.payload.b.eq(b),
            fetch.payload.tag.eq(Cat(last_tap, output)),
            issue.eq(active & fetch.ready),
            window.ready.eq(~active | (fetch.ready & last_tap & last_block)),
            self.busy.eq(active | self.fetch.valid),
        ]
        row_columns = [next_column.eq(2), last_column.eq(one_column)]
        with m.If(issue):
            next_row_start, next_block_start = Signal(address_bits), Signal(address_bits)
            m.d.comb += [
                next_row_start.eq(row_start + settings.a_row_stride),
                next_block_start.eq(block_start + 1),
            ]
            with m.If(~last_column):
                m.d.sync += [
                    a.eq(a + settings.a_pixel_stride),
                    next_column.eq(next_column + 1), last_column.eq(next_column == size.columns),
                ]
            with m.Elif(~last_row):
                m.d.sync += [
                    a.eq(next_row_start), row_start.eq(next_row_start),
                    next_row.eq(next_row + 1), last_row.eq(next_row == size.rows),
                    *row_columns,
                ]
            with m.Else():
                m.d.sync += [
                    a.eq(next_block_start), row_start.eq(next_block_start), block_start.eq(next_block_start),
                    b.eq(b + 1), output.eq(output + 1),
                    next_row.eq(2), last_row.eq(one_row),
                    next_block.eq(next_block + 1), last_block.eq(next_block == settings.output_blocks),
                    *row_columns,
                ]
        with m.If(window.ready):
            narrow, low = Signal(), Signal()
            m.d.comb += [narrow.eq(window.payload.columns == 1), low.eq(window.payload.rows == 1)]
            m.d.sync += [
                active.eq(window.valid),
                size.rows.eq(window.payload.rows),
                size.columns.eq(window.payload.columns),
                one_column.eq(narrow), last_column.eq(narrow), next_column.eq(2),
                one_row.eq(low), last_row.eq(low), next_row.eq(2),
                last_block.eq(settings.output_blocks == 1), next_block.eq(2),
                a.eq(window.payload.a), row_start.eq(window.payload.a), block_start.eq(window.payload.a),
                b.eq(window.payload.b), output.eq(window.payload.output),
            ]
        return m
