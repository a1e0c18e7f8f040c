"""Walks over the taps of windows: ADD's pairs of words, and the windows of pools."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import word_address_bits
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
        config, settings, window, fetch = self.config, self.settings, self.window, self.fetch
        address_bits = word_address_bits(config)

        # ---- columns of a row, rows of a window, channel blocks of a pixel ---------------------------------------
        active = Signal()
        size = Signal(data.StructLayout({"rows": 8, "columns": 8}), reset_less=True)
        column, row, block = Signal(8), Signal(8), Signal(16)
        last_column, last_row, last_block = Signal(), Signal(), Signal()
        a, row_start, block_start = Signal(address_bits), Signal(address_bits), Signal(address_bits)
        b, output = Signal(address_bits), Signal(address_bits)
        issue = Signal()
        m.d.comb += [
            last_column.eq(column == size.columns),
            last_row.eq(row == size.rows),
            last_block.eq(block == settings.output_blocks),
            fetch.valid.eq(active),
            fetch.payload.read_a.eq(1),
            fetch.payload.read_b.eq(settings.two_operands),
            fetch.payload.a.eq(a),
            fetch.payload.b.eq(b),
            fetch.payload.tag.eq(Cat(last_column & last_row, output)),
            issue.eq(fetch.valid & fetch.ready),
            window.ready.eq(~active | (issue & last_column & last_row & last_block)),
            self.busy.eq(active),
        ]
        with m.If(issue):
            next_row, next_block = Signal(address_bits), Signal(address_bits)
            m.d.comb += [next_row.eq(row_start + settings.a_row_stride), next_block.eq(block_start + 1)]
            with m.If(~last_column):
                m.d.sync += [a.eq(a + settings.a_pixel_stride), column.eq(column + 1)]
            with m.Elif(~last_row):
                m.d.sync += [a.eq(next_row), row_start.eq(next_row), column.eq(1), row.eq(row + 1)]
            with m.Else():
                m.d.sync += [
                    a.eq(next_block), row_start.eq(next_block), block_start.eq(next_block),
                    b.eq(b + 1), output.eq(output + 1),
                    column.eq(1), row.eq(1), block.eq(block + 1),
                ]
        with m.If(window.ready):
            m.d.sync += [
                active.eq(window.valid),
                size.rows.eq(window.payload.rows),
                size.columns.eq(window.payload.columns),
                column.eq(1), row.eq(1), block.eq(1),
                a.eq(window.payload.a), row_start.eq(window.payload.a), block_start.eq(window.payload.a),
                b.eq(window.payload.b), output.eq(window.payload.output),
            ]
        return m
