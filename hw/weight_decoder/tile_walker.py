"""The tile walker: what exists of each tile of a block, in their order (`weight_format.TileOrder` in hardware)."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
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
    """One tile per cycle.

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
        block = Signal.like(order.group)  # in the group
        blocks_left = Signal(17)  # of the command, this group's included
        tap = Signal.like(order.taps)
        input_block = Signal.like(order.input_blocks)
        last_output, block_end, input_end, tap_end, group_end = (Signal(name=name) for name in (
            "last_output", "block_end", "input_end", "tap_end", "group_end"))
        m.d.comb += [
            last_output.eq(block + 1 == blocks_left),
            block_end.eq(last_output | (block + 1 == order.group)),
            input_end.eq(input_block + 1 == order.input_blocks),
            tap_end.eq(tap + 1 == order.taps),
            group_end.eq(blocks_left <= order.group),
        ]
        step = Signal()
        m.d.comb += step.eq(walking & (~self.tiles.valid | self.tiles.ready))
        with m.If(self.tiles.ready):
            m.d.sync += self.tiles.valid.eq(0)
        with m.If(step):
            m.d.sync += [
                self.tiles.valid.eq(1),
                tile.rows.eq(Mux(input_end, order.last_rows, lanes)),
                tile.outputs.eq(Mux(last_output, order.last_outputs, lanes)),
                tile.last.eq(block_end & input_end & tap_end & group_end),
                block.eq(block + 1),
            ]
            with m.If(block_end):
                m.d.sync += [block.eq(0), input_block.eq(input_block + 1)]
                with m.If(input_end):
                    m.d.sync += [input_block.eq(0), tap.eq(tap + 1)]
                    with m.If(tap_end):
                        m.d.sync += [tap.eq(0), blocks_left.eq(blocks_left - order.group)]
                        with m.If(group_end):
                            m.d.sync += walking.eq(0)
        with m.If(self.start):
            m.d.sync += [
                walking.eq(1), self.tiles.valid.eq(0), block.eq(0), tap.eq(0), input_block.eq(0),
                blocks_left.eq(order.output_blocks),
            ]
        return m
