"""A row: L multiply-accumulate lanes that work through a private stream of non-zero activations.

    activation FIFO -> head: AND with the tile's row map -> issue: one surviving channel per cycle
        -> weight row -> multiply -> accumulate -> (other bank) drain

Words without surviving channels are dropped at the head while the issue stage is busy, so that only
surviving channels take cycles.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config


def pixel_bits(config: Config) -> int:
    """Bits that number a row's pixels."""
    return (config.pixels_per_row - 1).bit_length()


def count_ones(m: Module, bits, name: str) -> Signal:
    """A named count of the ones of `bits`, added pairwise in fields of doubling width: few operations of a
    simulator, and the same tree of adders in hardware."""
    width = 1
    size = 1 << (len(bits) - 1).bit_length()
    fields = Signal(size, name=f"{name}_bits")
    m.d.comb += fields.eq(bits)
    while width < size:
        mask = sum(((1 << width) - 1) << at for at in range(0, size, 2 * width))
        pairs = Signal(size, name=f"{name}_{2 * width}")
        m.d.comb += pairs.eq((fields & mask) + ((fields >> width) & mask))
        fields, width = pairs, 2 * width
    total = Signal(range(len(bits) + 1), name=name)
    m.d.comb += total.eq(fields)
    return total


def encode(m: Module, chosen, name: str) -> Signal:
    """The number of the one bit that is set in `chosen`."""
    index = Signal(max(1, (len(chosen) - 1).bit_length()), name=name)
    m.d.comb += index.eq(Cat(
        (chosen & sum(1 << i for i in range(len(chosen)) if i >> bit & 1)).any() for bit in range(len(index))))
    return index


class ActivationWord(data.StructLayout):
    """A word of activations on its way to a row.

    Members
    -------
    data : L int8 activations. nonzero : L bits, channel differs from the zero point and exists.
    pixel : which of the row's pixels. tile_last : the row's last word for this tile.
    wave_last : the row's last word for this wave.
    """

    def __init__(self, config: Config):
        super().__init__({
            "data": 8 * config.lanes,
            "nonzero": config.lanes,
            "pixel": pixel_bits(config),
            "tile_last": 1,
            "wave_last": 1,
        })


