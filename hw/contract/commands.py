"""Commands and records: fixed-size, little-endian, each field described once.

A program is a sequence of commands of COMMAND_BYTES each, the first one BEGIN, the last one END.
The sequencer sends every other command to one of four engines; each engine takes its commands in
program order. Between engines, order is kept by counting tokens: there is one counter for every
ordered pair (producer engine, consumer engine). A command starts when, for each producer e, the
counter (e -> its engine) has reached `wait_<e>`; starting takes these tokens away. When a command
is complete (its last write has reached memory), it adds one token to the counter (its engine -> e)
for each bit e of `signal`. A command may only wait for tokens of commands before it in the program,
which is why no valid program can deadlock.

When a command is complete the sequencer also writes one record of RECORD_BYTES, in order of
completion, to the record window: which command, when it started and ended, and its counters.

What a program leaves in the memories on chip, weights for example, may be meant for the next one. A
tag says so: a number other than zero, which the device keeps when a program that `establishes` it has
reached its END without an error. A program that `requires` a tag runs only where this one stands. No
tag stands after any error, a soft reset or the start of a program that requires none; a program that
requires one leaves it standing, unless it establishes another.

Arithmetic of addresses on chip is modulo the size of the memory, so that a base may lie before the
memory (a stripe of a tensor whose first rows are not resident).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping

COMMAND_BYTES = 128
RECORD_BYTES = 64

#: First word of a BEGIN command, after its header: "LCNA".
MAGIC = 0x414E434C

#: Largest left shift of any multiplier, in commands and parameters: a factor below 2^7. The smallest shift is -31.
LEFT_SHIFT_MAX = 7

#: Smallest shift of an operand of ADD; the largest is 0, as TFLite's multipliers of operands are 1/2 or less.
OPERAND_SHIFT_MIN = -15


class Engine(enum.IntEnum):
    """The engines that commands go to; also the numbering of tokens."""

    LOAD = 0
    STORE = 1
    CONV = 2
    VECTOR = 3


class Opcode(enum.IntEnum):
    """What a command does. Zero is not a command, so that blank memory is refused."""

    BEGIN = 0x01
    END = 0x02
    LOAD = 0x10
    STORE = 0x11
    CONV = 0x20
    ADD = 0x30
    AVERAGE_POOL = 0x31
    MAX_POOL = 0x32
    DEPTHWISE = 0x33
    MUL = 0x34
    MEAN = 0x35
    DECIDE = 0x36
    DILATE = 0x37
    COMBINE = 0x38


#: The engine that an opcode is for; BEGIN and END are the sequencer's own.
ENGINE_OF: dict[Opcode, Engine] = {
    Opcode.LOAD: Engine.LOAD,
    Opcode.STORE: Engine.STORE,
    Opcode.CONV: Engine.CONV,
    Opcode.ADD: Engine.VECTOR,
    Opcode.AVERAGE_POOL: Engine.VECTOR,
    Opcode.MAX_POOL: Engine.VECTOR,
    Opcode.DEPTHWISE: Engine.VECTOR,
    Opcode.MUL: Engine.VECTOR,
    Opcode.MEAN: Engine.VECTOR,
    Opcode.DECIDE: Engine.VECTOR,
    Opcode.DILATE: Engine.VECTOR,
    Opcode.COMBINE: Engine.VECTOR,
}


class Flag(enum.IntFlag):
    """Bits of the header's `flags`."""

    GATED = 1  #: only the active pixels of a mask are computed and written (CONV and vector commands)
    PACKED = 2  #: the input is in the packed layout (CONV)
    ADD = 4  #: a residual ADD follows the requantisation (CONV)
    TABLE = 8  #: every result, clamped, is replaced by its entry in a table of 256 bytes (all compute commands)
    ORDERED = 16  #: no activation is fetched before the command in front of it on this engine is complete (CONV)
    COMPRESSED = 32  #: a block of compressed weights (`weight_format`) is decoded: tiles and their row maps (LOAD)
    WITHOUT_MAPS = 64  #: COMPRESSED: row maps are not written (weights of a DEPTHWISE command)
    WHOLE = 128  #: GATED: bit 0 of the mask word at mask_base stands for every pixel of the command


class Space(enum.IntEnum):
    """On-chip memories that LOAD writes to; STORE reads FEATURE only."""

    FEATURE = 0
    WEIGHT = 1
    MAP = 2
    MASK = 3
    PARAMETER = 4


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: `bits` is 8, 16 or 32; `signed` fields are two's complement."""

    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1


