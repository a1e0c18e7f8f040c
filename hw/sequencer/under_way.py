"""What the sequencer must remember of the commands that an engine works on."""

from __future__ import annotations

import itertools

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine
from hw.sequencer.command_format import INDEX_BITS

#: What is needed when a command completes; `start` : the cycle in which its engine was given it.
UNDER_WAY_LAYOUT = data.StructLayout({
    "index": unsigned(INDEX_BITS),
    "opcode": unsigned(8),
    "signal": unsigned(len(Engine)),
    "start": unsigned(32),
})


class UnderWay(wiring.Component):
    """A queue of at most `depth` commands, oldest first; `o` holds the oldest in the cycle after it went in.

    Members
    -------
    i : a command starts. o : the oldest command; taken when it completes.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(UNDER_WAY_LAYOUT)),
            "o": Out(stream.Signature(UNDER_WAY_LAYOUT)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        places = [Signal(UNDER_WAY_LAYOUT, name=f"place_{i}") for i in range(self.depth)]
        used = Signal(self.depth)  # bit i: place i holds a command
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(~used[-1]),
            self.o.valid.eq(used[0]),
            self.o.payload.eq(places[0]),
            taken.eq(self.o.valid & self.o.ready),
        ]
        after = Signal(self.depth)  # places used once the oldest has left
        m.d.comb += after.eq(used)
        with m.If(taken):
            m.d.comb += after.eq(used >> 1)
            m.d.sync += [place.eq(following) for place, following in itertools.pairwise(places)]
        m.d.sync += used.eq(after)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += used.eq((after << 1) | 1)
            for i, place in enumerate(places):
                free = ~after[i] & (after[i - 1] if i else 1)
                with m.If(free):
                    m.d.sync += place.eq(self.i.payload)
        return m
