"""The table builder: bins, from the block or from a standard table -> the entries of the ways' symbol tables."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import STATE_BITS, TableKind
from hw.contract.weight_standard_tables import RAW, STANDARD_BINS
from hw.contract.weight_tables import EMPTY, FREQUENCIES, FREQUENCY_BITS, KIND_BITS, Bin
from hw.weight_decoder.way import table_write

#: A bin: its frequency without its leading one, shifted up as far as it goes, and FREQUENCY_BITS - 1 less its exponent,
#: modulo 16: NOTHING for an empty bin, more where there is no such exponent.
BIN = data.StructLayout({
    "extra": unsigned(KIND_BITS),
    "spread": unsigned(4),
    "frequency": unsigned(FREQUENCY_BITS - 1),
})
NOTHING = (FREQUENCY_BITS - 1 - EMPTY) % 16


def bin_word(item: Bin) -> int:
    """A BIN."""
    spread = FREQUENCY_BITS - item.frequency.bit_length() if item.frequency else NOTHING
    frequency = item.frequency << spread & FREQUENCIES // 2 - 1 if item.frequency else 0
    return item.extra | spread << KIND_BITS | frequency << KIND_BITS + 4


class TableBuilder(wiring.Component):
    """Writes entries of one symbol in a cycle.

    Parameters
    ----------
    entries : at most, 1 or 2.

    Members
    -------
    start : pulse, when idle or done; `kind` and `standard`, the number of a standard table, say what is to be built.
    bins : the bins, unless the table is a standard one.
    table : to the ways.
    done : the table is complete, until the next start. failed : the bins are no table; until a reset.
    """

    def __init__(self, entries: int):
        self.entries = entries
        super().__init__({
            "start": In(1),
            "kind": In(TableKind),
            "standard": In(8),
            "bins": In(stream.Signature(BIN)),
            "table": Out(table_write(entries)),
            "done": Out(1),
            "failed": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()

        # ---- standard tables: where each begins, and their bins ------------------------------------------------------
        starts, words = [], []
        for _symmetric, bins in STANDARD_BINS:
            starts.append(len(STANDARD_BINS) + len(words))
            words += [bin_word(item) for item in bins]
        m.submodules.standard = memory = Memory(shape=unsigned(BIN.size), depth=len(starts) + len(words),
                                                init=starts + words)
        word = memory.read_port()
        at = Signal(range(len(starts) + len(words)))
        moved, moved_before = Signal(), Signal()  # the word at `at` is not there yet
        fetched = Signal.like(word.data)
        standard, symmetric = Signal(), Signal()
        m.d.comb += [word.addr.eq(at), word.en.eq(1)]
        m.d.sync += [moved.eq(0), moved_before.eq(moved), fetched.eq(word.data)]

        # ---- the symbol that is being written ------------------------------------------------------------------------
        value = Signal(9)  # of the next bin, plus 128
        offered = Signal(BIN)
        extra = Signal(KIND_BITS)
        spread = Signal(4)
        frequency = Signal(FREQUENCY_BITS)
        base = Signal(8)
        negative = Signal()  # the negative side of a symmetric bin
        zero = Signal()  # the last symbol of a symmetric table
        slot = Signal(FREQUENCY_BITS + 1)  # the next code to be written
        left = Signal(FREQUENCY_BITS)  # codes of the symbol to be written, shifted up
        low = Signal(STATE_BITS + 1)
        one, two = Signal(FREQUENCY_BITS), Signal(FREQUENCY_BITS)  # a code, two codes, shifted up
        last, both, written = Signal(), Signal(), Signal()
        step = Signal(FREQUENCY_BITS)
        writing = Signal()
        m.d.comb += [
            offered.eq(Mux(standard, fetched, self.bins.payload)),
            two.eq(one << 1),
            last.eq(left == one),
        ]
        if self.entries == 1:
            m.d.comb += [step.eq(one), written.eq(last)]
        else:
            m.d.comb += [
                both.eq(~slot[0] & ~last),
                step.eq(Mux(both, two, one)),
                written.eq(last | (both & (left == two))),
            ]
        # The ways see an entry a cycle later, long before they decode.
        m.d.sync += [
            self.table.enable.eq(Const(1) & writing if self.entries == 1 else
                                 Cat(writing & ~slot[0], writing & (slot[0] | both))),
            self.table.address.eq(slot[self.entries - 1 :]),
        ]
        for i, entry in enumerate(self.table.entries):
            m.d.sync += [
                entry.frequency.eq(frequency),
                entry.low.eq(low if i == 0 else Mux(slot[0], low, low + one)),
                entry.spread.eq(spread),
                entry.extra.eq(extra),
                entry.base.eq(base),
            ]

        def begin_symbol(of: Signal):
            m.d.sync += [left.eq(of), low.eq(of << STATE_BITS - FREQUENCY_BITS)]

        def begin():
            """Start, if it is time."""
            with m.If(self.start):
                general = Signal()
                m.d.comb += general.eq((self.kind == TableKind.GENERAL)
                                       | ((self.kind == TableKind.STANDARD) & (self.standard == RAW)))
                m.d.sync += [
                    standard.eq(self.kind == TableKind.STANDARD), symmetric.eq(~general),
                    value.eq(Mux(general, 0, 129)), slot.eq(0), zero.eq(0), at.eq(self.standard), moved.eq(1),
                ]
                m.next = "START"

        with m.FSM():
            with m.State("IDLE"):
                begin()
            with m.State("START"):  # the number of a standard table is being looked up
                with m.If(~moved & ~moved_before):
                    m.d.sync += [at.eq(fetched), moved.eq(1)]
                    m.next = "BIN"
            with m.State("BIN"):
                m.d.comb += self.bins.ready.eq(~standard & ~value[8])
                m.d.sync += negative.eq(0)
                with m.If(value[8]):
                    m.next = "END"
                with m.Elif(Mux(standard, ~moved & ~moved_before, self.bins.valid)):
                    offered_frequency = Signal(FREQUENCY_BITS)
                    m.d.comb += offered_frequency.eq(Cat(offered.frequency, Const(1, 1)))
                    begin_symbol(offered_frequency)
                    m.d.sync += [
                        frequency.eq(offered_frequency), extra.eq(offered.extra), spread.eq(offered.spread),
                        one.eq(1 << offered.spread),
                        base.eq(value[:8] ^ 0x80), value.eq(value + (1 << offered.extra)),
                        at.eq(at + 1), moved.eq(1),
                    ]
                    with m.If(offered.spread > NOTHING):
                        m.next = "FAILED"
                    with m.Elif(offered.spread != NOTHING):
                        m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += writing.eq(1)
                m.d.sync += [
                    slot.eq(slot + Mux(both, 2, 1)), left.eq(left - step), low.eq(low + step),
                ]
                with m.If(slot[FREQUENCY_BITS]):
                    m.next = "FAILED"
                with m.Elif(written):
                    begin_symbol(frequency)
                    with m.If(zero):
                        m.next = "DONE"
                    with m.Elif(symmetric & ~negative):
                        m.d.sync += [negative.eq(1), base.eq((~value[:8] ^ 0x80) + 2)]
                    with m.Else():
                        m.next = "BIN"
            with m.State("END"):
                m.d.sync += [zero.eq(1), extra.eq(0), base.eq(0), spread.eq(0), one.eq(1),
                             frequency.eq(FREQUENCIES - slot)]
                with m.If(slot[FREQUENCY_BITS]):
                    m.next = "DONE"
                with m.Elif(symmetric & (slot != 0)):
                    m.next = "SHIFT"
                with m.Else():
                    m.next = "FAILED"
            with m.State("SHIFT"):  # the zero's frequency
                begin_symbol(frequency)
                with m.If(frequency[-1]):
                    m.next = "WRITE"
                with m.Else():
                    m.d.sync += [frequency.eq(frequency << 1), spread.eq(spread + 1), one.eq(one << 1)]
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                begin()
            with m.State("FAILED"):
                m.d.comb += self.failed.eq(1)
        return m
