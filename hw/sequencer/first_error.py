"""The first error of a program."""

from __future__ import annotations

import functools
import operator

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.registers import Error
from hw.ports import ERROR_LAYOUT
from hw.sequencer.command_format import INDEX_BITS

#: Where errors come from: what went wrong, and the index of the command.
SOURCE_LAYOUT = data.StructLayout({"error": ERROR_LAYOUT, "index": unsigned(INDEX_BITS)})

_CODE_BITS = max(Error).bit_length()


class FirstError(wiring.Component):
    """Keeps the first error; of those of one cycle, that of the first source.

    Members
    -------
    sources : they are looked at while `listen` is high.
    clear : forget. give_up : an error of its own, WATCHDOG, where there is none yet.
    fault : there has been an error, two cycles behind it; until `clear`.
    code, command, address : of the error, from the cycle after that on.
    """

    def __init__(self, sources: int):
        super().__init__({
            "sources": In(data.ArrayLayout(SOURCE_LAYOUT, sources)),
            "listen": In(1),
            "clear": In(1),
            "give_up": In(1),
            "fault": Out(1),
            "code": Out(8),
            "command": Out(32),
            "address": Out(32),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        count = len(self.sources)
        seen = Signal(count)
        chosen, any_seen, settled = Signal(count), Signal(name="any_seen"), Signal(name="settled")
        m.d.comb += any_seen.eq(seen.any())
        # Each source is kept on its own, and the first of those seen chosen a cycle later, so that no way leads from
        # all of them to all that is kept. A later error of another source is seen, too, and has no effect.
        with m.If(~self.listen):
            m.d.sync += [seen.eq(0), chosen.eq(0)]
        with m.Else():
            m.d.sync += seen.eq(seen | Cat(source.error.valid for source in self.sources))
            with m.If(~chosen.any()):
                m.d.sync += chosen.eq(seen & -seen)
        kept_layout = data.StructLayout({"code": _CODE_BITS, "index": INDEX_BITS, "address": 32})
        all_kept = []
        for i in range(count):
            source = self.sources[i]
            kept = Signal(kept_layout, name=f"kept{i}", reset_less=True)
            with m.If(~seen[i]):
                m.d.sync += [kept.code.eq(source.error.code), kept.index.eq(source.index),
                             kept.address.eq(source.error.address)]
            all_kept.append(kept.as_value() & chosen[i].replicate(kept_layout.size))
        only = Signal(kept_layout)
        m.d.comb += only.eq(functools.reduce(operator.or_, all_kept))

        m.d.sync += settled.eq(any_seen & self.listen & ~self.fault & ~self.clear)
        with m.If(self.clear):
            m.d.sync += [self.fault.eq(0), self.code.eq(Error.NONE), self.command.eq(0), self.address.eq(0)]
        with m.Else():
            with m.If(any_seen & self.listen):
                m.d.sync += self.fault.eq(1)
            with m.If(settled):
                m.d.sync += [self.code.eq(only.code), self.command.eq(only.index), self.address.eq(only.address)]
            with m.Elif(self.give_up & ~self.fault):
                m.d.sync += self.code.eq(Error.WATCHDOG)
        return m
