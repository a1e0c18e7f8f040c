"""Decoding of compressed weights in software: what the hardware does (`weight_format`), one symbol after the other."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

from hw.contract.weight_format import (
    CHECK_BITS,
    CHECK_DIGIT,
    MAPS_SHIFT,
    RESERVED,
    STANDARD_SHIFT,
    STATE_BITS,
    STATE_LOW,
    TABLE_SHIFT,
    UNIT_BITS,
    WAYS_MASK,
    WAYS_MAX,
    MapCode,
    TableKind,
    Tile,
    TileOrder,
    check_steps,
    final_step,
    spread,
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


class _States:
    """The states and their streams: units in the order in which they are asked for."""

    def __init__(self, data: bytes, count: int):
        self._units = memoryview(data)
        self._position = 2  # in bytes; past the end there are zeros
        self._buffers = [0] * count
        self._levels = [0] * count
        self._turn = 0
        self._width = max(1, count // 2)
        self._halves = min(count, 2)
        self.states = [STATE_LOW] * count

    def next_half(self, active: int | None = None) -> range:
        """The first `active` states of the half whose turn it is; all of it without."""
        first = self._turn % self._halves * self._width
        self._turn += 1
        return range(first, first + (self._width if active is None else active))

    def take_unit(self, state: int) -> None:
        """A state takes a unit of the block."""
        at = self._position
        self._buffers[state] |= int.from_bytes(self._units[at : at + 2], "little") << self._levels[state]
        self._levels[state] += UNIT_BITS
        self._position = at + 2

    def take_first_units(self, but_first: bool) -> None:
        """All states take the units that they have before their first step; but for the first, if it has."""
        for _round in range(2):
            for state in range(int(but_first), len(self.states)):
                self.take_unit(state)

    def begin(self, active: range) -> None:
        """States begin a step."""
        for state in active:
            if self._levels[state] <= 2 * UNIT_BITS:
                self.take_unit(state)

    def take(self, state: int, bits: int) -> int:
        """The next bits of a state's stream."""
        value = self._buffers[state] & ((1 << bits) - 1)
        self._buffers[state] >>= bits
        self._levels[state] -= bits
        return value

    def step(self, bits: int) -> int:
        """A step of the first state of the half whose turn it is, of so many bits."""
        (state,) = active = self.next_half(1)
        self.begin(active)
        return self.take(state, bits)

    def advance(self, number: int, symbol: Symbol) -> int:
        """Decode `symbol`, which a state has selected; returns its extra bits."""
        state, least = self.states[number], spread(symbol.frequency)
        offset = self.take(number, symbol.extra)
        x = symbol.frequency * (state >> FREQUENCY_BITS) + (state & FREQUENCIES - 1) - symbol.start
        x = x << least | self.take(number, least)
        self.states[number] = x if x >= STATE_LOW else x << 1 | self.take(number, 1)
        return offset

    @property
    def rest(self) -> str | None:
        """What is left that should not be."""
        if any(self._buffers):
            return "bits"
        return f"{len(self._units) - self._position} bytes" if self._position < len(self._units) else None


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
    log_ways, map_code = header & WAYS_MASK, header >> MAPS_SHIFT & 3
    if log_ways > WAYS_MAX or 1 << log_ways > 2 * order.lanes or header & RESERVED:
        raise WeightStreamError(f"the header {header:#06x} is none")
    count = 1 << log_ways
    width = max(1, count // 2)
    states = _States(data, count)
    lanes = order.lanes
    check = zlib.crc32(header.to_bytes(lanes, "little"))
    try:
        bins = _read_bins(header, states)
        table = _table(header, bins, previous)
    except TableError as error:
        raise WeightStreamError(f"the table is damaged: {error}") from None
    for item in bins:
        check = zlib.crc32(item.code.to_bytes(lanes, "little"), check)
    codes = [symbol for symbol in table for _ in range(symbol.frequency)]
    states.take_first_units(but_first=bool(bins))
    for _half in range(min(count, 2)):
        active = states.next_half()
        states.begin(active)
        for state in active:
            states.states[state] |= states.take(state, STATE_BITS)
    maps, words = [], bytearray()
    for number, tile in enumerate(order, start=1):
        row_map = (1 << tile.rows) - 1
        if map_code != MapCode.STORED:
            row_map = _read_map(map_code, tile, lanes, states)
            check = zlib.crc32(row_map.to_bytes(lanes, "little"), check)
        maps.append(row_map)
        rows = row_map.bit_count()
        for row in range(rows):
            values = bytearray(lanes)
            for first in range(0, tile.outputs, width):
                active = states.next_half(min(width, tile.outputs - first))
                states.begin(active)
                if number == order.tiles and final_step(count, tile.outputs, rows - row, tile.outputs - first):
                    for i, state in enumerate(active):
                        values[first + i] = states.states[state] & 0xFF
                        states.states[state] &= ~0xFF
                    continue
                for i, state in enumerate(active):
                    symbol = codes[states.states[state] & FREQUENCIES - 1]
                    values[first + i] = (symbol.base + states.advance(state, symbol)) & 0xFF
            check = zlib.crc32(values, check)
            words += values
        words += bytes(lanes * (rows & 1))
    _finish(states, check)
    return Tiles(maps, bytes(words)), table


def _read_map(code: int, tile: Tile, lanes: int, states: _States) -> int:
    """The row map of a tile."""
    exist = (1 << tile.rows) - 1
    if code == MapCode.LITERAL:
        return states.step(tile.rows)
    return _read_prefix(tile, exist, lanes, states) ^ (exist if code == MapCode.INVERTED else 0)


def _read_prefix(tile: Tile, exist: int, lanes: int, states: _States) -> int:
    (state,) = active = states.next_half(1)
    states.begin(active)
    if not states.take(state, 1):
        return exist
    if not states.take(state, 1):
        return states.step(tile.rows)
    if not states.take(state, 1):
        return 0
    return exist & ~(1 << states.take(state, lanes.bit_length() - 1))


def _read_bins(header: int, states: _States) -> list[Bin]:
    kind, standard = header >> TABLE_SHIFT & 3, header >> STANDARD_SHIFT
    if kind == TableKind.STANDARD or (kind == TableKind.PREVIOUS and not standard):
        return []
    if kind not in (TableKind.SYMMETRIC, TableKind.GENERAL) or standard:
        raise TableError(f"there is no kind {kind}")
    return list(_bins(kind, states))


def _bins(kind: int, states: _States) -> Iterator[Bin]:
    first = range(1)
    for _ in range(2):
        states.take_unit(0)
    value = 1 if kind == TableKind.SYMMETRIC else -128
    while value <= 127:
        states.begin(first)
        extra, exponent = states.take(0, KIND_BITS), states.take(0, EXPONENT_BITS)
        if FREQUENCY_BITS <= exponent < EMPTY:
            raise TableError(f"a frequency has the exponent {exponent}")
        frequency = 0
        if exponent != EMPTY:
            frequency = 1
            for _ in range(exponent):
                frequency = frequency << 1 | states.take(0, 1)
        yield Bin(extra, frequency)
        value += 1 << extra


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


def _finish(states: _States, check: int) -> None:
    """Read the rest of the check value. The turns of the halves begin anew: final states are in their order."""
    count = len(states.states)
    width, halves = max(1, count // 2), min(count, 2)
    found = position = 0
    for number in range(check_steps(count)):
        first = number % halves * width
        active = range(first, first + width)
        states.begin(active)
        for state in active:
            if number >= halves:
                digit = states.take(state, CHECK_DIGIT)
            else:
                value = states.states[state]
                digit = (value & STATE_LOW - 1) >> 8
                if value & 0xFF or (position >= CHECK_BITS and digit):
                    raise WeightStreamError("a final state is wrong")
            found |= digit << position
            position += CHECK_DIGIT
    if found != check:
        raise WeightStreamError(f"the check value is {found:#010x}, what was decoded has {check:#010x}")
    if states.rest:
        raise WeightStreamError(f"{states.rest} are left over")
