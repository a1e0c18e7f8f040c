"""The watchdog: notices that nothing has happened for too long, and which command has run the longest."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine
from hw.sequencer.command_format import INDEX_BITS

#: Per engine, the command that it runs or that is next for it.
CANDIDATES_LAYOUT = data.ArrayLayout(data.StructLayout({"valid": 1, "index": unsigned(INDEX_BITS)}), len(Engine))


class Watchdog(wiring.Component):
    """Counts the cycles without any activity.

    Members
    -------
    limit : cycles; 0: never. enable : count; otherwise the count is zero.
    activity : something happened: the count starts again.
    expired : there have been `limit` cycles without activity; stays until the count starts again.
    candidates : commands that may be stuck. otherwise : the index when there is none.
    oldest : the first of them in the program; two cycles behind.
    """

    def __init__(self):
        super().__init__({
            "limit": In(32),
            "enable": In(1),
            "activity": In(1),
            "expired": Out(1),
            "candidates": In(CANDIDATES_LAYOUT),
            "otherwise": In(INDEX_BITS),
            "oldest": Out(INDEX_BITS),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        quiet = Signal(32)
        with m.If(~self.enable | self.activity):
            m.d.sync += [quiet.eq(1), self.expired.eq(0)]
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)
            with m.If((quiet >= self.limit) & (self.limit != 0)):
                m.d.sync += self.expired.eq(1)

        def first(a, b, name):
            """The earlier of two candidates, in the next cycle."""
            result = Signal(CANDIDATES_LAYOUT.elem_shape, name=name)
            take_b = Signal(name=f"{name}_is_second")
            m.d.comb += take_b.eq(b.valid & (~a.valid | (b.index < a.index)))
            m.d.sync += [result.valid.eq(a.valid | b.valid), result.index.eq(Mux(take_b, b.index, a.index))]
            return result

        c = self.candidates
        winner = first(first(c[0], c[1], "first_01"), first(c[2], c[3], "first_23"), "first_0123")
        assert len(Engine) == 4
        m.d.comb += self.oldest.eq(Mux(winner.valid, winner.index, self.otherwise))
        return m
