"""Decoding of compressed weights in software: what the hardware does (`weight_format`), one symbol after the other."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

from hw.contract.weight_format import (
    CHECK_BITS,
    MAPS_CODED,
    RESERVED,
    STANDARD_SHIFT,
    STATE_BITS,
    STATE_CHECK_BITS,
    STATE_LOW,
    TABLE_SHIFT,
    UNIT_BITS,
    WAYS_MASK,
    WAYS_MAX,
    TableKind,
    TileOrder,
    check_fields,
)
from hw.contract.weight_standard_tables import STANDARD_TABLES
from hw.contract.weight_tables import (
    EMPTY,
    EXPONENT_BITS,
    FREQUENCIES,
    FREQUENCY_BITS,
    KIND_BITS,
    Bin,
    Symbol,
    TableError,
    symbols,
)


class WeightStreamError(ValueError):
    """A compressed block that is damaged, or no block at all."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Decoded tiles, as `layouts` lays them out.

    maps : one row map per tile. words : the weight store's words, every tile padded to an even number of rows.
    """

    maps: list[int]
    words: bytes

    def entries(self, lanes: int) -> bytes:
        """The row maps as the map memory holds them, whole entries of 8 bytes."""
        value = sum(row_map << lanes * i for i, row_map in enumerate(self.maps))
        return value.to_bytes(-(-len(self.maps) * lanes // 64) * 8, "little")


class _Ways:
    """The states' streams: units in the order in which they are asked for."""

    def __init__(self, data: bytes, count: int, position: int):
        self._units = memoryview(data)
        self.position = position  # in bytes; past the end there are zeros
        self.buffers = [0] * count
        self.levels = [0] * count

    def fill(self, way: int, least: int = 2 * UNIT_BITS) -> None:
        """A way begins a step: take a unit if fewer than `least` bits are left."""
        if self.levels[way] < least:
            at = self.position
            unit = int.from_bytes(self._units[at : at + 2], "little")
            self.buffers[way] |= unit << self.levels[way]
            self.levels[way] += UNIT_BITS
            self.position = at + 2

    @property
    def unread(self) -> int:
        """Bytes that nobody asked for."""
        return max(0, len(self._units) - self.position)

    def take(self, way: int, bits: int) -> int:
        """The next bits of a way."""
        value = self.buffers[way] & ((1 << bits) - 1)
        self.buffers[way] >>= bits
        self.levels[way] -= bits
        return value


def decode(data: bytes, order: TileOrder) -> Tiles:
    """The tiles of a block that needs no other before it; see `decode_block`."""
    return decode_block(data, order, None)[0]