class TileWord(data.StructLayout):
    """Two weight rows on their way to the rows' tile slots.

    Members
    -------
    data : weight rows 2 * index and 2 * index + 1 of the tile, in stored order.
    write : `data` is meaningful. commit : the tile is complete; `map` and `last_block` go with it.
    """

    def __init__(self, config: Config):
        super().__init__({
            "data": 16 * config.lanes,
            "index": (config.lanes // 2 - 1).bit_length(),
            "write": 1,
            "commit": 1,
            "map": config.lanes,
            "last_block": 1,
        })


class Row(wiring.Component):
    """One row of the conv engine.

    Members
    -------
    word_valid, word : an activation word; the sender counts credits, there is always room.
    word_taken : a word left the FIFO (one credit back).
    tile_valid, tile : tile words for this row; the sender counts free slots.
    tile_released : a tile slot became free.
    zero_point : of the input.
    drained_valid : the oldest finished bank is ready to drain. drained : Q of its accumulators, group
        drain_group of pixel drain_pixel (combinational). drain_release : drained, the bank is free again.
    idle : no word is in the row. zero_point must be stable while not idle, and while words come.
    issued, issued_last, skipped, skipped_last, stalled_* : counter increments of this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        lanes = config.lanes
        super().__init__({
            "word_valid": In(1),
            "word": In(ActivationWord(config)),
            "word_taken": Out(1),
            "tile_valid": In(1),
            "tile": In(TileWord(config)),
            "tile_released": Out(1),
            "zero_point": In(signed(8)),
            "drained_valid": Out(1),
            "drain_pixel": In(pixel_bits(config)),
            "drain_group": In(range(lanes // config.requantise_lanes)),
            "drained": Out(32 * config.requantise_lanes),
            "drain_release": In(1),
            "idle": Out(1),
            "issued": Out(1),
            "issued_last": Out(1),
            "skipped": Out(range(lanes + 1)),
            "skipped_last": Out(range(lanes + 1)),
            "stalled_fetch": Out(1),
            "stalled_weight": Out(1),
            "stalled_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, pixels = config.lanes, config.pixels_per_row
        rank_bits = (lanes - 1).bit_length()

        # ---- head: the next activation word, its surviving channels ---------------------------------------
        word_layout = ActivationWord(config)
        m.submodules.fifo = fifo = SyncFIFO(width=word_layout.size, depth=config.activation_fifo)
        head = data.View(word_layout, fifo.r_data)
        m.d.comb += [fifo.w_data.eq(self.word), fifo.w_en.eq(self.word_valid)]

        slot_valid = Signal(2)
        slot_map = Signal(data.ArrayLayout(lanes, 2))
        slot_last_block = Signal(2)
        head_slot = Signal()
        head_bank = Signal()
        bank_taken = Signal(2)  # a wave in this bank has all its words past the head, and is not drained yet

        head_map = Signal(lanes)
        surviving = Signal(lanes)
        head_ready = Signal()
        head_last_block = Signal()
        bank_blocked = Signal()
        m.d.comb += [
            head_map.eq(slot_map[head_slot]),
            head_last_block.eq(slot_last_block.bit_select(head_slot, 1)),
            surviving.eq(head.nonzero & head_map),
            bank_blocked.eq(bank_taken.bit_select(head_bank, 1)),
            head_ready.eq(fifo.r_rdy & slot_valid.bit_select(head_slot, 1) & ~bank_blocked),
        ]
        head_empty = Signal()
        m.d.comb += head_empty.eq(surviving == 0)

        # ---- issue: one surviving channel per cycle -------------------------------------------------------
        busy = Signal()  # the issue stage holds a word
        pending = Signal(lanes)
        issue = Signal(data.StructLayout({
            "map": lanes, "pixel": pixel_bits(config), "slot": 1, "bank": 1,
            "tile_last": 1, "wave_last": 1, "last_block": 1,
        }))
        issue_data = Signal(8 * lanes)
        remaining = Signal(lanes)
        chosen = Signal(lanes)
        finishing = Signal()
        m.d.comb += [
            remaining.eq(pending & (pending - 1)),
            chosen.eq(pending & ~remaining),
            finishing.eq(busy & (remaining == 0)),
        ]
        load = Signal()  # head -> issue
        drop = Signal()  # an empty word that carries nothing
        merge = Signal()  # an empty last word: its flags join the word being issued
        m.d.comb += [
            drop.eq(head_ready & head_empty & ~head.tile_last),
            merge.eq(head_ready & head_empty & head.tile_last & busy & ~issue.tile_last),
            load.eq(head_ready & ~drop & ~merge & (~busy | finishing)),
            fifo.r_en.eq(load | drop | merge),
            self.word_taken.eq(fifo.r_en),
        ]
        tile_last_now = Signal()
        wave_last_now = Signal()
        m.d.comb += [
            tile_last_now.eq(issue.tile_last | merge),
            wave_last_now.eq(issue.wave_last | (merge & head.wave_last)),
        ]
        m.d.sync += [issue.tile_last.eq(tile_last_now), issue.wave_last.eq(wave_last_now)]
        with m.If(busy):
            m.d.sync += pending.eq(remaining)
        with m.If(load):
            m.d.sync += [
                busy.eq(1),
                pending.eq(surviving),
                issue_data.eq(head.data),
                issue.map.eq(head_map),
                issue.pixel.eq(head.pixel),
                issue.slot.eq(head_slot),
                issue.bank.eq(head_bank),
                issue.tile_last.eq(head.tile_last),
                issue.wave_last.eq(head.wave_last),
                issue.last_block.eq(head_last_block),
            ]
        with m.Elif(finishing):
            m.d.sync += busy.eq(0)

        with m.If(load | merge):
            with m.If(head.tile_last):
                m.d.sync += [head_slot.eq(~head_slot), slot_valid.bit_select(head_slot, 1).eq(0)]
            with m.If(head.wave_last):
                m.d.sync += [head_bank.eq(~head_bank), bank_taken.bit_select(head_bank, 1).eq(1)]

        skipped = count_ones(m, head.nonzero & ~head_map, "skipped_here")
        with m.If(fifo.r_en):
            with m.If(head_last_block):
                m.d.comb += self.skipped_last.eq(skipped)
            with m.Else():
                m.d.comb += self.skipped.eq(skipped)
        idle = Signal()
        m.d.comb += [
            idle.eq(~busy),
            self.stalled_fetch.eq(idle & ~fifo.r_rdy),
            self.stalled_weight.eq(idle & fifo.r_rdy & ~slot_valid.bit_select(head_slot, 1)),
            self.stalled_drain.eq(idle & fifo.r_rdy & slot_valid.bit_select(head_slot, 1) & bank_blocked),
        ]

        # Rows are stored without the all-zero ones: a row's place is its rank among the map's set bits.
        rank = count_ones(m, (issue.map & (chosen - 1)), "rank")
        activation = Signal(8)
        m.d.comb += activation.eq(issue_data.word_select(encode(m, chosen, "channel"), 8))
        issued = Signal()
        m.d.comb += [
            issued.eq(pending.any()),
            self.issued.eq(issued & ~issue.last_block),
            self.issued_last.eq(issued & issue.last_block),
        ]

        # ---- weight row -----------------------------------------------------------------------------------
        stage_layout = data.StructLayout({"valid": 1, "pixel": pixel_bits(config), "bank": 1, "wave_last": 1})
        weight_stage = Signal(stage_layout)
        weight_slot = Signal()
        weight_rank = Signal(rank_bits)
        weight_activation = Signal(signed(8))
        tile_last = Signal()
        m.d.sync += [
            weight_stage.valid.eq(issued),
            weight_stage.pixel.eq(issue.pixel),
            weight_stage.bank.eq(issue.bank),
            weight_stage.wave_last.eq(finishing & wave_last_now),
            weight_slot.eq(issue.slot),
            weight_rank.eq(rank),
            weight_activation.eq(activation),
            tile_last.eq(finishing & tile_last_now),
        ]
        m.d.comb += self.tile_released.eq(tile_last)

        halves = []
        tile = self.tile
        filling_slot = Signal()
        for half in range(2):
            memory = Memory(shape=unsigned(8 * lanes), depth=lanes, init=[])
            m.submodules[f"weights_{half}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(Cat(tile.index, filling_slot)),
                write.data.eq(tile.data.word_select(half, 8 * lanes)),
                write.en.eq(self.tile_valid & tile.write),
                read.addr.eq(Cat(weight_rank[1:], weight_slot)),
            ]
            halves.append(read.data)
        with m.If(self.tile_valid & tile.commit):
            m.d.sync += [
                slot_valid.bit_select(filling_slot, 1).eq(1),
                slot_map[filling_slot].eq(tile.map),
                slot_last_block.bit_select(filling_slot, 1).eq(tile.last_block),
                filling_slot.eq(~filling_slot),
            ]

        # ---- multiply -------------------------------------------------------------------------------------
        multiply_stage = Signal(stage_layout)
        operand = Signal(signed(9))
        weight_row = Signal(8 * lanes)
        m.d.sync += multiply_stage.eq(weight_stage)
        with m.If(weight_stage.valid):
            m.d.sync += [
                operand.eq(weight_activation - self.zero_point),
                weight_row.eq(Mux(weight_rank[0], halves[1], halves[0])),
            ]

        # ---- accumulate; the drain has a read port of its own ---------------------------------------------
        accumulate_stage = Signal(stage_layout)
        m.d.sync += accumulate_stage.eq(multiply_stage)
        fresh = Signal(2 * pixels, init=-1)  # nothing accumulated yet: reads as zero
        done = Signal(2)  # all of the wave's products are in the bank
        drain_bank = Signal()
        entry = Signal(range(2 * pixels))
        entry_fresh = Signal()
        drain_entry = Signal(range(2 * pixels))
        m.d.comb += [
            entry.eq(Cat(accumulate_stage.pixel, accumulate_stage.bank)),
            entry_fresh.eq(fresh.bit_select(entry, 1)),
            drain_entry.eq(Cat(self.drain_pixel, drain_bank)),
        ]
        drained = []
        for lane in range(lanes):
            memory = Memory(shape=signed(32), depth=2 * pixels, init=[])
            m.submodules[f"accumulators_{lane}"] = memory
            write = memory.write_port()
            read, drain_read = memory.read_port(domain="comb"), memory.read_port(domain="comb")
            product = Signal(signed(17), name=f"product_{lane}")
            with m.If(multiply_stage.valid):
                m.d.sync += product.eq(operand * weight_row.word_select(lane, 8).as_signed())
            m.d.comb += [
                read.addr.eq(entry),
                drain_read.addr.eq(drain_entry),
                write.addr.eq(entry),
                write.data.eq(Mux(entry_fresh, 0, read.data) + product),
                write.en.eq(accumulate_stage.valid),
            ]
            drained.append(drain_read.data)
        with m.If(accumulate_stage.valid):
            m.d.sync += fresh.bit_select(entry, 1).eq(0)
        m.d.comb += self.idle.eq(~(fifo.r_rdy | busy | weight_stage.valid | weight_stage.wave_last
                                   | multiply_stage.valid | multiply_stage.wave_last))
        with m.If(accumulate_stage.wave_last):
            m.d.sync += done.bit_select(accumulate_stage.bank, 1).eq(1)

        # ---- drain ----------------------------------------------------------------------------------------
        q = config.requantise_lanes
        with m.Switch(self.drain_group):
            for group in range(lanes // q):
                with m.Case(group):
                    m.d.comb += self.drained.eq(Cat(drained[group * q : (group + 1) * q]))
        with m.If(fresh.bit_select(drain_entry, 1)):
            m.d.comb += self.drained.eq(0)
        m.d.comb += self.drained_valid.eq(done.bit_select(drain_bank, 1))
        with m.If(self.drain_release):
            m.d.sync += [
                done.bit_select(drain_bank, 1).eq(0),
                bank_taken.bit_select(drain_bank, 1).eq(0),
                fresh.word_select(drain_bank, pixels).eq((1 << pixels) - 1),
                drain_bank.eq(~drain_bank),
            ]
        return m
