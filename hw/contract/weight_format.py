"""The weight format: compressed tiles of a CONV command, as they lie in external memory.

What is coded are the tiles of `layouts` in their order: row maps, and the weights of stored rows. Rows and output
channels past a layer's last one, which the layouts pad, are not coded (`TileOrder` says which they are).

Coder
    Range asymmetric numeral systems (J. Duda, arXiv:1311.2540) with `1 << ways` interleaved states. A state is a number
    x in STATE_LOW .. 2 * STATE_LOW - 1. To decode, its low FREQUENCY_BITS bits select a symbol of the table
    (`weight_tables`); x = frequency * (x >> FREQUENCY_BITS) + (x % FREQUENCIES) - start. The symbol's `extra` bits come
    from the stream; then as many bits as bring x to STATE_LOW at least, had the symbol the largest frequency with as
    many digits (`spread`), which are shifted in from below as they are; then, if x is still too small, one more.

Halves
    The states take turns: step t is made by the half t % 2 of them, the first or the second `1 << ways - 1`. Hence the
    decoder has two cycles for the step of a state, and makes a step in each. A single state makes every step.

Streams
    A state reads a stream of its own, in units of UNIT_BITS, low bits first. It takes two units of the block before
    its first step (all states one, then all another), and another in each step that it begins with 2 * UNIT_BITS bits
    or fewer (a step uses UNIT_BITS at most). In a step, states take units in ascending order. Hence units lie in the
    order in which the decoder asks for them, and it knows two steps before it needs a unit. Where the block ends,
    units of zeros follow.

Block (little-endian, a multiple of 2 bytes, at any multiple of 2)
    unit        bits 0-2 ways, 3-4 TableKind, 5-6 MapCode, 7 zero, 8-15 the standard table
    units       as the states ask for them, in steps:
        state 0     the bins of a table that is written here, one in each step; then its half's turn is over
        each half   STATE_BITS: the state without its leading one
        in turn     the tiles. For each its row map (the first state of the half whose turn it is; see MapCode), then
                    each stored row's weights, as many output channels in a step as the half has states, or one.
                    The weights of the last two steps (of the last one with a single state) are not in the stream if
                    they are the last two of the last tile, or the last one of them is its only one: they are the low
                    eight bits of the final states, which are zero otherwise.
        in turn     the rest of the check value
    Bits that a state has left are zero. Units of zeros at the end are left out.

Row maps
    STORED      every row that exists is stored: nothing is coded
    LITERAL     a bit for each row that exists
    PREFIX      0: every row is stored; 10: a bit for each row, in another step; 110: no row is stored; 111: every row
                but one is stored, whose number follows in log2(L) bits. The first bit lowest.
    INVERTED    PREFIX of the rows that are not stored

Check value
    CRC-32 (zlib's) of what was read and decoded, as rows of L bytes: the header, the description of each bin, for each
    tile its row map (unless all are stored) and its stored rows. Its digits of CHECK_DIGIT bits, the lowest first, are
    the highest bits of the final states, the first state's first (zeros where states are left over); the rest follow
    in the streams, one for each state in each step, the halves in turn.

A block of weights without structure takes RAW, a table of two symbols of 128 weights: eight bits a weight.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from hw.contract.weight_tables import FREQUENCY_BITS

UNIT_BITS = 16
#: Bits of a state below its leading one: 3 more than a frequency has, which costs 0.001 bits a weight.
STATE_BITS = FREQUENCY_BITS + 3
STATE_LOW = 1 << STATE_BITS
#: Bits of the check value, and how many of them a final state holds, or a state's stream in a step.
CHECK_BITS = 32
CHECK_DIGIT = STATE_BITS - 8
#: Taps of a kernel at most (16 x 16).
TAPS_MAX = 256
#: A block has fewer bytes.
BLOCK_BYTES_MAX = 1 << 29
#: log2 of the most states that the format can express.
WAYS_MAX = 5

WAYS_MASK = 7
TABLE_SHIFT = 3
MAPS_SHIFT = 5
RESERVED = 1 << 7
STANDARD_SHIFT = 8


class TableKind(enum.IntEnum):
    """Where a block's symbol table comes from."""

    STANDARD = 0  #: one of `weight_standard_tables`
    SYMMETRIC = 1  #: written in the block, of magnitudes
    GENERAL = 2  #: written in the block, of values
    PREVIOUS = 3  #: the table of the block decoded before, in the same program; there must be one


