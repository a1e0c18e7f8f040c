"""The decoder's control: which step the ways make next, from a block's header to its end."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.weight_format import CHECK_DIGIT, STATE_BITS, UNIT_BITS, MapCode, TableKind, check_steps
from hw.contract.weight_standard_tables import STANDARD_TABLES
from hw.weight_decoder.row_assembler import PieceLayout
from hw.weight_decoder.tile_walker import TileLayout
from hw.weight_decoder.way import STEP, STEP_BITS

#: The header of a block.
HEADER = data.StructLayout({"log_ways": 3, "kind": TableKind, "maps": MapCode, "reserved": 1, "standard": 8})


class StepLayout(data.StructLayout):
    """A step of the states of a half.

    Members
    -------
    active : the ways that make it. way : what they do. bits : that they take where the step does nothing else.
    bin, map, literal : what the first of them reads: a bin, a row map with a prefix, one without.
    digit : of the check value, from the final states; from their streams with `bits`. rest : that must be zero;
        first_rest : the first step of it.
    piece : of a row of weights.
    """

    def __init__(self, lanes: int, ways: int):
        super().__init__({
            "active": unsigned(ways),
            "way": STEP,
            "bits": STEP_BITS,
            "bin": 1,
            "map": 1,
            "literal": 1,
            "digit": 1,
            "rest": 1,
            "first_rest": 1,
            "piece": PieceLayout(lanes, ways),
        })


class Control(wiring.Component):
    """Issues a step in each cycle in which everything moves on.

    Members
    -------
    block : there is one; taken when it is complete. failed : it is damaged; until a reset.
    start : pulse; a new block begins.
    go : everything moves on.
    half : of the states that enter the ways in this cycle; those of the next step are of the other one.
    issued : the next step. moving : a step is under way.
    ask_header, first_unit : for the header, which comes until the next `go`.
    header : stable from then on; header_there : in one cycle with `go`.
    log_width : log2 of the weights of a step.
    build : pulse; build the table. wanted : a bin is. built, unbuildable : the table.
    map_read : a row map has been read, and is in `row_map` from the next cycle on; map_follows : another step reads it.
    tiles : of the block. tile : the present one. exist : its rows.
    push, pushed : its row map is known.
    bad : the block's end is not as it should be.
    """

    def __init__(self, config: Config):
        self.config = config
        lanes, ways = config.lanes, config.weights_per_cycle
        super().__init__({
            "block": In(stream.Signature(0)),
            "failed": Out(1),
            "start": Out(1),
            "go": In(1),
            "half": In(1),
            "issued": Out(StepLayout(lanes, ways)),
            "moving": In(1),
            "ask_header": Out(1),
            "first_unit": In(UNIT_BITS),
            "header": Out(HEADER),
            "header_there": Out(1),
            "log_width": Out(range(max(2, ways.bit_length()))),
            "build": Out(1),
            "bin_wanted": In(1),
            "bin_read": In(1),
            "built": In(1),
            "unbuildable": In(1),
            "map_read": In(1),
            "map_follows": In(1),
            "row_map": In(lanes),
            "tiles": In(stream.Signature(TileLayout(config))),
            "exist": Out(lanes),
            "push": Out(1),
            "pushed": Out(lanes),
            "push_last": Out(1),
            "bad": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes, count = self.config.lanes, self.config.weights_per_cycle
        parts = lanes // count  # of a row
        header, issued, go = self.header, self.issued, self.go

        # ---- header ------------------------------------------------------------------------------------------------
        table_there = Signal()  # a block had one before
        own_table = Signal()  # this one has
        single = Signal()  # there is one state
        in_use = Signal(count)  # the block's ways
        width = Signal(range(count + 1))  # how many these are
        last_digit = Signal(range(8))  # number of the check value's last step
        bad_header = Signal()
        log_ways = header.log_ways
        m.d.sync += [
            own_table.eq((header.kind == TableKind.SYMMETRIC) | (header.kind == TableKind.GENERAL)),
            bad_header.eq((log_ways > count.bit_length()) | header.reserved
                          | ((header.kind == TableKind.PREVIOUS) & ~table_there)
                          | Mux(header.kind == TableKind.STANDARD, header.standard >= len(STANDARD_TABLES),
                                header.standard != 0)),
        ]
        m.d.sync += [
            single.eq(log_ways == 0),
            self.log_width.eq(Mux(log_ways == 0, 0, log_ways - 1)),
            width.eq(Mux(log_ways == 0, 1, 1 << (log_ways - 1)[:3])),
            *(in_use[i].eq((i == 0) | (log_ways > i.bit_length())) for i in range(count)),
        ]
        with m.Switch(log_ways):
            for log in range(count.bit_length() + 1):
                with m.Case(log):
                    m.d.sync += last_digit.eq(check_steps(1 << log) - 1)

        # ---- whose turn it is ----------------------------------------------------------------------------------------
        number = Signal(range(8))  # of the step, but for tiles, whose steps only alternate
        turn = Signal()
        mine, tiles_turn = Signal(), Signal()  # a step with this number, of a tile, may be issued
        m.d.comb += [
            mine.eq(self.half != (number[0] & ~single)),
            tiles_turn.eq(self.half != turn),
        ]

        def take_turn():
            m.d.sync += turn.eq(~turn & ~single)

        def count_up(step: int = 1):
            """The next number; `step` of a single state."""
            m.d.sync += number.eq(number + Mux(single, step, 1))

        # ---- tiles: what is left of a row, of a tile -----------------------------------------------------------------
        tile = Signal(TileLayout(self.config))
        offered = self.tiles.payload
        rows_left = Signal(range(lanes + 1))
        remaining = Signal(range(lanes + 1))  # weights of the row
        part = Signal(range(max(2, parts)))
        place = Signal(range(max(2, count)))  # of the piece in the part
        last_place = Signal.like(place)
        empty, part_end, row_end = Signal(), Signal(), Signal()
        piece_end, two_pieces = Signal(), Signal()  # what remains is one piece; at most two
        last_row, final = Signal(), Signal()
        ones = Signal(range(lanes + 1))
        m.d.sync += last_place.eq((count - 1) >> self.log_width)
        m.d.comb += [
            empty.eq(remaining == 0),  # the row is decoded, but not all of its parts are there
            part_end.eq(piece_end | (place == last_place)),
            row_end.eq(part_end & (part == parts - 1)),
            last_row.eq(rows_left == 1),
            final.eq(tile.last & Mux(
                single, last_row & piece_end,
                (last_row & two_pieces) | ((rows_left == 2) & (tile.outputs <= width)))),
            two_pieces.eq(remaining <= (width << 1)),
            self.exist.eq(Cat(i < tile.rows for i in range(lanes))),
            ones.eq(sum(self.row_map)),
        ]
        stored = Signal()  # the tile's row map is not coded, and is not in the map memory yet
        m.d.comb += [
            self.pushed.eq(Mux(stored, self.exist, self.row_map)),
            self.push_last.eq(tile.last),
        ]
        with m.If(stored):
            m.d.comb += self.push.eq(1)
            m.d.sync += stored.eq(0)

        def next_tile():
            """Go on with the walker's tile, or wait for it."""
            m.d.comb += self.tiles.ready.eq(1)
            with m.If(~self.tiles.valid):
                m.next = "TILE"
            with m.Else():
                m.d.sync += [tile.eq(offered), rows_left.eq(offered.rows), remaining.eq(offered.outputs),
                             piece_end.eq(offered.outputs <= width)]
                with m.If(header.maps == MapCode.STORED):
                    m.d.sync += stored.eq(1)
                    m.next = "ROW"
                with m.Else():
                    m.next = "MAP"

        def end_of_tile():
            with m.If(tile.last):
                m.next = "FLUSH"
            with m.Else():
                next_tile()

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.block.valid):
                    m.d.comb += self.start.eq(1)
                    m.d.sync += [number.eq(0), turn.eq(0), part.eq(0), place.eq(0)]
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.ask_header.eq(1)
                with m.If(go):
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(go):
                    m.d.sync += header.eq(self.first_unit)
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.next = "TABLE"
            with m.State("TABLE"):
                with m.If(go):
                    with m.If(bad_header):
                        m.next = "FAILED"
                    with m.Else():
                        m.d.comb += [self.header_there.eq(1), self.build.eq(header.kind != TableKind.PREVIOUS)]
                        m.next = "BINS"
                        with m.If(own_table):
                            m.next = "BIN_UNITS"
                        with m.If(header.kind == TableKind.PREVIOUS):
                            m.next = "STATES"
            with m.State("BIN_UNITS"):  # the first state's
                m.d.comb += [issued.bits.eq(UNIT_BITS), issued.active.eq(self.half)]
                with m.If(go & self.half):
                    m.d.sync += number.eq(number + 1)
                    with m.If(number[0]):
                        m.d.sync += number.eq(0)
                        m.next = "BINS"
            with m.State("BINS"):
                with m.If(go):
                    with m.If(self.built):
                        m.d.sync += table_there.eq(1)
                        m.next = "STATES"
                    with m.Elif(self.unbuildable):
                        m.next = "FAILED"
                    with m.Elif(self.bin_wanted & self.half):
                        m.d.comb += [issued.bin.eq(1), issued.active.eq(1)]
                        m.next = "BIN"
            with m.State("BIN"):
                with m.If(go & self.bin_read):
                    m.next = "BINS"
            with m.State("STATES"):  # the first units, then the states
                m.d.comb += [
                    # A state that has read bins has its first units.
                    issued.active.eq(Mux(mine, in_use ^ (own_table & ~number[0] & ~number[2]), 0)),
                    issued.bits.eq(Mux(number[2], STATE_BITS, UNIT_BITS)),
                    issued.way.load.eq(number[2]),
                ]
                with m.If(go & mine):
                    count_up(2)
                    with m.If(number[2] & (number[0] | single)):
                        m.next = "TILE"
            with m.State("TILE"):
                with m.If(go):
                    next_tile()
            with m.State("MAP"):
                m.d.comb += [
                    issued.active.eq(tiles_turn),
                    issued.map.eq(tiles_turn & (header.maps != MapCode.LITERAL)),
                    issued.literal.eq(tiles_turn & (header.maps == MapCode.LITERAL)),
                    issued.bits.eq(tile.rows),
                ]
                with m.If(go & tiles_turn):
                    take_turn()
                    m.next = "MAP_READ"
            with m.State("MAP_READ"):
                with m.If(go & self.map_read):
                    m.next = "COUNT"
                with m.Elif(go & self.map_follows):
                    m.next = "MAP_REST"
            with m.State("MAP_REST"):
                m.d.comb += [issued.active.eq(tiles_turn), issued.literal.eq(tiles_turn), issued.bits.eq(tile.rows)]
                with m.If(go & tiles_turn):
                    take_turn()
                    m.next = "MAP_READ"
            with m.State("COUNT"):
                with m.If(go):
                    m.d.comb += self.push.eq(1)
                    m.d.sync += rows_left.eq(ones)
                    m.next = "ROW"
                    with m.If(self.row_map == 0):
                        m.next = "TILE"
                        with m.If(tile.last):
                            m.next = "FLUSH"
            with m.State("ROW"):
                m.d.comb += [
                    issued.way.decode.eq(~final),
                    issued.way.final.eq(final),
                    issued.piece.place.eq(place),
                    issued.piece.end.eq(part_end),
                    issued.piece.part.eq(part),
                    issued.piece.tile_end.eq(last_row),
                ]
                with m.If(empty | tiles_turn):
                    m.d.comb += [
                        issued.piece.valid.eq(1),
                        issued.active.eq(in_use & Cat(i < remaining for i in range(count))),
                    ]
                    with m.If(go):
                        with m.If(~empty):
                            take_turn()
                        m.d.sync += [remaining.eq(Mux(piece_end, 0, remaining - width)), piece_end.eq(two_pieces),
                                     place.eq(place + 1)]
                        with m.If(part_end):
                            m.d.sync += [place.eq(0), part.eq(part + 1)]
                        with m.If(row_end):
                            m.d.sync += [part.eq(0), remaining.eq(tile.outputs), piece_end.eq(tile.outputs <= width),
                                         rows_left.eq(rows_left - 1)]
                            with m.If(last_row):
                                end_of_tile()
            with m.State("FLUSH"):
                m.d.sync += number.eq(0)
                with m.If(~self.moving):
                    m.next = "DIGITS"
            with m.State("DIGITS"):
                m.d.comb += [
                    issued.active.eq(Mux(mine, in_use, 0)),
                    issued.digit.eq(mine),
                    issued.bits.eq(Mux((number[1:] != 0) | (number[0] & single), CHECK_DIGIT, 0)),
                ]
                with m.If(go & mine):
                    m.d.sync += number.eq(number + 1)
                    with m.If(number == last_digit):
                        m.d.sync += number.eq(0)
                        m.next = "REST"
            with m.State("REST"):
                m.d.comb += [
                    issued.active.eq(Mux(mine, in_use, 0)),
                    issued.rest.eq(mine),
                    issued.first_rest.eq(mine & (number == 0)),
                    issued.bits.eq(UNIT_BITS),
                ]
                with m.If(go & mine):
                    count_up(2)
                    with m.If(number[2] & (number[0] | single)):
                        m.next = "END"
            with m.State("END"):
                with m.If(~self.moving):
                    with m.If(self.bad):
                        m.next = "FAILED"
                    with m.Else():
                        m.d.comb += self.block.ready.eq(1)
                        m.next = "IDLE"
            with m.State("FAILED"):
                m.d.comb += self.failed.eq(1)
        return m