def _s8(name: str, doc: str) -> Field:
    return Field(name, 8, doc, signed=True)


HEADER: tuple[Field, ...] = (
    Field("opcode", 8, "Opcode"),
    Field("signal", 8, "bit e: one token to engine e on completion"),
    Field("flags", 8, "Flag"),
    Field("reserved", 8, "zero"),
    Field("wait_load", 8, "tokens to take from the load engine before starting"),
    Field("wait_store", 8, "tokens to take from the store engine"),
    Field("wait_conv", 8, "tokens to take from the conv engine"),
    Field("wait_vector", 8, "tokens to take from the vector engine"),
)

_BEGIN = (
    Field("magic", 32, "MAGIC"),
    Field("format_version", 32, "FORMAT_VERSION of the image"),
    Field("config_hash", 32, "Config.hash that the image was built for"),
    Field("command_count", 32, "commands in the program, BEGIN and END included"),
    Field("establishes", 32, "tag that stands once the program has ended well; 0: none"),
    Field("requires", 32, "tag that must stand, or the program ends with NOT_RESIDENT at BEGIN; 0: none"),
)

_LOAD = (
    Field("window", 8, "address window that is read"),
    Field("space", 8, "Space that is written"),
    Field("reserved_16", 16, "zero"),
    Field("offset", 32, "bytes from the window's base; a multiple of 8; COMPRESSED: of 2"),
    Field("length", 32, "bytes; a multiple of 8 and of the destination's entry; at least 8; COMPRESSED: of the block, "
                        "a multiple of 2, less than 2^29"),
    Field("address", 32, "first entry written: FEATURE lanes bytes; WEIGHT 2 x lanes bytes; MAP and MASK "
                         "8 bytes; PARAMETER Config.parameter_entry_bytes"),
    # COMPRESSED, whose space is WEIGHT: where row maps go, and which tiles the block holds.
    Field("map_address", 32, "COMPRESSED: first map memory entry written"),
    Field("taps", 16, "COMPRESSED: kernel_height x kernel_width, 1 to 256; DEPTHWISE: lines of taps"),
    Field("input_blocks", 16, "COMPRESSED: of a tap, at least 1"),
    Field("output_blocks", 16, "COMPRESSED: at least 1"),
    Field("unrolling", 8, "COMPRESSED: log2 of the output blocks of a group"),
    Field("last_rows", 8, "COMPRESSED: rows that exist in a tap's last tile, 1 to lanes"),
    Field("last_outputs", 8, "COMPRESSED: output channels that exist in the last block, 1 to lanes"),
    # Parameters come behind a block in one command: memory delivers them while the decoder is still at work.
    Field("parameter_offset", 32, "COMPRESSED: of parameters, from the window's base; a multiple of 8"),
    Field("parameter_length", 32, "COMPRESSED: their bytes, whole entries; 0: none"),
    Field("parameter_address", 32, "COMPRESSED: first parameter entry written"),
)

_STORE = (
    Field("window", 8, "address window that is written"),
    Field("space", 8, "Space that is read: FEATURE"),
    Field("reserved_16", 16, "zero"),
    Field("offset", 32, "bytes from the window's base; a multiple of 8"),
    Field("length", 32, "bytes; a multiple of 8 and of the source's entry; at least 8"),
    Field("address", 32, "first entry read"),
)

# Where output pixel (y, x), block b lies: output_base + y * output_row_stride + x * output_pixel_stride + b,
# for y in output_y .. output_y + output_rows - 1 and x in 0 .. output_width - 1.
_OUTPUT = (
    Field("output_base", 32, "word of output pixel (0, 0), block 0 of this command"),
    Field("output_row_stride", 16, "words from an output row to the next"),
    Field("output_pixel_stride", 16, "words from an output pixel to the next"),
    Field("output_y", 16, "first output row computed"),
    Field("output_rows", 16, "output rows computed; at least 1"),
    Field("output_width", 16, "output pixels in a row; at least 1"),
    Field("output_blocks", 16, "output channel blocks computed; at least 1"),
    Field("mask_base", 16, "GATED, DILATE, COMBINE; written by DECIDE: mask word of pixel (output_y, 0); a row takes "
                           "ceil(output_width / 64) words; WHOLE: the only word"),
)

