"""The device in NumPy: runs a program image command by command and counts what the device counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hw.contract.commands import (
    COMMAND_BYTES,
    MAGIC,
    CommandError,
    Engine,
    Flag,
    Opcode,
    Space,
    decode,
    transfer_beats,
    transfers,
)
from hw.contract.config import FORMAT_VERSION, Config
from hw.contract.registers import Error, Permission, Window
from hw.contract.weight_format import BlockHeader
from hw.contract.weight_tables import Symbol
from sim import cycle_model
from sim.golden import conv, depthwise, limits, masks, vector
from sim.golden.compressed import read_block
from sim.golden.memory import DeviceError, External, OnChip, Windows
from sim.tokens import TOKEN_LIMIT, WAIT_FIELD, Command


def take_tokens(command: Command, tokens: dict[tuple[Engine, Engine], int]) -> None:
    """Take the tokens that a command waits for. Raises DeviceError(WATCHDOG) where they can never come."""
    for producer in Engine:
        pair, count = (producer, command.engine), command.values[WAIT_FIELD[producer]]
        if tokens[pair] < count:
            raise DeviceError(Error.WATCHDOG, f"{command.opcode.name} waits for {count} token(s) from the "
                                              f"{producer.name.lower()} engine, {tokens[pair]} can come")
        tokens[pair] -= count


def give_tokens(command: Command, tokens: dict[tuple[Engine, Engine], int]) -> None:
    """Add the tokens that a complete command signals. Raises DeviceError(TOKEN_OVERFLOW) past TOKEN_LIMIT."""
    for consumer in Engine:
        tokens[command.engine, consumer] += command.values["signal"] >> consumer & 1
        if tokens[command.engine, consumer] > TOKEN_LIMIT:
            raise DeviceError(Error.TOKEN_OVERFLOW, f"{TOKEN_LIMIT} tokens already wait for the "
                                                    f"{consumer.name.lower()} engine")

#: A window holds fewer commands than this.
COMMANDS_MAX = (1 << 32) // COMMAND_BYTES


@dataclasses.dataclass
class Executed:
    """A command that was executed: its exact counters, and the cycles that the cycle model gives it."""

    command: Command
    counters: dict[str, int]
    cycles: int


@dataclasses.dataclass
class Run:
    """A program's run: the commands executed, in program order, and the error that ended it, if one did.

    required : the tag that it required, or 0. dispatched : commands that were sent to an engine: the executed ones, and
        the one that an engine refused.
    error, error_command, error_address : as the registers hold them. error_text : for people.
    """

    executed: list[Executed] = dataclasses.field(default_factory=list)
    required: int = 0
    dispatched: int = 0
    error: Error = Error.NONE
    error_command: int = 0
    error_address: int = 0
    error_text: str = ""


class Golden:
    """The golden model of a device.

    Parameters
    ----------
    config : the device's sizes.
    external : external memory behind the windows.
    timing : whether `Executed.cycles` of a convolution follows from its activations (slower) or from its shape.

    Members
    -------
    memory : the on-chip memories, as they are after the last command.
    windows : the address windows; they deny everything until they are set.
    tag : the one that stands; 0: none.
    """

    def __init__(self, config: Config, external: External, *, timing: bool = True):
        self.config = config
        self.timing = timing
        self.memory = OnChip(config)
        self.windows = Windows(external, config.axi_address_bits)
        self.tag = 0
        self._table: tuple[Symbol, ...] | None = None  # of the program's last compressed block

    def run(self, program: int = 0, observe: Callable[[Executed], None] | None = None) -> Run:
        """Execute the program at offset `program` of window IMAGE, in program order.

        `observe` is called after every command, with the memories in the state that it left.
        """
        run = Run()
        standing, self.tag = self.tag, 0
        self._table = None
        index = 0
        tokens = {(producer, consumer): 0 for producer in Engine for consumer in Engine}
        try:
            begin = self._begin(program, standing)
            count, run.required = begin["command_count"], begin["requires"]
            while True:
                index += 1
                opcode, values = self._fetch(program, index)
                if opcode is Opcode.END:
                    self.tag = begin["establishes"] or begin["requires"]
                    return run
                if opcode is Opcode.BEGIN or index == count - 1:
                    raise DeviceError(Error.BAD_OPCODE, f"{opcode.name} where only END may be" if index == count - 1
                                      else "BEGIN after the start", program + index * COMMAND_BYTES)
                run.dispatched = index
                limits.check(opcode, values, self.config)
                command = Command(index, opcode, values)
                take_tokens(command, tokens)
                executed = self.execute(command)
                give_tokens(command, tokens)
                run.executed.append(executed)
                if observe is not None:
                    observe(executed)
        except DeviceError as error:
            run.error, run.error_address = error.code, error.address
            run.error_command, run.error_text = index, f"Command {index}: {error}"
            return run

    def _fetch(self, program: int, index: int) -> tuple[Opcode, dict[str, int]]:
        offset = program + index * COMMAND_BYTES
        data = self.windows.read(Window.IMAGE, offset, COMMAND_BYTES)
        try:
            return decode(data.tobytes())
        except CommandError as error:
            raise DeviceError(Error.BAD_OPCODE if index else Error.BAD_IMAGE, str(error), offset) from None

    def _begin(self, program: int, standing: int) -> dict[str, int]:
        """Check BEGIN, where a tag is `standing`; returns its fields."""
        opcode, values = self._fetch(program, 0)
        if opcode is not Opcode.BEGIN or values["magic"] != MAGIC:
            raise DeviceError(Error.BAD_IMAGE, "the program does not start with BEGIN and MAGIC", program)
        if values["format_version"] != FORMAT_VERSION:
            raise DeviceError(Error.WRONG_FORMAT, f"format version {values['format_version']}, not {FORMAT_VERSION}",
                              program)
        if values["config_hash"] != self.config.hash:
            raise DeviceError(Error.WRONG_CONFIG, f"built for configuration {values['config_hash']:#010x}, this is "
                                                  f"{self.config.hash:#010x} ({self.config.name})", program)
        if not 2 <= values["command_count"] < COMMANDS_MAX:
            raise DeviceError(Error.BAD_COMMAND, f"command_count must be in 2 to {COMMANDS_MAX - 1}, not "
                                                 f"{values['command_count']}", program)
        if values["requires"] not in (0, standing):
            raise DeviceError(Error.NOT_RESIDENT, f"it requires tag {values['requires']:#010x}, "
                              + (f"{standing:#010x} stands" if standing else "none stands"), program)
        return values

    def execute(self, command: Command) -> Executed:
        """Execute one command that passed `limits.check`. Raises DeviceError, as the device would report it."""
        opcode, values = command.opcode, command.values
        if opcode is Opcode.CONV:
            done = conv.run(values, self.memory, self.config)
            cycles = (cycle_model.convolution(done.work, self.config) if self.timing
                      else cycle_model.expected_command(opcode, values, self.config))
            return Executed(command, done.counters, cycles)
        if opcode is Opcode.DEPTHWISE:
            counters, steps = depthwise.run(values, self.memory, self.config)
            return Executed(command, counters, cycle_model.depthwise(steps, counters["words_written"], self.config))
        if opcode is Opcode.DILATE:
            counters, steps = masks.dilate(values, self.memory, self.config)
            return Executed(command, counters, cycle_model.COSTS.dilate + steps)
        if opcode is Opcode.COMBINE:
            return Executed(command, masks.combine(values, self.memory, self.config), cycle_model.combine(values))
        if command.engine is Engine.VECTOR:
            if opcode in (Opcode.ADD, Opcode.MUL):
                run = vector.add if opcode is Opcode.ADD else vector.multiply
                counters = run(values, self.memory, self.config)
            elif opcode is Opcode.DECIDE:
                counters = masks.decide(values, self.memory, self.config)
            else:
                counters = vector.pool(opcode, values, self.memory, self.config)
            return Executed(command, counters, cycle_model.vector(opcode, counters, self.config))
        space, length = Space(values["space"]), values["length"]
        if values["flags"] & Flag.COMPRESSED:
            return self._load_block(command)
        if opcode is Opcode.LOAD:
            data = self.windows.read(values["window"], values["offset"], length)
            self.memory.write(space, values["address"], data)
        else:
            self.windows.check(values["window"], values["offset"], length, Permission.WRITE)  # before 4 GiB are read
            data = self.memory.read(space, values["address"], length)
            self.windows.write(values["window"], values["offset"], data)
        return Executed(command, {"beats": length // 8}, cycle_model.transfer(opcode, values, self.config))

    def _load_block(self, command: Command) -> Executed:
        values = command.values
        beats, *parameters = (self.windows.read(values["window"], *part) for part in transfers(values))
        beats = beats.tobytes()
        tiles, self._table = read_block(values, beats, self._table, self.config)
        self.memory.write(Space.WEIGHT, values["address"], np.frombuffer(tiles.words, np.uint8))
        if not values["flags"] & Flag.WITHOUT_MAPS:
            entries = tiles.entries(self.config.lanes)
            self.memory.write(Space.MAP, values["map_address"], np.frombuffer(entries, np.uint8))
        for data in parameters:
            self.memory.write(Space.PARAMETER, values["parameter_address"], data)
        header = BlockHeader.of(beats[values["offset"] % 8 :])
        return Executed(command, {"beats": transfer_beats(values)},
                        cycle_model.block(values, self.config, tiles.maps, header))
