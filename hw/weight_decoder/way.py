"""A way of the decoder: two states of the entropy coder that take turns, their streams, and the symbol table."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import CHECK_DIGIT, STATE_BITS, UNIT_BITS
from hw.contract.weight_tables import FREQUENCIES, FREQUENCY_BITS, KIND_BITS

#: Bits that a step may use.
STEP_BITS = range(UNIT_BITS + 1)

#: What a state's low bits select. Frequency and offset (code less the symbol's first code) are shifted up by `spread`,
#: the bits that the state takes in at least, so that the frequency's leading one, which is not stored, is bit
#: FREQUENCY_BITS - 1; `low` is the frequency times eight, which every state is multiplied with, and the offset.
ENTRY = data.StructLayout({
    "frequency": unsigned(FREQUENCY_BITS - 1),
    "low": unsigned(STATE_BITS + 1),
    "spread": unsigned(4),
    "extra": unsigned(KIND_BITS),
    "base": unsigned(8),
})


def table_write(entries: int) -> data.StructLayout:
    """A write of neighbouring entries of the symbol table."""
    return data.StructLayout({
        "enable": unsigned(entries),
        "address": range(FREQUENCIES // entries),
        "entries": data.ArrayLayout(ENTRY, entries),
    })


#: What the way does with a state, known when it enters.
STEP = data.StructLayout({
    "decode": 1,  #: a weight
    "final": 1,  #: the weight that the final state holds
    "load": 1,  #: STATE_BITS bits, which are the state
})


class Way(wiring.Component):
    """Two stages, one state in each of them: the state in the first one looks up its symbol and takes its place in the
    stream; that in the second one is multiplied, and takes bits in. Then they change places.

    Parameters
    ----------
    entries : of the table that are written at once, 1 or 2.

    Members
    -------
    go : both states move on. clear : neither has a unit; they want one in their next step.
    table : writes to the symbol table.
    half : of the state in the first stage. active, step : what it does; inactive, it stays as it is.
    ask : it needs a unit, which comes until the state has left the second stage: insert, unit.

    Of the state in the second stage:

    bits : that it takes in a step that does nothing else, or loads the state.
    next_bits : what comes next in its stream. digit : the high bits of the state. low_zero : its low ones are.
    value : the weight that left it when the states last moved; 0 where there was none.
    """

    def __init__(self, entries: int):
        self.entries = entries
        super().__init__({
            "go": In(1),
            "clear": In(1),
            "table": In(table_write(entries)),
            "half": In(1),
            "active": In(1),
            "step": In(STEP),
            "ask": Out(1),
            "insert": In(1),
            "unit": In(UNIT_BITS),
            "bits": In(STEP_BITS),
            "next_bits": Out(UNIT_BITS),
            "digit": Out(CHECK_DIGIT),
            "low_zero": Out(1),
            "value": Out(8),
        })

    def elaborate(self, platform) -> Module:
        m = Module()

        # ---- first stage: units 0 and 1 of the stream, place of the next bit in them ---------------------------------
        # When bit 4 of the place is set, unit 0 is used up. Unit 2 waits until there is room; it arrives behind the
        # state, and so lies beside the stages, one for each half.
        state = Signal(STATE_BITS)
        units = Signal(data.ArrayLayout(UNIT_BITS, 2))
        place = Signal(range(2 * UNIT_BITS))
        waiting = Signal(data.ArrayLayout(UNIT_BITS, 2))
        cross = Signal()
        moved = Signal.like(units)
        aligned = Signal(UNIT_BITS)
        m.d.comb += [
            cross.eq(place[-1] & self.active),
            self.ask.eq(cross),
            moved[0].eq(Mux(cross, units[1], units[0])),
            moved[1].eq(Mux(cross, waiting[self.half], units[1])),
            aligned.eq(moved.as_value()[: 2 * UNIT_BITS - 1] >> place[:4]),
        ]
        for half in range(2):
            with m.If(self.insert & (self.half != half)):
                m.d.sync += waiting[half].eq(self.unit)

        m.submodules.memory = memory = Memory(shape=data.ArrayLayout(ENTRY, self.entries),
                                              depth=FREQUENCIES // self.entries, init=[])
        write = memory.write_port(granularity=1)
        read = memory.read_port(domain="comb")
        looked_up = Signal(data.ArrayLayout(ENTRY, self.entries))  # a block RAM's output
        entry = Signal(ENTRY)
        m.d.comb += [
            write.en.eq(self.table.enable),
            write.addr.eq(self.table.address),
            write.data.eq(self.table.entries),
            entry.eq(looked_up[0] if self.entries == 1 else Mux(state[0], looked_up[1], looked_up[0])),
        ]

        # ---- between the stages --------------------------------------------------------------------------------------
        state_2 = Signal.like(state)
        units_2 = Signal.like(units)
        place_2 = Signal.like(place)
        symbol = Signal(ENTRY)  # nothing but zeros unless a symbol is decoded
        # The frequency with its leading one, where a high bit of the state asks for it, the lowest first: the block
        # RAM leaves time for so much.
        products = Signal(data.ArrayLayout(FREQUENCY_BITS, STATE_BITS - FREQUENCY_BITS))
        decoding, fixed = Signal(), Signal()  # a symbol; a number of bits
        loading, final, keeping, keeping_low = Signal(), Signal(), Signal(), Signal()
        with m.If(self.go):
            m.d.sync += [
                state_2.eq(state),
                units_2.eq(moved),
                place_2.eq(Cat(place[:4], place[-1] & ~self.active)),
                self.next_bits.eq(aligned),
                decoding.eq(self.active & self.step.decode),
                fixed.eq(self.active & ~self.step.decode & ~self.step.final),
                loading.eq(self.active & self.step.load),
                final.eq(self.active & self.step.final),
                keeping.eq(~(self.active & (self.step.decode | self.step.load))),
                keeping_low.eq(~(self.active & (self.step.decode | self.step.load | self.step.final))),
                symbol.eq(Mux(self.active & self.step.decode, entry, 0)),
                *(product.eq(Mux(self.active & self.step.decode & bit, Cat(entry.frequency, Const(1, 1)), 0))
                  for product, bit in zip(products, state[FREQUENCY_BITS:], strict=True)),
            ]

        # ---- second stage: the next state, `x` shifted as if it would take `spread` bits -----------------------------
        x = Signal(STATE_BITS + 1)
        enough = Signal()
        m.d.comb += [
            x.eq(symbol.low + sum(product << i for i, product in enumerate(products))),
            enough.eq(x[-1]),
        ]
        taken = Signal(FREQUENCY_BITS)  # bits behind the symbol's offset
        ones = Signal(FREQUENCY_BITS - 1)
        mixed_in = Signal(FREQUENCY_BITS - 1)
        one_more = Signal()
        other = Signal(STATE_BITS)  # the next state where no symbol is decoded
        scaled = Signal(STATE_BITS)
        following = Signal(STATE_BITS)
        m.d.comb += [
            taken.eq(self.next_bits >> symbol.extra),
            ones.eq(Cat(symbol.spread > i for i in range(FREQUENCY_BITS - 1))),
            mixed_in.eq(taken & ones),
            one_more.eq(taken.bit_select(symbol.spread, 1) & decoding),
            other.eq(Mux(loading, self.next_bits[:STATE_BITS], 0)
                     | Cat(Mux(keeping_low, state_2[:8], 0), Mux(keeping, state_2[8:], 0))),
            scaled.eq(x[:STATE_BITS] | mixed_in),
            following.eq(Mux(enough, scaled, Cat(one_more, scaled[:-1])) | other),
            read.addr.eq(following[self.entries - 1 : FREQUENCY_BITS]),
        ]
        # The table is complete before it is read: synthesis sees from this that no cycle does both.
        with m.If(self.go & ~write.en.any()):
            m.d.sync += looked_up.eq(read.data)

        used = Signal(range(2 * UNIT_BITS))
        following_place = Signal(range(2 * UNIT_BITS))
        one_further = Signal.like(following_place)
        m.d.comb += [
            used.eq((symbol.extra + symbol.spread) | Mux(fixed, self.bits, 0)),
            following_place.eq(place_2 + used),
            one_further.eq((Cat(Const(1, 1), place_2) + Cat(Const(1, 1), used))[1:]),  # one carry chain, not two
        ]
        inside = Signal((1 << KIND_BITS) - 1)
        m.d.comb += [
            inside.eq(self.next_bits & Cat(symbol.extra > i for i in range(len(inside)))),
            self.digit.eq(state_2[8:]),
            self.low_zero.eq(state_2[:8] == 0),
        ]
        with m.If(self.go):
            m.d.sync += [
                state.eq(following),
                units.eq(units_2),
                place.eq(Mux(decoding & ~enough, one_further, following_place)),
                self.value.eq((symbol.base | Mux(final, state_2[:8], 0)) + inside),
            ]
        with m.If(self.clear):
            m.d.sync += [place.eq(UNIT_BITS), place_2.eq(UNIT_BITS)]
        return m
