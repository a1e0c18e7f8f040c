"""The sequencer: takes the doorbell, runs a program to its END or to its first error, raises the interrupt."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import ReadClient, WriteClient
from hw.contract.commands import Engine
from hw.contract.config import Config
from hw.contract.registers import Error
from hw.ports import UNDER_WAY, EnginePort
from hw.register_block import ControlPort
from hw.sequencer.command_format import HEADER_LAYOUT, INDEX_BITS, NO_INDEX
from hw.sequencer.command_queues import CommandQueues
from hw.sequencer.dispatcher import Dispatcher
from hw.sequencer.first_error import FirstError
from hw.sequencer.program_fetch import ProgramFetch
from hw.sequencer.records import RecordWriter
from hw.sequencer.residency import Residency
from hw.sequencer.tokens import TokenCounters
from hw.sequencer.under_way import UnderWay, opcode_of
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
        run = Signal()  # a program runs; a register, as all engines and the bus hang on it

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
            tokens.announced.eq(queues.announced),
            tokens.waits.eq(queues.waits),
        ]

        # ---- running commands -----------------------------------------------------------------------------------
        wiring.connect(m, records.bus, wiring.flipped(self.record))
        m.d.comb += records.cycles.eq(control.cycles)
        running, complete, start = Signal(len(Engine)), Signal(len(Engine)), Signal(len(Engine))
        stuck = Signal()  # some command may be
        next_cycle = Signal(32)
        under_way = Signal(len(Engine))  # per engine: it has not completed all its commands
        completed_index = Signal(data.ArrayLayout(INDEX_BITS, len(Engine)))  # of the last command complete
        started_indices, running_indices, next_indices = [], [], []
        for e in Engine:
            name = e.name.lower()
            port, front = getattr(self, name), getattr(queues, name)
            started_index = Signal(INDEX_BITS, name=f"{name}_started_index")  # of the last command started
            next_header = data.View(HEADER_LAYOUT, front.payload.command[: HEADER_LAYOUT.size])
            started_indices.append(started_index)
            next_indices.append(front.payload.index)
            queue = UnderWay(e)
            oldest = queue.o.payload
            index = Signal(INDEX_BITS, name=f"{name}_index", init=NO_INDEX)  # of the oldest command
            idle = Signal(name=f"{name}_idle", init=1)
            running_indices.append(index)
            m.submodules[f"{name}_under_way"] = clean(queue)
            overlaps = e in UNDER_WAY
            # Its records must not pile up: where commands overlap they complete later, others start later.
            may_start = queue.i.ready if overlaps else records.accepting[e]
            m.d.comb += [
                port.command.valid.eq(running[e]),
                port.command.payload.eq(getattr(queues, f"shown_{name}")),
                complete[e].eq(port.complete if overlaps else running[e] & port.command.ready),
                start[e].eq(front.valid & tokens.enough[e] & ~running[e] & run & may_start),
                front.ready.eq(start[e]),
                queue.i.valid.eq(start[e]),
                queue.i.payload.index.eq(front.payload.index),
                queue.i.payload.signal.eq(next_header.signal),
                queue.i.payload.start.eq(next_cycle),
                queue.o.ready.eq(complete[e]),
                under_way[e].eq(queue.o.valid),
                tokens.signals[e].eq(oldest.signal),
                records.command[e].index.eq(oldest.index),
                records.command[e].opcode.eq(opcode_of(e, oldest)),
                records.command[e].start.eq(oldest.start),
                getattr(records, f"counters_{name}").eq(port.counters),
                control.running[e].eq(Cat(index, idle.replicate(32 - INDEX_BITS))),
            ]
            m.d.sync += [idle.eq(~under_way[e]), index.eq(Mux(under_way[e], oldest.index, NO_INDEX))]
            if hasattr(queue.i.payload, "opcode"):
                m.d.comb += queue.i.payload.opcode.eq(next_header.opcode)
            if overlaps:
                m.d.comb += port.may_complete.eq(records.free[e])
            with m.If(complete[e]):
                m.d.sync += completed_index[e].eq(queue.o.payload.index)
            with m.If(start[e]):
                m.d.sync += [running[e].eq(1), started_index.eq(front.payload.index)]
            with m.If((running[e] & port.command.ready) | self.engine_reset):
                m.d.sync += running[e].eq(0)
        m.d.comb += [
            tokens.complete.eq(complete),
            records.complete.eq(complete),
            queues.held.eq(running),
            watchdog.candidates.as_value().eq(Cat(*running_indices, *next_indices)),
        ]

        # ---- counts since the doorbell ----------------------------------------------------------------------------
        accepted = Signal()  # the doorbell, taken
        counting = Signal()
        m.d.comb += next_cycle.eq(control.cycles + 1)
        with m.If(counting):
            m.d.sync += control.cycles.eq(next_cycle)
        m.d.sync += [
            control.dispatched.eq(control.dispatched + (dispatcher.write_valid & dispatcher.write.last)),
            control.completed.eq(control.completed + records.written),
        ]
        m.d.comb += [residency.start.eq(accepted), residency.forget.eq(control.soft_reset)]
        with m.If(accepted):  # the strobe comes a cycle after the doorbell
            m.d.sync += [control.cycles.eq(2), control.dispatched.eq(0), control.completed.eq(0)]

        # ---- errors: the first one counts; of those of one cycle, the first of the list -----------------------------
        names = [e.name.lower() for e in Engine]
        sources = [
            (fetch.bus.error, fetch.failed_command),
            (dispatcher.error, dispatcher.index),
            (records.error, records.failed_command),
            # The load engine reports of its oldest command, others of the one that they started last.
            *((getattr(self, name).error, running_indices[e] if e is Engine.LOAD else started_indices[e])
              for e, name in zip(Engine, names, strict=True)),
            *(({"valid": tokens.overflow[e], "code": Error.TOKEN_OVERFLOW}, completed_index[e]) for e in Engine),
            ({"valid": watchdog.expired & stuck, "code": Error.WATCHDOG}, watchdog.oldest),
            ({"valid": watchdog.expired & ~stuck, "code": Error.WATCHDOG}, dispatcher.index),
        ]
        m.submodules.errors = errors = FirstError(len(sources))
        fault, clear = errors.fault, errors.clear
        m.d.comb += [
            stuck.eq(watchdog.oldest != NO_INDEX),
            errors.listen.eq(run),
            control.error_code.eq(errors.code),
            control.error_command.eq(errors.command),
            control.error_address.eq(errors.address),
        ]
        for source, (error, index) in zip(errors.sources, sources, strict=True):
            m.d.comb += source.index.eq(index)
            if isinstance(error, dict):
                m.d.comb += [source.error.valid.eq(error["valid"]), source.error.code.eq(error["code"])]
            else:
                m.d.comb += source.error.eq(error)

        # ---- start, end, reset ----------------------------------------------------------------------------------
        ended = Signal()
        m.d.sync += ended.eq(run & dispatcher.ended & queues.empty & ~under_way.any() & records.idle)
        status = control.status
        waiting = Signal()  # for the bus
        # From registers, as much hangs on both. While a program runs the bus does not count as idle, so that nothing
        # that begins in the last cycle is overlooked.
        bus_idle, moved = Signal(), Signal()
        m.d.sync += [bus_idle.eq(self.bus_idle & self.stop_bus),
                     moved.eq(self.bus_moved | self.progress | complete.any() | start.any())]
        late = Signal()  # the bus was waited for in vain
        changing = Signal()  # from one kind of waiting to the next
        m.d.comb += [
            self.stop_bus.eq(~run),
            status.busy.eq(run | waiting | self.engine_reset),
            watchdog.limit.eq(control.watchdog),
            watchdog.enable.eq((run | waiting) & ~changing),
            watchdog.activity.eq(moved),
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
            m.d.comb += errors.give_up.eq(1)
            finish(status.error)

        # From a register, as it has a long way to all engines.
        resetting = Signal()
        m.d.sync += self.engine_reset.eq(resetting)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += changing.eq(1)
                with m.If(control.soft_reset):
                    forget()
                    m.next = "STOP"
                with m.Elif(control.start):
                    forget()
                    m.d.comb += [accepted.eq(1), resetting.eq(1)]
                    m.d.sync += counting.eq(1)
                    m.next = "CLEAN"
            with m.State("CLEAN"):
                m.d.comb += [waiting.eq(1), resetting.eq(~bus_idle)]
                with m.If(control.soft_reset):
                    m.d.comb += changing.eq(1)
                    m.d.sync += counting.eq(0)
                    m.next = "STOP"
                with m.Elif(bus_idle):
                    m.d.sync += run.eq(1)
                    m.next = "RUN"
                with m.Elif(watchdog.expired):
                    give_up()
            with m.State("RUN"):
                with m.If(control.soft_reset):
                    forget()
                    m.d.comb += changing.eq(1)
                    m.d.sync += [run.eq(0), counting.eq(0)]
                    m.next = "STOP"
                with m.Elif(fault):
                    m.d.comb += changing.eq(1)
                    m.d.sync += run.eq(0)
                    m.next = "STOP"
                with m.Elif(ended):
                    m.d.comb += residency.done.eq(1)
                    m.d.sync += run.eq(0)
                    finish(status.done)
            with m.State("STOP"):
                m.d.comb += waiting.eq(1)
                with m.If(control.soft_reset):
                    forget()
                    m.d.sync += counting.eq(0)
                with m.Elif(bus_idle | watchdog.expired):
                    m.d.comb += changing.eq(1)
                    m.d.sync += late.eq(watchdog.expired)
                    m.next = "RESET"
            with m.State("RESET"):  # a state of its own: many registers are reset
                m.d.comb += [changing.eq(1), resetting.eq(1)]
                m.next = "IDLE"
                with m.If(control.soft_reset):
                    forget()
                    m.d.sync += counting.eq(0)
                with m.Elif(fault):
                    finish(status.error)
                with m.Elif(late):
                    give_up()
        return m
