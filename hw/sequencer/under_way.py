"""What the sequencer must remember of the commands that an engine works on."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import ENGINE_OF, Engine
from hw.ports import UNDER_WAY
from hw.sequencer.command_format import INDEX_BITS


def under_way_layout(engine: Engine) -> data.StructLayout:
    """What is needed when a command completes; `start` : the cycle in which its engine was given it.

    An engine that has only one opcode needs none here: see `opcode_of`.
    """
    several = len(_opcodes(engine)) > 1
    return data.StructLayout({
        "index": unsigned(INDEX_BITS),
        "signal": unsigned(len(Engine)),
        "start": unsigned(32),
        **({"opcode": unsigned(8)} if several else {}),
    })


def opcode_of(engine: Engine, payload):
    """The opcode of a command of `engine` in the layout above."""
    opcodes = _opcodes(engine)
    return payload.opcode if len(opcodes) > 1 else opcodes[0]


def _opcodes(engine: Engine) -> list[int]:
    return [int(opcode) for opcode, of in ENGINE_OF.items() if of is engine]


class UnderWay(wiring.Component):
    """A queue of the commands that `engine` has under way, oldest first; `o` holds the oldest in the cycle after it
    went in.

    Members
    -------
    i : a command starts. o : the oldest command; taken when it completes.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        layout = under_way_layout(engine)
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(layout))})

    def elaborate(self, platform) -> Module:
        m = Module()
        depth = UNDER_WAY.get(self.engine, 1)
        if depth > 1:
            m.submodules.queue = queue = fifo.SyncFIFO(width=under_way_layout(self.engine).size, depth=depth)
            m.d.comb += [
                queue.w_data.eq(self.i.payload),
                queue.w_en.eq(self.i.valid),
                self.i.ready.eq(queue.w_rdy),
                self.o.payload.eq(queue.r_data),
                self.o.valid.eq(queue.r_rdy),
                queue.r_en.eq(self.o.ready),
            ]
            return m
        place = Signal(under_way_layout(self.engine), reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid), self.o.payload.eq(place)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.o.valid.eq(1), place.eq(self.i.payload)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
