"""Counting tokens between engines: one counter for every ordered pair (producer, consumer)."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine

#: Bits of a counter; a wait field has as many.
TOKEN_BITS = 8

#: Per engine, a number for each producer (waits) or a bit for each consumer (signals).
WAITS_LAYOUT = data.ArrayLayout(data.ArrayLayout(unsigned(TOKEN_BITS), len(Engine)), len(Engine))
SIGNALS_LAYOUT = data.ArrayLayout(unsigned(len(Engine)), len(Engine))


class TokenCounters(wiring.Component):
    """The counters, at most 2 ** TOKEN_BITS - 1 tokens each.

    Members
    -------
    complete : per engine: its command is complete in this cycle. signals : of these commands.
    start : per engine: its next command starts in this cycle, and takes its tokens.
    waits : of each engine's next command.
    enough : per engine: the tokens that its next command waits for were there in the cycle before. Only the
        command's own start takes them, so they still are.
    overflow : per producer, for one cycle: a counter has passed its limit.
    """

    def __init__(self):
        super().__init__({
            "complete": In(len(Engine)),
            "signals": In(SIGNALS_LAYOUT),
            "start": In(len(Engine)),
            "waits": In(WAITS_LAYOUT),
            "enough": Out(len(Engine)),
            "overflow": Out(len(Engine)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        enough = [[Signal(name=f"enough_{p.name.lower()}_{c.name.lower()}") for p in Engine] for c in Engine]
        over = [[Signal(name=f"over_{p.name.lower()}_{c.name.lower()}") for c in Engine] for p in Engine]
        for p in Engine:
            for c in Engine:
                pair = f"{p.name.lower()}_{c.name.lower()}"
                count = Signal(TOKEN_BITS, name=f"count_{pair}")
                wait = Signal(TOKEN_BITS, name=f"wait_{pair}")
                given = Signal(name=f"given_{pair}")
                after = Signal(TOKEN_BITS + 1, name=f"after_{pair}")
                m.d.comb += [
                    wait.eq(self.waits[c][p]),
                    given.eq(self.complete[p] & self.signals[p][int(c)]),
                    after.eq(count + given - Mux(self.start[c], wait, 0)),
                    enough[c][p].eq(count >= wait),
                    over[p][c].eq(given & after[TOKEN_BITS]),
                ]
                m.d.sync += count.eq(after)
        m.d.sync += [
            self.enough.eq(Cat(Cat(pairs).all() for pairs in enough)),
            self.overflow.eq(Cat(Cat(pairs).any() for pairs in over)),
        ]
        return m
