"""How a command's weights lie in the image: as they are, or as a compressed block (`hw.contract.weight_format`)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

from hw.contract.commands import Flag
from hw.contract.config import Config
from hw.contract.weight_encoding import WAY_BITS, count_weights, encode_block
from hw.contract.weight_format import BlockHeader, MapCode, TableKind, TileOrder
from hw.contract.weight_tables import Symbol
from sim.cycle_model import decoding, table as building

#: What --weights may be. Resident weights are compressed, too; they are loaded once for many runs.
MODES = ("compressed", "raw", "resident")

#: A byte more is worth so many cycles less, where weights are waited for.
CYCLES_PER_BYTE = 4

#: Bytes that a way more than one takes (`weight_encoding.WAY_BITS`).
WAY_BYTES = WAY_BITS / 8

#: Share of a layer's cycles in which no other layer computes: two engines work at once.
ALONE = 0.5

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


class Lead:
    """How far loading is ahead of computing, layer by layer, as far as the cycle model can tell."""

    def __init__(self, config: Config, pace: int = 1):
        self.config = config
        self.pace = pace  # cycles that memory takes for a beat
        self._lead = 0.0
        self._layers: list[tuple[int, float]] = []  # words and cycles of each

    def available(self, words: int) -> float:
        """Cycles until the layer that is loaded next is waited for, if its weights take so many words."""
        reach = 0.0
        for taken, cycles in reversed(self._layers):
            words += taken
            if words > self.config.weight_words:
                break
            reach += cycles
        return min(self._lead, reach)

    def load(self, words: int, loading: float, computing: float) -> None:
        """Weights are loaded, and then computed with, for so many cycles each."""
        self._lead = max(0.0, self._lead - loading) + ALONE * computing
        self._layers.append((words, ALONE * computing))


@functools.lru_cache(maxsize=512)
def _encoded(part: Part, ways: int, previous: Table | None, only_previous: bool, slack: float,
             others: tuple[int, ...] | None) -> tuple[bytes, Table]:
    data, table = encode_block(part.maps, part.words, part.order, ways, math.inf, previous=previous,
                               only_previous=only_previous, slack=slack, others=others)
    return data, tuple(table)


def compress(parts: Sequence[Part], previous: Table | None, lead: Lead, computing: float, *, with_maps: bool = True,
             ) -> list[Block | None]:
    """The commands of a layer as blocks; None for each that is better loaded as it is.

    All of them share one table, so that the blocks may be loaded in this order more than once. A block has as many
    ways as it takes to be there in time, or as are worth their bytes.

    previous : the table of the last block before them. lead : of loading; is kept. computing : cycles of the layer.
    with_maps : whether the device needs the row maps.
    """
    blocks: list[Block | None] = []
    config = lead.config
    table, chosen = previous, False
    for number, part in enumerate(parts):
        words = len(part.words) // config.weight_word_bytes
        available = lead.available(words)
        raw = len(part.words) + (8 * -(-part.order.tiles // config.maps_per_entry) if with_maps else 0)
        beat = lead.pace / 8  # cycles of a byte
        block, loading = None, raw * beat
        if part.order.tiles <= config.weight_maps and part.words:
            ways, cycles = _ways(part, TableKind.PREVIOUS if chosen else TableKind.GENERAL, available, config)
            slack = 8 * min(max(cycles - available, 0), building(config)) / CYCLES_PER_BYTE
            others = None if chosen else _sum(parts[number + 1 :])
            block = _block(part, _encoded(part, ways, table, chosen, slack, others), config, with_maps)
            cycles = max(decoding(part.order, block.header, config, part.maps), len(block.data) * beat)
            if _value(len(block.data), cycles, available) < _value(raw, raw * beat, available):
                table, chosen, loading = block.table, True, cycles
            else:
                block = None
        lead.load(words, loading, computing / len(parts))
        blocks.append(block)
    return blocks


def _value(size: int, cycles: float, available: float) -> float:
    return size + max(cycles - available, 0) / CYCLES_PER_BYTE


def _ways(part: Part, table: TableKind, available: float, config: Config) -> tuple[int, int]:
    """The best number of ways, and the decoder's cycles with it."""
    rows = sum(tile.rows for tile in part.order)
    coded = MapCode.PREFIX if rows > sum(row_map.bit_count() for row_map in part.maps) else MapCode.STORED
    choices = []
    for log in range(config.weight_ways.bit_length()):
        cycles = decoding(part.order, BlockHeader(1 << log, table, coded), config, part.maps)
        choices.append((WAY_BYTES * (1 << log) + max(cycles - available, 0) / CYCLES_PER_BYTE, 1 << log, cycles))
    _value, ways, cycles = min(choices)
    return ways, cycles


@functools.lru_cache(maxsize=512)
def _counts(part: Part) -> list[int]:
    return count_weights(part.maps, part.words, part.order)


def _sum(parts: Sequence[Part]) -> tuple[int, ...] | None:
    """How often each weight occurs in all of them."""
    counts = [_counts(part) for part in parts]
    return tuple(map(sum, zip(*counts, strict=True))) if counts else None


def _block(part: Part, encoded: tuple[bytes, Table], config: Config, with_maps: bool) -> Block:
    data, table = encoded
    order = part.order
    entries = -(-order.tiles // config.maps_per_entry) if with_maps else 0
    flags = Flag.COMPRESSED if with_maps else Flag.COMPRESSED | Flag.WITHOUT_MAPS
    fields = {
        "flags": int(flags), "taps": order.taps, "input_blocks": order.input_blocks,
        "output_blocks": order.output_blocks, "unrolling": order.group.bit_length() - 1,
        "last_rows": order.last_rows, "last_outputs": order.last_outputs,
    }
    return Block(data, part.maps, fields, len(part.words) // config.weight_word_bytes, entries, table)
