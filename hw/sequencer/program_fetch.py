"""Fetches a program: BEGIN and the command after it first, the rest ahead of the dispatcher."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import ReadClient
from hw.contract.commands import COMMAND_BYTES
from hw.contract.config import Config
from hw.contract.registers import Error, Window
from hw.sequencer.command_format import COMMAND_BEATS, INDEX_BITS

#: Commands that are held between bus and dispatcher, and commands that are fetched at a time.
COMMANDS_AHEAD = 8
COMMANDS_AT_ONCE = 4

#: Commands fetched before the program's length is known: no program is shorter than BEGIN and END.
FIRST_COMMANDS = 2


class ProgramFetch(wiring.Component):
    """Reads the program in window IMAGE. Only asks for what it has room for, so it never holds the bus up.

    It starts when `run` is high after a reset, and is made ready for the next program by a reset.

    Members
    -------
    run : fetch. program : offset of BEGIN.
    count_known, count : from the dispatcher: commands of the program, FIRST_COMMANDS or more.
    bus : the read client.
    beats : the program.
    failed_command : index of the command that `bus.error` is about.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "run": In(1),
            "program": In(32),
            "count_known": In(1),
            "count": In(INDEX_BITS),
            "bus": Out(ReadClient(config)),
            "beats": Out(stream.Signature(unsigned(config.axi_data_bits))),
            "failed_command": Out(INDEX_BITS),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus
        command_shift = COMMAND_BYTES.bit_length() - 1
        m.submodules.ahead = ahead = fifo.SyncFIFOBuffered(
            width=self.config.axi_data_bits, depth=COMMANDS_AHEAD * COMMAND_BEATS)

        room = Signal(range(COMMANDS_AHEAD + 1), init=COMMANDS_AHEAD)  # commands that may be asked for
        left = Signal(INDEX_BITS)  # commands of the program not yet asked for
        asked = Signal(INDEX_BITS)  # commands asked for
        offset = Signal(32)
        chunk = Signal(range(COMMANDS_AT_ONCE + 1))
        at = Signal(32)
        length = Signal(range(COMMANDS_AT_ONCE * COMMAND_BYTES + 1))
        m.d.comb += [
            length.eq(chunk << command_shift),
            # One value: Verilog simulators may never evaluate a part that is constant beside parts that are not.
            bus.request.payload.eq(Cat(Const(Window.IMAGE, 8), at, length)),
        ]
        with m.FSM():
            with m.State("FIRST"):
                m.d.comb += [
                    chunk.eq(FIRST_COMMANDS),
                    at.eq(self.program),
                    bus.request.valid.eq(self.run),
                ]
                with m.If(self.run):
                    m.d.sync += offset.eq(self.program + FIRST_COMMANDS * COMMAND_BYTES)
                with m.If(bus.request.valid & bus.request.ready):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += left.eq(self.count - FIRST_COMMANDS)
                with m.If(self.count_known):
                    m.next = "REST"
            with m.State("REST"):
                m.d.comb += [
                    chunk.eq(Mux(left < COMMANDS_AT_ONCE, left, COMMANDS_AT_ONCE)),
                    at.eq(offset),
                    bus.request.valid.eq((left != 0) & (room >= chunk)),
                ]
                with m.If(bus.request.valid & bus.request.ready):
                    m.d.sync += [left.eq(left - chunk), offset.eq(offset + length)]

        granted, freed = Signal(range(COMMANDS_AT_ONCE + 1)), Signal()
        with m.If(bus.request.valid & bus.request.ready):
            m.d.comb += granted.eq(chunk)
        m.d.sync += [room.eq(room - granted + freed), asked.eq(asked + granted)]

        taken = Signal(range(COMMAND_BEATS))
        received = Signal(INDEX_BITS + COMMAND_BEATS.bit_length() - 1)
        m.d.comb += [
            ahead.w_data.eq(bus.data.payload),
            ahead.w_en.eq(bus.data.valid),
            bus.data.ready.eq(ahead.w_rdy),
            self.beats.payload.eq(ahead.r_data),
            self.beats.valid.eq(ahead.r_rdy),
            ahead.r_en.eq(self.beats.ready),
            freed.eq(self.beats.valid & self.beats.ready & (taken == COMMAND_BEATS - 1)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += taken.eq(taken + 1)
        with m.If(bus.data.valid & bus.data.ready):
            m.d.sync += received.eq(received + 1)

        # A denied transfer is the last that was asked for; a failed beat is the next to be received.
        first_of_last = Signal(INDEX_BITS)
        with m.If(granted != 0):
            m.d.sync += first_of_last.eq(asked)
        m.d.comb += self.failed_command.eq(
            Mux(bus.error.code == Error.WINDOW_READ, first_of_last, received[COMMAND_BEATS.bit_length() - 1:]))
        return m
