"""Counting tokens between engines: one counter for every ordered pair (producer, consumer)."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine

#: Bits of a number of tokens; a wait field has as many.
TOKEN_BITS = 8

#: For each producer, the tokens that a command waits for.
WAITS_LAYOUT = data.ArrayLayout(unsigned(TOKEN_BITS), len(Engine))

#: Per engine, a bit for each consumer.
SIGNALS_LAYOUT = data.ArrayLayout(unsigned(len(Engine)), len(Engine))

#: Cycles from `announced` until `enough` speaks of the command announced.
ANNOUNCED_BEFORE = 3


class TokenCounters(wiring.Component):
    """The counters, at most 2 ** TOKEN_BITS - 1 tokens each.

    A command's tokens are taken off when it is known, long before it starts, and what is still missing makes a
    counter negative: whether there are enough is a matter of signs.

    Members
    -------
    complete : per engine: its command is complete in this cycle. signals : of these commands.
    announced : per engine: its next command is known in this cycle, the one before has started. waits : its.
    enough : per engine: the tokens that its next command waits for are there, from ANNOUNCED_BEFORE cycles on.
    overflow : per producer: a counter of tokens that are not yet taken off has passed its limit; until a reset.
    """

    def __init__(self):
        super().__init__({
            "complete": In(len(Engine)),
            "signals": In(SIGNALS_LAYOUT),
            "announced": In(len(Engine)),
            "waits": In(WAITS_LAYOUT),
            "enough": Out(len(Engine)),
            "overflow": Out(len(Engine)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        announced = Signal(len(Engine))
        waits = Signal(WAITS_LAYOUT)
        m.d.sync += [announced.eq(self.announced), waits.eq(self.waits)]
        enough = [[Signal(name=f"enough_{p.name.lower()}_{c.name.lower()}", init=1) for p in Engine] for c in Engine]
        over = [[Signal(name=f"over_{p.name.lower()}_{c.name.lower()}") for c in Engine] for p in Engine]
        for p in Engine:
            less = Signal(signed(TOKEN_BITS + 1), name=f"less_{p.name.lower()}")
            m.d.comb += less.eq(-waits[p])
            for c in Engine:
                pair = f"{p.name.lower()}_{c.name.lower()}"
                count = Signal(signed(TOKEN_BITS + 2), name=f"count_{pair}")
                taken = Signal(signed(TOKEN_BITS + 1), name=f"taken_{pair}")
                given = Signal(name=f"given_{pair}")
                after = Signal(signed(TOKEN_BITS + 3), name=f"after_{pair}")
                m.d.sync += [
                    given.eq(self.complete[p] & self.signals[p][int(c)]),
                    taken.eq(Mux(announced[c], less, 0)),
                    count.eq(after >> 1),
                ]
                # All that starts hangs on whether there are enough, so that it is known with the count, not from it.
                m.d.sync += enough[c][p].eq(~after[-1])
                m.d.comb += [
                    # The token given is a carry.
                    after.eq(Cat(given, count).as_signed() + Cat(given, taken).as_signed()),
                    over[p][c].eq(~count[-1] & count[TOKEN_BITS]),
                ]
        m.d.comb += [
            self.enough.eq(Cat(Cat(pairs).all() for pairs in enough)),
            self.overflow.eq(Cat(Cat(pairs).any() for pairs in over)),
        ]
        return m
