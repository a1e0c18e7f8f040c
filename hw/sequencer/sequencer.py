"""The sequencer: takes the doorbell, runs a program to its END or to its first error, raises the interrupt."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import ReadClient, WriteClient
from hw.contract.commands import Engine
from hw.contract.config import Config
from hw.contract.registers import Error
from hw.ports import UNDER_WAY, EnginePort
from hw.register_block import ControlPort
from hw.sequencer.command_format import HEADER_LAYOUT, INDEX_BITS
from hw.sequencer.command_queues import CommandQueues, queued_layout
from hw.sequencer.dispatcher import Dispatcher
from hw.sequencer.program_fetch import ProgramFetch
from hw.sequencer.records import RecordWriter
from hw.sequencer.residency import Residency
from hw.sequencer.tokens import TokenCounters
from hw.sequencer.under_way import UnderWay
from hw.sequencer.watchdog import Watchdog


class Sequencer(wiring.Component):
    """Runs programs.

    Between a start and the end of a program `stop_bus` is low and commands run. The first error, a soft reset
    or the END stops everything: `stop_bus` rises, the bursts under way end, the engines are reset, and then the
    device can take the next doorbell. A bus that does not let its bursts end is waited for as long as the
    watchdog says, here and again before the next program starts.

    Members
    -------
    control : register block.
    load, store, conv, vector : the engines.
    engine_reset : reset all engines, and whatever else works for them, in this cycle.
    progress : an engine has moved on; keeps the watchdog quiet during long commands.
    program, record : clients of the bus masters.
    stop_bus, bus_idle, bus_moved : stop, idle and moved of the bus masters.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "control": In(ControlPort()),
            **{engine.name.lower(): In(EnginePort(engine)) for engine in Engine},
            "engine_reset": Out(1),
            "progress": In(1),
            "program": Out(ReadClient(config)),
            "record": Out(WriteClient(config)),
            "stop_bus": Out(1),
            "bus_idle": In(1),
            "bus_moved": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, control = self.config, self.control
        clean = ResetInserter(self.engine_reset)
        fetch, dispatcher, queues = ProgramFetch(config), Dispatcher(config), CommandQueues(config)
        tokens, records, watchdog = TokenCounters(), RecordWriter(config), Watchdog()
        m.submodules.residency = residency = Residency()
        m.submodules.fetch = clean(fetch)
        m.submodules.dispatcher = clean(dispatcher)
        m.submodules.queues = clean(queues)
        m.submodules.tokens = clean(tokens)
        m.submodules.records = clean(records)
        m.submodules.watchdog = watchdog
        run = Signal()  # a program runs

        # ---- program -------------------------------------------------------------------------------------------
        wiring.connect(m, fetch.bus, wiring.flipped(self.program))
        wiring.connect(m, fetch.beats, dispatcher.beats)
        m.d.comb += [
            fetch.run.eq(run),
            fetch.program.eq(control.program),
            fetch.count_known.eq(dispatcher.count_known),
            fetch.count.eq(dispatcher.count),
            dispatcher.program.eq(control.program),
            residency.begin.eq(dispatcher.begin),
            residency.establishes.eq(dispatcher.establishes),
            residency.requires.eq(dispatcher.requires),
            dispatcher.refused.eq(residency.refused),
            dispatcher.room.eq(queues.room),
            queues.write.eq(dispatcher.write),
            queues.write_valid.eq(dispatcher.write_valid),
        ]

        # ---- running commands -----------------------------------------------------------------------------------
        wiring.connect(m, records.bus, wiring.flipped(self.record))
        m.d.comb += records.cycles.eq(control.cycles)
        running, complete, start = Signal(len(Engine)), Signal(len(Engine)), Signal(len(Engine))
        under_way = Signal(len(Engine))  # per engine: it has not completed all its commands
        completed_index = Signal(data.ArrayLayout(INDEX_BITS, len(Engine)))  # of the last command complete
        commands = []
        for e in Engine:
            name = e.name.lower()
            port, front = getattr(self, name), getattr(queues, name)
            command = Signal(queued_layout(e), name=f"{name}_command")
            next_header = data.View(HEADER_LAYOUT, front.payload.command[: HEADER_LAYOUT.size])
            commands.append(command)
            queue = UnderWay(UNDER_WAY.get(e, 1))
            m.submodules[f"{name}_under_way"] = clean(queue)
            overlaps = e in UNDER_WAY
            # Its records must not pile up: where commands overlap they complete later, others start later.
            may_start = queue.i.ready if overlaps else records.accepting[e]
            m.d.comb += [
                port.command.valid.eq(running[e]),
                port.command.payload.eq(command.command),
                complete[e].eq(port.complete if overlaps else running[e] & port.command.ready),
                start[e].eq(front.valid & tokens.enough[e] & ~running[e] & run & may_start),
                front.ready.eq(start[e]),
                queue.i.valid.eq(start[e]),
                queue.i.payload.index.eq(front.payload.index),
                queue.i.payload.opcode.eq(next_header.opcode),
                queue.i.payload.signal.eq(next_header.signal),
                queue.i.payload.start.eq(control.cycles + 1),
                queue.o.ready.eq(complete[e]),
                under_way[e].eq(queue.o.valid),
                tokens.signals[e].eq(queue.o.payload.signal),
                *(tokens.waits[e][p].eq(getattr(next_header, f"wait_{p.name.lower()}")) for p in Engine),
                records.command[e].index.eq(queue.o.payload.index),
                records.command[e].opcode.eq(queue.o.payload.opcode),
                records.command[e].start.eq(queue.o.payload.start),
                getattr(records, f"counters_{name}").eq(port.counters),
                watchdog.candidates[e].valid.eq(under_way[e] | front.valid),
                watchdog.candidates[e].index.eq(Mux(under_way[e], queue.o.payload.index, front.payload.index)),
                control.running[e].eq(Mux(under_way[e], queue.o.payload.index, Const(0xFFFF_FFFF, 32))),
            ]
            if overlaps:
                m.d.comb += port.may_complete.eq(records.free[e])
            with m.If(complete[e]):
                m.d.sync += completed_index[e].eq(queue.o.payload.index)
            with m.If(start[e]):
                m.d.sync += [running[e].eq(1), command.eq(front.payload)]
            with m.If((running[e] & port.command.ready) | self.engine_reset):
                m.d.sync += running[e].eq(0)
        m.d.comb += [
            tokens.complete.eq(complete),
            tokens.start.eq(start),
            records.complete.eq(complete),
        ]

        # ---- counts since the doorbell ----------------------------------------------------------------------------
        accepted = Signal()  # the doorbell, taken
        counting = Signal()
        with m.If(counting):
            m.d.sync += control.cycles.eq(control.cycles + 1)
        m.d.sync += [
            control.dispatched.eq(control.dispatched + (dispatcher.write_valid & dispatcher.write.last)),
            control.completed.eq(control.completed + records.written),
        ]
        m.d.comb += [residency.start.eq(accepted), residency.forget.eq(control.soft_reset)]
        with m.If(accepted):
            m.d.sync += [control.cycles.eq(1), control.dispatched.eq(0), control.completed.eq(0)]

        # ---- errors: the first one counts ---------------------------------------------------------------------------
        fault = Signal()
        clear = Signal()
        sources = [
            (fetch.bus.error.valid, fetch.bus.error.code, fetch.failed_command, fetch.bus.error.address),
            (dispatcher.error.valid, dispatcher.error.code, dispatcher.index, dispatcher.error.address),
            (records.bus.error.valid, records.bus.error.code, records.failed_command, records.bus.error.address),
            *((getattr(self, e.name.lower()).error.valid, getattr(self, e.name.lower()).error.code,
               commands[e].index, getattr(self, e.name.lower()).error.address) for e in Engine),
            *((tokens.overflow[e], Error.TOKEN_OVERFLOW, completed_index[e], 0) for e in Engine),
            (watchdog.expired, Error.WATCHDOG, watchdog.oldest, 0),
        ]
        with m.If(clear):
            m.d.sync += [
                fault.eq(0),
                control.error_code.eq(Error.NONE),
                control.error_command.eq(0),
                control.error_address.eq(0),
            ]
        with m.Elif(run & ~fault):
            m.d.sync += fault.eq(Cat(valid for valid, *_rest in sources).any())
            for valid, code, index, address in reversed(sources):  # the first of the list wins
                with m.If(valid):
                    m.d.sync += [
                        control.error_code.eq(code),
                        control.error_command.eq(index),
                        control.error_address.eq(address),
                    ]

        # ---- start, end, reset ----------------------------------------------------------------------------------
        ended = Signal()
        m.d.sync += ended.eq(run & dispatcher.ended & queues.empty & ~under_way.any() & records.idle)
        status = control.status
        waiting = Signal()  # for the bus
        changing = Signal()  # from one kind of waiting to the next
        m.d.comb += [
            self.stop_bus.eq(~run),
            status.busy.eq(run | waiting | self.engine_reset),
            watchdog.limit.eq(control.watchdog),
            watchdog.enable.eq((run | waiting) & ~changing),
            watchdog.activity.eq(self.bus_moved | self.progress | complete.any() | start.any()),
            watchdog.otherwise.eq(dispatcher.index),
        ]
        with m.If(control.acknowledge):
            m.d.sync += status.interrupt.eq(0)

        def finish(member):
            """The program has ended, well (`done`) or not (`error`)."""
            m.d.comb += changing.eq(1)
            m.d.sync += [member.eq(1), status.interrupt.eq(1), counting.eq(0)]
            m.next = "IDLE"

        def forget():
            m.d.comb += clear.eq(1)
            m.d.sync += [status.done.eq(0), status.error.eq(0), status.interrupt.eq(0)]

        def give_up():
            """The bus does not let its bursts end: an error of its own where there is none yet."""
            with m.If(~fault):
                m.d.sync += control.error_code.eq(Error.WATCHDOG)
            finish(status.error)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += changing.eq(1)
                with m.If(control.soft_reset):
                    forget()
                    m.next = "STOP"
                with m.Elif(control.start):
                    forget()
                    m.d.comb += accepted.eq(1)
                    m.d.sync += counting.eq(1)
                    m.next = "CLEAN"
            with m.State("CLEAN"):
                m.d.comb += [waiting.eq(1), self.engine_reset.eq(1)]
                with m.If(control.soft_reset):
                    m.d.comb += changing.eq(1)
                    m.d.sync += counting.eq(0)
                    m.next = "STOP"
                with m.Elif(self.bus_idle):
                    m.next = "RUN"
                with m.Elif(watchdog.expired):
                    give_up()
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                with m.If(control.soft_reset):
                    forget()
                    m.d.comb += changing.eq(1)
                    m.d.sync += counting.eq(0)
                    m.next = "STOP"
                with m.Elif(fault):
                    m.d.comb += changing.eq(1)
                    m.next = "STOP"
                with m.Elif(ended):
                    m.d.comb += residency.done.eq(1)
                    finish(status.done)
            with m.State("STOP"):
                m.d.comb += waiting.eq(1)
                with m.If(control.soft_reset):
                    forget()
                    m.d.sync += counting.eq(0)
                with m.Elif(self.bus_idle | watchdog.expired):
                    m.d.comb += self.engine_reset.eq(1)
                    with m.If(fault):
                        finish(status.error)
                    with m.Elif(watchdog.expired):
                        give_up()
                    with m.Else():
                        m.next = "IDLE"
        return m
