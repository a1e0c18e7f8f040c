"""Writes a record for every complete command, in the order of completion."""

from __future__ import annotations

import functools
import operator

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import BEAT_BYTES, WriteClient
from hw.contract.commands import COUNTERS, RECORD_BYTES, RECORD_HEADER, Engine
from hw.contract.config import Config
from hw.contract.registers import Error, Window
from hw.ports import ERROR_LAYOUT, counters_layout
from hw.sequencer.beat_queue import BeatQueue
from hw.sequencer.command_format import INDEX_BITS

RECORD_BEATS = RECORD_BYTES // BEAT_BYTES

#: Records that wait for the bus, and records on the bus.
RECORDS_WAITING = 16
RECORDS_UNDER_WAY = 4

#: The first beats of a record; those that COUNTERS leave empty behind them are zero.
COUNTED_BEATS = -(-(len(RECORD_HEADER) + max(len(counters) for counters in COUNTERS.values())) // 2)

assert RECORD_HEADER == ("command", "opcode", "start", "end")

#: What the record says of a command besides its counters, and when it is taken down.
COMPLETION_LAYOUT = data.StructLayout({
    "index": unsigned(INDEX_BITS),
    "opcode": unsigned(8),
    "start": unsigned(32),
})


class RecordWriter(wiring.Component):
    """Takes down what is known of a command when it completes, and writes it to window RECORD.

    A command of an engine must not complete while the record before it waits in here, so it must not start
    before `accepting` is high; it is from the moment that the waiting record begins to leave, which takes
    COUNTED_BEATS cycles. No command completes as quickly as that, unless it overlaps with the one before it: such a
    command must not complete before `free` is high.

    Members
    -------
    complete : per engine, the cycle in which its command completes; `command` and `counters_<engine>` are taken
        then, with `cycles` as its end.
    accepting : per engine, its next command may start. free : per engine, no record of it waits.
    bus : the write client.
    written : a record is in memory, for one cycle.
    idle : all records are in memory.
    error : of the bus; that a record has no room in its window when those before it are in memory.
    failed_command : index of the command whose record it is about.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "complete": In(len(Engine)),
            "command": In(data.ArrayLayout(COMPLETION_LAYOUT, len(Engine))),
            **{f"counters_{engine.name.lower()}": In(counters_layout(engine)) for engine in Engine},
            "cycles": In(32),
            "accepting": Out(len(Engine)),
            "free": Out(len(Engine)),
            "bus": Out(WriteClient(config)),
            "written": Out(1),
            "idle": Out(1),
            "error": Out(ERROR_LAYOUT),
            "failed_command": Out(INDEX_BITS),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.queue = queue = BeatQueue(RECORDS_WAITING * RECORD_BEATS)

        # ---- take down, one record per engine; `older[a][b]`: a's record came before b's ------------------------
        waiting = Signal(len(Engine))
        older = {(a, b): Signal(name=f"older_{a.name.lower()}_{b.name.lower()}")
                 for a in Engine for b in Engine if a != b}
        leaving = Signal()
        engine = Signal(2)
        beat = Signal(range(RECORD_BEATS))
        taken = Signal()  # nothing more is needed of the record that leaves
        copies = []
        for e in Engine:
            command = self.command[e]
            words: list[Value] = [command.index, command.opcode, command.start, self.cycles]
            counters = getattr(self, f"counters_{e.name.lower()}")
            words += [getattr(counters, name) for name, _doc in COUNTERS[e]]
            words += [Const(0, 32)] * (len(words) % 2)
            record = Signal(32 * len(words), name=f"record_{e.name.lower()}", reset_less=True)
            mine = Signal(name=f"{e.name.lower()}_leaves")
            m.d.comb += mine.eq(leaving & (engine == e))
            with m.If(self.complete[e]):
                m.d.sync += [record.eq(Cat(_word(word) for word in words)), waiting[e].eq(1)]
            with m.Elif(mine & taken):
                m.d.sync += waiting[e].eq(0)
            for other in Engine:
                if other != e:
                    with m.If(self.complete[e]):
                        m.d.sync += [older[other, e].eq(waiting[other]), older[e, other].eq(0)]
            m.d.comb += [self.accepting[e].eq(~waiting[e] | mine), self.free[e].eq(~waiting[e])]
            # What leaves of an engine's record is zero unless it is its turn.
            beats = [record[64 * i : 64 * i + 64] for i in range(len(words) // 2)]
            beats += [Const(0, 64)] * (RECORD_BEATS - len(beats))
            copy = Signal(64, name=f"copy_{e.name.lower()}")
            with m.If(mine):
                m.d.sync += copy.eq(Array(beats)[beat])
            with m.Else():
                m.d.sync += copy.eq(0)
            copies.append(copy)

        # ---- the oldest moves into the queue, a beat per cycle --------------------------------------------------
        room = Signal()
        copied = Signal()
        m.d.comb += [
            taken.eq(beat == COUNTED_BEATS - 1),
            queue.i.valid.eq(copied),
            queue.i.payload.eq(functools.reduce(operator.or_, copies)),
        ]
        m.d.sync += [room.eq(queue.stored <= queue.depth - 2 * RECORD_BEATS), copied.eq(leaving)]
        with m.If(leaving):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == RECORD_BEATS - 1):
                m.d.sync += leaving.eq(0)
        with m.Elif(waiting.any() & room):
            m.d.sync += leaving.eq(1)
            for e in Engine:
                first = waiting[e] & ~Cat(waiting[other] & older[other, e] for other in Engine if other != e).any()
                with m.If(first):
                    m.d.sync += engine.eq(e)

        # ---- the queue moves onto the bus ------------------------------------------------------------------------
        bus = self.bus
        m.submodules.under_way = under_way = fifo.SyncFIFO(width=INDEX_BITS, depth=RECORDS_UNDER_WAY)
        newest = Signal(INDEX_BITS)
        offset = Signal(32)
        position = Signal(range(RECORD_BEATS))
        m.d.comb += [
            bus.request.payload.window.eq(Window.RECORD),
            bus.request.payload.offset.eq(offset),
            bus.request.payload.length.eq(RECORD_BYTES),
            under_way.w_data.eq(queue.o.payload),
            under_way.w_en.eq(bus.request.valid & bus.request.ready),
            under_way.r_en.eq(bus.done),
            self.written.eq(bus.done),
            bus.data.payload.eq(queue.o.payload),
        ]
        busy = Signal()
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += bus.request.valid.eq(queue.o.valid & under_way.w_rdy)
                with m.If(bus.request.valid & bus.request.ready):
                    m.d.sync += [newest.eq(queue.o.payload), offset.eq(offset + RECORD_BYTES)]
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [
                    busy.eq(1),
                    bus.data.valid.eq(queue.o.valid),
                    queue.o.ready.eq(bus.data.ready),
                ]
                with m.If(bus.data.valid & bus.data.ready):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == RECORD_BEATS - 1):
                        m.next = "REQUEST"
        m.d.comb += [
            self.idle.eq(~(waiting.any() | leaving | copied | (queue.stored != 0) | queue.o.valid | busy
                           | under_way.r_rdy)),
            self.failed_command.eq(Mux(self.error.code == Error.WINDOW_WRITE, newest, under_way.r_data)),
        ]

        # An error ends the bursts under way without their data: they go first.
        denied = Signal(ERROR_LAYOUT)
        with m.If(bus.error.valid & (bus.error.code == Error.WINDOW_WRITE)):
            m.d.sync += denied.eq(bus.error)
        m.d.comb += self.error.eq(denied)
        m.d.comb += self.error.valid.eq(denied.valid & (under_way.level == 1))
        with m.If(bus.error.valid & (bus.error.code != Error.WINDOW_WRITE)):
            m.d.comb += self.error.eq(bus.error)
        return m


def _word(value) -> Value:
    """A record's word: 32 bits."""
    value = Value.cast(value)
    return Cat(value, Const(0, 32 - len(value))) if len(value) < 32 else value
