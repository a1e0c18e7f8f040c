"""The watchdog: notices that nothing has happened for too long, and which command has run the longest."""

from __future__ import annotations

import functools
import operator

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine
from hw.sequencer.command_format import INDEX_BITS, NO_INDEX

#: Indices of commands that may be stuck, NO_INDEX where there is none: those that run, then those that are next.
CANDIDATES_LAYOUT = data.ArrayLayout(unsigned(INDEX_BITS), 2 * len(Engine))


class Watchdog(wiring.Component):
    """Counts the cycles without any activity.

    Members
    -------
    limit : cycles; 0: never. enable : count; otherwise the count is zero.
    activity : something happened: the count starts again.
    expired : there have been `limit` cycles without activity; stays until the count starts again.
    candidates : commands that may be stuck.
    oldest : the first of them in the program, NO_INDEX without any; they are looked at one after the other, so that
        it is up to twenty cycles behind.
    """

    def __init__(self):
        super().__init__({
            "limit": In(32),
            "enable": In(1),
            "activity": In(1),
            "expired": Out(1),
            "candidates": In(CANDIDATES_LAYOUT),
            "oldest": Out(INDEX_BITS),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        quiet = Signal(32)
        late = Signal()
        bounded = Signal()
        m.d.sync += [late.eq(quiet >= self.limit), bounded.eq(self.limit != 0)]
        with m.If(~self.enable | self.activity):
            m.d.sync += [quiet.eq(2), late.eq(0), self.expired.eq(0)]  # `late` is a cycle behind
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)
            with m.If(late & bounded):
                m.d.sync += self.expired.eq(1)

        # A copy of each candidate is zero unless it has its turn.
        turn = Signal(range(len(self.candidates)))
        first = Signal()
        copies = []
        for i in range(len(self.candidates)):
            copy = Signal(INDEX_BITS, name=f"copy{i}")
            m.d.sync += copy.eq(Mux(turn == i, self.candidates[i], 0))
            copies.append(copy)
        index = Signal(INDEX_BITS)
        least = Signal(INDEX_BITS, init=NO_INDEX)
        m.d.comb += index.eq(functools.reduce(operator.or_, copies))
        m.d.sync += [turn.eq(turn + 1), first.eq(turn == 0)]
        with m.If(first | (index < least)):
            m.d.sync += least.eq(index)
        with m.If(first):  # the one before was the last of a round
            m.d.sync += self.oldest.eq(least)
        return m