# Where input pixel (y, x), block b lies: input_base + y * input_row_stride + x * input_pixel_stride + b,
# all in words; PACKED: byte input_base + y * input_row_stride + x * input_pixel_stride + b * lanes, all in bytes.
_INPUT = (
    Field("input_base", 32, "word of input pixel (0, 0), block 0; PACKED: byte"),
    Field("input_row_stride", 16, "words (PACKED: bytes) from an input row to the next"),
    Field("input_pixel_stride", 16, "words (PACKED: bytes) from an input pixel to the next"),
    Field("input_height", 16, "input rows; positions outside are padding"),
    Field("input_width", 16, "input columns; positions outside are padding"),
    Field("kernel_height", 8, "CONV, DEPTHWISE: 1 to 16"),
    Field("kernel_width", 8, "CONV, DEPTHWISE: 1 to 16; 1 when PACKED: the tiles of a kernel row are input blocks"),
    Field("stride_y", 8, "at least 1"),
    Field("stride_x", 8, "at least 1"),
    Field("dilation_y", 8, "at least 1"),
    Field("dilation_x", 8, "at least 1"),
    Field("pad_top", 8, "rows of padding above row 0; 0 when PACKED"),
    Field("pad_left", 8, "columns of padding before column 0; 0 when PACKED"),
)

_CONV = (
    *_INPUT,
    Field("input_blocks", 16, "words (PACKED: L-byte chunks) of one kernel tap"),
    Field("last_lanes", 8, "valid bytes of a tap's last word, 1 to lanes; lanes unless PACKED"),
    Field("unrolling", 8, "log2 of the output channel blocks worked on at once (B); rows / B pixels go beside them"),
    *_OUTPUT,
    Field("reserved_16", 16, "zero"),
    Field("weight_base", 32, "weight store word of the first tile; see layouts for the order of tiles"),
    Field("map_base", 32, "row map of the first tile, counted in maps"),
    Field("parameter_base", 32, "parameter entry of the first output block"),
    _s8("input_zero_point", "an activation of this value is skipped"),
    _s8("output_zero_point", "added after requantisation"),
    _s8("output_min", "lower clamp after requantisation"),
    _s8("output_max", "upper clamp after requantisation"),
    # ADD flag: the result is operand a of a residual addition; operand b has the output's strides.
    Field("b_base", 32, "ADD: word of operand b at output pixel (0, 0), block 0 of this command"),
    Field("a_multiplier", 32, "ADD: Q31 multiplier of operand a"),
    Field("b_multiplier", 32, "ADD: Q31 multiplier of operand b"),
    Field("sum_multiplier", 32, "ADD: Q31 multiplier of the sum"),
    _s8("a_shift", "ADD: exponent of operand a's multiplier, -15 to 0"),
    _s8("b_shift", "ADD: exponent of operand b's multiplier, as of a's"),
    _s8("sum_shift", "ADD: exponent of the sum's multiplier, -31 to 7; positive is left"),
    _s8("b_zero_point", "ADD: zero point of operand b; operand a's is output_zero_point"),
    _s8("sum_zero_point", "ADD: zero point of the sum"),
    _s8("sum_min", "ADD: lower clamp of the sum"),
    _s8("sum_max", "ADD: upper clamp of the sum"),
    Field("table_base", 32, "TABLE: parameter entry of the table; the entry of r is byte r modulo 256"),
)

# ---- the vector engine: what several of its commands have is at the same place in all of them ---------------------

_TABLE = Field("table_base", 32, "TABLE: weight store word of the table; the entry of r is byte r modulo 256")

# MUL has the fields of ADD: (a - a_zero_point) * (b - b_zero_point), requantised with those of the sum. A stride
# of 0 broadcasts an operand.
_ADD = (
    *_OUTPUT,
    Field("reserved_16", 16, "zero"),
    Field("a_base", 32, "word of operand a at pixel (0, 0), block 0"),
    Field("a_row_stride", 16, "words from a row of operand a to the next"),
    Field("a_pixel_stride", 16, "words from a pixel of operand a to the next"),
    Field("b_base", 32, "word of operand b at pixel (0, 0), block 0"),
    Field("b_row_stride", 16, "words from a row of operand b to the next"),
    Field("b_pixel_stride", 16, "words from a pixel of operand b to the next"),
    _s8("a_zero_point", "zero point of operand a"),
    _s8("b_zero_point", "zero point of operand b"),
    _s8("a_shift", "exponent of operand a's multiplier, -15 to 0"),
    _s8("b_shift", "exponent of operand b's multiplier, as of a's"),
    _TABLE,
    Field("sum_multiplier", 32, "Q31 multiplier of the sum"),
    _s8("sum_shift", "exponent of the sum's multiplier, -31 to 7; positive is left"),
    _s8("sum_zero_point", "zero point of the sum"),
    _s8("sum_min", "lower clamp of the sum"),
    _s8("sum_max", "upper clamp of the sum"),
    Field("a_multiplier", 32, "Q31 multiplier of operand a"),
    Field("b_multiplier", 32, "Q31 multiplier of operand b"),
)

