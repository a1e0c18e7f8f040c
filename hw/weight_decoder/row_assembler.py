"""The row assembler: what the ways decode -> parts of rows, words of the weight store, and the check value."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class PieceLayout(data.StructLayout):
    """A step's piece of a part of a row; a part is as many bytes as there are ways.

    Members
    -------
    valid : there is one. place : of the piece in the part. end : it is the part's last one.
    part : of the row. tile_end : the row is the tile's last one.
    """

    def __init__(self, lanes: int, ways: int):
        super().__init__({
            "valid": 1,
            "place": unsigned(max(1, (ways - 1).bit_length())),
            "end": 1,
            "part": unsigned(max(1, (lanes // ways - 1).bit_length())),
            "tile_end": 1,
        })


class RowAssembler(wiring.Component):
    """Two stages: parts; words.

    Members
    -------
    go : everything moves on. start : pulse; a new block. log_width : log2 of the weights of its steps.
    piece, values : what the ways have decoded; zeros in ways that have not.
    part, part_valid : with `go`: part of a row.
    word, word_valid : of the weight store, in one cycle; two rows, the second one zeros where a tile has no more.
    busy : something has not come through.
    """

    def __init__(self, lanes: int, ways: int):
        self.lanes = lanes
        self.ways = ways
        super().__init__({
            "go": In(1),
            "start": In(1),
            "log_width": In(range(max(2, ways.bit_length()))),
            "piece": In(PieceLayout(lanes, ways)),
            "values": In(data.ArrayLayout(8, ways)),
            "part": Out(8 * ways),
            "part_valid": Out(1),
            "word": Out(16 * lanes),
            "word_valid": Out(1),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        ways, piece = self.ways, self.piece
        parts = self.lanes // ways

        # ---- parts: byte b comes from way b % width, in piece b // width ---------------------------------------------
        part = Signal(data.ArrayLayout(8, ways))
        number, row_end, tile_end = Signal.like(piece.part), Signal(), Signal()
        m.d.comb += self.part.eq(part)
        for byte in range(ways):
            source = Signal(8, name=f"source_{byte}")
            here = Signal(name=f"here_{byte}")
            with m.Switch(self.log_width):
                for log in range(ways.bit_length()):
                    with m.Case(log):
                        m.d.comb += [source.eq(self.values[byte & ((1 << log) - 1)]),
                                     here.eq(piece.place == byte >> log)]
            with m.If(self.go & piece.valid):
                with m.If(here):
                    m.d.sync += part[byte].eq(source)
                with m.Elif(piece.place == 0):
                    m.d.sync += part[byte].eq(0)
        with m.If(self.go):
            m.d.sync += [
                self.part_valid.eq(piece.valid & piece.end),
                number.eq(piece.part),
                row_end.eq(piece.part == parts - 1),
                tile_end.eq(piece.tile_end),
            ]

        # ---- words ---------------------------------------------------------------------------------------------------
        word = Signal(data.ArrayLayout(data.ArrayLayout(8 * ways, parts), 2))
        second = Signal()
        m.d.comb += [
            self.word.eq(word),
            self.busy.eq(piece.valid | self.part_valid | self.word_valid),
        ]
        m.d.sync += self.word_valid.eq(0)
        with m.If(self.go & self.part_valid):
            for i in range(parts):
                with m.If(number == i):
                    with m.If(second):
                        m.d.sync += word[1][i].eq(part)
                    with m.Else():
                        m.d.sync += [word[0][i].eq(part), word[1][i].eq(0)]
            with m.If(row_end):
                m.d.sync += [self.word_valid.eq(second | tile_end), second.eq(~(second | tile_end))]
        with m.If(self.start):
            m.d.sync += [self.part_valid.eq(0), second.eq(0)]
        return m