def decode_block(data: bytes, order: TileOrder, previous: Sequence[Symbol] | None) -> tuple[Tiles, Sequence[Symbol]]:
    """The tiles of a block, and its symbol table.

    data : the block, without what follows it. previous : the table of the block decoded before, if there was one.

    Raises WeightStreamError if the block is damaged; never returns wrong tiles as good.
    """
    if not data or len(data) % 2:
        raise WeightStreamError(f"a block is a multiple of 2 bytes, not {len(data)}")
    header = int.from_bytes(data[:2], "little")
    log_ways = header & WAYS_MASK
    if log_ways > WAYS_MAX or 1 << log_ways > order.lanes or header & RESERVED:
        raise WeightStreamError(f"the header {header:#06x} is none")
    count, position, zeros = 1 << log_ways, 2, 0
    if header & MAPS_CODED:
        zeros = int.from_bytes(data[2:4], "little")
        position = 4
        if not 1 <= zeros < FREQUENCIES:
            raise WeightStreamError(f"the frequency of rows that are not stored is {zeros}")
    ways = _Ways(data, count, position)
    lanes = order.lanes
    check = zlib.crc32((header | zeros << UNIT_BITS).to_bytes(lanes, "little"))
    try:
        bins = _read_bins(header, ways)
        table = _table(header, bins, previous)
    except TableError as error:
        raise WeightStreamError(f"the table is damaged: {error}") from None
    for item in bins:
        check = zlib.crc32(item.code.to_bytes(lanes, "little"), check)
    codes = [symbol for symbol in table for _ in range(symbol.frequency)]
    for least in (UNIT_BITS, 2 * UNIT_BITS):
        for way in range(count):
            ways.fill(way, least)
    states = [STATE_LOW | ways.take(way, STATE_BITS) for way in range(count)]
    maps, words = [], bytearray()
    absent, present = Symbol(0, 0, zeros, 0), Symbol(1, 0, FREQUENCIES - zeros, zeros)

    def advance(way: int, symbol: Symbol) -> int:
        """Decode `symbol`, which a state has selected; returns its extra bits."""
        state = states[way]
        x = symbol.frequency * (state >> FREQUENCY_BITS) + (state & FREQUENCIES - 1) - symbol.start
        shift = STATE_BITS + 1 - x.bit_length()
        states[way] = x << shift | ways.take(way, shift)
        return ways.take(way, symbol.extra)

    for number, tile in enumerate(order, start=1):
        row_map = (1 << tile.rows) - 1
        if header & MAPS_CODED:
            for first in range(0, tile.rows, count):
                active = range(min(count, tile.rows - first))
                for way in active:
                    ways.fill(way)
                for way in active:
                    symbol = absent if states[way] & FREQUENCIES - 1 < zeros else present
                    advance(way, symbol)
                    row_map &= ~((1 - symbol.base) << first + way)
            check = zlib.crc32(row_map.to_bytes(lanes, "little"), check)
        maps.append(row_map)
        rows = row_map.bit_count()
        for row in range(rows):
            values = bytearray(lanes)
            for first in range(0, tile.outputs, count):
                active = range(min(count, tile.outputs - first))
                if number == order.tiles and row == rows - 1 and first + count >= tile.outputs:
                    for way in active:
                        values[first + way] = states[way] & 0xFF
                        states[way] &= ~0xFF
                    continue
                for way in active:
                    ways.fill(way)
                for way in active:
                    symbol = codes[states[way] & FREQUENCIES - 1]
                    values[first + way] = (symbol.base + advance(way, symbol)) & 0xFF
            check = zlib.crc32(values, check)
            words += values
        words += bytes(lanes * (rows & 1))
    _finish(ways, states, check)
    return Tiles(maps, bytes(words)), table


def _read_bins(header: int, ways: _Ways) -> list[Bin]:
    kind, standard = header >> TABLE_SHIFT & 3, header >> STANDARD_SHIFT
    if kind == TableKind.STANDARD or (kind == TableKind.PREVIOUS and not standard):
        return []
    if kind not in (TableKind.SYMMETRIC, TableKind.GENERAL) or standard:
        raise TableError(f"there is no kind {kind}")
    bins: list[Bin] = []
    ways.fill(0, UNIT_BITS)
    value = 1 if kind == TableKind.SYMMETRIC else -128
    while value <= 127:
        ways.fill(0)
        extra, exponent = ways.take(0, KIND_BITS), ways.take(0, EXPONENT_BITS)
        if FREQUENCY_BITS <= exponent < EMPTY:
            raise TableError(f"a frequency has the exponent {exponent}")
        frequency = 0 if exponent == EMPTY else 1 << exponent | ways.take(0, exponent)
        bins.append(Bin(extra, frequency))
        value += 1 << extra
    return bins


def _table(header: int, bins: Sequence[Bin], previous: Sequence[Symbol] | None) -> Sequence[Symbol]:
    kind, standard = header >> TABLE_SHIFT & 3, header >> STANDARD_SHIFT
    if kind == TableKind.STANDARD:
        if standard >= len(STANDARD_TABLES):
            raise TableError(f"there is no standard table {standard}")
        return STANDARD_TABLES[standard]
    if kind == TableKind.PREVIOUS:
        if previous is None:
            raise TableError("there is no previous one")
        return previous
    return symbols(bins, kind == TableKind.SYMMETRIC)


def _finish(ways: _Ways, states: Sequence[int], check: int) -> None:
    found = position = 0
    for state in states:
        if state & 0xFF or (position >= CHECK_BITS and state != STATE_LOW):
            raise WeightStreamError("a final state is wrong")
        found |= (state & STATE_LOW - 1) >> 8 << position
        position += STATE_CHECK_BITS
    for way, bits in check_fields(len(states)):
        ways.fill(way)
        found |= ways.take(way, bits) << position
        position += bits
    if found != check:
        raise WeightStreamError(f"the check value is {found:#010x}, what was decoded has {check:#010x}")
    if any(ways.buffers):
        raise WeightStreamError("bits are left over")
    if ways.unread:
        raise WeightStreamError(f"{ways.unread} bytes are left over")