_POOL = (
    *_OUTPUT,
    Field("reserved_16", 16, "zero"),
    *_INPUT,
    _TABLE,
    Field("reserved_multiplier", 32, "zero"),
    Field("reserved_scale", 16, "zero"),
    _s8("output_min", "lower clamp"),
    _s8("output_max", "upper clamp"),
)

# The sum of a window, plus bias, requantised.
_MEAN = (
    *_OUTPUT,
    Field("reserved_16", 16, "zero"),
    *_INPUT,
    _TABLE,
    Field("multiplier", 32, "Q31 multiplier"),
    _s8("shift", "exponent of the multiplier, -31 to 7; positive is left"),
    _s8("output_zero_point", "added after requantisation"),
    _s8("output_min", "lower clamp after requantisation"),
    _s8("output_max", "upper clamp after requantisation"),
    Field("bias", 32, "added to the sum of the window's values", signed=True),
)

# Output channel c comes from input channel c; padding counts as input_zero_point.
_DEPTHWISE = (
    *_OUTPUT,
    Field("reserved_16", 16, "zero"),
    *_INPUT,
    _TABLE,
    Field("weight_base", 32, "weight store word of the first line of taps; see layouts for the order"),
    _s8("input_zero_point", "subtracted from every activation"),
    _s8("output_zero_point", "added after requantisation"),
    _s8("output_min", "lower clamp after requantisation"),
    _s8("output_max", "upper clamp after requantisation"),
    Field("parameter_base", 32, "parameter entry of the first output block"),
)

# One mask bit for each output pixel, written from mask_base on: whether the largest value of channel 0 in its window
# is at least `bound`; or whether, in any lane of the word, it differs from `bound` (a gate of channels that is open).
# Bits past the end of a row are zero. Nothing goes to the output in the feature memory.
_DECIDE = (
    *_OUTPUT,
    Field("bound", 16, "smallest value that sets the bit", signed=True),
    *_INPUT,
    Field("invert", 8, "1: the bit is set where it would be clear, and the other way round"),
    Field("any_lane", 8, "1: the bit is set where the value of some lane differs from `bound`"),
)

# The mask of a convolution's output, output_rows x output_width, becomes that of its input, input_height x
# input_width: the pixels that some active output pixel reads. Strides are 1 or 2.
_DILATE = (
    *_OUTPUT,
    Field("target_base", 16, "mask word of input pixel (0, 0)"),
    *_INPUT,
)

# The AND of two masks of output_rows x output_width; with inversions, also OR and NOT. Bits past the end of a row are
# zero. Nothing goes to the output in the feature memory.
_COMBINE = (
    *_OUTPUT,
    Field("target_base", 16, "mask word of pixel (0, 0) of the result; may be that of a mask that is read"),
    Field("other_base", 16, "mask word of pixel (0, 0) of the second mask; mask_base is that of the first"),
    Field("inverted", 8, "bits 0 to 2: the first mask, the second, the result is inverted"),
    Field("spread", 8, "bits 0 and 1: bit 0 of the word at the base of the first mask, of the second, stands for "
                       "every pixel"),
)

#: Fields after the header, by opcode, packed one after the other from byte 8; the rest is zero.
#: In pooling commands, MEAN included, kernel_height and kernel_width go up to 255 with at most Config.pool_area pixels
#: together; dilation is 1. Every window of a pool holds at least one input pixel.
BODY: dict[Opcode, tuple[Field, ...]] = {
    Opcode.BEGIN: _BEGIN,
    Opcode.END: (),
    Opcode.LOAD: _LOAD,
    Opcode.STORE: _STORE,
    Opcode.CONV: _CONV,
    Opcode.ADD: _ADD,
    Opcode.AVERAGE_POOL: _POOL,
    Opcode.MAX_POOL: _POOL,
    Opcode.DEPTHWISE: _DEPTHWISE,
    Opcode.MUL: _ADD,
    Opcode.MEAN: _MEAN,
    Opcode.DECIDE: _DECIDE,
    Opcode.DILATE: _DILATE,
    Opcode.COMBINE: _COMBINE,
}


