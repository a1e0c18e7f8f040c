"""The tag that stands: what the last program left in the memories on chip, for programs that require it."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Bits of a tag.
TAG_BITS = 32


class Residency(wiring.Component):
    """Keeps a tag from the end of a program that establishes it on, while nothing but programs that require it runs.

    A start takes it away, and only the end of a program that required it, without an error, brings it back: whatever
    ends otherwise leaves none.

    Members
    -------
    start : a program starts. done : it has ended well. forget : soft reset.
    establishes, requires : of its BEGIN, when `begin` is high, once between start and done.
    refused : from the cycle after `begin` on: what it requires did not stand.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1),
            "done": In(1),
            "forget": In(1),
            "begin": In(1),
            "establishes": In(TAG_BITS),
            "requires": In(TAG_BITS),
            "refused": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        tag, new_tag = Signal(TAG_BITS), Signal(TAG_BITS)
        stands = Signal()
        stood = Signal()  # when the program started
        required, establishing = Signal(), Signal()
        requires_any, same = Signal(), Signal()
        m.d.comb += [requires_any.eq(self.requires != 0), same.eq(self.requires == tag)]
        with m.If(self.begin):
            m.d.sync += [
                new_tag.eq(self.establishes),
                establishing.eq(self.establishes != 0),
                required.eq(requires_any),
                self.refused.eq(requires_any & ~(stood & same)),
            ]
        with m.If(self.start):
            m.d.sync += [stood.eq(stands), stands.eq(0)]
        with m.If(self.done):
            m.d.sync += stands.eq(required | establishing)
            with m.If(establishing):
                m.d.sync += tag.eq(new_tag)
        with m.If(self.forget):
            m.d.sync += stands.eq(0)
        return m
