"""The weight decoder: a compressed block in, row maps and words of the weight store out (`weight_format`).

    beats -> unit window -> ways (states, symbol tables) -> row assembler -> words
                              ^ table builder <- bins          `-> check    map packer -> entries of row maps

A step passes five stages: it is issued; the states of its half look up their symbols, and ask for units; they take
bits in, while the units are dealt out; their weights' bytes are put where they belong; and go into the check value.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.weight_format import CHECK_BITS, CHECK_DIGIT, UNIT_BITS, MapCode
from hw.contract.weight_tables import EXPONENT_BITS, FREQUENCY_BITS, KIND_BITS
from hw.weight_decoder.control import Control
from hw.weight_decoder.map_packer import MapPacker
from hw.weight_decoder.row_assembler import PieceLayout, RowAssembler
from hw.weight_decoder.row_check import RowCheck
from hw.weight_decoder.table_builder import NOTHING, TableBuilder
from hw.weight_decoder.tile_walker import OrderLayout, TileWalker
from hw.weight_decoder.unit_dealer import UnitDealer
from hw.weight_decoder.unit_window import BEAT_UNITS, COUNT_BITS
from hw.weight_decoder.way import STEP_BITS, Way


class BlockLayout(data.StructLayout):
    """A block to be decoded: its tiles, the units before it in its first beat, and its own units."""

    def __init__(self, config: Config):
        super().__init__({
            "order": OrderLayout(config),
            "skip": unsigned((BEAT_UNITS - 1).bit_length()),
            "units": unsigned(COUNT_BITS),
        })


def beat_units(config: Config) -> int:
    """Units of the decoder's beats: two beats of the bus where ways may use more than one in a cycle."""
    return 2 * BEAT_UNITS if config.weights_per_cycle > BEAT_UNITS else BEAT_UNITS


