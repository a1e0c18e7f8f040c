"""The weight decoder: a compressed block in, row maps and words of the weight store out (`weight_format`).

    beats -> unit window -> ways (states, symbol tables) -> row assembler -> words
                              ^ table builder <- bins          `-> check    map packer -> entries of row maps
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.weight_format import (
    CHECK_BITS,
    STATE_CHECK_BITS,
    UNIT_BITS,
    TableKind,
    check_fields,
)
from hw.contract.weight_standard_tables import STANDARD_TABLES
from hw.contract.weight_tables import EMPTY, EXPONENT_BITS, FREQUENCIES, FREQUENCY_BITS, KIND_BITS
from hw.weight_decoder.map_packer import MapPacker
from hw.weight_decoder.row_assembler import Content, PieceLayout, RowAssembler
from hw.weight_decoder.table_builder import TableBuilder, normalise
from hw.weight_decoder.tile_walker import OrderLayout, TileLayout, TileWalker
from hw.weight_decoder.unit_window import BEAT_UNITS, COUNT_BITS, UnitWindow
from hw.weight_decoder.way import ROW_CODE, Step, Way

#: The header of a block.
HEADER = data.StructLayout({"log_ways": 3, "kind": 2, "maps": 1, "reserved": 2, "standard": 8})


class BlockLayout(data.StructLayout):
    """A block to be decoded: its tiles, the units before it in its first beat, and its own units."""

    def __init__(self, config: Config):
        super().__init__({
            "order": OrderLayout(config),
            "skip": unsigned((BEAT_UNITS - 1).bit_length()),
            "units": unsigned(COUNT_BITS),
        })


def beat_units(config: Config) -> int:
    """Units of the decoder's beats: two beats of the bus where all ways may use more than one in a cycle."""
    return 2 * BEAT_UNITS if config.weight_ways > 8 else BEAT_UNITS


def prefix_counts(m: Module, bits: Value, name: str) -> tuple[list[Value], Value]:
    """For each bit how many before it are set, and how many are set in all."""
    width = len(bits)
    if width == 1:
        return [Const(0, 1)], bits
    half = width // 2
    low, low_total = prefix_counts(m, bits[:half], f"{name}_l")
    high, high_total = prefix_counts(m, bits[half:], f"{name}_h")
    total = Signal(width.bit_length(), name=name)
    m.d.comb += total.eq(low_total + high_total)
    return [*low, *(low_total + value for value in high)], total


