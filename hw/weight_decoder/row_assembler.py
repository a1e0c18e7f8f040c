"""The row assembler: what the ways decode -> rows of weights, words of the weight store, and the check value."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import CHECK_BITS, WAYS_MAX
from hw.contract.weight_tables import KIND_BITS
from hw.weight_decoder.row_check import RowCheck
from hw.weight_decoder.way import OFFSET_BITS


class Content(enum.Enum, shape=2):
    """What a step brings."""

    NOTHING = 0
    CHECKED = 1  #: what is not a row of weights, but part of the check value
    WEIGHTS = 2  #: a part of a row of weights


class PieceLayout(data.StructLayout):
    """A step's piece of a row.

    Members
    -------
    first, last : pieces of the row. position : of the piece in the row. tile_end : it is the tile's last row.
    active : ways that have a weight.
    checked : the row, if it is CHECKED.
    """

    def __init__(self, lanes: int, ways: int):
        super().__init__({
            "content": Content,
            "first": 1,
            "last": 1,
            "position": unsigned(max(1, (lanes - 1).bit_length())),
            "tile_end": 1,
            "active": unsigned(ways),
            "checked": unsigned(32),
        })


class RowAssembler(wiring.Component):
    """Three stages: the weights' values; the row; its word and the check value.

    Members
    -------
    enable : everything moves; without it, everything rests.
    start : pulse; a new block. log_ways : of the block.
    piece : what the ways decoded in the last cycle; base, offset, extra of each way : see Way.
    words : two rows of weights each. Where it isn't taken, `blocked` : `enable` must be low.
    check : of what has come through. busy : something has not.
    """

    def __init__(self, lanes: int, ways: int):
        self.lanes = lanes
        self.ways = ways
        super().__init__({
            "enable": In(1),
            "start": In(1),
            "log_ways": In(range(WAYS_MAX + 1)),
            "piece": In(PieceLayout(lanes, ways)),
            "base": In(data.ArrayLayout(8, ways)),
            "offset": In(data.ArrayLayout(OFFSET_BITS, ways)),
            "extra": In(data.ArrayLayout(KIND_BITS, ways)),
            "words": Out(stream.Signature(unsigned(16 * lanes))),
            "check": Out(CHECK_BITS),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes, ways, piece = self.lanes, self.ways, self.piece

        # ---- stage 1: values ---------------------------------------------------------------------------------------
        values = Signal(data.ArrayLayout(8, ways))
        piece_2 = Signal.like(piece)
        with m.If(self.enable):
            m.d.sync += piece_2.eq(piece)
            for way in range(ways):
                inside = Signal(OFFSET_BITS, name=f"inside_{way}")
                m.d.comb += inside.eq(self.offset[way] & ((1 << self.extra[way]) - 1))
                m.d.sync += values[way].eq(Mux(piece.active[way], self.base[way] + inside, 0))

        # ---- stage 2: rows; byte b comes from way b % (1 << log_ways), at position b // (1 << log_ways) ------------
        row = Signal(8 * lanes)
        placed = Signal(8 * lanes)
        content_3, tile_end_3 = Signal(Content), Signal()
        for byte in range(lanes):
            with m.Switch(self.log_ways):
                for log in range(ways.bit_length()):
                    with m.Case(log):
                        with m.If(piece_2.position == byte >> log):
                            m.d.comb += placed.word_select(byte, 8).eq(values[byte & ((1 << log) - 1)])
        with m.If(self.enable):
            m.d.sync += [content_3.eq(Content.NOTHING), tile_end_3.eq(piece_2.tile_end)]
            with m.If(piece_2.content == Content.WEIGHTS):
                m.d.sync += row.eq(Mux(piece_2.first, 0, row) | placed)
                with m.If(piece_2.last):
                    m.d.sync += content_3.eq(Content.WEIGHTS)
            with m.Elif(piece_2.content == Content.CHECKED):
                m.d.sync += [row.eq(piece_2.checked), content_3.eq(Content.CHECKED)]

        # ---- stage 3: words and check ------------------------------------------------------------------------------
        m.submodules.checker = checker = RowCheck(8 * lanes)
        m.d.comb += [
            checker.start.eq(self.start),
            checker.valid.eq(self.enable & (content_3 != Content.NOTHING)),
            checker.row.eq(row),
            self.check.eq(checker.check),
        ]
        low = Signal(8 * lanes)
        second = Signal()
        with m.If(self.words.ready):
            m.d.sync += self.words.valid.eq(0)
        with m.If(self.enable & (content_3 == Content.WEIGHTS)):
            with m.If(second | tile_end_3):
                m.d.sync += [
                    self.words.payload.eq(Mux(second, Cat(low, row), Cat(row, Const(0, 8 * lanes)))),
                    self.words.valid.eq(1),
                    second.eq(0),
                ]
            with m.Else():
                m.d.sync += [low.eq(row), second.eq(1)]
        m.d.comb += self.busy.eq((piece_2.content != Content.NOTHING) | (content_3 != Content.NOTHING)
                                 | self.words.valid)
        with m.If(self.start):
            m.d.sync += [second.eq(0), content_3.eq(Content.NOTHING), piece_2.content.eq(Content.NOTHING)]
        return m
