"""The tile loader: weight store and map memory -> tiles, broadcast to the rows of an output block.

For every wave it walks the group's tiles once, in the order of `layouts`: for each step of the kernel
(ky, kx, input block), one tile for each output block of the group. Two weight rows move per cycle.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.conv_engine.bits import count_ones
from hw.conv_engine.row import TileWord
from hw.ports import MemoryRead


class TileLoader(wiring.Component):
    """Streams a command's tiles to the rows.

    Members
    -------
    start : pulse; a new command. weight_base, map_base, steps (tiles of one output block in a wave),
        unrolling: stable from then on.
    wave : one item per wave, with the group's number of blocks.
    weights, maps : the memories. weights_taken : the weights' address of this cycle is not looked at.
    tile_valid : for each row; tile : the broadcast, at the earliest in the third cycle after a slot became free.
    released : for each row, a slot became free.
    idle : between waves, and all tiles have left.
    """

    def __init__(self, config: Config):
        self.config = config
        rows = config.rows
        super().__init__({
            "start": In(1),
            "weight_base": In(range(config.weight_words)),
            "map_base": In(range(config.weight_maps)),
            "steps": In(24),
            "unrolling": In(range(len(config.unrollings))),
            "wave": In(stream.Signature(WaveTiles(config))),
            "weights": Out(MemoryRead(config.weight_words, 16 * config.lanes)),
            "weights_taken": In(1),
            "maps": Out(MemoryRead(config.map_entries, 64)),
            "tile_valid": Out(rows),
            "tile": Out(TileWord(config)),
            "released": In(rows),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, lanes = config.rows, config.lanes
        map_bits = (config.weight_maps - 1).bit_length()
        entry_bits = (config.maps_per_entry - 1).bit_length()
        rows_log2 = (rows - 1).bit_length()
        block_bits = max(1, rows_log2)

        # ---- the wave in hand -----------------------------------------------------------------------------
        taken = self.wave.payload
        wave_valid, wave_ended = Signal(), Signal()
        last_block = Signal(block_bits)
        last_in_group, last_group = Signal(), Signal()
        m.d.comb += self.wave.ready.eq(~wave_valid | wave_ended)
        with m.If(self.wave.ready):
            m.d.sync += [
                wave_valid.eq(self.wave.valid),
                last_block.eq(taken.blocks - 1),
                last_in_group.eq(taken.last_in_group),
                last_group.eq(taken.last_group),
            ]

        # ---- maps, read ahead: one item for each tile -----------------------------------------------------
        tags = {"last_block": 1, "wave_last": 1, "group_last": 1}
        item = data.StructLayout({"map": lanes, "words_last": (lanes // 2 - 1).bit_length(), "stored": 1,
                                  "target": rows, **tags})
        ahead_depth, reads_under_way = 8, 4  # one that the level in the register does not know of yet
        m.submodules.ahead = ahead = SyncFIFOBuffered(width=item.size, depth=ahead_depth)
        map_at = Signal(map_bits)
        group_map = Signal(map_bits)
        step = Signal(24, init=1)  # from 1 on
        block = Signal(block_bits)
        reading, has_space = Signal(), Signal()
        read_layout = data.StructLayout({"valid": 1, "lane": entry_bits, "block": block_bits, **tags})
        read_1, read_2, read_3 = (Signal(read_layout, name=f"read_{i}") for i in (1, 2, 3))
        entry_2, map_3 = Signal(64, reset_less=True), Signal(lanes, reset_less=True)
        block_end, step_end = Signal(), Signal()
        before_last = Signal.like(step)  # the last step but one; known when the first wave is in hand
        next_map = Signal(map_bits)
        m.d.comb += [
            block_end.eq(block == last_block),
            reading.eq(wave_valid & has_space),
            self.maps.address.eq(map_at[entry_bits:]),
            next_map.eq(map_at + 1),
        ]
        m.d.sync += [
            before_last.eq(self.steps - 1),
            has_space.eq(ahead.w_level < ahead_depth - reads_under_way),
            read_1.valid.eq(reading),
            read_1.lane.eq(map_at[:entry_bits]),
            read_1.block.eq(block),
            read_1.last_block.eq(block_end & last_group),
            read_1.wave_last.eq(block_end & step_end),
            read_1.group_last.eq(last_in_group),
            read_2.eq(read_1),
            entry_2.eq(self.maps.data),
            read_3.eq(read_2),
            map_3.eq(entry_2.word_select(read_2.lane, lanes)),
        ]
        with m.If(reading):
            m.d.sync += [map_at.eq(next_map), block.eq(block + 1)]
            with m.If(block_end):
                m.d.sync += [block.eq(0), step.eq(step + 1), step_end.eq(step == before_last)]
                with m.If(step_end):
                    m.d.comb += wave_ended.eq(1)
                    m.d.sync += [step.eq(1), step_end.eq(self.steps == 1)]
                    with m.If(last_in_group):
                        m.d.sync += group_map.eq(next_map)
                    with m.Else():
                        m.d.sync += map_at.eq(group_map)
        with m.If(self.start):
            m.d.sync += [map_at.eq(self.map_base), group_map.eq(self.map_base), block.eq(0),
                         step.eq(1), step_end.eq(self.steps == 1)]
        pushed = data.View(item, ahead.w_data)
        count = count_ones(m, map_3, "stored_rows")
        with m.Switch(count):
            for stored in range(lanes + 1):
                with m.Case(stored):
                    m.d.comb += pushed.words_last.eq(max(stored - 1, 0) // 2)
        groups_log2 = Signal(range(rows_log2 + 1))  # of the pixel groups: they are the rows' low bits
        m.d.comb += [
            groups_log2.eq(rows_log2 - self.unrolling),
            ahead.w_en.eq(read_3.valid),
            pushed.map.eq(map_3),
            pushed.stored.eq(count != 0),
            pushed.target.eq(Cat((Const(row, block_bits) >> groups_log2) == read_3.block for row in range(rows))),
            *(pushed[tag].eq(read_3[tag]) for tag in tags),
        ]

        # ---- words of the current tile --------------------------------------------------------------------
        tile = data.View(item, ahead.r_data)
        index = Signal(range(lanes // 2))
        weight_at = Signal.like(self.weight_base)
        group_weight = Signal.like(self.weight_base)
        free = Signal(data.ArrayLayout(2, rows), init=[2] * rows)
        has_room = Signal()
        advancing = Signal()
        final = Signal()
        next_weight = Signal.like(self.weight_base)
        m.d.comb += [
            has_room.eq((index != 0) | ~Cat(tile.target[i] & (free[i] == 0) for i in range(rows)).any()),
            advancing.eq(ahead.r_rdy & has_room & ~self.weights_taken),
            final.eq(index == tile.words_last),
            self.weights.address.eq(weight_at),
            next_weight.eq(weight_at + tile.stored),
            ahead.r_en.eq(advancing & final),
        ]
        send = Signal(TileWord(config), reset_less=True)
        send_rows = Signal(rows)
        m.d.sync += send_rows.eq(0)
        with m.If(advancing):
            m.d.sync += [
                send_rows.eq(tile.target),
                send.index.eq(index),
                send.write.eq(tile.stored),
                send.commit.eq(final),
                send.map.eq(tile.map),
                send.last_block.eq(tile.last_block),
                index.eq(Mux(final, 0, index + 1)),
                weight_at.eq(next_weight),
            ]
            with m.If(final & tile.wave_last):
                with m.If(tile.group_last):
                    m.d.sync += group_weight.eq(next_weight)
                with m.Else():
                    m.d.sync += weight_at.eq(group_weight)
        with m.If(self.start):
            m.d.sync += [weight_at.eq(self.weight_base), group_weight.eq(self.weight_base)]
        for row in range(rows):
            promised = Signal(name=f"promised_{row}")
            m.d.comb += promised.eq(advancing & (index == 0) & tile.target[row])
            m.d.sync += free[row].eq(free[row] - promised + self.released[row])

        # The weight word comes two cycles after its address.
        sent = Signal(TileWord(config), reset_less=True)
        sent_rows = Signal(rows)
        m.d.sync += [sent.eq(send), sent_rows.eq(send_rows)]
        m.d.comb += [
            self.tile.eq(sent),
            self.tile.data.eq(self.weights.data),
            self.tile_valid.eq(sent_rows),
            self.idle.eq(~(wave_valid | read_1.valid | read_2.valid | read_3.valid
                           | (ahead.level != 0) | send_rows.any() | sent_rows.any())),
        ]
        return m


class WaveTiles(data.StructLayout):
    """What the tile loader needs of a wave.

    Members
    -------
    blocks : output blocks of its group, 1 to rows. last_in_group : no further wave of this group.
    last_group : the group is the command's last.
    """

    def __init__(self, config: Config):
        super().__init__({
            "blocks": unsigned(config.rows.bit_length()),
            "last_in_group": 1,
            "last_group": 1,
        })
