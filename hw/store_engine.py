"""The store engine: from the feature memory to external memory."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import Out

from hw.bus.transfer import BEAT_BYTES, WriteClient
from hw.contract.commands import Engine, Opcode, Space
from hw.contract.config import WINDOWS, Config
from hw.contract.registers import Error
from hw.ports import EnginePort, ReadPort, command_layout

#: Words read ahead of the bus: what a word per cycle needs for the way there and back, and some for bank conflicts.
WORDS_AHEAD = 8


class StoreEngine(wiring.Component):
    """Executes STORE commands; word addresses wrap around at the end of the feature memory.

    A command is complete when the last of its bursts has been answered. One with a field outside its limits is
    refused with BAD_COMMAND before anything of it is done; what the bus or a window refuses is reported with
    its own code. After an error the engine waits for a reset.

    Members
    -------
    engine : commands, counters, error.
    bus : the write client.
    feature : the memory that it reads.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "engine": Out(EnginePort(Engine.STORE)),
            "bus": Out(WriteClient(config)),
            "feature": Out(ReadPort(config)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bus, feature = self.config, self.bus, self.feature
        command = data.View(command_layout(Opcode.STORE), self.engine.command.payload)
        counters = self.engine.counters
        lane_bits = (config.lanes - 1).bit_length()

        # The payload is stable, so that the verdict may be registered.
        acceptable = Signal()
        granule = max(lane_bits, 3)
        m.d.sync += acceptable.eq(
            (command.window < WINDOWS) & (command.space == Space.FEATURE) & (command.offset[:3] == 0)
            & (command.length[:granule] == 0) & (command.length != 0))

        words_left = Signal(32 - lane_bits)
        moved = Signal()
        m.d.comb += [
            bus.request.payload.window.eq(command.window),
            bus.request.payload.offset.eq(command.offset),
            bus.request.payload.length.eq(command.length),
            moved.eq(bus.data.valid & bus.data.ready),
            self.engine.error.eq(bus.error),
            counters.beats.eq(command.length[3:]),  # when the command is complete
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += counters.stalled.eq(0)
                with m.If(self.engine.command.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(~acceptable):
                    m.d.comb += [
                        self.engine.error.valid.eq(1),
                        self.engine.error.code.eq(Error.BAD_COMMAND),
                        self.engine.error.address.eq(command.offset),
                    ]
                    m.next = "FAILED"
                with m.Else():
                    m.d.comb += bus.request.valid.eq(1)
                    with m.If(bus.request.ready):
                        m.d.sync += words_left.eq(command.length[lane_bits:])
                        m.next = "DATA"
            with m.State("DATA"):
                with m.If(bus.data.valid & ~bus.data.ready):
                    m.d.sync += counters.stalled.eq(counters.stalled + 1)
                with m.If(bus.error.valid):
                    m.next = "FAILED"
                with m.Elif(bus.done):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += self.engine.command.ready.eq(1)
                m.next = "IDLE"
            with m.State("FAILED"):
                pass  # until the sequencer resets the engines

        # Words are asked for as long as there is room for them.
        m.submodules.words = words = fifo.SyncFIFO(width=8 * config.lanes, depth=WORDS_AHEAD)
        room = Signal(range(WORDS_AHEAD + 1), init=WORDS_AHEAD)
        address = Signal.like(feature.request.payload)
        asked, used = Signal(), Signal()
        m.d.comb += [
            feature.request.valid.eq((words_left != 0) & (room != 0)),
            feature.request.payload.eq(address),
            asked.eq(feature.request.valid & feature.request.ready),
            words.w_en.eq(feature.data_valid),
            words.w_data.eq(feature.data),
            used.eq(words.r_rdy & words.r_en),
        ]
        m.d.sync += room.eq(room - asked + used)
        with m.If(asked):
            m.d.sync += [address.eq(address + 1), words_left.eq(words_left - 1)]
        with m.Elif(words_left == 0):
            m.d.sync += address.eq(command.address)

        # Words to beats.
        if config.lanes == BEAT_BYTES:
            m.d.comb += [
                bus.data.payload.eq(words.r_data),
                bus.data.valid.eq(words.r_rdy),
                words.r_en.eq(bus.data.ready),
            ]
        elif config.lanes > BEAT_BYTES:
            upper = Signal()
            with m.If(moved):
                m.d.sync += upper.eq(~upper)
            m.d.comb += [
                bus.data.payload.eq(Mux(upper, words.r_data[64:], words.r_data[:64])),
                bus.data.valid.eq(words.r_rdy),
                words.r_en.eq(bus.data.ready & upper),
            ]
        else:
            lower = Signal(8 * config.lanes)
            held = Signal()
            m.d.comb += [
                bus.data.payload.eq(Cat(lower, words.r_data)),
                bus.data.valid.eq(held & words.r_rdy),
                words.r_en.eq(~held | bus.data.ready),
            ]
            with m.If(used):
                m.d.sync += held.eq(~held)
                with m.If(~held):
                    m.d.sync += lower.eq(words.r_data)
        return m
