"""The unit window: beats -> the block's next units, some of which may be taken in every cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import UNIT_BITS
from hw.register_slice import RegisterSlice

#: Units of a beat of the bus.
BEAT_UNITS = 64 // UNIT_BITS

#: Bits of a block's number of units.
COUNT_BITS = 28


class UnitWindow(wiring.Component):
    """Holds the next units of a block in two beats, the first one lowest. After its last unit there are units of zeros.

    Parameters
    ----------
    most : units that may be taken in a cycle. beat_units : units of a beat, a power of two, at least `most`.

    Members
    -------
    start : pulse; a new block of `total` units, which begins `skip` units into the next beat.
    beats : little-endian; beats without a unit of the block are not taken.
    units : the next `most` units. enough : so many are there; `count` of them are taken.
    exhausted : every unit of the block has been taken; with `enough`.
    """

    def __init__(self, most: int, beat_units: int = BEAT_UNITS):
        self.most = most
        self.beat_units = beat_units
        super().__init__({
            "start": In(1),
            "skip": In(range(beat_units)),
            "total": In(COUNT_BITS),
            "beats": In(stream.Signature(unsigned(UNIT_BITS * beat_units))),
            "units": Out(UNIT_BITS * most),
            "count": In(range(most + 1)),
            "enough": Out(1),
            "exhausted": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        beat_units = self.beat_units
        log = beat_units.bit_length() - 1

        # ---- the second beat, as it comes; units behind the block's last one are zeros -------------------------------
        # A slice holds it, and the one behind it: whether there is room for a beat does not hang on what is taken.
        beat = data.StructLayout({
            "units": data.ArrayLayout(UNIT_BITS, beat_units), "count": range(beat_units + 1), "last": 1})
        m.submodules.second = second = RegisterSlice(beat)
        left = Signal(COUNT_BITS + 1)  # units to come, and those that are skipped
        settling = Signal()
        last, ended = Signal(), Signal(init=1)  # the beat that comes is the last one; it has come
        arrives = Signal()
        m.d.comb += [
            self.beats.ready.eq(second.i.ready & ~ended & ~settling),
            arrives.eq(self.beats.ready & self.beats.valid),
            second.i.valid.eq(ended | (self.beats.valid & ~settling)),
            second.i.payload.last.eq(last | ended),
            second.i.payload.count.eq(Mux(ended, 0, Mux(last, left[: log + 1], beat_units))),
        ]
        for i in range(beat_units):
            behind = Signal(name=f"behind_{i}")
            m.d.comb += [
                behind.eq(ended | (last & (left[: log + 1] <= i))),
                second.i.payload.units[i].eq(Mux(behind, 0, self.beats.payload.word_select(i, UNIT_BITS))),
            ]
        with m.If(settling):
            m.d.sync += [settling.eq(0), last.eq(left <= beat_units)]
        with m.Elif(arrives):
            m.d.sync += [left.eq(left - beat_units), ended.eq(last), last.eq(left <= 2 * beat_units)]

        # ---- the first beat, and where the next unit lies in it ------------------------------------------------------
        first, first_valid = Signal(beat), Signal()
        offset = Signal(range(beat_units))
        passed = Signal(range(2 * beat_units))
        free = Signal()
        first_valid_next, second_valid_next = Signal(), Signal()
        # Whether the first beat alone has as many units as may be taken; always, where these are few.
        in_first = passed[:log] <= beat_units - self.most if self.most > 1 else 1
        m.d.comb += [
            passed.eq(offset + Mux(self.enough, self.count, 0)),
            free.eq(passed[log] | ~first_valid),
            second.o.ready.eq(free),
            second.drop.eq(self.start),
            first_valid_next.eq(~free | second.o.valid),
            second_valid_next.eq((second.o.valid & ~free) | second.i.valid | ~second.i.ready),
            self.exhausted.eq(first.last & (offset >= first.count)),
        ]
        with m.Switch(offset):
            for i in range(beat_units):
                with m.Case(i):
                    m.d.comb += self.units.eq(Cat(first.units, second.o.payload.units)[UNIT_BITS * i :])
        m.d.sync += [
            offset.eq(passed),
            first_valid.eq(first_valid_next),
            self.enough.eq(first_valid_next & (second_valid_next | in_first)),
        ]
        with m.If(free):
            m.d.sync += first.eq(second.o.payload)
        with m.If(self.start):
            m.d.sync += [
                left.eq(self.total + self.skip), settling.eq(1), last.eq(0), ended.eq(0), offset.eq(self.skip),
                first_valid.eq(0), self.enough.eq(0),
            ]
        return m
