"""Four queues of commands in one memory, and in front of each engine the next command, ready to start."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine
from hw.contract.config import Config
from hw.sequencer.beat_queue import BeatMemory
from hw.sequencer.command_format import (
    COMMAND_BEATS,
    HEADER_LAYOUT,
    INDEX_BITS,
    NO_INDEX,
    meaningful_beats,
    meaningful_bits,
)
from hw.sequencer.dispatcher import QUEUE_BEAT_LAYOUT
from hw.sequencer.tokens import ANNOUNCED_BEFORE, WAITS_LAYOUT


def queued_layout(engine: Engine) -> data.StructLayout:
    """A command of `engine` without its empty end, and its index in the program."""
    return data.StructLayout({"command": unsigned(meaningful_bits(engine)), "index": unsigned(INDEX_BITS)})


class CommandQueues(wiring.Component):
    """`Config.command_queue` commands for each engine, in program order, and one more in front of each queue.

    A queue's slot in the memory has COMMAND_BEATS beats: the command, then its index. One reader fills the
    registers in front of all queues, a beat per cycle, as they become empty.

    Members
    -------
    write, write_valid : beats from the dispatcher. room : per engine, whether a further command would fit.
    load, store, conv, vector : the next command of each engine.
    held : per engine: what is shown to it must stay. shown_<engine> : the next command, from the cycle after one in
        which it is in front and nothing is held.
    announced : per engine: a command is on its way to the register in front. waits : its tokens.
    empty : there is no command in here.

    The index of a command in front is NO_INDEX while there is none.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "write": In(QUEUE_BEAT_LAYOUT),
            "write_valid": In(1),
            "room": Out(len(Engine)),
            "announced": Out(len(Engine)),
            "waits": Out(WAITS_LAYOUT),
            "empty": Out(1),
            **{engine.name.lower(): Out(stream.Signature(queued_layout(engine))) for engine in Engine},
            "held": In(len(Engine)),
            **{f"shown_{engine.name.lower()}": Out(meaningful_bits(engine)) for engine in Engine},
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        depth = self.config.command_queue
        slot_bits = (depth - 1).bit_length()
        m.submodules.memory = memory = BeatMemory(len(Engine) * depth * COMMAND_BEATS)
        write_port, read_port = memory.write, memory.read
        nexts = [getattr(self, engine.name.lower()) for engine in Engine]

        # ---- slots -------------------------------------------------------------------------------------------
        slots = data.ArrayLayout(unsigned(max(1, slot_bits)), len(Engine))  # one slot: a bit that stays zero
        write_slot, read_slot = Signal(slots), Signal(slots)
        written, freed = Signal(len(Engine)), Signal(len(Engine))
        stored = Signal(len(Engine))  # per engine: a command waits in the memory
        for e in Engine:
            used = Signal(range(depth + 1), name=f"used_{e.name.lower()}")
            m.d.sync += used.eq(used + written[e] - freed[e])
            # The dispatcher looks at the room when it starts a command. By then the one before has been counted: behind
            # its last beat that is written there are others.
            assert meaningful_beats(e) + 2 < COMMAND_BEATS
            m.d.comb += stored[e].eq(used != 0)
            m.d.sync += self.room[e].eq(used != depth)
            if slot_bits:
                m.d.sync += [write_slot[e].eq(write_slot[e] + written[e]), read_slot[e].eq(read_slot[e] + freed[e])]
        m.d.comb += [
            write_port.enable.eq(self.write_valid),
            write_port.address.eq(
                Cat(self.write.position, write_slot[self.write.engine][:slot_bits], self.write.engine)),
            write_port.data.eq(self.write.data),
            written.eq((self.write_valid & self.write.last) << self.write.engine),
        ]

        # ---- read into the registers in front ------------------------------------------------------------------
        reading = Signal()
        engine, position = Signal(2), Signal(range(COMMAND_BEATS))
        arriving, last_arriving = Signal(), Signal()
        arriving_engine, arriving_position = Signal.like(engine), Signal.like(position)
        wanted = Signal(len(Engine))
        m.d.comb += wanted.eq(stored & ~Cat(n.valid for n in nexts)
                              & ~Mux(reading, 1 << engine, 0) & ~Mux(arriving, 1 << arriving_engine, 0))
        last = Signal()
        last_position = Signal.like(position)
        with m.Switch(engine):
            for e in Engine:
                with m.Case(e):
                    m.d.comb += last_position.eq(meaningful_beats(e))
        m.d.comb += [
            last.eq(position == last_position),
            freed.eq((reading & last) << engine),
            memory.read_enable.eq(1),
            read_port.address.eq(Cat(position, read_slot[engine][:slot_bits], engine)),
        ]
        m.d.sync += [
            position.eq(position + 1),
            arriving.eq(reading),
            last_arriving.eq(reading & last),
            arriving_engine.eq(engine),
            arriving_position.eq(position),
        ]
        with m.If(~reading | last):
            m.d.sync += [reading.eq(wanted.any()), position.eq(0)]
            for e in reversed(Engine):
                with m.If(wanted[e]):
                    m.d.sync += engine.eq(e)
        for e, front in zip(Engine, nexts, strict=True):
            index = Signal(INDEX_BITS, name=f"{e.name.lower()}_index", init=NO_INDEX)
            m.d.comb += front.payload.index.eq(index)
            # Beats move through it from its end, so that the memory's wires end in one beat of each engine, not in all.
            command = Signal(64 * meaningful_beats(e), name=f"{e.name.lower()}_command", reset_less=True)
            m.d.comb += front.payload.command.eq(command)
            takes = Signal(name=f"{e.name.lower()}_takes")
            m.d.sync += takes.eq(reading & (engine == e) & ~last)
            with m.If(takes):
                m.d.sync += command.eq(Cat(command[64:], read_port.data))
            new = Signal(name=f"{e.name.lower()}_is_new")  # not shown yet
            with m.If(~self.held[e]):
                m.d.sync += new.eq(0)
            with m.If(front.valid & front.ready):
                m.d.sync += [front.valid.eq(0), index.eq(NO_INDEX)]
            with m.If(last_arriving & (arriving_engine == e)):
                m.d.sync += [index.eq(read_port.data), front.valid.eq(1), new.eq(1)]
            shown = Signal(meaningful_bits(e), name=f"{e.name.lower()}_shown", reset_less=True)
            m.d.comb += getattr(self, f"shown_{e.name.lower()}").eq(shown)
            with m.If(new & ~self.held[e]):
                m.d.sync += shown.eq(command)
            # Whoever takes a command has its tokens taken off first.
            assert meaningful_beats(e) + 1 >= ANNOUNCED_BEFORE
        header = data.View(HEADER_LAYOUT, read_port.data)
        m.d.comb += [
            self.announced.eq((arriving & (arriving_position == 0)) << arriving_engine),
            *(self.waits[e].eq(getattr(header, f"wait_{e.name.lower()}")) for e in Engine),
        ]
        m.d.comb += self.empty.eq(
            ~(self.write_valid | stored.any() | reading | arriving | Cat(n.valid for n in nexts).any()))
        return m
