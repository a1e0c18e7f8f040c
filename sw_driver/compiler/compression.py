"""How a command's weights lie in the image: as they are, or as a compressed block (`hw.contract.weight_format`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from hw.contract.commands import Flag
from hw.contract.config import Config
from hw.contract.weight_encoding import count_weights, encode_block
from hw.contract.weight_format import BlockHeader, TileOrder
from hw.contract.weight_tables import Symbol

#: What --weights may be.
MODES = ("compressed", "raw")


@dataclasses.dataclass(frozen=True)
class Haste:
    """What may be spent on a layer's blocks to have them sooner.

    share : of a block for ways more than one. slack : bits, as a share of a block and at most at a time, for doing
    without a symbol table of its own.
    """

    share: float = 0.003
    slack: float = 0.0
    slack_bits: int = 0


#: Weights that arrive while layers before them compute.
PREFETCHED = Haste()

#: Weights that are waited for: each is used once, and so were those before them.
WAITED = Haste(0.05, 0.0125, 640)

#: The first weights of all, before which nothing is computed.
FIRST = Haste(0.02)

#: A symbol table, once built.
Table = tuple[Symbol, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """The tiles of a command, as `hw.contract.layouts` has them."""

    maps: tuple[int, ...]
    words: bytes
    order: TileOrder


@dataclasses.dataclass(frozen=True)
class Block:
    """A compressed block.

    fields : of the LOAD command that reads it, but places. words, entries : what it writes to weight store and map
    memory (0 without row maps). maps : row maps of the tiles. table : its symbols.
    """

    data: bytes
    maps: tuple[int, ...]
    fields: dict[str, int]
    words: int
    entries: int
    table: Table

    @property
    def header(self) -> BlockHeader:
        """What its first bytes say."""
        return BlockHeader.of(self.data)


@functools.lru_cache(maxsize=512)
def _encoded(part: Part, ways: int, haste: Haste, previous: Table | None, only_previous: bool,
             others: tuple[int, ...] | None) -> tuple[bytes, Table]:
    slack = min(haste.slack * 8 * len(part.words), haste.slack_bits)
    data, table = encode_block(part.maps, part.words, part.order, ways, haste.share, previous=previous,
                               only_previous=only_previous, slack=slack, others=others)
    return data, tuple(table)


def compress(parts: Sequence[Part], previous: Table | None, config: Config, *, with_maps: bool = True,
             haste: Haste = PREFETCHED) -> list[Block | None]:
    """The commands of a layer as blocks; None for each that takes no fewer bytes than as it is.

    All of them share one table, so that the blocks may be loaded in this order more than once.

    previous : the table of the last block before them. with_maps : whether the device needs the row maps.
    """
    blocks: list[Block | None] = []
    table, chosen = previous, False
    for number, part in enumerate(parts):
        block = None
        if part.order.tiles <= config.weight_maps and part.words:
            others = None if chosen else _sum(parts[number + 1 :])
            block = _block(part, _encoded(part, config.weight_ways, haste, table, chosen, others), config, with_maps)
        if block is not None:
            table, chosen = block.table, True
        blocks.append(block)
    return blocks


@functools.lru_cache(maxsize=512)
def _counts(part: Part) -> list[int]:
    return count_weights(part.maps, part.words, part.order)


def _sum(parts: Sequence[Part]) -> tuple[int, ...] | None:
    """How often each weight occurs in all of them."""
    counts = [_counts(part) for part in parts]
    return tuple(map(sum, zip(*counts, strict=True))) if counts else None


def _block(part: Part, encoded: tuple[bytes, Table], config: Config, with_maps: bool) -> Block | None:
    data, table = encoded
    order = part.order
    entries = -(-order.tiles // config.maps_per_entry) if with_maps else 0
    if len(data) >= len(part.words) + 8 * entries:
        return None
    flags = Flag.COMPRESSED if with_maps else Flag.COMPRESSED | Flag.WITHOUT_MAPS
    fields = {
        "flags": int(flags), "taps": order.taps, "input_blocks": order.input_blocks,
        "output_blocks": order.output_blocks, "unrolling": order.group.bit_length() - 1,
        "last_rows": order.last_rows, "last_outputs": order.last_outputs,
    }
    return Block(data, part.maps, fields, len(part.words) // config.weight_word_bytes, entries, table)
