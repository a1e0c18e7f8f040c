"""The ports between the blocks: feature memory accesses, commands to an engine, counters and errors from it."""

from __future__ import annotations

from amaranth import Shape, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import COMMAND_BYTES, COUNTERS, Engine, Opcode, fields
from hw.contract.config import MASK_WORD_BITS, Config

#: Cycles from an accepted read request of the feature memory to its data, where no other port takes its bank.
READ_LATENCY = 4


def command_layout(opcode: Opcode) -> data.StructLayout:
    """A command's fields as a view on its COMMAND_BYTES * 8 bits."""
    layout = {field.name: Shape(field.bits, field.signed) for field in fields(opcode)}
    layout["unused"] = unsigned(COMMAND_BYTES * 8 - sum(field.bits for field in fields(opcode)))
    return data.StructLayout(layout)


def word_address_bits(config: Config) -> int:
    """Bits of a feature memory word address."""
    return (config.feature_words - 1).bit_length()


class MemoryRead(wiring.Signature):
    """A read of a private memory, seen from the reader: data comes in the cycle after the address."""

    def __init__(self, depth: int, data_bits: int):
        super().__init__({"address": Out(max(1, (depth - 1).bit_length())), "data": In(data_bits)})


class MemoryWrite(wiring.Signature):
    """A write of a whole entry of a private memory, seen from the writer; never delayed."""

    def __init__(self, depth: int, data_bits: int):
        super().__init__({
            "enable": Out(1), "address": Out(max(1, (depth - 1).bit_length())), "data": Out(data_bits),
        })


class MaskWrite(wiring.Signature):
    """A write of a mask word by an engine, which the load engine may delay."""

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({
                "address": unsigned((config.mask_words - 1).bit_length()), "data": unsigned(MASK_WORD_BITS),
            }))),
        })


class ReadPort(wiring.Signature):
    """Seen from the reader: requests out, data back in order, READ_LATENCY cycles after each accepted request or later.

    Members
    -------
    request : word address. The memory may delay it (`ready`), and its data, when other ports use the bank.
    data_valid, data : no back-pressure: a reader asks only for what it has room for.
    """

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(unsigned(word_address_bits(config)))),
            "data_valid": In(1),
            "data": In(8 * config.lanes),
        })


class ByteReadPort(wiring.Signature):
    """Like ReadPort, but L bytes from any byte address, two neighbouring words at once and a shift; a cycle later.

    Members
    -------
    request : byte address, and a tag that comes back with the data. Without `read` only the tag does, in its turn.
    data_valid, data, tag : no back-pressure.
    """

    def __init__(self, config: Config, tag_bits: int):
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({
                "address": unsigned((config.feature_bytes - 1).bit_length()),
                "read": 1,
                "tag": unsigned(tag_bits),
            }))),
            "data_valid": In(1),
            "data": In(8 * config.lanes),
            "tag": In(tag_bits),
        })


class WritePort(wiring.Signature):
    """Seen from the writer: a word and its address. A read accepted in a later cycle sees it."""

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({
                "address": unsigned(word_address_bits(config)),
                "data": unsigned(8 * config.lanes),
            }))),
        })


#: An error that stops the program: `valid` for at least one cycle, with the code and what it was about.
ERROR_LAYOUT = data.StructLayout({"valid": 1, "code": 8, "address": 32})


def counters_layout(engine: Engine) -> data.StructLayout:
    """An engine's counters, 32 bits each, in the order of the record."""
    return data.StructLayout({name: unsigned(32) for name, _doc in COUNTERS[engine]})


#: Commands that an engine has under way at once, at most; one where it is not named.
UNDER_WAY = {Engine.LOAD: 2, Engine.CONV: 3}


class EnginePort(wiring.Signature):
    """Seen from the engine: commands, completed in order; one at a time, but for those in UNDER_WAY.

    Members
    -------
    command : the sequencer offers a command when its tokens are there. Its payload is stable from `valid`
        on; the engine works on it and answers `ready` for one cycle when the command is complete, that is
        when its last write has been accepted by the memory. An engine of UNDER_WAY answers `ready` when it has
        no more need of the payload, and `complete` for one cycle when the oldest command is complete, which
        it does while `may_complete` is high.
    counters : the command's counters, right in the cycle of `ready`; of UNDER_WAY: `complete`.
    error : something went wrong; the sequencer then stops everything.
    """

    def __init__(self, engine: Engine):
        super().__init__({
            "command": In(stream.Signature(unsigned(COMMAND_BYTES * 8))),
            "counters": Out(counters_layout(engine)),
            "error": Out(ERROR_LAYOUT),
            **({"complete": Out(1), "may_complete": In(1)} if engine in UNDER_WAY else {}),
        })