class MapCode(enum.IntEnum):
    """How row maps are coded."""

    STORED = 0
    LITERAL = 1
    PREFIX = 2
    INVERTED = 3


@dataclasses.dataclass(frozen=True)
class BlockHeader:
    """What a block's first unit says."""

    ways: int
    table: TableKind
    maps: MapCode

    @property
    def width(self) -> int:
        """Weights of a step."""
        return max(1, self.ways // 2)

    @classmethod
    def of(cls, block: bytes) -> BlockHeader:
        """The header of a block."""
        unit = int.from_bytes(block[:2], "little")
        return cls(1 << (unit & WAYS_MASK), TableKind(unit >> TABLE_SHIFT & 3),
                   MapCode(unit >> MAPS_SHIFT & 3))


def spread(frequency: int) -> int:
    """Bits that a state takes in at least, in a step that decodes a symbol of this frequency."""
    return FREQUENCY_BITS - frequency.bit_length()


def check_steps(ways: int) -> int:
    """Steps of the check value, from final states and then from streams."""
    width = max(1, ways // 2)
    return max(min(ways, 2), CHECK_BITS // CHECK_DIGIT // width)


def final_step(ways: int, outputs: int, rows_left: int, left: int) -> bool:
    """Whether a step of the last tile is one whose weights the final states hold.

    outputs : of the tile. rows_left : of the tile, this one included. left : weights of the row, this step's included.
    """
    width = max(1, ways // 2)
    if ways == 1:
        return rows_left == 1 and left <= width
    return (rows_left == 1 and left <= 2 * width) or (rows_left == 2 and outputs <= width)


@dataclasses.dataclass(frozen=True)
class Tile:
    """What exists of a tile: input channels (rows) and output channels."""

    rows: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class TileOrder:
    """Which tiles a block holds, in the order of `layouts`, and what exists of each.

    Parameters
    ----------
    lanes : L. group : output blocks worked on at once. output_blocks : of the command.
    taps : kernel_height x kernel_width. input_blocks : of a tap.
    last_rows, last_outputs : channels that exist in the last input block of a tap, in the last output block.
    """

    lanes: int
    group: int
    output_blocks: int
    taps: int
    input_blocks: int
    last_rows: int
    last_outputs: int

    def __post_init__(self) -> None:
        for name in ("group", "output_blocks", "taps", "input_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"TileOrder: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("last_rows", "last_outputs"):
            if not 1 <= getattr(self, name) <= self.lanes:
                raise ValueError(f"TileOrder: {name} must be 1 to lanes ({self.lanes}), not {getattr(self, name)}")

    @classmethod
    def of_command(cls, values: Mapping[str, int], lanes: int) -> TileOrder:
        """What the fields of a LOAD command with COMPRESSED say."""
        return cls(lanes, 1 << values["unrolling"], values["output_blocks"], values["taps"], values["input_blocks"],
                   values["last_rows"], values["last_outputs"])

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.output_blocks * self.taps * self.input_blocks

    def __iter__(self) -> Iterator[Tile]:
        for first in range(0, self.output_blocks, self.group):
            for _tap in range(self.taps):
                for input_block in range(self.input_blocks):
                    for output_block in range(first, min(first + self.group, self.output_blocks)):
                        yield Tile(self.last_rows if input_block == self.input_blocks - 1 else self.lanes,
                                   self.last_outputs if output_block == self.output_blocks - 1 else self.lanes)
