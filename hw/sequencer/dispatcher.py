"""Checks BEGIN, sends each command to the queue of its engine, and notices END."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import COMMAND_BYTES, ENGINE_OF, MAGIC, Engine, Opcode
from hw.contract.config import FORMAT_VERSION, Config
from hw.contract.registers import Error
from hw.ports import ERROR_LAYOUT, command_layout
from hw.sequencer.command_format import COMMAND_BEATS, HEADER_LAYOUT, INDEX_BITS, meaningful_beats
from hw.sequencer.residency import TAG_BITS

#: The beat of BEGIN that holds its tags.
TAG_BEAT = 3

#: A beat on its way into a queue; `last` when it is the command's last there, its index.
QUEUE_BEAT_LAYOUT = data.StructLayout({
    "engine": unsigned(2),
    "position": unsigned(4),
    "data": unsigned(64),
    "last": unsigned(1),
})


class Dispatcher(wiring.Component):
    """Takes a beat per cycle, and waits where a queue has no room for the command that comes next.

    Members
    -------
    beats : the program. program : its offset, for the address of errors.
    write : beats for the queues, when `write_valid` is high. room : per engine, a command would fit.
    count_known, count : commands of the program, once BEGIN has been checked.
    begin, establishes, requires : tags of BEGIN, for one cycle. refused : from the next cycle on, what it requires does
        not stand.
    ended : END has come.
    index : of the command that is being looked at.
    error : for one cycle: a bad BEGIN or opcode; `address` is the command's offset in window IMAGE.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "beats": In(stream.Signature(unsigned(config.axi_data_bits))),
            "program": In(32),
            "write": Out(QUEUE_BEAT_LAYOUT),
            "write_valid": Out(1),
            "room": In(len(Engine)),
            "count_known": Out(1),
            "count": Out(INDEX_BITS),
            "begin": Out(1),
            "establishes": Out(TAG_BITS),
            "requires": Out(TAG_BITS),
            "refused": In(1),
            "ended": Out(1),
            "index": Out(INDEX_BITS),
            "error": Out(ERROR_LAYOUT),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        beat_valid = Signal()
        beat = Signal(self.config.axi_data_bits)
        take = Signal()
        m.d.comb += self.beats.ready.eq(~beat_valid | take)
        # Of the beat at hand, known as it comes, as much hangs on it.
        opcode = Signal(8)
        known, is_end, is_begin = Signal(), Signal(), Signal()
        target = Signal(2)
        m.d.comb += opcode.eq(data.View(HEADER_LAYOUT, self.beats.payload).opcode)
        with m.If(self.beats.ready):
            m.d.sync += [beat_valid.eq(self.beats.valid), beat.eq(self.beats.payload), known.eq(0),
                         is_end.eq(opcode == Opcode.END), is_begin.eq(opcode == Opcode.BEGIN)]
            with m.Switch(opcode):
                for code, engine in ENGINE_OF.items():
                    with m.Case(code):
                        m.d.sync += [known.eq(1), target.eq(engine)]

        position = Signal(range(COMMAND_BEATS))
        is_last, next_is_last = Signal(), Signal()
        next_index = Signal(INDEX_BITS, init=1)
        after_next = Signal(INDEX_BITS)
        m.d.comb += after_next.eq(next_index + 1)
        m.d.sync += next_is_last.eq(after_next == self.count)
        with m.If(take):
            m.d.sync += position.eq(position + 1)
            with m.If(position == COMMAND_BEATS - 1):
                m.d.sync += [self.index.eq(next_index), next_index.eq(after_next), is_last.eq(next_is_last)]

        def fail(code):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(code)]
            m.next = "HALT"

        m.d.sync += [
            self.error.valid.eq(0),
            self.error.address.eq(self.program + (self.index << (COMMAND_BYTES.bit_length() - 1))),
        ]
        begin = data.View(command_layout(Opcode.BEGIN), beat.replicate(COMMAND_BEATS))  # fields of the beat at hand
        m.d.comb += [self.establishes.eq(begin.establishes), self.requires.eq(begin.requires)]
        engine = Signal(2)
        index_position = Signal(range(COMMAND_BEATS))
        with m.Switch(engine):
            for each in Engine:
                with m.Case(each):
                    m.d.comb += index_position.eq(meaningful_beats(each))

        m.d.sync += self.write_valid.eq(0)
        with m.FSM():
            with m.State("BEGIN"):
                m.d.comb += take.eq(beat_valid)
                with m.If(beat_valid):
                    with m.Switch(position):
                        with m.Case(0):
                            with m.If(~is_begin):
                                fail(Error.BAD_IMAGE)
                        with m.Case(1):
                            with m.If(begin.magic != MAGIC):
                                fail(Error.BAD_IMAGE)
                            with m.Elif(begin.format_version != FORMAT_VERSION):
                                fail(Error.WRONG_FORMAT)
                        with m.Case(2):
                            with m.If(begin.config_hash != self.config.hash):
                                fail(Error.WRONG_CONFIG)
                            with m.Elif((begin.command_count < 2) | begin.command_count[INDEX_BITS:].any()):
                                fail(Error.BAD_COMMAND)
                            with m.Else():
                                m.d.sync += [self.count.eq(begin.command_count), self.count_known.eq(1)]
                        with m.Case(TAG_BEAT):
                            m.d.comb += self.begin.eq(1)
                        with m.Case(TAG_BEAT + 1):
                            with m.If(self.refused):
                                fail(Error.NOT_RESIDENT)
                        with m.Case(COMMAND_BEATS - 1):
                            m.next = "HEADER"
            with m.State("HEADER"):
                m.d.sync += engine.eq(target)
                with m.If(beat_valid):
                    with m.If(is_end):
                        m.d.sync += self.ended.eq(1)
                        m.next = "HALT"
                    with m.Elif(~known | is_last):
                        fail(Error.BAD_OPCODE)
                    with m.Elif(self.room.bit_select(target, 1)):
                        m.d.comb += take.eq(1)
                        m.d.sync += self.write_valid.eq(1)
                        m.next = "BODY"
            with m.State("BODY"):
                m.d.comb += take.eq(beat_valid)
                with m.If(beat_valid):
                    m.d.sync += self.write_valid.eq(position <= index_position)
                    with m.If(position == COMMAND_BEATS - 1):
                        m.next = "HEADER"
            with m.State("HALT"):
                pass  # until the next program

        is_index = Signal()
        m.d.comb += is_index.eq((position == index_position) & (position != 0))
        m.d.sync += [
            self.write.engine.eq(Mux(position == 0, target, engine)),
            self.write.position.eq(position),
            # Of the index' beat, the rest is not read.
            self.write.data.eq(Cat(Mux(is_index, self.index, beat[:INDEX_BITS]), beat[INDEX_BITS:])),
            self.write.last.eq(is_index),
        ]
        return m
