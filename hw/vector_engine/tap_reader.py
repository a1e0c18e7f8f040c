"""Reads the taps of windows from the feature memory, and hands them on in order."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import ReadPort, word_address_bits
from hw.vector_engine.settings import Settings
from hw.vector_engine.window_generator import Window

#: Taps under way: a tap is back five cycles after it was asked for, the rest evens out delays.
_TAPS = 8

#: Requests that wait for the memory. With two operands this lets one run ahead, onto another bank.
_REQUESTS = 4


class Tap(data.StructLayout):
    """A word of operand a, and of b for ADD; with the last tap of a window, the word that its result goes to."""

    def __init__(self, config: Config):
        super().__init__({
            "a": unsigned(8 * config.lanes),
            "b": unsigned(8 * config.lanes),
            "last": 1,
            "output": unsigned(word_address_bits(config)),
        })


class TapReader(wiring.Component):
    """For every window, for every channel block, for every valid tap: one read of a, and of b for ADD.

    Members
    -------
    settings : Settings, stable while busy.
    window : stream of Window. tap : stream of Tap, one per cycle.
    read_a, read_b : feature memory. A tap is only asked for when there is room for it.
    busy : a window or a tap is under way.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "window": In(stream.Signature(Window(config))),
            "read_a": Out(ReadPort(config)),
            "read_b": Out(ReadPort(config)),
            "tap": Out(stream.Signature(Tap(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, window, tap = self.config, self.settings, self.window, self.tap
        address_bits = word_address_bits(config)

        # ---- queues: requests out, words back, and what is known of a tap without its words --------------------
        tag_layout = data.StructLayout({"last": 1, "output": unsigned(address_bits)})
        m.submodules.tags = tags = SyncFIFO(width=tag_layout.size, depth=_TAPS)
        tag = data.View(tag_layout, tags.r_data)
        requests, words = {}, {}
        for name, port in (("a", self.read_a), ("b", self.read_b)):
            m.submodules[f"requests_{name}"] = requests[name] = SyncFIFO(width=address_bits, depth=_REQUESTS)
            m.submodules[f"words_{name}"] = words[name] = SyncFIFO(width=8 * config.lanes, depth=_TAPS)
            m.d.comb += [
                port.request.valid.eq(requests[name].r_rdy),
                port.request.payload.eq(requests[name].r_data),
                requests[name].r_en.eq(port.request.ready),
                words[name].w_en.eq(port.data_valid),
                words[name].w_data.eq(port.data),
                words[name].r_en.eq(tap.valid & tap.ready),
            ]
        m.d.comb += [
            tap.valid.eq(words["a"].r_rdy & (words["b"].r_rdy | ~settings.add)),
            tap.payload.a.eq(words["a"].r_data),
            tap.payload.b.eq(words["b"].r_data),
            tap.payload.last.eq(tag.last),
            tap.payload.output.eq(tag.output),
            tags.r_en.eq(tap.valid & tap.ready),
        ]

        # ---- the walk: columns of a row, rows of a window, channel blocks of a pixel ----------------------------
        active = Signal()
        size = Signal(data.StructLayout({"rows": 8, "columns": 8}), reset_less=True)
        column, row, block = Signal(8), Signal(8), Signal(16)
        last_column, last_row, last_block = Signal(), Signal(), Signal()
        a, row_start, block_start = Signal(address_bits), Signal(address_bits), Signal(address_bits)
        b, output = Signal(address_bits), Signal(address_bits)
        issue = Signal()
        # The tag queue holds every tap from its issue until it is taken: room in it is room for the words.
        m.d.comb += [
            last_column.eq(column == size.columns),
            last_row.eq(row == size.rows),
            last_block.eq(block == settings.output_blocks),
            issue.eq(active & tags.w_rdy & requests["a"].w_rdy & (requests["b"].w_rdy | ~settings.add)),
            tags.w_en.eq(issue),
            tags.w_data.eq(Cat(last_column & last_row, output)),
            requests["a"].w_en.eq(issue),
            requests["a"].w_data.eq(a),
            requests["b"].w_en.eq(issue & settings.add),
            requests["b"].w_data.eq(b),
            window.ready.eq(~active | (issue & last_column & last_row & last_block)),
            self.busy.eq(active | tags.r_rdy),
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
