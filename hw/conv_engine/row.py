"""A row: L multiply-accumulate lanes that work through a private stream of non-zero activations.

    activation FIFO -> AND with the tile's row map -> next word -> issue: one surviving channel per cycle
        -> activation, rank -> weight row -> multiply -> accumulate -> (other bank) drain

Words without surviving channels go no further than the FIFO, so that only surviving channels take cycles.

The sum of the pixel in hand is in a register and follows into the accumulators a cycle later. These are read only
when another pixel comes; in all other cycles their one read port is the drain's.
"""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.conv_engine.bits import count_ones, encode, two_or_more, up_to
from hw.requantise import delayed


def pixel_bits(config: Config) -> int:
    """Bits that number a row's pixels."""
    return (config.pixels_per_row - 1).bit_length()


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
    tile_released : a tile slot became free: it may be written from the third cycle after this one on.
    zero_point : of the input.
    drained_valid : in this cycle, accumulators of the oldest finished bank can be read; in the cycle of drain_release
        it still speaks of the bank that is released. drain_selected : the drain reads this row's. drained : Q of them,
        group drain_group of pixel drain_pixel, two cycles after they were selected and drained_valid; zero two cycles
        after the row was not selected.
    drain_release : drained, the bank is free again.
    idle : all words are issued. zero_point must be stable while not idle, in two cycles more, and while words come.
    issued, issued_last, stalled_* : counter increments.
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
            "drain_selected": In(1),
            "drain_pixel": In(pixel_bits(config)),
            "drain_group": In(range(lanes // config.requantise_lanes)),
            "drained": Out(32 * config.requantise_lanes),
            "drain_release": In(1),
            "idle": Out(1),
            "issued": Out(1),
            "issued_last": Out(1),
            "stalled_fetch": Out(1),
            "stalled_weight": Out(1),
            "stalled_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, pixels = config.lanes, config.pixels_per_row
        rank_bits = (lanes - 1).bit_length()

        # ---- head: the oldest activation word, its surviving channels -------------------------------------
        word_layout = ActivationWord(config)
        m.submodules.fifo = fifo = SyncFIFO(width=word_layout.size, depth=config.activation_fifo)
        head = data.View(word_layout, fifo.r_data)
        m.d.comb += [fifo.w_data.eq(self.word), fifo.w_en.eq(self.word_valid)]

        slot_valid = Signal(2)
        slot_map = Signal(data.ArrayLayout(lanes, 2), reset_less=True)
        slot_last_block = Signal(2)
        head_slot = Signal()
        head_bank = Signal()
        bank_taken = Signal(2)  # a wave in this bank has all its words past the head, and is not drained yet

        surviving = Signal(lanes)
        head_empty = Signal()
        head_map = Signal(lanes)
        slot_blocked, bank_blocked = Signal(), Signal()
        m.d.comb += [
            head_map.eq(slot_map[head_slot]),
            surviving.eq(head.nonzero & head_map),
            head_empty.eq(surviving == 0),
            slot_blocked.eq(~slot_valid.bit_select(head_slot, 1)),
            bank_blocked.eq(bank_taken.bit_select(head_bank, 1)),
        ]

        # ---- next: a word with surviving channels, or with the flag of a tile's end -----------------------
        issue_layout = data.StructLayout({
            "pending": lanes, "several": 1, "empty": 1, "map": lanes, "pixel": pixel_bits(config), "slot": 1, "bank": 1,
            "tile_last": 1, "wave_last": 1, "last_block": 1,
        })
        following = Signal(issue_layout, reset_less=True)
        following_valid = Signal()
        following_data = Signal(8 * lanes, reset_less=True)
        following_taken = Signal()
        take = Signal()
        m.d.comb += [
            take.eq(fifo.r_rdy & ~slot_blocked & ~bank_blocked & (~following_valid | following_taken)),
            fifo.r_en.eq(take),
            self.word_taken.eq(take),
        ]
        with m.If(~following_valid | following_taken):
            m.d.sync += [
                following_valid.eq(take & (~head_empty | head.tile_last)),
                following.pending.eq(surviving),
                following.several.eq(two_or_more(m, surviving, "head")),
                following.empty.eq(head_empty),
                following.map.eq(head_map),
                following.pixel.eq(head.pixel),
                following.slot.eq(head_slot),
                following.bank.eq(head_bank),
                following.tile_last.eq(head.tile_last),
                following.wave_last.eq(head.wave_last),
                following.last_block.eq(slot_last_block.bit_select(head_slot, 1)),
                following_data.eq(head.data),
            ]
        with m.If(take & head.tile_last):
            m.d.sync += [head_slot.eq(~head_slot), slot_valid.bit_select(head_slot, 1).eq(0)]
            with m.If(head.wave_last):
                m.d.sync += [head_bank.eq(~head_bank), bank_taken.bit_select(head_bank, 1).eq(1)]

        # ---- issue: one surviving channel per cycle -------------------------------------------------------
        busy = Signal()  # the issue stage holds a word
        issue = Signal(issue_layout, reset_less=True)
        issue_data = Signal(8 * lanes, reset_less=True)
        reached = up_to(m, issue.pending, "reached")  # from the channel issued on
        chosen, remaining = Signal(lanes), Signal(lanes)
        finishing = Signal()
        load = Signal()
        merge = Signal()  # an empty last word: its flags join the word being issued
        hold = Signal()  # the drain waits for the accumulators' read port
        m.d.comb += [
            chosen.eq(issue.pending & ~(reached << 1)),
            remaining.eq(issue.pending & (reached << 1)),
            finishing.eq(busy & ~issue.several),
            merge.eq(following_valid & following.empty & busy & ~issue.tile_last),
            load.eq(following_valid & ~merge & (~busy | finishing) & ~hold),
            following_taken.eq(load | merge),
        ]
        tile_last_now = Signal()
        wave_last_now = Signal()
        m.d.comb += [
            tile_last_now.eq(issue.tile_last | merge),
            wave_last_now.eq(issue.wave_last | (merge & following.wave_last)),
        ]
        m.d.sync += [
            issue.tile_last.eq(tile_last_now),
            issue.wave_last.eq(wave_last_now),
            issue.pending.eq(remaining),
            issue.several.eq(two_or_more(m, remaining, "remaining")),
        ]
        with m.If(load):
            m.d.sync += [busy.eq(1), issue.eq(following), issue_data.eq(following_data)]
        with m.Elif(finishing):
            m.d.sync += busy.eq(0)

        issued = Signal()
        m.d.comb += issued.eq(busy & ~issue.empty)
        m.d.sync += [
            self.issued.eq(issued & ~issue.last_block),
            self.issued_last.eq(issued & issue.last_block),
            self.stalled_fetch.eq(~busy & ~following_valid & ~fifo.r_rdy),
            self.stalled_weight.eq(~busy & ~following_valid & fifo.r_rdy & slot_blocked),
            self.stalled_drain.eq(~busy & ~following_valid & fifo.r_rdy & ~slot_blocked & bank_blocked),
            self.tile_released.eq(finishing & tile_last_now),
        ]

        # ---- activation, and rank: rows are stored without the all-zero ones, a row's place is its rank among the
        # ---- map's set bits -------------------------------------------------------------------------------
        stage_layout = data.StructLayout({"valid": 1, "pixel": pixel_bits(config), "bank": 1, "wave_last": 1})
        channel_stage = Signal(stage_layout)
        channel = Signal(range(lanes), reset_less=True)
        channel_slot = Signal(reset_less=True)
        channel_data = Signal(8 * lanes, reset_less=True)
        below = Signal(lanes, reset_less=True)  # the map's bits below the channel
        m.d.sync += [
            channel_stage.valid.eq(issued),
            channel_stage.pixel.eq(issue.pixel),
            channel_stage.bank.eq(issue.bank),
            channel_stage.wave_last.eq(finishing & wave_last_now),
            channel.eq(encode(m, chosen, "channel_now")),
            channel_slot.eq(issue.slot),
            channel_data.eq(issue_data),
            below.eq(issue.map & ~reached),
        ]
        rank = count_ones(m, below[: lanes - 1], "rank")

        # ---- weight row -----------------------------------------------------------------------------------
        weight_stage = Signal(stage_layout)
        weight_slot = Signal(reset_less=True)
        weight_rank = Signal(rank_bits, reset_less=True)
        weight_activation = Signal(signed(8), reset_less=True)
        m.d.sync += [
            weight_stage.eq(channel_stage),
            weight_slot.eq(channel_slot),
            weight_rank.eq(rank),
            weight_activation.eq(channel_data.word_select(channel, 8)),
        ]
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

        # ---- multiply; what the sum starts from -----------------------------------------------------------
        multiply_stage = Signal(stage_layout)
        operand = Signal(signed(9), reset_less=True)
        weight_row = Signal(8 * lanes, reset_less=True)
        fresh = Signal(2 * pixels, init=-1)  # no product has come yet: starts from zero
        from_zero, from_sum, from_memory = Signal(), Signal(), Signal()  # of the multiply stage's sum, if any
        weight_entry, multiply_entry = Signal(range(2 * pixels)), Signal(range(2 * pixels))
        entry_fresh = Signal()
        reading = Signal()  # the multiply stage will need the memory
        m.d.comb += [
            weight_entry.eq(Cat(weight_stage.pixel, weight_stage.bank)),
            multiply_entry.eq(Cat(multiply_stage.pixel, multiply_stage.bank)),
            entry_fresh.eq(fresh.bit_select(weight_entry, 1)),
            reading.eq(weight_stage.valid & ~entry_fresh & (weight_entry != multiply_entry)),
        ]
        m.d.sync += [
            multiply_stage.valid.eq(weight_stage.valid),
            multiply_stage.wave_last.eq(weight_stage.wave_last),
            from_memory.eq(reading),
            weight_row.eq(Mux(weight_rank[0], halves[1], halves[0])),
            operand.eq(weight_activation - self.zero_point),
        ]
        with m.If(weight_stage.valid):
            m.d.sync += [
                fresh.bit_select(weight_entry, 1).eq(0),
                from_zero.eq(entry_fresh),
                from_sum.eq(weight_entry == multiply_entry),
            ]
        with m.If(weight_stage.valid | weight_stage.wave_last):  # else this stays the pixel of the sum in hand
            m.d.sync += [multiply_stage.pixel.eq(weight_stage.pixel), multiply_stage.bank.eq(weight_stage.bank)]

        # ---- accumulate -----------------------------------------------------------------------------------
        accumulate_stage, written_stage = Signal(stage_layout), Signal(stage_layout)
        zero_now, sum_now = Signal(), Signal()
        entry = Signal(range(2 * pixels))  # from a register, for the way to the memories of all lanes
        drain_bank = Signal()
        drain_entry = Signal(range(2 * pixels))
        done = Signal(2)  # all of the wave's sums are in the bank
        m.d.sync += [
            accumulate_stage.eq(multiply_stage),
            written_stage.eq(accumulate_stage),
            zero_now.eq(from_zero),
            sum_now.eq(from_sum),
            entry.eq(Mux(from_memory, multiply_entry, drain_entry)),
        ]
        m.d.comb += drain_entry.eq(Cat(self.drain_pixel, drain_bank))
        with m.If(written_stage.wave_last):
            m.d.sync += done.bit_select(written_stage.bank, 1).eq(1)
        q = config.requantise_lanes
        drain_fresh = Signal()
        m.d.comb += drain_fresh.eq(fresh.bit_select(drain_entry, 1))
        kept = []
        for lane in range(lanes):
            memory = Memory(shape=signed(32), depth=2 * pixels, init=[])
            m.submodules[f"accumulators_{lane}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            product = Signal(signed(17), name=f"product_{lane}", reset_less=True)
            total = Signal(signed(32), name=f"sum_{lane}", reset_less=True)
            start = Signal(signed(32), name=f"start_{lane}")
            m.d.sync += product.eq(operand * weight_row.word_select(lane, 8).as_signed())
            m.d.comb += [
                read.addr.eq(entry),
                start.eq(Mux(zero_now, 0, Mux(sum_now, total, read.data))),
                write.addr.eq(Cat(written_stage.pixel, written_stage.bank)),
                write.data.eq(total),
                write.en.eq(written_stage.valid),
            ]
            with m.If(accumulate_stage.valid):
                m.d.sync += total.eq(start + product)
            kept.append(read.data)

        # ---- drain: what was not asked for is zero, so that an OR of rows chooses; so is what was never added to -
        drained = Signal(32 * q, name="drained_group", reset_less=True)
        with m.If(delayed(m, self.drain_selected, 1, reset_less=False)):
            m.d.sync += drained.eq(
                Array(Cat(kept[at : at + q]) for at in range(0, lanes, q))[delayed(m, self.drain_group, 1)])
        with m.Else():
            m.d.sync += drained.eq(0)
        never_added = delayed(m, drain_fresh, 2)
        refused = Signal(2)  # cycles that the drain has waited for the read port
        m.d.comb += [
            self.drained.eq(drained & ~never_added.replicate(len(drained))),
            hold.eq(refused.all()),
        ]
        # In a register, as the drain chooses among all rows: what `from_memory` and the bank's `done` will be.
        m.d.sync += self.drained_valid.eq(done.bit_select(drain_bank ^ self.drain_release, 1) & ~reading)
        with m.If(self.drain_selected & done.bit_select(drain_bank, 1)):
            m.d.sync += refused.eq(Mux(from_memory, refused + ~hold, 0))
        with m.If(self.drain_release):
            m.d.sync += [
                done.bit_select(drain_bank, 1).eq(0),
                bank_taken.bit_select(drain_bank, 1).eq(0),
                fresh.word_select(drain_bank, pixels).eq((1 << pixels) - 1),
                drain_bank.eq(~drain_bank),
            ]
        m.d.comb += self.idle.eq(~(fifo.r_rdy | following_valid | busy))
        return m
