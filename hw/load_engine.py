"""The load engine: from external memory into the feature memory and the private memories of the engines."""

from __future__ import annotations

from collections.abc import Callable

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.hdl import Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import BEAT_BYTES, ReadClient
from hw.contract.commands import Engine, Flag, Opcode, Space
from hw.contract.config import MASK_WORD_BITS, WINDOWS, Config
from hw.contract.registers import Error
from hw.contract.weight_format import BLOCK_BYTES_MAX, TAPS_MAX
from hw.ports import EnginePort, MemoryWrite, WritePort, command_layout
from hw.weight_decoder.loader import WeightLoader


def entry_beats(config: Config, space: Space) -> int:
    """Beats that are gathered before `space` is written: an entry, or all words of a beat if they are smaller."""
    return {
        Space.FEATURE: max(1, config.lanes // BEAT_BYTES),
        Space.WEIGHT: config.weight_word_bytes // BEAT_BYTES,
        Space.MAP: 1,
        Space.MASK: 1,
        Space.PARAMETER: config.parameter_entry_bytes // BEAT_BYTES,
    }[space]


class Remainder(wiring.Component):
    """Whether a number of beats is a multiple of a constant, four binary digits per cycle from the top.

    Parameters
    ----------
    divisor : odd, at least 3.
    bits : of the number.

    Members
    -------
    start : take `number`. done : from some cycle later on until the next `start`; then `zero` is right.
    """

    def __init__(self, divisor: int, bits: int):
        if divisor < 3 or divisor % 2 == 0:
            raise ValueError(f"Remainder: divisor must be odd and at least 3, not {divisor}")
        self.divisor = divisor
        self.bits = bits
        super().__init__({"start": In(1), "number": In(bits), "done": Out(1), "zero": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        steps = -(-self.bits // 4)
        digits = Signal(4 * steps)
        left = Signal(range(steps + 1))
        remainder = Signal(range(self.divisor))
        half = self._append(m, remainder, digits[-2:], "half")
        whole = self._append(m, half, digits[-4:-2], "whole")
        with m.If(self.start):
            m.d.sync += [digits.eq(self.number), left.eq(steps), remainder.eq(0)]
        with m.Elif(~self.done):
            m.d.sync += [digits.eq(digits << 4), left.eq(left - 1), remainder.eq(whole)]
        m.d.comb += [self.done.eq(left == 0), self.zero.eq(remainder == 0)]
        return m

    def _append(self, m: Module, remainder: Value, digit: Value, name: str) -> Signal:
        """(remainder * 4 + digit) mod divisor, as a table."""
        result = Signal(range(self.divisor), name=name)
        with m.Switch(Cat(digit, remainder)):
            for value in range(4 * self.divisor):
                with m.Case(value):
                    m.d.comb += result.eq(value % self.divisor)
        return result


class LoadEngine(wiring.Component):
    """Executes LOAD commands, one beat per cycle; entry addresses wrap around at the end of their memory.

    A command with a field outside its limits is refused with BAD_COMMAND before anything of it is done; what
    the bus or a window refuses is reported with its own code, damaged weights with WEIGHT_STREAM. After an error
    the engine waits for a reset.

    Members
    -------
    engine : commands, counters, error.
    progress : a compressed block has moved on.
    bus : the read client.
    feature, weight, map, mask, parameter : the memories that it fills.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "engine": Out(EnginePort(Engine.LOAD)),
            "progress": Out(1),
            "bus": Out(ReadClient(config)),
            "feature": Out(WritePort(config)),
            "weight": Out(MemoryWrite(config.weight_words, 8 * config.weight_word_bytes)),
            "map": Out(MemoryWrite(config.map_entries, 64)),
            "mask": Out(MemoryWrite(config.mask_words, MASK_WORD_BITS)),
            "parameter": Out(MemoryWrite(config.parameter_entries, 8 * config.parameter_entry_bytes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bus = self.config, self.bus
        command = data.View(command_layout(Opcode.LOAD), self.engine.command.payload)
        counters = self.engine.counters
        most_beats = max(entry_beats(config, space) for space in Space)

        # ---- limits of the fields; the payload is stable, so that the verdict may be registered ----------------
        whole_entries = Signal()
        last_of_entry = Signal(range(most_beats))  # beats of an entry less one
        target = Signal.like(command.space)  # of the beats that are not a block
        plain_length = Signal(32)  # their bytes
        compressed, without_maps = Signal(), Signal()
        m.d.comb += [
            compressed.eq((command.flags & Flag.COMPRESSED) != 0),
            without_maps.eq((command.flags & Flag.WITHOUT_MAPS) != 0),
            target.eq(Mux(compressed, Space.PARAMETER, command.space)),
            plain_length.eq(Mux(compressed, command.parameter_length, command.length)),
        ]
        with m.Switch(target):
            for space in Space:
                beats = entry_beats(config, space)
                twos = (beats & -beats).bit_length() - 1  # the rest of a divisor is the Remainder's
                with m.Case(space):
                    m.d.comb += [
                        whole_entries.eq(plain_length[: 3 + twos] == 0),
                        last_of_entry.eq(beats - 1),
                    ]
        raw_acceptable, block_acceptable, acceptable = Signal(), Signal(), Signal()

        def within(value: Value, least: int, most: int) -> Value:
            return (value >= least) & (value <= most)

        m.d.comb += [
            raw_acceptable.eq((command.offset[:3] == 0) & ~without_maps),
            block_acceptable.eq(
                (command.space == Space.WEIGHT) & ~command.offset[0] & ~command.length[0]
                & (command.length < BLOCK_BYTES_MAX) & within(command.taps, 1, TAPS_MAX)
                & (command.input_blocks != 0) & (command.output_blocks != 0)
                & (command.unrolling < len(config.unrollings))
                & within(command.last_rows, 1, config.lanes) & within(command.last_outputs, 1, config.lanes)
                & (command.parameter_offset[:3] == 0)),
        ]
        m.d.sync += acceptable.eq(
            (command.window < WINDOWS) & (command.length != 0) & whole_entries
            & ((command.flags & ~(Flag.COMPRESSED | Flag.WITHOUT_MAPS).value & 0xFF) == 0)
            & Mux(compressed, block_acceptable, raw_acceptable))
        parameter_beats = entry_beats(config, Space.PARAMETER)
        twos = (parameter_beats & -parameter_beats).bit_length() - 1
        remainder_known, multiple = Signal(init=1), Signal(init=1)
        begin = Signal()
        if parameter_beats >> twos > 1:
            m.submodules.entry_check = remainder = Remainder(parameter_beats >> twos, 29 - twos)
            other_space = Signal()
            m.d.comb += [
                other_space.eq(target != Space.PARAMETER),
                remainder.start.eq(begin),
                remainder.number.eq(plain_length[3 + twos:]),
                remainder_known.eq(remainder.done | other_space),
                multiple.eq(remainder.zero | other_space),
            ]

        # ---- the course of a command --------------------------------------------------------------------------
        skipped = Signal(3)  # bytes of the first beat before a block
        beats = Signal(29)
        m.d.comb += [
            skipped.eq(command.offset[:3]),
            beats.eq((command.length + skipped + BEAT_BYTES - 1) >> 3),
        ]
        plain_beats = Signal(29)  # behind a block; all of them, without one
        block_left = Signal(29)
        plain_left = Signal(29)
        block_written = Signal()
        awaited = Signal()  # a beat
        m.d.comb += [
            plain_beats.eq(plain_length[3:]),
            awaited.eq((block_left != 0) | (plain_left != 0)),
        ]
        entry_valid = Signal()  # a whole entry waits to be written
        accept = Signal()  # a beat is taken from the bus
        m.d.comb += [
            bus.request.payload.window.eq(command.window),
            bus.request.payload.offset.eq(Cat(Const(0, 3), command.offset[3:])),
            bus.request.payload.length.eq(Cat(Const(0, 3), beats)),
            self.engine.error.eq(bus.error),
        ]
        with m.If(accept):
            m.d.sync += counters.beats.eq(counters.beats + 1)
            with m.If(block_left != 0):
                m.d.sync += block_left.eq(block_left - 1)
            with m.Else():
                m.d.sync += plain_left.eq(plain_left - 1)

        def working(then: Callable[[], None]) -> None:
            """Beats are under way; `then` unless the bus or the decoder has failed."""
            m.d.comb += weights.block.valid.eq(compressed & ~block_written)
            with m.If(weights.block.ready):
                m.d.sync += block_written.eq(1)
            with m.If(awaited & ~bus.data.valid):
                m.d.sync += counters.stalled.eq(counters.stalled + 1)
            with m.If(bus.error.valid):
                m.next = "FAILED"
            with m.Elif(weights.failed):
                m.d.comb += [
                    self.engine.error.valid.eq(1),
                    self.engine.error.code.eq(Error.WEIGHT_STREAM),
                    self.engine.error.address.eq(command.offset),
                ]
                m.next = "FAILED"
            with m.Else():
                then()

        def parameters() -> None:
            m.d.comb += bus.request.valid.eq(1)
            with m.If(bus.request.ready):
                m.next = "DATA"

        def finish() -> None:
            with m.If(~awaited & ~entry_valid & (block_written | weights.block.ready | ~compressed)):
                m.d.comb += self.engine.command.ready.eq(1)
                m.next = "IDLE"

        m.submodules.weights = weights = WeightLoader(config)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += begin.eq(self.engine.command.valid)
                m.d.sync += [
                    block_left.eq(Mux(compressed, beats, 0)), plain_left.eq(plain_beats), block_written.eq(0),
                    counters.beats.eq(0), counters.stalled.eq(0),
                ]
                with m.If(begin):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(~acceptable | (remainder_known & ~multiple)):
                    m.d.comb += [
                        self.engine.error.valid.eq(1),
                        self.engine.error.code.eq(Error.BAD_COMMAND),
                        self.engine.error.address.eq(command.offset),
                    ]
                    m.next = "FAILED"
                with m.Elif(remainder_known):
                    m.d.comb += bus.request.valid.eq(1)
                    with m.If(bus.request.ready):
                        with m.If(compressed & (plain_beats != 0)):
                            m.next = "PARAMETERS"
                        with m.Else():
                            m.next = "DATA"
            with m.State("PARAMETERS"):  # that follow a block are asked for, so that memory never waits
                m.d.comb += [
                    bus.request.payload.offset.eq(command.parameter_offset),
                    bus.request.payload.length.eq(command.parameter_length),
                ]
                working(parameters)
            with m.State("DATA"):
                working(finish)
            with m.State("FAILED"):
                pass  # until the sequencer resets the engines

        # ---- the weight decoder's door ------------------------------------------------------------------------
        # Beats as they come from the bus, and as they are gathered; those of compressed weights go to the decoder.
        raw = bus.data
        gathered = stream.Signature(unsigned(config.axi_data_bits)).create()
        block = weights.block.payload
        of_block = Signal()
        m.d.sync += self.progress.eq(weights.moved)
        m.d.comb += [
            gathered.payload.eq(raw.payload),
            of_block.eq(block_left != 0),
            gathered.valid.eq(raw.valid & ~of_block),
            weights.beats.payload.eq(raw.payload),
            weights.beats.valid.eq(raw.valid & of_block),
            raw.ready.eq(Mux(of_block, weights.beats.ready, gathered.ready)),
            accept.eq(raw.valid & raw.ready),
            weights.last.eq(block_left == 1),
            weights.begin.eq(begin),
            weights.address.eq(command.address),
            weights.map_address.eq(command.map_address),
            weights.write_maps.eq(~without_maps),
            block.skip.eq(skipped[1:]),
            block.units.eq(command.length[1:]),
            block.order.group.eq(1 << command.unrolling[: max(1, (len(config.unrollings) - 1).bit_length())]),
            *(getattr(block.order, name).eq(getattr(command, name))
              for name in ("output_blocks", "taps", "input_blocks", "last_rows", "last_outputs")),
        ]

        # ---- gather beats to entries: they are shifted in from the top, so that an entry ends at the top ---------
        beat_bits = config.axi_data_bits
        gather = Signal(beat_bits * most_beats)
        position = Signal.like(last_of_entry)
        written = Signal()  # the waiting entry is written in this cycle
        m.d.comb += gathered.ready.eq(~entry_valid | written)
        with m.If(written):
            m.d.sync += entry_valid.eq(0)
        with m.If(gathered.valid & gathered.ready):
            m.d.sync += gather.eq(Cat(gather[beat_bits:], gathered.payload))
            with m.If(position == last_of_entry):
                m.d.sync += [position.eq(0), entry_valid.eq(1)]
            with m.Else():
                m.d.sync += position.eq(position + 1)

        # ---- write -------------------------------------------------------------------------------------------
        space = Signal.like(command.space)
        address = Signal(max(len(port.address) for port in (self.weight, self.map, self.mask, self.parameter,
                                                            self.feature.request.payload)))
        word_written = Signal()
        with m.If(begin):
            m.d.sync += [space.eq(target),
                         address.eq(Mux(compressed, command.parameter_address, command.address))]
        with m.Elif(word_written):
            m.d.sync += address.eq(address + 1)

        to_feature = Signal()
        m.d.comb += [
            to_feature.eq(space == Space.FEATURE),
            self.feature.request.valid.eq(entry_valid & to_feature),
            self.feature.request.payload.address.eq(address),
            word_written.eq(entry_valid & (self.feature.request.ready | ~to_feature)),
        ]
        word_bits = 8 * config.lanes
        if word_bits < beat_bits:  # two words in a beat
            second = Signal()
            with m.If(word_written & to_feature):
                m.d.sync += second.eq(~second)
            m.d.comb += [
                self.feature.request.payload.data.eq(
                    Mux(second, gather[-word_bits:], gather[-beat_bits:-word_bits])),
                written.eq(word_written & (second | ~to_feature)),
            ]
        else:
            m.d.comb += [
                self.feature.request.payload.data.eq(gather[-word_bits:]),
                written.eq(word_written),
            ]
        for port, target in ((self.weight, Space.WEIGHT), (self.map, Space.MAP), (self.mask, Space.MASK),
                             (self.parameter, Space.PARAMETER)):
            m.d.comb += [
                port.enable.eq(entry_valid & (space == target)),
                port.address.eq(address),
                port.data.eq(gather[-len(port.data):]),
            ]
        with m.If(compressed):
            for port, source in ((self.weight, weights.weight), (self.map, weights.map)):
                m.d.comb += [port.enable.eq(source.enable), port.address.eq(source.address), port.data.eq(source.data)]
        return m