class WeightDecoder(wiring.Component):
    """Decodes a step of half of the states per cycle, while units come.

    Members
    -------
    block : what to decode; stable until it is taken, when the block is complete, good, and all of it was taken.
    beats : the block's beats, of `beat_units`, the first unit lowest; no others are taken.
    word, word_valid : of the weight store, in one cycle. entry, entry_valid : of the map memory.
    building : a part of a symbol table is written. failed : the block is damaged; until a reset.
    """

    def __init__(self, config: Config):
        self.config = config
        self.ways = config.weights_per_cycle
        super().__init__({
            "block": In(stream.Signature(BlockLayout(config))),
            "beats": In(stream.Signature(unsigned(UNIT_BITS * beat_units(config)))),
            "word": Out(16 * config.lanes),
            "word_valid": Out(1),
            "entry": Out(64),
            "entry_valid": Out(1),
            "building": Out(1),
            "failed": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes, count = self.config.lanes, self.ways
        block = self.block.payload
        entries = self.config.table_entries
        m.submodules.dealer = dealer = UnitDealer(count, beat_units(self.config))
        m.submodules.builder = builder = TableBuilder(entries)
        m.submodules.walker = walker = TileWalker(self.config)
        m.submodules.assembler = assembler = RowAssembler(lanes, count)
        m.submodules.check = check = RowCheck(lanes, count)
        m.submodules.packer = packer = MapPacker(lanes)
        ways = [Way(entries) for _ in range(count)]
        for i, way in enumerate(ways):
            m.submodules[f"way_{i}"] = way

        m.submodules.control = control = Control(self.config)
        start, go = control.start, dealer.go
        entering, leaving = Signal.like(control.issued), Signal.like(control.issued)  # in the ways' two stages
        half = Signal()  # of the states in the first of them
        piece = Signal(PieceLayout(lanes, count))  # whose weights the ways have decoded
        with m.If(go):
            m.d.sync += [entering.eq(control.issued), leaving.eq(entering), half.eq(~half), piece.eq(leaving.piece)]
        with m.If(start):
            m.d.sync += [entering.eq(0), leaving.eq(0), piece.eq(0)]
        m.d.comb += [
            control.block.valid.eq(self.block.valid), self.block.ready.eq(control.block.ready),
            self.failed.eq(control.failed),
            control.go.eq(go), control.half.eq(half),
            dealer.ask_first.eq(control.ask_header), control.first_unit.eq(dealer.first),
            dealer.start.eq(start), dealer.skip.eq(block.skip), dealer.total.eq(block.units),
            walker.start.eq(start), walker.order.eq(block.order),
            check.start.eq(start), packer.start.eq(start),
            assembler.start.eq(start), assembler.go.eq(go), assembler.piece.eq(piece),
            self.word.eq(assembler.word), self.word_valid.eq(assembler.word_valid),
            packer.push.eq(control.push), packer.row_map.eq(control.pushed), packer.last.eq(control.push_last),
            self.entry.eq(packer.entry), self.entry_valid.eq(packer.valid),
            builder.start.eq(control.build), builder.kind.eq(control.header.kind),
            builder.standard.eq(control.header.standard),
            control.bin_wanted.eq(builder.bins.ready), control.built.eq(builder.done),
            control.unbuildable.eq(builder.failed),
            self.building.eq(builder.table.enable.any()),
            assembler.log_width.eq(control.log_width), check.drop_log.eq(control.log_width),
        ]
        wiring.connect(m, walker.tiles, control.tiles)
        wiring.connect(m, wiring.flipped(self.beats), dealer.beats)
        bits = Signal(STEP_BITS)  # of the first way
        for i, way in enumerate(ways):
            m.d.comb += [
                way.go.eq(go),
                way.clear.eq(start),
                way.table.eq(builder.table),
                way.half.eq(half),
                way.active.eq(entering.active[i]),
                way.step.eq(entering.way),
                way.bits.eq(leaving.bits if i else bits),
                dealer.ask[i].eq(way.ask),
                way.insert.eq(dealer.insert[i]),
                way.unit.eq(dealer.unit[i]),
                assembler.values[i].eq(way.value),
            ]
        first_bits = ways[0].next_bits

        # ---- what the first way reads, beside weights: a bin, a row map ----------------------------------------------
        exponent = first_bits[KIND_BITS : KIND_BITS + EXPONENT_BITS]
        described = KIND_BITS + EXPONENT_BITS
        item = builder.bins.payload
        rest = Signal(FREQUENCY_BITS - 1)
        exist = control.exist
        prefixed = Signal(lanes)  # the row map behind its prefix
        with_prefix = Signal(STEP_BITS)
        log_lanes = lanes.bit_length() - 1
        follows = Signal()  # another step has the row map
        m.d.comb += [
            item.extra.eq(first_bits),
            item.spread.eq(FREQUENCY_BITS - 1 - exponent),
            *(rest[i].eq(first_bits[described + i] & (exponent > i) & (item.spread != NOTHING))
              for i in range(FREQUENCY_BITS - 1)),
            item.frequency.eq(Cat(rest[::-1])),
            follows.eq(leaving.map & (first_bits[:2] == 0b01)),
            builder.bins.valid.eq(go & leaving.bin),
            control.bin_read.eq(leaving.bin),
            control.map_follows.eq(follows),
            control.map_read.eq(leaving.literal | (leaving.map & ~follows)),
        ]
        m.d.comb += bits.eq(leaving.bits)
        with m.If(leaving.bin):
            m.d.comb += bits.eq(described)
            with m.Switch(exponent):
                for digits in range(FREQUENCY_BITS):
                    with m.Case(digits):
                        m.d.comb += bits.eq(described + digits)
        with m.Elif(leaving.map):
            m.d.comb += bits.eq(with_prefix)
        with m.If(~first_bits[0]):
            m.d.comb += [prefixed.eq(exist), with_prefix.eq(1)]
        with m.Elif(~first_bits[1]):
            m.d.comb += with_prefix.eq(2)
        with m.Elif(~first_bits[2]):
            m.d.comb += with_prefix.eq(3)
        with m.Else():
            m.d.comb += [prefixed.eq(exist & ~(1 << first_bits[3 : 3 + log_lanes])), with_prefix.eq(3 + log_lanes)]

        # ---- into the check value: a row's parts, or another head of a row -------------------------------------------
        head = Signal(UNIT_BITS)
        head_read, head_there = Signal(), Signal()  # it waits until the pieces before it are through
        row_map = Signal(lanes)
        read = Signal(lanes)
        m.d.comb += [
            read.eq(Mux(leaving.literal, first_bits & exist, prefixed)
                    ^ Mux(control.header.maps == MapCode.INVERTED, exist, 0)),
            check.go.eq(go),
            check.valid.eq(assembler.part_valid),
            check.part.eq(assembler.part),
            check.begin.eq(head_there),
            check.head.eq(head),
            control.row_map.eq(row_map),
        ]
        with m.If(go):
            m.d.sync += [head_read.eq(leaving.bin | control.map_read | control.header_there),
                         head_there.eq(head_read)]
            with m.If(control.header_there):
                m.d.sync += head.eq(control.header)
            with m.Elif(leaving.bin):
                m.d.sync += head.eq(Cat(first_bits[:described], rest))
            with m.Elif(leaving.literal | leaving.map):
                m.d.sync += [head.eq(read), row_map.eq(read)]
        with m.If(start):
            m.d.sync += [head_read.eq(0), head_there.eq(0)]

        # ---- the end: digits of the check value, and what must be zero -----------------------------------------------
        bad = Signal()
        wrong = Signal(count)
        m.d.comb += check.drop.eq(leaving.digit)
        for i, way in enumerate(ways):
            digit = check.digits.word_select(i, CHECK_DIGIT) if i < CHECK_BITS // CHECK_DIGIT else Const(0, CHECK_DIGIT)
            found = Signal(CHECK_DIGIT, name=f"found_{i}")
            m.d.comb += [
                found.eq(Mux(leaving.bits[2], way.next_bits, way.digit)),
                wrong[i].eq(leaving.active[i] & (
                    (leaving.digit & ((found != digit) | (~leaving.bits[2] & ~way.low_zero)))
                    | (leaving.rest & (way.next_bits != 0)))),
            ]
        with m.If(go):
            with m.If(wrong.any() | (leaving.first_rest & ~dealer.exhausted)):
                m.d.sync += bad.eq(1)
        with m.If(start):
            m.d.sync += bad.eq(0)
        m.d.comb += [
            control.bad.eq(bad),
            control.moving.eq(
                Cat(Cat(step.piece.valid, step.digit, step.rest) for step in (entering, leaving)).any()
                | piece.valid | assembler.busy | head_read | head_there | check.busy | packer.valid),
        ]
        return m
