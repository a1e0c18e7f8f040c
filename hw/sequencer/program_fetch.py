"""Fetches a program: BEGIN and the command after it first, the rest ahead of the dispatcher."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import ReadClient
from hw.contract.commands import COMMAND_BYTES
from hw.contract.config import Config
from hw.contract.registers import Error, Window
from hw.sequencer.beat_queue import BeatQueue
from hw.sequencer.command_format import COMMAND_BEATS, INDEX_BITS

#: Commands that are held between bus and dispatcher, and commands that are fetched at a time.
COMMANDS_AHEAD = 8
COMMANDS_AT_ONCE = 4

AT_ONCE_SHIFT = COMMANDS_AT_ONCE.bit_length() - 1

#: Commands fetched before the program's length is known: no program is shorter than BEGIN and END.
FIRST_COMMANDS = 2

assert FIRST_COMMANDS < COMMANDS_AT_ONCE == 1 << AT_ONCE_SHIFT


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
        m.submodules.ahead = ahead = BeatQueue(COMMANDS_AHEAD * COMMAND_BEATS)

        room = Signal(range(COMMANDS_AHEAD + 1), init=COMMANDS_AHEAD)  # commands that may be asked for
        # Of the program behind FIRST_COMMANDS: commands, COMMANDS_AT_ONCE at a time but for the last of them.
        whole, rest = Signal(INDEX_BITS - AT_ONCE_SHIFT), Signal(AT_ONCE_SHIFT)
        any_whole = Signal()
        first = Signal()
        offset = Signal(32, reset_less=True)  # of what is asked for next; before a program runs, of its BEGIN
        chunk = Signal(range(COMMANDS_AT_ONCE + 1), init=FIRST_COMMANDS)  # commands that are asked for
        next_chunk = Signal.like(chunk)
        length = Signal(range(COMMANDS_AT_ONCE * COMMAND_BYTES + 1))
        # Behind the first commands: COMMANDS_AT_ONCE asked for, times. A denied transfer is the last asked for.
        later = Signal(INDEX_BITS - AT_ONCE_SHIFT)
        first_of_last = Signal(INDEX_BITS)
        m.d.comb += [
            any_whole.eq(later != whole),
            length.eq(chunk << command_shift),
            # One value: Verilog simulators may never evaluate a part that is constant beside parts that are not.
            bus.request.payload.eq(Cat(Const(Window.IMAGE, 8), offset, length)),
        ]
        with m.FSM():
            with m.State("FIRST"):
                m.d.comb += [
                    first.eq(1),
                    bus.request.valid.eq(self.run),
                ]
                with m.If(bus.request.valid & bus.request.ready):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += Cat(rest, whole).eq(self.count - FIRST_COMMANDS)
                with m.If(self.count_known):
                    m.next = "REST"
            with m.State("REST"):
                m.d.comb += next_chunk.eq(Mux(any_whole, COMMANDS_AT_ONCE, rest))
                m.d.sync += chunk.eq(next_chunk)
                with m.If((next_chunk != 0) & (room >= next_chunk)):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += bus.request.valid.eq(1)
                with m.If(bus.request.ready):
                    m.d.sync += [
                        later.eq(later + any_whole),
                        first_of_last.eq(Cat(Const(FIRST_COMMANDS, AT_ONCE_SHIFT), later)),
                    ]
                    with m.If(~any_whole):
                        m.d.sync += rest.eq(0)
                    m.next = "REST"

        granted, freed = Signal(range(COMMANDS_AT_ONCE + 1)), Signal()
        with m.If(bus.request.valid & bus.request.ready):
            m.d.comb += granted.eq(chunk)
        with m.If(~self.run):
            m.d.sync += offset.eq(self.program)
        with m.Elif(granted != 0):  # behind the last commands nothing is asked for
            step = COMMANDS_AT_ONCE // FIRST_COMMANDS
            part = FIRST_COMMANDS * COMMAND_BYTES
            shift = part.bit_length() - 1
            assert part == 1 << shift
            m.d.sync += offset[shift:].eq(offset[shift:] + Mux(first, 1, step))
        m.d.sync += room.eq(room - granted + freed)

        taken = Signal(range(COMMAND_BEATS))
        received = Signal(INDEX_BITS + COMMAND_BEATS.bit_length() - 1)
        wiring.connect(m, wiring.flipped(bus.data), ahead.i)
        wiring.connect(m, ahead.o, wiring.flipped(self.beats))
        m.d.comb += [
            freed.eq(self.beats.valid & self.beats.ready & (taken == COMMAND_BEATS - 1)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += taken.eq(taken + 1)
        with m.If(bus.data.valid & bus.data.ready):
            m.d.sync += received.eq(received + 1)

        # A failed beat is the next to be received.
        m.d.comb += self.failed_command.eq(
            Mux(bus.error.code == Error.WINDOW_READ, first_of_last, received[COMMAND_BEATS.bit_length() - 1:]))
        return m
