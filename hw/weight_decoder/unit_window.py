"""The unit window: beats -> the block's next units, any number of which may be taken in a cycle."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import UNIT_BITS

#: Units of a beat of the bus.
BEAT_UNITS = 64 // UNIT_BITS

#: Bits of a block's number of units.
COUNT_BITS = 28


class UnitWindow(wiring.Component):
    """Holds the next units of a block, the first one lowest. After its last unit there are units of zeros.

    Beats move as a whole; where the next unit lies in the first of them is kept beside.

    Parameters
    ----------
    most : units that may be taken in a cycle. beat_units : units of a beat, a power of two.

    Members
    -------
    start : pulse; a new block of `total` units, which begins `skip` units into the next beat.
    beats : little-endian; beats without a unit of the block are not taken.
    units : the next `most` units. count : how many are to be taken; enough : they are there.
    take : take them; only with `enough`.
    exhausted : every unit of the block has been taken.
    """

    def __init__(self, most: int, beat_units: int = BEAT_UNITS):
        self.most = most
        self.beat_units = beat_units
        #: Beats that are held: all that may be taken at once, wherever they begin, and two more.
        self.capacity = -(-(most + beat_units - 1) // beat_units) + 2
        super().__init__({
            "start": In(1),
            "skip": In(range(beat_units)),
            "total": In(COUNT_BITS),
            "beats": In(stream.Signature(unsigned(UNIT_BITS * beat_units))),
            "units": Out(UNIT_BITS * most),
            "count": In(range(most + 1)),
            "enough": Out(1),
            "take": In(1),
            "exhausted": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        beat_units, beat_bits = self.beat_units, UNIT_BITS * self.beat_units
        held = Signal(data.ArrayLayout(beat_bits, self.capacity))
        beats = Signal(range(self.capacity + 1))  # that are held
        offset = Signal(range(beat_units))  # of the next unit in the first beat
        level = Signal(range(beat_units * self.capacity + 1))  # units of the block that are held
        left = Signal(COUNT_BITS)  # units still to come
        skip = Signal.like(self.skip)
        ended = Signal()
        m.d.comb += [
            ended.eq(left == 0),
            self.enough.eq(ended | (self.count <= level)),
            self.exhausted.eq(ended & (level == 0)),
            self.beats.ready.eq(~ended & (beats != self.capacity)),
        ]
        with m.Switch(offset):
            for i in range(beat_units):
                with m.Case(i):
                    m.d.comb += self.units.eq(held.as_value()[UNIT_BITS * i:])

        # ---- a beat: units behind the block's last one are zeros ----------------------------------------------
        usable = Signal(range(beat_units + 1))
        added = Signal(range(beat_units + 1))
        end = Signal(range(beat_units + 1))
        beat = Signal(beat_bits)
        accept = Signal()
        m.d.comb += [
            accept.eq(self.beats.valid & self.beats.ready),
            usable.eq(beat_units - skip),
            added.eq(Mux(left < usable, left, usable)),
            end.eq(skip + added),
            *(beat.word_select(i, UNIT_BITS).eq(Mux(i < end, self.beats.payload.word_select(i, UNIT_BITS), 0))
              for i in range(beat_units)),
        ]

        # ---- append and take -------------------------------------------------------------------------------------
        taken = Signal.like(self.count)
        passed = Signal(range(self.most + beat_units))  # units from the first beat's begin
        gone = Signal(range(self.capacity))  # beats that are used up
        appended = Signal.like(held)
        beats_appended = Signal.like(beats)
        level_appended = Signal.like(level)
        m.d.comb += [
            taken.eq(Mux(self.take, self.count, 0)),
            passed.eq(offset + taken),
            gone.eq(passed // beat_units),
            beats_appended.eq(beats + accept),
            level_appended.eq(level + Mux(accept, added, 0)),
            *(appended[i].eq(Mux(beats == i, Mux(accept, beat, 0), held[i])) for i in range(self.capacity)),
        ]
        with m.Switch(gone):
            for i in range((self.most + beat_units - 1) // beat_units + 1):
                with m.Case(i):
                    m.d.sync += held.eq(appended.as_value()[beat_bits * i:])
        m.d.sync += [
            offset.eq(passed),
            beats.eq(Mux(beats_appended > gone, beats_appended - gone, 0)),
            level.eq(Mux(level_appended > taken, level_appended - taken, 0)),
        ]
        with m.If(accept):
            m.d.sync += [left.eq(left - added), skip.eq(0)]
        with m.If(self.start):
            m.d.sync += [held.eq(0), beats.eq(0), offset.eq(self.skip), level.eq(0), left.eq(self.total),
                         skip.eq(self.skip)]
        return m
