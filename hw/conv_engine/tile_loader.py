"""The tile loader: weight store and map memory -> tiles, broadcast to the rows of an output block.

For every wave it walks the group's tiles once, in the order of `layouts`: for each step of the kernel
(ky, kx, input block), one tile for each output block of the group. Two weight rows move per cycle.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.conv_engine.row import TileWord, count_ones
from hw.ports import MemoryRead


class TileLoader(wiring.Component):
    """Streams a command's tiles to the rows.

    Members
    -------
    start : pulse; a new command. weight_base, map_base, steps (tiles of one output block in a wave),
        unrolling: stable from then on.
    wave : one item per wave, with the group's number of blocks; taken when its tiles are all sent.
    weights, maps : the memories.
    rows_free : for each row, whether it has a free tile slot not yet promised.
    tile_valid : for each row; tile : the broadcast.
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
        wave = self.wave.payload
        map_bits = (config.weight_maps - 1).bit_length()
        entry_bits = (config.maps_per_entry - 1).bit_length()
        block_bits = max(1, (rows - 1).bit_length())

        # ---- which rows belong to each block --------------------------------------------------------------
        def members(block, name):
            mask = Signal(rows, name=name)
            for row in range(rows):
                row_block = Signal(block_bits, name=f"{name}_{row}")
                m.d.comb += row_block.eq(row & ((1 << self.unrolling) - 1))
                m.d.comb += mask[row].eq(row_block == block)
            return mask

        # ---- maps, read ahead: one item for each tile -----------------------------------------------------
        tags = {"block": block_bits, "last_block": 1, "wave_last": 1, "group_last": 1}
        item = data.StructLayout({"map": lanes, **tags})
        m.submodules.ahead = ahead = SyncFIFOBuffered(width=item.size, depth=4)
        map_at = Signal(map_bits)
        group_map = Signal(map_bits)
        step = Signal(24)
        block = Signal(block_bits)
        reading = Signal()
        read_1 = Signal(data.StructLayout({"valid": 1, "lane": entry_bits, **tags}))
        block_end, step_end = Signal(), Signal()
        next_map = Signal(map_bits)
        m.d.comb += [
            block_end.eq(block == wave.blocks - 1),
            step_end.eq(step == self.steps - 1),
            # Room for what is in the FIFO's pipeline: it holds at most three when we ask for one more.
            reading.eq(self.wave.valid & (ahead.w_level + read_1.valid < 3)),
            self.maps.address.eq(map_at[entry_bits:]),
            next_map.eq(map_at + 1),
        ]
        m.d.sync += [
            read_1.valid.eq(reading),
            read_1.lane.eq(map_at[:entry_bits]),
            read_1.block.eq(block),
            read_1.last_block.eq(block_end & wave.last_group),
            read_1.wave_last.eq(block_end & step_end),
            read_1.group_last.eq(wave.last_in_group),
        ]
        with m.If(reading):
            m.d.sync += [map_at.eq(next_map), block.eq(block + 1)]
            with m.If(block_end):
                m.d.sync += [block.eq(0), step.eq(step + 1)]
                with m.If(step_end):
                    m.d.comb += self.wave.ready.eq(1)
                    m.d.sync += step.eq(0)
                    with m.If(wave.last_in_group):
                        m.d.sync += group_map.eq(next_map)
                    with m.Else():
                        m.d.sync += map_at.eq(group_map)
        with m.If(self.start):
            m.d.sync += [map_at.eq(self.map_base), group_map.eq(self.map_base), step.eq(0), block.eq(0)]
        pushed = data.View(item, ahead.w_data)
        m.d.comb += [
            ahead.w_en.eq(read_1.valid),
            pushed.map.eq(self.maps.data.word_select(read_1.lane, lanes)),
            *(pushed[tag].eq(read_1[tag]) for tag in tags),
        ]

        # ---- words of the current tile --------------------------------------------------------------------
        tile = data.View(item, ahead.r_data)
        count = count_ones(m, tile.map, "stored_rows")
        words = Signal(range(lanes // 2 + 1))
        index = Signal(range(lanes // 2 + 1))
        weight_at = Signal.like(self.weight_base)
        group_weight = Signal.like(self.weight_base)
        target = members(tile.block, "target")
        free = Signal(data.ArrayLayout(2, rows), init=[2] * rows)
        has_room = Signal()
        advancing = Signal()
        final = Signal()
        next_weight = Signal.like(self.weight_base)
        m.d.comb += [
            words.eq((count + 1) >> 1),
            has_room.eq((index != 0) | ~Cat(target[i] & (free[i] == 0) for i in range(rows)).any()),
            advancing.eq(ahead.r_rdy & has_room),
            final.eq(index + 1 >= words),
            self.weights.address.eq(weight_at),
            next_weight.eq(weight_at + (words != 0)),
            ahead.r_en.eq(advancing & final),
        ]
        send = Signal(TileWord(config))
        send_rows = Signal(rows)
        m.d.sync += send_rows.eq(0)
        with m.If(advancing):
            m.d.sync += [
                send_rows.eq(target),
                send.index.eq(index),
                send.write.eq(words != 0),
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
            m.d.comb += promised.eq(advancing & (index == 0) & target[row])
            m.d.sync += free[row].eq(free[row] - promised + self.released[row])

        # The weight word comes in the cycle after its address; it is registered before the broadcast.
        sent = Signal(TileWord(config))
        sent_rows = Signal(rows)
        m.d.sync += [sent.eq(send), sent_rows.eq(send_rows), sent.data.eq(self.weights.data)]
        m.d.comb += [
            self.tile.eq(sent),
            self.tile_valid.eq(sent_rows),
            self.idle.eq(~(self.wave.valid | read_1.valid | (ahead.level != 0) | send_rows.any() | sent_rows.any())),
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
