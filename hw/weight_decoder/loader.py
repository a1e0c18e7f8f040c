"""The weight loader: a LOAD command's beats of compressed weights -> writes of the weight store and the map memory."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.contract.config import Config
from hw.ports import MemoryWrite
from hw.register_slice import RegisterSlice
from hw.weight_decoder.decoder import BlockLayout, WeightDecoder, beat_units
from hw.weight_decoder.unit_window import BEAT_UNITS


def queue_beats(config: Config) -> int:
    """Beats that wait in front of the decoder: where decoding is fast, what memory delivers while a symbol table is
    built."""
    return min(512, 64 * config.weights_per_cycle)


class WeightLoader(wiring.Component):
    """Beats are taken ahead of the decoder, so that memory does not wait while it builds a symbol table.

    Members
    -------
    begin : pulse, before the block is offered: `address` and `map_address` are the first entries to be written.
    write_maps : whether row maps are written.
    block : what to decode; taken when all of it is written.
    beats : the block's beats; no others are offered. last : it is the last one.
    weight, map : the memories.
    moved : a word, or a part of a symbol table, is written.
    failed : the block is damaged, or has more row maps than the map memory; until a reset.
    """

    def __init__(self, config: Config):
        self.config = config
        weight = MemoryWrite(config.weight_words, 8 * config.weight_word_bytes)
        maps = MemoryWrite(config.map_entries, 64)
        super().__init__({
            "begin": In(1),
            "address": In(range(config.weight_words)),
            "map_address": In(range(config.map_entries)),
            "write_maps": In(1),
            "block": In(stream.Signature(BlockLayout(config))),
            "beats": In(stream.Signature(unsigned(64))),
            "last": In(1),
            "weight": Out(weight),
            "map": Out(maps),
            "moved": Out(1),
            "failed": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.decoder = decoder = WeightDecoder(self.config)
        wide = beat_units(self.config) // BEAT_UNITS  # beats in an entry of the queue
        m.submodules.queue = queue = SyncFIFOBuffered(width=64 * wide, depth=queue_beats(self.config) // wide)
        # A block RAM gives its data late in a cycle.
        m.submodules.slice = slice_ = RegisterSlice(unsigned(64 * wide))
        connect(m, queue.r_stream, slice_.i)
        connect(m, slice_.o, decoder.beats)
        if wide == 1:
            connect(m, flipped(self.beats), queue.w_stream)
        else:
            first, second = Signal(64), Signal()
            m.d.comb += [
                queue.w_stream.payload.eq(Mux(second, Cat(first, self.beats.payload), self.beats.payload)),
                queue.w_stream.valid.eq(self.beats.valid & (second | self.last)),
                self.beats.ready.eq(queue.w_stream.ready),
            ]
            with m.If(self.beats.valid & self.beats.ready):
                m.d.sync += [first.eq(self.beats.payload), second.eq(~second & ~self.last)]
        connect(m, flipped(self.block), decoder.block)

        entries_left = Signal(range(self.config.map_entries + 1))
        overflow = Signal()
        m.d.comb += [
            self.weight.enable.eq(decoder.word_valid),
            self.weight.data.eq(decoder.word),
            self.map.enable.eq(decoder.entry_valid & self.write_maps),
            self.map.data.eq(decoder.entry),
            self.moved.eq(decoder.word_valid | decoder.building),
            self.failed.eq(decoder.failed | overflow),
        ]
        with m.If(self.begin):
            m.d.sync += [self.weight.address.eq(self.address), self.map.address.eq(self.map_address),
                         entries_left.eq(self.config.map_entries)]
        with m.Else():
            with m.If(decoder.word_valid):
                m.d.sync += self.weight.address.eq(self.weight.address + 1)
            with m.If(decoder.entry_valid):
                m.d.sync += [self.map.address.eq(self.map.address + 1), entries_left.eq(entries_left - 1)]
                with m.If(entries_left == 0):
                    m.d.sync += overflow.eq(1)
        return m
