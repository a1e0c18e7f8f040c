"""How much of a command each engine reads, in beats; and the header as a view."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data

from hw.bus.transfer import BEAT_BYTES
from hw.contract.commands import COMMAND_BYTES, ENGINE_OF, HEADER, Engine, fields

#: Beats of a command in external memory.
COMMAND_BEATS = COMMAND_BYTES // BEAT_BYTES

#: Bits of a command's index: a window of 4 GiB holds no more commands.
INDEX_BITS = 25

#: Stands for no command: a program has fewer than 2 ** INDEX_BITS commands.
NO_INDEX = (1 << INDEX_BITS) - 1

#: The first beat of every command.
HEADER_LAYOUT = data.StructLayout({field.name: unsigned(field.bits) for field in HEADER})

assert HEADER_LAYOUT.size == 8 * BEAT_BYTES


def meaningful_bits(engine: Engine) -> int:
    """Bits of the longest command of `engine`; the rest of a command is zero and is not kept."""
    return max(sum(field.bits for field in fields(opcode)) for opcode, e in ENGINE_OF.items() if e is engine)


def meaningful_beats(engine: Engine) -> int:
    """Beats that hold them. The sequencer stores the command's index in the beat that follows."""
    beats = -(-meaningful_bits(engine) // (8 * BEAT_BYTES))
    assert beats < COMMAND_BEATS
    return beats
