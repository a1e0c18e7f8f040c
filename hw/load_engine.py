"""The load engine: from external memory into the feature memory and the private memories of the engines."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.hdl import Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus.transfer import BEAT_BYTES, ReadClient
from hw.contract.commands import Engine, Flag, Opcode, Space
from hw.contract.config import MASK_WORD_BITS, WINDOWS, Config
from hw.contract.registers import Error
from hw.contract.weight_format import BLOCK_BYTES_MAX, TAPS_MAX
from hw.ports import EnginePort, MemoryWrite, WritePort, command_layout
from hw.register_slice import RegisterSlice
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

    While a command's data are written, the next one is checked and asks for its own, and a compressed block may already
    wait in front of the weight decoder: neither memory nor the decoder waits from one command to the next. Commands
    write in their order all the same.

    A command with a field outside its limits is refused with BAD_COMMAND before anything of it is done; what
    the bus or a window refuses is reported with its own code, damaged weights with WEIGHT_STREAM; each when the command
    before is complete. After an error the engine waits for a reset.

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
        layout = command_layout(Opcode.LOAD)
        command = data.View(layout, self.engine.command.payload)  # the next one
        current = Signal(layout)  # the one whose data are written
        counters = self.engine.counters
        most_beats = max(entry_beats(config, space) for space in Space)

        # ---- limits of the fields; the payload is stable, so that the verdict may be registered ----------------
        whole_entries = Signal()
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
                    m.d.comb += whole_entries.eq(plain_length[: 3 + twos] == 0)
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
        beats = Signal(29)  # of the block; of a command without one, all
        plain_beats = Signal(29)  # behind the block; all, without one
        m.d.sync += [
            beats.eq((command.length + command.offset[:3] + BEAT_BYTES - 1) >> 3),
            plain_beats.eq(plain_length[3:]),
        ]

        # ---- beats, counted as they come: the current command's, then those of the next one's block ------------
        busy = Signal()  # there is a current command
        take = Signal()  # the next command becomes the current one
        ahead = Signal()  # beats of the next one's block are counted
        count_ahead = Signal()
        block, plain = (Signal(data.StructLayout({"left": 29, "some": 1, "last": 1}), name=name)
                        for name in ("block", "plain"))
        accept = Signal()  # a beat is taken from the bus
        awaited = Signal()  # one of the current command
        m.d.comb += awaited.eq((block.some & ~ahead) | plain.some)

        def count_down(beats) -> None:
            m.d.sync += [beats.left.eq(beats.left - 1), beats.last.eq(beats.left == 2), beats.some.eq(~beats.last)]

        def count_from(beats, number: Value, enable: Value) -> None:
            m.d.sync += [beats.left.eq(number), beats.last.eq(number == 1), beats.some.eq(enable)]

        with m.If(accept):
            with m.If(block.some):
                count_down(block)
            with m.Else():
                count_down(plain)
        with m.If((take & ~ahead) | count_ahead):
            count_from(block, beats, compressed)
        with m.If(take):
            count_from(plain, plain_beats, plain_beats != 0)
            m.d.sync += [current.eq(command), busy.eq(1), ahead.eq(0), counters.stalled.eq(0),
                         counters.beats.eq(Mux(compressed, beats, 0) + plain_beats)]
        with m.Elif(count_ahead):
            m.d.sync += ahead.eq(1)
        with m.If(awaited & ~bus.data.valid):
            m.d.sync += counters.stalled.eq(counters.stalled + 1)

        # ---- the next command: checked, asked for, taken once the current one is complete -----------------------
        parameters_wanted = Signal()  # those behind the current command's block are not asked for yet
        asked = Signal()  # the last that was asked for is the next command's
        failure = Signal.like(self.engine.error)  # of the bus
        m.d.comb += [
            bus.request.payload.window.eq(Mux(parameters_wanted, current.window, command.window)),
            bus.request.payload.offset.eq(Mux(
                parameters_wanted, current.parameter_offset, Cat(Const(0, 3), command.offset[3:]))),
            bus.request.payload.length.eq(Mux(
                parameters_wanted, current.parameter_length, Cat(Const(0, 3), beats))),
            self.engine.command.ready.eq(take),
        ]
        refused = Signal()  # it is against the limits
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += begin.eq(self.engine.command.valid)
                with m.If(begin):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(~acceptable | (remainder_known & ~multiple)):
                    m.next = "REFUSED"
                with m.Elif(remainder_known & ~parameters_wanted):
                    m.d.comb += bus.request.valid.eq(1)
                    with m.If(bus.request.ready):
                        m.d.sync += asked.eq(1)
                        m.next = "ASKED"
            with m.State("ASKED"):
                m.d.comb += [
                    take.eq(~busy & ~failure.valid),
                    count_ahead.eq(busy & ~awaited & ~ahead & compressed),
                ]
                with m.If(take):
                    m.d.sync += [asked.eq(0), parameters_wanted.eq(compressed & (plain_beats != 0))]
                    m.next = "IDLE"
            with m.State("REFUSED"):
                m.d.comb += refused.eq(1)
        with m.If(parameters_wanted):
            m.d.comb += bus.request.valid.eq(1)
            with m.If(bus.request.ready):
                m.d.sync += parameters_wanted.eq(0)

        # ---- the current command: complete when all of it is written --------------------------------------------
        m.submodules.weights = weights = WeightLoader(config)
        of_block = Signal()  # it has one
        block_written = Signal()
        entry_valid = Signal()  # a whole entry waits to be written
        m.d.comb += [
            of_block.eq((current.flags & Flag.COMPRESSED) != 0),
            weights.block.valid.eq(busy & of_block & ~block_written),
            self.engine.complete.eq(
                busy & ~awaited & ~entry_valid & ~self.feature.request.valid & (block_written | ~of_block)
                & self.engine.may_complete),
        ]
        with m.If(weights.block.ready):
            m.d.sync += block_written.eq(1)
        with m.If(take):
            m.d.sync += block_written.eq(0)
        with m.If(self.engine.complete):
            m.d.sync += busy.eq(0)

        # ---- errors; the next command's when it is the oldest -----------------------------------------------------
        of_next = Signal()  # it is about the next command
        error = Signal.like(failure)
        with m.If(bus.error.valid & ~failure.valid):
            m.d.sync += [
                failure.eq(bus.error),
                of_next.eq(Mux(bus.error.code == Error.BUS_READ, ~awaited, asked) & ~take),
            ]
        with m.If(weights.failed & busy):
            m.d.comb += [error.valid.eq(1), error.code.eq(Error.WEIGHT_STREAM), error.address.eq(current.offset)]
        with m.Elif(failure.valid):
            m.d.comb += [error.eq(failure), error.valid.eq(~(of_next & busy))]
        with m.Elif(refused):
            m.d.comb += [error.valid.eq(~busy), error.code.eq(Error.BAD_COMMAND), error.address.eq(command.offset)]
        m.d.sync += self.engine.error.eq(error)

        # ---- the weight decoder's door ------------------------------------------------------------------------
        # Beats as they come from the bus, and as they are gathered; those of compressed weights go to the decoder.
        raw = bus.data
        gathered = stream.Signature(unsigned(config.axi_data_bits)).create()
        described = weights.block.payload
        m.d.sync += self.progress.eq(weights.moved)
        m.d.comb += [
            gathered.payload.eq(raw.payload),
            gathered.valid.eq(raw.valid & ~block.some & plain.some),
            weights.beats.payload.eq(raw.payload),
            weights.beats.valid.eq(raw.valid & block.some),
            raw.ready.eq(Mux(block.some, weights.beats.ready, plain.some & gathered.ready)),
            accept.eq(raw.valid & raw.ready),
            weights.last.eq(block.last),
            weights.begin.eq(take),
            weights.address.eq(command.address),
            weights.map_address.eq(command.map_address),
            weights.write_maps.eq((current.flags & Flag.WITHOUT_MAPS) == 0),
            described.skip.eq(current.offset[1:3]),
            described.units.eq(current.length[1:]),
            described.order.group.eq(1 << current.unrolling[: max(1, (len(config.unrollings) - 1).bit_length())]),
            *(getattr(described.order, name).eq(getattr(current, name))
              for name in ("output_blocks", "taps", "input_blocks", "last_rows", "last_outputs")),
        ]

        # ---- gather beats to entries: they are shifted in from the top, so that an entry ends at the top ---------
        beat_bits = config.axi_data_bits
        gather = Signal(beat_bits * most_beats, reset_less=True)
        position = Signal(range(most_beats))
        last_of_entry = Signal.like(position)  # beats of an entry less one
        space, to_feature = Signal.like(command.space), Signal()
        address = Signal(max(len(port.address) for port in (self.weight, self.map, self.mask, self.parameter,
                                                            self.feature.request.payload)))
        written = Signal()  # the waiting entry is written in this cycle
        word_written = Signal()
        with m.Switch(space):
            for each in Space:
                with m.Case(each):
                    m.d.comb += last_of_entry.eq(entry_beats(config, each) - 1)
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
        with m.If(take):
            m.d.sync += [space.eq(target), to_feature.eq(target == Space.FEATURE),
                         address.eq(Mux(compressed, command.parameter_address, command.address))]
        with m.Elif(word_written):
            m.d.sync += address.eq(address + 1)

        # Other writers of the feature memory go first: that they do comes from far, hence the register slice.
        words = self.feature.request
        m.submodules.words = slice_ = RegisterSlice(words.payload.shape())
        connect(m, slice_.o, flipped(words))
        m.d.comb += [
            slice_.i.valid.eq(entry_valid & to_feature),
            slice_.i.payload.address.eq(address),
            word_written.eq(entry_valid & (slice_.i.ready | ~to_feature)),
        ]
        word_bits = 8 * config.lanes
        if word_bits < beat_bits:  # two words in a beat
            second = Signal()
            with m.If(word_written & to_feature):
                m.d.sync += second.eq(~second)
            m.d.comb += [
                slice_.i.payload.data.eq(
                    Mux(second, gather[-word_bits:], gather[-beat_bits:-word_bits])),
                written.eq(word_written & (second | ~to_feature)),
            ]
        else:
            m.d.comb += [
                slice_.i.payload.data.eq(gather[-word_bits:]),
                written.eq(word_written),
            ]
        for port, target in ((self.weight, Space.WEIGHT), (self.map, Space.MAP), (self.mask, Space.MASK),
                             (self.parameter, Space.PARAMETER)):
            m.d.comb += [
                port.enable.eq(entry_valid & (space == target)),
                port.address.eq(address),
                port.data.eq(gather[-len(port.data):]),
            ]
        with m.If(of_block):
            for port, source in ((self.weight, weights.weight), (self.map, weights.map)):
                m.d.comb += [port.enable.eq(source.enable), port.address.eq(source.address), port.data.eq(source.data)]
        return m