class CommandError(ValueError):
    """A command that can't be encoded or decoded."""


def fields(opcode: Opcode) -> tuple[Field, ...]:
    """Header and body of a command, in the order of the bytes."""
    return HEADER + BODY[opcode]


def transfers(values: Mapping[str, int]) -> list[tuple[int, int]]:
    """Offset and length of what a LOAD or STORE moves on the bus, in order: whole beats of 8 bytes around a block,
    and the parameters behind it."""
    first = values["offset"] & ~7
    moved = [(first, (values["offset"] + values["length"] + 7 & ~7) - first)]
    if values["flags"] & Flag.COMPRESSED and values["parameter_length"]:
        moved.append((values["parameter_offset"], values["parameter_length"]))
    return moved


def transfer_beats(values: Mapping[str, int]) -> int:
    """Beats of 8 bytes that a LOAD or STORE moves."""
    return sum(length for _offset, length in transfers(values)) // 8


def encode(opcode: Opcode, values: Mapping[str, int]) -> bytes:
    """A command of COMMAND_BYTES. Missing fields are zero; unknown ones and values out of range raise CommandError."""
    layout = fields(opcode)
    unknown = set(values) - {field.name for field in layout}
    if unknown:
        raise CommandError(f"{opcode.name} has no field {', '.join(sorted(unknown))}")
    data = bytearray()
    for field in layout:
        value = int(opcode) if field.name == "opcode" else int(values.get(field.name, 0))
        low, high = field.range
        if not low <= value <= high:
            raise CommandError(f"{opcode.name}: {field.name} must be in {low} to {high}, not {value}")
        data += value.to_bytes(field.bits // 8, "little", signed=field.signed)
    return bytes(data.ljust(COMMAND_BYTES, b"\0"))


def decode(data: bytes) -> tuple[Opcode, dict[str, int]]:
    """Opcode and fields of a command. Raises CommandError on an unknown opcode or a wrong length."""
    if len(data) != COMMAND_BYTES:
        raise CommandError(f"A command has {COMMAND_BYTES} bytes, not {len(data)}")
    try:
        opcode = Opcode(data[0])
    except ValueError:
        raise CommandError(f"There is no opcode {data[0]:#04x}") from None
    values, at = {}, 0
    for field in fields(opcode):
        size = field.bits // 8
        values[field.name] = int.from_bytes(data[at : at + size], "little", signed=field.signed)
        at += size
    return opcode, values


# ---- records ---------------------------------------------------------------------------------------

#: The first words of a record; word 4 on are the engine's counters. All words are 32-bit, little-endian.
RECORD_HEADER: tuple[str, ...] = ("command", "opcode", "start", "end")

#: Counters of each engine, in the order of the record's words from word 4 on.
COUNTERS: dict[Engine, tuple[tuple[str, str], ...]] = {
    Engine.LOAD: (
        ("beats", "beats of data read"),
        ("stalled", "cycles in which no beat came while one was awaited"),
    ),
    Engine.STORE: (
        ("beats", "beats of data written"),
        ("stalled", "cycles in which the bus did not take a waiting beat"),
    ),
    Engine.CONV: (
        ("active_pixels", "output pixels computed, counted once whatever the number of output blocks"),
        ("issued", "weight rows multiplied, all output blocks but the command's last"),
        ("issued_last", "weight rows multiplied for the command's last output block"),
        ("skipped_weight", "non-zero activations that met an all-zero weight row, all output blocks but the last"),
        ("skipped_weight_last", "the same for the command's last output block"),
        ("stalled_fetch", "row-cycles without an activation word while the command ran"),
        ("stalled_weight", "row-cycles in which an activation word waited for its tile"),
        ("stalled_drain", "row-cycles in which an activation word waited for a free accumulator bank"),
    ),
    Engine.VECTOR: (
        ("active_pixels", "output pixels computed; DECIDE, COMBINE: bits set; DILATE: 0"),
        ("words_read", "feature memory words read"),
        ("words_written", "feature memory words written"),
    ),
}


def decode_records(data: bytes) -> Iterable[dict[str, int]]:
    """Records as dictionaries: `command`, `opcode`, `start`, `end` and the counters of the opcode's engine."""
    for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        words = [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "little") for i in range(RECORD_BYTES // 4)]
        record = dict(zip(RECORD_HEADER, words, strict=False))
        for (name, _doc), word in zip(COUNTERS[ENGINE_OF[Opcode(record["opcode"])]], words[4:], strict=False):
            record[name] = word
        yield record
