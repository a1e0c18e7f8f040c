"""The unit window: beats of 64 bits -> the block's next units, any number of which may be taken in a cycle."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import UNIT_BITS

BEAT_UNITS = 64 // UNIT_BITS

#: Bits of a block's number of units.
COUNT_BITS = 28


class UnitWindow(wiring.Component):
    """Holds the next units of a block, the first one lowest. After its last unit there are units of zeros.

    Parameters
    ----------
    most : units that may be taken in a cycle.

    Members
    -------
    start : pulse; a new block of `total` units, which begins `skip` units into the next beat.
    beats : little-endian; beats without a unit of the block are not taken.
    units : the next `most` units. count : how many are to be taken; enough : they are there.
    take : take them; only with `enough`.
    exhausted : every unit of the block has been taken.
    """

    def __init__(self, most: int):
        self.most = most
        super().__init__({
            "start": In(1),
            "skip": In(range(BEAT_UNITS)),
            "total": In(COUNT_BITS),
            "beats": In(stream.Signature(unsigned(64))),
            "units": Out(UNIT_BITS * most),
            "count": In(range(most + 1)),
            "enough": Out(1),
            "take": In(1),
            "exhausted": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        capacity = self.most + 2 * BEAT_UNITS
        window = Signal(UNIT_BITS * capacity)
        level = Signal(range(capacity + 1))
        left = Signal(COUNT_BITS)  # units still to come
        skip = Signal.like(self.skip)
        ended = Signal()
        m.d.comb += [
            ended.eq(left == 0),
            self.units.eq(window),
            self.enough.eq(ended | (self.count <= level)),
            self.exhausted.eq(ended & (level == 0)),
            self.beats.ready.eq(~ended & (level <= capacity - BEAT_UNITS)),
        ]

        # ---- a beat: without what lies before the block, and behind it ---------------------------------------------
        usable = Signal(range(BEAT_UNITS + 1))
        added = Signal(range(BEAT_UNITS + 1))
        shifted = Signal(64)
        beat = Signal(64)
        accept = Signal()
        m.d.comb += [
            accept.eq(self.beats.valid & self.beats.ready),
            usable.eq(BEAT_UNITS - skip),
            added.eq(Mux(left < usable, left, usable)),
            shifted.eq(self.beats.payload >> (skip << 4)),
            *(beat.word_select(i, UNIT_BITS).eq(Mux(accept & (i < added), shifted.word_select(i, UNIT_BITS), 0))
              for i in range(BEAT_UNITS)),
        ]

        # ---- append and take ---------------------------------------------------------------------------------------
        appended = Signal.like(window)
        remaining = Signal.like(window)
        taken = Signal.like(self.count)
        level_appended = Signal.like(level)
        m.d.comb += [
            appended.eq(window | (beat << (level << 4))),
            level_appended.eq(level + Mux(accept, added, 0)),
            taken.eq(Mux(self.take, self.count, 0)),
            remaining.eq(appended >> (taken << 4)),
        ]
        m.d.sync += [
            window.eq(remaining),
            level.eq(Mux(level_appended > taken, level_appended - taken, 0)),
        ]
        with m.If(accept):
            m.d.sync += [left.eq(left - added), skip.eq(0)]
        with m.If(self.start):
            m.d.sync += [window.eq(0), level.eq(0), left.eq(self.total), skip.eq(self.skip)]
        return m
