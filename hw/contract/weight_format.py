"""The weight format: compressed tiles of a CONV command, as they lie in external memory.

What is coded are the tiles of `layouts` in their order: row maps, and the weights of stored rows. Rows and output
channels past a layer's last one, which the layouts pad, are not coded (`TileOrder` says which they are).

Coder
    Range asymmetric numeral systems (J. Duda, arXiv:1311.2540) with 2 ** ways interleaved states. A state is a number
    x in STATE_LOW .. 2 * STATE_LOW - 1. To decode, its low FREQUENCY_BITS bits select a symbol of the table
    (`weight_tables`); x = frequency * (x >> FREQUENCY_BITS) + (x % FREQUENCIES) - start; then bits from the stream
    are shifted in from below, the first one highest, until x is back in its range; the symbol's `extra` bits follow.
    (Both are taken as one field, low bits first: the field's low bits are x's, in place.)

Streams
    A way reads a stream of its own, in units of UNIT_BITS, low bits first. It takes one unit of the block before its
    first step, and another in each step that it begins with fewer than 2 * UNIT_BITS bits (a step uses UNIT_BITS at
    most). In a step, ways take units in ascending order. Hence units lie in the order in which the decoder asks for
    them, and it knows from the step before which ways will. Where the block ends, units of zeros follow.

Block (little-endian, a multiple of 2 bytes, at any multiple of 2)
    unit        bits 0-2 ways, 3-4 TableKind, 5 MAPS: row maps are coded, 6-7 zero, 8-15 the standard table
    unit        only with MAPS: zeros out of FREQUENCIES, at least 1: how likely a row is not stored
    units       as the ways ask for them, in steps:
        way 0   the bins of a table that is written here, one in each step
        all     STATE_BITS: the state without its leading one
        all     the tiles. With MAPS, for each tile its row map, `1 << ways` rows at a time, way i the i-th of them,
                from row 0 to the last that exists: two symbols, not stored (codes 0 .. zeros - 1) and stored.
                Then each stored row's weights, `1 << ways` output channels at a time, way i the i-th of them.
                The last weights of the last tile's last row, one of each way at most, are not in the stream: they
                are the low eight bits of the final states, which are zero otherwise.
        all     the rest of the check value
    Bits that a way has left are zero. Units of zeros at the end are left out.

Check value
    CRC-32 (zlib's) of what was read and decoded, as rows of L bytes: the header (both units, the second one zero
    if it is not there), the description of each bin, for each tile its row map (with MAPS) and its stored rows.
    Its low bits, STATE_CHECK_BITS in each way, way 0 the lowest, are the highest bits of the final states (zeros
    where a way is left over). The rest follows in the streams, an equal share in each way (`check_fields`).

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
#: Bits of the check value, and how many of them a final state holds.
CHECK_BITS = 32
STATE_CHECK_BITS = STATE_BITS - 8
#: Taps of a kernel at most (16 x 16).
TAPS_MAX = 256
#: A block has fewer bytes.
BLOCK_BYTES_MAX = 1 << 29
#: log2 of the most ways that the format can express.
WAYS_MAX = 4

WAYS_MASK = 7
TABLE_SHIFT = 3
MAPS_CODED = 1 << 5
RESERVED = 3 << 6
STANDARD_SHIFT = 8


class TableKind(enum.IntEnum):
    """Where a block's symbol table comes from."""

    STANDARD = 0  #: one of `weight_standard_tables`
    SYMMETRIC = 1  #: written in the block, of magnitudes
    GENERAL = 2  #: written in the block, of values
    PREVIOUS = 3  #: the table of the block decoded before, in the same program; there must be one


@dataclasses.dataclass(frozen=True)
class BlockHeader:
    """What a block's first unit says."""

    ways: int
    table: TableKind
    maps: bool

    @classmethod
    def of(cls, block: bytes) -> BlockHeader:
        """The header of a block."""
        unit = int.from_bytes(block[:2], "little")
        return cls(1 << (unit & WAYS_MASK), TableKind(unit >> TABLE_SHIFT & 3), bool(unit & MAPS_CODED))


def check_fields(ways: int) -> list[tuple[int, int]]:
    """Way and bits of each part of the check value in the streams, in order."""
    rest = max(0, CHECK_BITS - ways * STATE_CHECK_BITS)
    if ways == 1:
        return [(0, UNIT_BITS), (0, rest - UNIT_BITS)]
    return [(way, rest // ways) for way in range(ways)] if rest else []


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
