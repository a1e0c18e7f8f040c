"""The table builder: bins, from the block or from a standard table -> the entries of the ways' symbol tables."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import TableKind
from hw.contract.weight_standard_tables import RAW, STANDARD_BINS
from hw.contract.weight_tables import FREQUENCIES, FREQUENCY_BITS, KIND_BITS
from hw.weight_decoder.way import ENTRIES, TABLE_WRITE

#: A bin as it is described.
BIN = data.StructLayout({"extra": unsigned(KIND_BITS), "frequency": unsigned(FREQUENCY_BITS)})


def normalise(m: Module, frequency: Signal, shift: Signal, normalised: Signal) -> None:
    """An ENTRY's shift and frequency, for a frequency of 1 to FREQUENCIES - 1."""
    with m.Switch(frequency):
        for exponent in reversed(range(FREQUENCY_BITS)):
            pattern = "0" * (FREQUENCY_BITS - 1 - exponent) + "1" + "-" * exponent
            with m.Case(pattern):
                m.d.comb += [
                    shift.eq(FREQUENCY_BITS - exponent),
                    normalised.eq(frequency << (FREQUENCY_BITS - 1 - exponent)),
                ]


class TableBuilder(wiring.Component):
    """Writes ENTRIES entries of one symbol in a cycle.

    Members
    -------
    start : pulse, when idle or done; `kind` and `standard`, the number of a standard table, say what is to be built.
    bins : the bins, unless the table is a standard one.
    table : to the ways.
    done : the table is complete, until the next start. failed : the bins are no table; until a reset.
    """

    def __init__(self):
        super().__init__({
            "start": In(1),
            "kind": In(2),
            "standard": In(8),
            "bins": In(stream.Signature(BIN)),
            "table": Out(TABLE_WRITE),
            "done": Out(1),
            "failed": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()

        # ---- standard tables ---------------------------------------------------------------------------------------
        starts, words = [], []
        for _symmetric, bins in STANDARD_BINS:
            starts.append(len(words))
            words += [item.extra | item.frequency << KIND_BITS for item in bins]
        m.submodules.starts = start_memory = Memory(shape=unsigned((len(words) - 1).bit_length()), depth=len(starts),
                                                    init=starts)
        m.submodules.words = word_memory = Memory(shape=unsigned(BIN.size), depth=len(words), init=words)
        start_read, word_read = start_memory.read_port(), word_memory.read_port()
        standard = Signal()
        symmetric = Signal()
        at = Signal(range(len(words)))
        fetched = Signal()  # word_read.data is the word at `at`
        m.d.comb += [start_read.addr.eq(self.standard), start_read.en.eq(1), word_read.addr.eq(at),
                     word_read.en.eq(1)]

        # ---- the symbol that is being written ----------------------------------------------------------------------
        value = Signal(signed(10))  # of the next bin
        item = Signal(BIN)
        offered = Signal(BIN)
        negative = Signal()  # the negative side of a symmetric bin
        zero = Signal()  # the last symbol of a symmetric table
        slot = Signal(FREQUENCY_BITS + 1)  # the next code to be written
        offset = Signal(FREQUENCY_BITS)  # of that in its symbol
        left = Signal(FREQUENCY_BITS + 1)  # codes of the symbol to be written
        needed = Signal(FREQUENCY_BITS + 2)
        base = Signal(8)
        shift = Signal(4)
        normalised = Signal(FREQUENCY_BITS)
        advance = Signal(range(ENTRIES + 1))
        m.d.comb += [
            offered.eq(Mux(standard, word_read.data, self.bins.payload)),
            needed.eq(slot + Mux(symmetric, offered.frequency << 1, offered.frequency)),
            base.eq(Mux(zero, 0, Mux(negative, 1 - value - (1 << item.extra), value))),
            self.table.address.eq(slot[1:]),
        ]
        normalise(m, item.frequency, shift, normalised)
        for i, entry in enumerate(self.table.entries):
            place = Signal(FREQUENCY_BITS, name=f"place_{i}")  # offset of this entry in the symbol
            m.d.comb += [
                place.eq(offset + i - slot[0]),
                entry.frequency.eq(normalised),
                entry.offset.eq(place << (shift - 1)[:4]),
                entry.shift.eq(shift),
                entry.extra.eq(Mux(zero, 0, item.extra)),
                entry.base.eq(base),
            ]

        def next_symbol():
            """What follows a symbol whose codes are written."""
            with m.If(zero):
                m.next = "DONE"
            with m.Elif(symmetric & ~negative):
                m.d.sync += [negative.eq(1), offset.eq(0), left.eq(item.frequency)]
            with m.Else():
                m.d.sync += value.eq(value + (1 << item.extra))
                m.next = "BIN"

        def begin():
            """Start, if it is time."""
            with m.If(self.start):
                m.d.sync += [
                    standard.eq(self.kind == TableKind.STANDARD),
                    symmetric.eq((self.kind == TableKind.SYMMETRIC)
                                 | ((self.kind == TableKind.STANDARD) & (self.standard != RAW))),
                    value.eq(Mux((self.kind == TableKind.GENERAL)
                                 | ((self.kind == TableKind.STANDARD) & (self.standard == RAW)), -128, 1)),
                    slot.eq(0), zero.eq(0), fetched.eq(0),
                ]
                m.next = "START"

        with m.FSM():
            with m.State("IDLE"):
                begin()
            with m.State("START"):  # the number of a standard table is being looked up
                m.d.sync += at.eq(start_read.data)
                m.next = "BIN"
            with m.State("BIN"):
                m.d.sync += [fetched.eq(1), negative.eq(0), offset.eq(0)]
                with m.If(value > 127):
                    m.next = "END"
                with m.Else():
                    m.d.comb += self.bins.ready.eq(~standard)
                with m.If((value <= 127) & Mux(standard, fetched, self.bins.valid)):
                    m.d.sync += [item.eq(offered), left.eq(offered.frequency), at.eq(at + 1), fetched.eq(0)]
                    with m.If(needed > FREQUENCIES):
                        m.next = "FAILED"
                    with m.Else():
                        m.next = "WRITE"
            with m.State("WRITE"):
                with m.If(left == 0):
                    next_symbol()
                with m.Else():
                    m.d.comb += [
                        self.table.enable.eq(Cat(~slot[0], slot[0] | (left != 1))),
                        advance.eq(Mux(slot[0] | (left == 1), 1, 2)),
                    ]
                    m.d.sync += [slot.eq(slot + advance), offset.eq(offset + advance), left.eq(left - advance)]
                    with m.If(left == advance):
                        next_symbol()
            with m.State("END"):
                m.d.sync += [
                    zero.eq(1),
                    offset.eq(0),
                    left.eq(FREQUENCIES - slot),
                    item.frequency.eq(FREQUENCIES - slot),
                ]
                with m.If(slot == FREQUENCIES):
                    m.next = "DONE"
                with m.Elif(symmetric & (slot != 0)):
                    m.next = "WRITE"
                with m.Else():
                    m.next = "FAILED"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                begin()
            with m.State("FAILED"):
                m.d.comb += self.failed.eq(1)
        return m
