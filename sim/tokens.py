"""The token discipline of a program: which command surely comes before which, whatever the timing.

Between producer engine p and consumer engine c, tokens are counted. Each engine completes its commands in
program order, so the n-th token on (p, c) comes from the n-th command of p whose signal names c; a command of
c that has taken n tokens in all, itself included, starts after that command. (Same reasoning as for VTA's
dependency queues, Moreau et al. 2018.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hw.contract.commands import COMMAND_BYTES, ENGINE_OF, MAGIC, CommandError, Engine, Flag, Opcode, decode

#: The field that counts the tokens taken from each engine.
WAIT_FIELD = {engine: f"wait_{engine.name.lower()}" for engine in Engine}

#: The most tokens that a counter can hold: what a wait field can ask for.
TOKEN_LIMIT = 255


class ProgramError(ValueError):
    """A program that breaks the contract in a way that the device may not notice; a fault of the compiler."""


class TokenError(ProgramError):
    """A command waits for a token that no earlier command gives, or too many pile up: the program may stop."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A decoded command: `index` counts from BEGIN, which is 0."""

    index: int
    opcode: Opcode
    values: Mapping[str, int]

    @property
    def engine(self) -> Engine:
        """The engine that the command is for; BEGIN and END have none (KeyError)."""
        return ENGINE_OF[self.opcode]

    def __str__(self) -> str:
        return f"command {self.index} ({self.opcode.name})"


def read_program(image: bytes, offset: int = 0) -> list[Command]:
    """The commands between BEGIN and END of the program at `offset` of an image, decoded.

    Raises ProgramError when the image does not hold a complete program.
    """
    begin = image[offset : offset + 12]
    if begin[:1] != bytes([Opcode.BEGIN]) or begin[8:] != MAGIC.to_bytes(4, "little"):
        raise ProgramError(f"There is no BEGIN command at byte {offset} of the image")
    commands: list[Command] = []
    for index in range(1, (len(image) - offset) // COMMAND_BYTES):
        at = offset + index * COMMAND_BYTES
        try:
            opcode, values = decode(image[at : at + COMMAND_BYTES])
        except CommandError as error:
            raise ProgramError(f"Command {index}: {error}") from None
        if opcode is Opcode.END:
            return commands
        if opcode is Opcode.BEGIN:
            raise ProgramError(f"Command {index} is a second BEGIN")
        commands.append(Command(index, opcode, values))
    raise ProgramError(f"The program at byte {offset} of the image has no END")


def overlaps(command: Command) -> bool:
    """Whether the command may work before the one in front of it on its engine is complete."""
    return command.engine is Engine.CONV and not command.values["flags"] & Flag.ORDERED


def predecessors(commands: Sequence[Command]) -> list[list[int]]:
    """For each command, the positions in `commands` of those whose completion its tokens wait for.

    Raises TokenError when a token that a command takes comes from no earlier command.
    """
    signals: dict[tuple[Engine, Engine], list[int]] = {(p, c): [] for p in Engine for c in Engine}
    taken = dict.fromkeys(signals, 0)
    result: list[list[int]] = []
    for i, command in enumerate(commands):
        before: list[int] = []
        for producer in Engine:
            count = command.values[WAIT_FIELD[producer]]
            if not count:
                continue
            pair = producer, command.engine
            taken[pair] += count
            if taken[pair] > len(signals[pair]):
                raise TokenError(
                    f"{command} waits for {count} token(s) from the {producer.name.lower()} engine; the commands "
                    f"before it leave {len(signals[pair]) - taken[pair] + count}")
            before.append(signals[pair][taken[pair] - 1])
        result.append(before)
        for consumer in Engine:
            if command.values["signal"] >> consumer & 1:
                signals[command.engine, consumer].append(i)
    return result


def clocks(commands: Sequence[Command]) -> list[dict[Engine, int]]:
    """For each command, per engine, the last position in `commands` known complete when it starts; -1: none.

    These are vector clocks (Fidge, Mattern 1988) over the engines' own order and the tokens. A convolution starts
    here when it fetches its first activation: the one before it may then be on its way to memory, unless it is
    ORDERED; the one before that is complete.
    """
    before = predecessors(commands)
    result: list[dict[Engine, int]] = []
    on_engine: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    for i, command in enumerate(commands):
        clock = dict.fromkeys(Engine, -1)
        own = on_engine[command.engine]
        complete = own[:-1] if overlaps(command) else own
        for j in before[i] + own[-1:]:
            for engine in Engine:
                clock[engine] = max(clock[engine], result[j][engine])
        for j in before[i] + complete[-1:]:
            clock[commands[j].engine] = max(clock[commands[j].engine], j)
        result.append(clock)
        own.append(i)
    return result


def largest_counts(commands: Sequence[Command]) -> dict[tuple[Engine, Engine], int]:
    """The most tokens that each counter (producer, consumer) can ever hold, whatever the timing."""
    clock = clocks(commands)
    largest = {(p, c): 0 for p in Engine for c in Engine}
    given = dict.fromkeys(largest, 0)
    taken_by: dict[tuple[Engine, Engine], dict[int, int]] = {pair: {-1: 0} for pair in largest}
    taken = dict.fromkeys(largest, 0)
    for i, command in enumerate(commands):
        for producer in Engine:
            pair = producer, command.engine
            taken[pair] += command.values[WAIT_FIELD[producer]]
            taken_by[pair][i] = taken[pair]
        for consumer in Engine:
            if command.values["signal"] >> consumer & 1:
                pair = command.engine, consumer
                given[pair] += 1
                # When this token is given, at least these have been taken: by the consumer's commands known complete.
                surely = taken_by[pair][clock[i][consumer]] if consumer != command.engine else taken[pair]
                largest[pair] = max(largest[pair], given[pair] - surely)
    return largest


def check_counts(commands: Sequence[Command]) -> None:
    """Raise TokenError when a counter might pass TOKEN_LIMIT, which the device answers with TOKEN_OVERFLOW."""
    for (producer, consumer), count in largest_counts(commands).items():
        if count > TOKEN_LIMIT:
            raise TokenError(f"Up to {count} tokens from the {producer.name.lower()} engine may wait for the "
                             f"{consumer.name.lower()} engine, a counter holds {TOKEN_LIMIT}")
