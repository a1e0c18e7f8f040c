"""A way of the decoder: one state of the entropy coder, its stream, and its copy of the symbol table."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import STATE_BITS, UNIT_BITS
from hw.contract.weight_tables import FREQUENCIES, FREQUENCY_BITS, KIND_BITS

#: Entries that are written to the table in a cycle.
ENTRIES = 2

#: Bits that a step may use, and of a symbol's offset.
STEP_BITS = range(UNIT_BITS + 1)
OFFSET_BITS = (1 << KIND_BITS) - 1

#: What a state's low bits select. With `shift`, 1 to FREQUENCY_BITS, the most bits that the state will take in:
#: frequency and offset (code less the symbol's first code) are shifted up by shift - 1, so that the frequency's
#: leading one, which is not stored, is bit FREQUENCY_BITS - 1.
ENTRY = data.StructLayout({
    "frequency": unsigned(FREQUENCY_BITS - 1),
    "offset": unsigned(FREQUENCY_BITS),
    "shift": unsigned(4),
    "extra": unsigned(KIND_BITS),
    "base": unsigned(8),
})

#: How row maps are coded: the frequency of rows that are not stored, and ENTRY's shift and frequency of both.
ROW_CODE = data.StructLayout({
    "zeros": unsigned(FREQUENCY_BITS),
    "frequency": data.ArrayLayout(unsigned(FREQUENCY_BITS - 1), 2),
    "shift": data.ArrayLayout(unsigned(4), 2),
})

#: A write of ENTRIES neighbouring entries.
TABLE_WRITE = data.StructLayout({
    "enable": unsigned(ENTRIES),
    "address": unsigned(FREQUENCY_BITS - 1),
    "entries": data.ArrayLayout(ENTRY, ENTRIES),
})


class Step(enum.Enum, shape=3):
    """What a way does."""

    BITS = 0  #: take `bits` bits
    STATE = 1  #: take STATE_BITS bits, which are the state
    ROW_MAP = 2  #: decode a bit of a row map
    WEIGHT = 3  #: decode a weight
    LAST_WEIGHT = 4  #: the weight that the final state holds


class Way(wiring.Component):
    """A step per cycle.

    Members
    -------
    table : writes to the symbol table. row_code : of row maps, constant while they are decoded.
    run : make the step `step`; a step of BITS takes `bits` bits. insert, unit : a unit to be appended in this cycle.
    below_one, below_two : fewer bits are there than one unit has, than two.
    next_bits : the next UNIT_BITS bits.
    row_stored : what a ROW_MAP step decodes, in the step's cycle.
    base, offset, extra : what a WEIGHT step decodes, in the next cycle: base + the low `extra` bits of offset.
    state : without its leading one. rest_zero : no bit of the stream that is left is set.
    """

    def __init__(self):
        super().__init__({
            "table": In(TABLE_WRITE),
            "row_code": In(ROW_CODE),
            "run": In(1),
            "step": In(Step),
            "bits": In(STEP_BITS),
            "insert": In(1),
            "unit": In(UNIT_BITS),
            "below_one": Out(1),
            "below_two": Out(1),
            "next_bits": Out(UNIT_BITS),
            "row_stored": Out(1),
            "base": Out(8),
            "offset": Out(OFFSET_BITS),
            "extra": Out(KIND_BITS),
            "state": Out(STATE_BITS),
            "rest_zero": Out(1),
            "clear": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        state, step = self.state, self.step

        # ---- the symbol: from the table, or one of the two of row maps ---------------------------------------------
        m.submodules.memory = memory = Memory(shape=data.ArrayLayout(ENTRY, ENTRIES), depth=FREQUENCIES // ENTRIES,
                                              init=[])
        write = memory.write_port(granularity=1)
        read = memory.read_port()
        code = Signal(FREQUENCY_BITS)
        entry = Signal(ENTRY)
        row_entry = Signal(ENTRY)
        symbol = Signal(ENTRY)
        row_start = Signal(FREQUENCY_BITS)
        m.d.comb += [
            write.en.eq(self.table.enable),
            write.addr.eq(self.table.address),
            write.data.eq(self.table.entries),
            code.eq(state[:FREQUENCY_BITS]),
            entry.eq(Mux(state[0], read.data[1], read.data[0])),
            self.row_stored.eq(code >= self.row_code.zeros),
            row_start.eq(Mux(self.row_stored, self.row_code.zeros, 0)),
            row_entry.frequency.eq(self.row_code.frequency[self.row_stored]),
            row_entry.shift.eq(self.row_code.shift[self.row_stored]),
            row_entry.offset.eq((code - row_start)[:FREQUENCY_BITS] << (row_entry.shift - 1)[:4]),
            symbol.eq(Mux(step == Step.ROW_MAP, row_entry, entry)),
        ]

        # ---- the next state, of which `scaled` is the upper part, shifted as if it would take shift - 1 bits -------
        buffer = Signal(3 * UNIT_BITS)
        level = Signal(range(3 * UNIT_BITS))  # its bits, with those of a unit that waits
        unit, waiting = Signal(UNIT_BITS), Signal()
        available = Signal.like(buffer)
        m.d.comb += available.eq(buffer | (Mux(waiting, unit, 0) << (level - UNIT_BITS)[:5]))
        high = state[FREQUENCY_BITS:]
        frequency = Cat(symbol.frequency, Const(1, 1))
        scaled = Signal(STATE_BITS + 1)
        ones = Signal(FREQUENCY_BITS)
        decoded = Signal(STATE_BITS)
        fewer = Signal()
        m.d.comb += [
            scaled.eq((frequency << 3) + frequency * high + symbol.offset),
            fewer.eq(scaled[-1]),
            ones.eq((1 << symbol.shift) - 1),
            decoded.eq(Mux(fewer, scaled | (available & (ones >> 1)), (scaled << 1) | (available & ones))),
        ]
        following = Signal(STATE_BITS)
        most = Signal(STEP_BITS)  # bits that the step uses, or one more: shifts do not wait for the product
        one_less = Signal()
        m.d.comb += following.eq(state)
        with m.If(self.run):
            with m.Switch(step):
                with m.Case(Step.BITS):
                    m.d.comb += most.eq(self.bits)
                with m.Case(Step.STATE):
                    m.d.comb += [most.eq(STATE_BITS), following.eq(available)]
                with m.Case(Step.ROW_MAP):
                    m.d.comb += [most.eq(symbol.shift), one_less.eq(fewer), following.eq(decoded)]
                with m.Case(Step.WEIGHT):
                    m.d.comb += [most.eq(symbol.shift + symbol.extra), one_less.eq(fewer), following.eq(decoded)]
                with m.Case(Step.LAST_WEIGHT):
                    m.d.comb += following.eq(Cat(Const(0, 8), state[8:]))
        m.d.sync += state.eq(following)
        m.d.comb += [
            read.addr.eq(following[1:FREQUENCY_BITS]),
            read.en.eq(~write.en.any()),  # the table is complete before it is read; synthesis sees it from this
        ]
        shifted_offset = Signal(UNIT_BITS + 1)
        m.d.comb += shifted_offset.eq((available << 1)[: UNIT_BITS + 1] >> symbol.shift)
        with m.If(self.run):
            m.d.sync += [
                self.base.eq(Mux(step == Step.LAST_WEIGHT, state, symbol.base)),
                self.extra.eq(Mux(step == Step.LAST_WEIGHT, 0, symbol.extra)),
                self.offset.eq(Mux(fewer, shifted_offset, shifted_offset >> 1)),
            ]

        # ---- the stream; a unit joins the bits a cycle after it was taken ------------------------------------------
        shifted = Signal(3 * UNIT_BITS + 1)
        m.d.comb += [
            self.below_one.eq(level < UNIT_BITS),
            self.below_two.eq(level < 2 * UNIT_BITS),
            self.next_bits.eq(available),
            self.rest_zero.eq(available == 0),
            shifted.eq((available << 1) >> most),
        ]
        m.d.sync += [
            buffer.eq(Mux(one_less, shifted, shifted >> 1)),
            level.eq(level + Mux(self.insert, UNIT_BITS, 0) - most + one_less),
            unit.eq(self.unit),
            waiting.eq(self.insert),
        ]
        with m.If(self.clear):
            m.d.sync += [buffer.eq(0), level.eq(0), waiting.eq(0)]
        return m
