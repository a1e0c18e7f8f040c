"""The tile walker: what exists of each tile of a block, in their order (`weight_format.TileOrder` in hardware)."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config


class OrderLayout(data.StructLayout):
    """TileOrder's fields, as in a CONV command; `group` is at most the engine's rows."""

    def __init__(self, config: Config):
        super().__init__({
            "group": unsigned(config.rows.bit_length()),
            "output_blocks": unsigned(16),
            "taps": unsigned(9),
            "input_blocks": unsigned(16),
            "last_rows": unsigned(config.lanes.bit_length()),
            "last_outputs": unsigned(config.lanes.bit_length()),
        })


class TileLayout(data.StructLayout):
    """What exists of a tile; `last` marks the block's last one."""

    def __init__(self, config: Config):
        super().__init__({
            "rows": unsigned(config.lanes.bit_length()),
            "outputs": unsigned(config.lanes.bit_length()),
            "last": 1,
        })


class TileWalker(wiring.Component):
    """A tile in two cycles.

    Members
    -------
    start : pulse; begin with `order`, which is stable from then on.
    tiles : one item per tile.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1),
            "order": In(OrderLayout(config)),
            "tiles": Out(stream.Signature(TileLayout(config))),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        order, tile = self.order, self.tiles.payload
        lanes = self.config.lanes
        walking = Signal()
        # What is left, the tile's own included: blocks of the group, of the command, input blocks of the tap, taps.
        blocks = Signal.like(order.group)
        output_blocks = Signal(16)
        input_blocks = Signal.like(order.input_blocks)
        taps = Signal.like(order.taps)
        others = Signal.like(output_blocks)  # blocks of the groups to come
        last_group, last_block, last_input, last_tap = (Signal(name=name) for name in (
            "last_group", "last_block", "last_input", "last_tap"))
        m.d.comb += [
            last_group.eq(output_blocks <= order.group),
            last_block.eq(blocks == 1),
            last_input.eq(input_blocks == 1),
            last_tap.eq(taps == 1),
            others.eq(output_blocks - order.group),
        ]

        def begin_group(left: Value):
            m.d.sync += blocks.eq(Mux(left < order.group, left[: len(blocks)], order.group))

        # Two tiles wait, so that taking one does not reach the counters in the same cycle.
        ahead, ahead_valid = Signal.like(tile), Signal()
        with m.If(~self.tiles.valid | self.tiles.ready):
            m.d.sync += [tile.eq(ahead), self.tiles.valid.eq(ahead_valid), ahead_valid.eq(0)]
        with m.If(walking & ~ahead_valid):
            m.d.sync += [
                ahead_valid.eq(1),
                ahead.rows.eq(Mux(last_input, order.last_rows, lanes)),
                ahead.outputs.eq(Mux(last_group & last_block, order.last_outputs, lanes)),
                ahead.last.eq(last_block & last_input & last_tap & last_group),
                blocks.eq(blocks - 1),
            ]
            with m.If(last_block):
                begin_group(output_blocks)
                m.d.sync += input_blocks.eq(input_blocks - 1)
                with m.If(last_input):
                    m.d.sync += [input_blocks.eq(order.input_blocks), taps.eq(taps - 1)]
                    with m.If(last_tap):
                        begin_group(others)
                        m.d.sync += [taps.eq(order.taps), output_blocks.eq(others)]
                        with m.If(last_group):
                            m.d.sync += walking.eq(0)
        with m.If(self.start):
            begin_group(order.output_blocks)
            m.d.sync += [
                walking.eq(1), self.tiles.valid.eq(0), ahead_valid.eq(0), taps.eq(order.taps),
                input_blocks.eq(order.input_blocks), output_blocks.eq(order.output_blocks),
            ]
        return m