class WeightDecoder(wiring.Component):
    """Decodes a step of all ways per cycle, while units come and outputs are taken.

    Members
    -------
    block : what to decode; stable until it is taken, when the block is complete, good, and all of it was taken.
    beats : the block's beats, of `beat_units`, the first unit lowest; no others are taken.
    words : of the weight store. entries : of the map memory.
    failed : the block is damaged; until a reset.
    """

    def __init__(self, config: Config):
        self.config = config
        self.ways = config.weight_ways
        super().__init__({
            "block": In(stream.Signature(BlockLayout(config))),
            "beats": In(stream.Signature(unsigned(UNIT_BITS * beat_units(config)))),
            "words": Out(stream.Signature(unsigned(16 * config.lanes))),
            "entries": Out(stream.Signature(unsigned(64))),
            "failed": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes, count = self.config.lanes, self.ways
        block = self.block.payload
        m.submodules.window = window = UnitWindow(count, beat_units(self.config))
        m.submodules.builder = builder = TableBuilder()
        m.submodules.walker = walker = TileWalker(self.config)
        m.submodules.assembler = assembler = RowAssembler(lanes, count)
        m.submodules.packer = packer = MapPacker(lanes)
        ways = [Way() for _ in range(count)]
        for i, way in enumerate(ways):
            m.submodules[f"way_{i}"] = way

        start = Signal()
        enable = Signal()  # no output is blocked
        m.d.comb += [
            enable.eq(~(self.words.valid & ~self.words.ready) & ~(self.entries.valid & ~self.entries.ready)),
            window.start.eq(start), window.skip.eq(block.skip), window.total.eq(block.units),
            walker.start.eq(start), walker.order.eq(block.order),
            assembler.start.eq(start), assembler.enable.eq(enable),
            packer.start.eq(start),
        ]
        wiring.connect(m, wiring.flipped(self.beats), window.beats)
        wiring.connect(m, assembler.words, wiring.flipped(self.words))
        wiring.connect(m, packer.entries, wiring.flipped(self.entries))

        # ---- header ------------------------------------------------------------------------------------------------
        header = Signal(HEADER)
        offered = data.View(HEADER, window.units[:UNIT_BITS])
        zeros = Signal(UNIT_BITS)
        table_there = Signal()  # a block had one before
        row_code = Signal(ROW_CODE)
        in_use = Signal(count)  # the block's ways
        many = Signal(range(count + 1))  # how many these are
        m.d.comb += [
            many.eq(1 << header.log_ways),
            in_use.eq((1 << many) - 1),
            builder.kind.eq(header.kind),
            builder.standard.eq(header.standard),
            assembler.log_ways.eq(header.log_ways),
        ]
        normalised = [(Signal(4, name=f"row_shift_{i}"), Signal(FREQUENCY_BITS, name=f"row_frequency_{i}"))
                      for i in range(2)]
        stored = Signal(FREQUENCY_BITS)
        m.d.comb += stored.eq(FREQUENCIES - zeros[:FREQUENCY_BITS])
        for frequency, (shift, scaled) in zip((zeros[:FREQUENCY_BITS], stored), normalised, strict=True):
            normalise(m, frequency, shift, scaled)

        # ---- a step of the ways: which take part, which take a unit before they do ---------------------------------
        step = Signal(Step)
        active = Signal(count)
        running = Signal()  # a step is to be made, not only units taken
        asking = Signal(count)
        bits = Signal(range(UNIT_BITS + 1))
        go = Signal()  # the step, or the taking of units, happens
        before, asked = prefix_counts(m, asking, "asking_count")
        taking = Signal(range(count + 1))  # units that the state takes for itself
        m.d.comb += [window.count.eq(asked + taking), go.eq(enable & window.enough), window.take.eq(go)]
        for i, way in enumerate(ways):
            index = Signal(range(max(2, i + 1)), name=f"unit_of_{i}")
            m.d.comb += [
                index.eq(before[i]),
                way.clear.eq(start),
                way.table.eq(builder.table),
                way.row_code.eq(row_code),
                way.run.eq(go & running & active[i]),
                way.step.eq(step),
                way.bits.eq(bits),
                way.insert.eq(go & asking[i]),
                way.unit.eq(window.units[: UNIT_BITS * (i + 1)].word_select(index, UNIT_BITS)),
                assembler.base[i].eq(way.base),
                assembler.offset[i].eq(way.offset),
                assembler.extra[i].eq(way.extra),
            ]
        below_one = Cat(way.below_one for way in ways)
        below_two = Cat(way.below_two for way in ways)

        piece = Signal(PieceLayout(lanes, count))
        decoded_piece = Signal.like(piece)  # in step with what the ways have decoded
        m.d.comb += assembler.piece.eq(decoded_piece)
        with m.If(enable):
            m.d.sync += decoded_piece.eq(piece)

        # ---- a bin of a table in the block -------------------------------------------------------------------------
        bin_bits = ways[0].next_bits
        exponent = bin_bits[KIND_BITS : KIND_BITS + EXPONENT_BITS]
        described = KIND_BITS + EXPONENT_BITS
        empty, bin_length = Signal(), Signal(range(UNIT_BITS + 1))
        rest = Signal(FREQUENCY_BITS)
        m.d.comb += [
            empty.eq(exponent == EMPTY),
            bin_length.eq(described + Mux(empty, 0, exponent)),
            rest.eq(bin_bits[described:] & ((1 << exponent) - 1)),
            builder.bins.payload.extra.eq(bin_bits),
            builder.bins.payload.frequency.eq(Mux(empty, 0, (1 << exponent) | rest)),
        ]

        # ---- tiles -------------------------------------------------------------------------------------------------
        tile = Signal(TileLayout(self.config))
        offered_tile = walker.tiles.payload
        row_map = Signal(lanes)
        rows_left = Signal(range(lanes + 1))
        remaining = Signal(range(lanes + 1))  # of the row, or the row map
        position = Signal(range(lanes))  # pieces of it that are decoded
        first = Signal(range(lanes))  # what they hold
        piece_end = Signal()
        taking_part = Signal(count)
        decoded_map = Signal(lanes)
        ones = Signal(range(lanes + 1))
        m.d.comb += [
            piece_end.eq(remaining <= many),
            *(taking_part[i].eq(in_use[i] & (i < remaining)) for i in range(count)),
            decoded_map.eq(Cat(way.row_stored & taking_part[i] for i, way in enumerate(ways)) << first),
            ones.eq(sum(row_map)),
        ]

        def begin_row(outputs: Value):
            m.d.sync += [remaining.eq(outputs), position.eq(0), first.eq(0)]

        def next_tile():
            """Go on with the walker's tile, or wait for it."""
            with m.If(walker.tiles.valid):
                m.d.comb += walker.tiles.ready.eq(1)
                m.d.sync += [tile.eq(offered_tile), rows_left.eq(offered_tile.rows), row_map.eq(0)]
                with m.If(header.maps):
                    begin_row(offered_tile.rows)
                    m.next = "ROW_MAP"
                with m.Else():
                    m.d.comb += [
                        packer.push.eq(1),
                        packer.row_map.eq((1 << offered_tile.rows) - 1),
                        packer.last.eq(offered_tile.last),
                    ]
                    begin_row(offered_tile.outputs)
                    m.next = "ROW"
            with m.Else():
                m.next = "TILE"

        def end_of_tile():
            with m.If(tile.last):
                m.next = "STATES"
            with m.Else():
                next_tile()

        # ---- check value -------------------------------------------------------------------------------------------
        found = Signal(CHECK_BITS)
        states_good = Signal()
        field = Signal()

        def check_step(used: int):
            """The rest of the check value, from blocks of `used` ways: one field of each in a step."""
            fields = check_fields(used)
            at = used * STATE_CHECK_BITS
            for number, (way, length) in enumerate(fields):
                with m.If(field == number // used):
                    m.d.comb += bits.eq(length)
                    with m.If(go):
                        m.d.sync += found[at : at + length].eq(ways[way].next_bits)
                at += length
            with m.If(go):
                m.d.sync += field.eq(1)
                with m.If(field == (len(fields) - 1) // used):
                    m.next = "DRAIN"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.block.valid):
                    m.d.comb += start.eq(1)
                    m.d.sync += [zeros.eq(0), field.eq(0)]
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += taking.eq(1)
                with m.If(go):
                    m.d.sync += header.eq(offered)
                    bad = Signal()
                    m.d.comb += bad.eq(
                        (offered.log_ways > (count.bit_length() - 1)) | (offered.reserved != 0)
                        | ((offered.kind == TableKind.PREVIOUS) & ~table_there)
                        | Mux(offered.kind == TableKind.STANDARD, offered.standard >= len(STANDARD_TABLES),
                              offered.standard != 0))
                    with m.If(bad):
                        m.next = "FAILED"
                    with m.Elif(offered.maps):
                        m.next = "ZEROS"
                    with m.Else():
                        m.next = "TABLE"
            with m.State("ZEROS"):
                m.d.comb += taking.eq(1)
                with m.If(go):
                    m.d.sync += zeros.eq(window.units)
                    m.next = "TABLE"
            with m.State("TABLE"):  # way 0 takes its first unit
                m.d.comb += asking.eq((header.kind == TableKind.SYMMETRIC) | (header.kind == TableKind.GENERAL))
                with m.If(go):
                    m.d.comb += [builder.start.eq(header.kind != TableKind.PREVIOUS), piece.content.eq(Content.CHECKED),
                                 piece.checked.eq(Cat(header.as_value(), zeros))]
                    m.d.sync += row_code.zeros.eq(zeros)
                    for i, (shift, scaled) in enumerate(normalised):
                        m.d.sync += [row_code.shift[i].eq(shift), row_code.frequency[i].eq(scaled)]
                    with m.If(header.maps & ((zeros == 0) | (zeros >= FREQUENCIES))):
                        m.next = "FAILED"
                    with m.Elif(header.kind == TableKind.PREVIOUS):
                        m.next = "FIRST_UNITS"
                    with m.Else():
                        m.next = "BINS"
            with m.State("BINS"):
                with m.If(builder.done):
                    m.d.sync += table_there.eq(1)
                    m.next = "FIRST_UNITS"
                with m.Elif(builder.failed):
                    m.next = "FAILED"
                with m.Elif(builder.bins.ready):
                    m.d.comb += [step.eq(Step.BITS), active.eq(1), asking.eq(below_two & 1), bits.eq(bin_length),
                                 running.eq(1), builder.bins.valid.eq(go)]
                    with m.If(go):
                        m.d.comb += [piece.content.eq(Content.CHECKED),
                                     piece.checked.eq(bin_bits & ((1 << bin_length) - 1))]
                        with m.If(~empty & (exponent >= FREQUENCY_BITS)):
                            m.next = "FAILED"
            with m.State("FIRST_UNITS"):
                m.d.comb += asking.eq(in_use & below_one)
                with m.If(go):
                    m.next = "INITIAL_STATES"
            with m.State("INITIAL_STATES"):
                m.d.comb += [step.eq(Step.STATE), active.eq(in_use), asking.eq(in_use & below_two), running.eq(1)]
                with m.If(go):
                    m.next = "TILE"
            with m.State("TILE"):
                with m.If(enable):
                    next_tile()
            with m.State("ROW_MAP"):
                m.d.comb += [step.eq(Step.ROW_MAP), active.eq(taking_part), asking.eq(taking_part & below_two),
                             running.eq(1)]
                with m.If(go):
                    m.d.sync += [row_map.eq(row_map | decoded_map), remaining.eq(remaining - many),
                                 first.eq(first + many)]
                    with m.If(piece_end):
                        m.next = "COUNT"
            with m.State("COUNT"):
                with m.If(enable):
                    m.d.comb += [
                        piece.content.eq(Content.CHECKED), piece.checked.eq(row_map),
                        packer.push.eq(1), packer.row_map.eq(row_map), packer.last.eq(tile.last),
                    ]
                    m.d.sync += rows_left.eq(ones)
                    with m.If(row_map == 0):
                        m.next = "TILE"
                        with m.If(tile.last):
                            m.next = "STATES"
                    with m.Else():
                        begin_row(tile.outputs)
                        m.next = "ROW"
            with m.State("ROW"):
                final = Signal()
                m.d.comb += [
                    final.eq(tile.last & (rows_left == 1) & piece_end),
                    step.eq(Mux(final, Step.LAST_WEIGHT, Step.WEIGHT)),
                    active.eq(taking_part),
                    asking.eq(Mux(final, 0, taking_part & below_two)),
                    running.eq(1),
                ]
                with m.If(go):
                    m.d.comb += [
                        piece.content.eq(Content.WEIGHTS), piece.first.eq(position == 0), piece.last.eq(piece_end),
                        piece.position.eq(position), piece.tile_end.eq(rows_left == 1), piece.active.eq(taking_part),
                    ]
                    m.d.sync += [remaining.eq(remaining - many), position.eq(position + 1)]
                    with m.If(piece_end):
                        m.d.sync += rows_left.eq(rows_left - 1)
                        begin_row(tile.outputs)
                        with m.If(rows_left == 1):
                            end_of_tile()
            with m.State("STATES"):
                for log in range(count.bit_length()):
                    with m.If(header.log_ways == log):
                        used = 1 << log
                        states = [way.state for way in ways[:used]]
                        holders = CHECK_BITS // STATE_CHECK_BITS
                        m.d.sync += [
                            found.eq(Cat(state[8:] for state in states[:holders])),
                            states_good.eq(~(Cat(state[:8] for state in states).any()
                                             | Cat(state[8:] for state in states[holders:]).any())),
                        ]
                        m.next = "FIELDS" if check_fields(used) else "DRAIN"
            with m.State("FIELDS"):
                m.d.comb += [step.eq(Step.BITS), active.eq(in_use), asking.eq(in_use & below_two), running.eq(1)]
                for log in range(count.bit_length()):
                    with m.If(header.log_ways == log):
                        check_step(1 << log)
            with m.State("DRAIN"):
                with m.If(~assembler.busy & (decoded_piece.content == Content.NOTHING) & ~self.entries.valid):
                    m.next = "VERIFY"
            with m.State("VERIFY"):
                with m.If(states_good & (found == assembler.check) & window.exhausted
                          & Cat(way.rest_zero for way in ways).all()):
                    m.d.comb += self.block.ready.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "FAILED"
            with m.State("FAILED"):
                m.d.comb += self.failed.eq(1)
        return m
