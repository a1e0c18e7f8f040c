"""The unit dealer: the block's units, in their order, to the ways that ask for them."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import UNIT_BITS
from hw.weight_decoder.unit_window import COUNT_BITS, UnitWindow

#: Units that are dealt out in a cycle at most; where more are asked for, the ways wait a cycle.
MOST = 8


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


class UnitDealer(wiring.Component):
    """What is asked for in a cycle with `go` is dealt out until the next one.

    Parameters
    ----------
    ways : that may ask, a power of two. beat_units : of a beat.

    Members
    -------
    start, skip, total, beats : see UnitWindow.
    go : all that was asked for is being dealt out.
    ask : of each way. ask_first : for one unit that no way gets, but `first` shows; only where no way asks.
    insert, unit : the units, to each way.
    exhausted : before those that are being dealt out, every unit of the block had been; with `go`.
    """

    def __init__(self, ways: int, beat_units: int):
        self.ways = ways
        self.beat_units = beat_units
        super().__init__({
            "start": In(1),
            "skip": In(range(beat_units)),
            "total": In(COUNT_BITS),
            "beats": In(stream.Signature(unsigned(UNIT_BITS * beat_units))),
            "go": Out(1),
            "ask": In(ways),
            "ask_first": In(1),
            "first": Out(UNIT_BITS),
            "insert": Out(ways),
            "unit": Out(data.ArrayLayout(UNIT_BITS, ways)),
            "exhausted": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        most = min(self.ways, MOST)
        m.submodules.window = window = UnitWindow(most, self.beat_units)
        m.d.comb += [
            window.start.eq(self.start),
            window.skip.eq(self.skip),
            window.total.eq(self.total),
            self.first.eq(window.units),
        ]
        wiring.connect(m, wiring.flipped(self.beats), window.beats)

        before, total = prefix_counts(m, self.ask, "asking")
        asked = Signal(self.ways)
        index = [Signal(range(max(2, i + 1)), name=f"index_{i}") for i in range(self.ways)]
        count = Signal(range(most + 1))
        rest = Signal(range(most + 1))  # dealt out in another cycle
        again, second = Signal(), Signal()  # there is another cycle; this is it
        had = Signal()  # what `exhausted` was in the first
        m.d.comb += [
            self.go.eq(window.enough & ~again),
            window.count.eq(count),
            self.exhausted.eq(Mux(second, had, window.exhausted)),
        ]
        m.d.sync += had.eq(self.exhausted)
        more = Signal()
        m.d.comb += more.eq(0 if most == self.ways else total > most)
        with m.If(self.go):
            m.d.sync += [
                asked.eq(self.ask),
                *(register.eq(value) for register, value in zip(index, before, strict=True)),
                count.eq(Mux(more, most, total + self.ask_first)),
                rest.eq(total - most),
                again.eq(more),
                second.eq(0),
            ]
        with m.Elif(window.enough):
            m.d.sync += [count.eq(rest), again.eq(0), second.eq(1)]
        with m.If(self.start):
            m.d.sync += [asked.eq(0), count.eq(0), again.eq(0), second.eq(0)]
        log = most.bit_length() - 1
        for i in range(self.ways):
            units = window.units[: UNIT_BITS * min(most, i + 1)]
            now = Const(1) if i < most else index[i][log] == second
            m.d.comb += [
                self.unit[i].eq(units.word_select(index[i][:log] if i else Const(0, 1), UNIT_BITS)),
                self.insert[i].eq(asked[i] & window.enough & (now if i >= most else ~second)),
            ]
        return m
