"""Encoding of weights: tiles as `layouts` lays them out -> a compressed block (`weight_format`)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from hw.contract.weight_format import (
    CHECK_BITS,
    CHECK_DIGIT,
    MAPS_SHIFT,
    STANDARD_SHIFT,
    STATE_BITS,
    STATE_LOW,
    TABLE_SHIFT,
    UNIT_BITS,
    MapCode,
    TableKind,
    Tile,
    TileOrder,
    check_steps,
    final_step,
    spread,
)
from hw.contract.weight_standard_tables import STANDARD_TABLES
from hw.contract.weight_tables import FREQUENCY_BITS, Bin, Symbol, TableError, cost, fit, symbols

#: A way more than needed costs about this many bits: its state's surplus and what is left in its last unit.
WAY_BITS = 20

#: An operation of a state: the symbol that it decodes, if it does; and bits from the stream, their value and number.
_Operation = tuple[Symbol | None, int, int]


def encode(maps: Sequence[int], words: bytes, order: TileOrder, ways: int, share: float = 0.003) -> bytes:
    """A block that needs no other before it; see `encode_block`."""
    return encode_block(maps, words, order, ways, share)[0]


def encode_block(maps: Sequence[int], words: bytes, order: TileOrder, ways: int, share: float = 0.003, *,
                 previous: Sequence[Symbol] | None = None, only_previous: bool = False, slack: float = 0.0,
                 others: Sequence[int] | None = None) -> tuple[bytes, Sequence[Symbol]]:
    """A compressed block, and its symbol table.

    Parameters
    ----------
    maps : row map of each tile. words : the stored rows, as the weight store has them.
    ways : most states that the decoder has, a power of two; fewer are used where they would take more than `share`
        of the block.
    previous : the table of the block that is decoded before; used where that takes at most `slack` bits more than
        another one, which takes time to be built. only_previous : no other one may be.
    others : 256 counts of the weights, -128 to 127, of blocks that will use this one's table.

    Raises ValueError for a row or an output channel that does not exist in `order` and is not zero; and where
    `previous` can't code the weights, but must.
    """
    rows = _rows(maps, words, order)
    histogram = _count(rows, order)
    combined = histogram if others is None else [own + other for own, other in zip(histogram, others, strict=True)]
    if only_previous:
        if previous is None:
            raise ValueError("there is no previous table")
        header, bins, table = TableKind.PREVIOUS << TABLE_SHIFT, [], previous
    else:
        header, bins, table = _choose_table(combined, previous, slack)
    bits = cost(histogram, table)
    if bits == float("inf"):
        raise ValueError("the previous table has no symbol for one of the weights")
    count = max(1, min(ways, 2 * order.lanes))
    while count > 1 and WAY_BITS * count > share * bits:
        count //= 2
    map_code = _choose_map_code(maps, order)
    header |= count.bit_length() - 1 | map_code << MAPS_SHIFT
    check = zlib.crc32(header.to_bytes(order.lanes, "little"))
    for item in bins:
        check = zlib.crc32(item.code.to_bytes(order.lanes, "little"), check)
    steps, final, check = _steps(maps, rows, order, count, table, map_code, check)
    body = _units(steps, final, bins, check, count)
    block = header.to_bytes(2, "little") + body
    while len(block) > 2 and block.endswith(bytes(2)):
        block = block[:-2]
    return block, table


def count_weights(maps: Sequence[int], words: bytes, order: TileOrder) -> list[int]:
    """How often each weight occurs, -128 to 127, in the stored rows; errors as in `encode_block`."""
    return _count(_rows(maps, words, order), order)


def _count(rows: Sequence[Sequence[bytes]], order: TileOrder) -> list[int]:
    histogram = [0] * 256
    for tile, stored in zip(order, rows, strict=True):
        for row in stored:
            if any(row[tile.outputs :]):
                raise ValueError("a weight of an output channel that does not exist is not zero")
            for value in row[: tile.outputs]:
                histogram[value ^ 0x80] += 1
    return histogram


def _rows(maps: Sequence[int], words: bytes, order: TileOrder) -> list[list[bytes]]:
    """The stored rows of each tile."""
    lanes = order.lanes
    if len(maps) != order.tiles:
        raise ValueError(f"there are {len(maps)} row maps; the order has {order.tiles} tiles")
    at, tiles = 0, []
    for tile, row_map in zip(order, maps, strict=True):
        if row_map >> tile.rows:
            raise ValueError(f"the row map {row_map:#x} has a row that does not exist")
        count = row_map.bit_count()
        tiles.append([words[at + i * lanes : at + (i + 1) * lanes] for i in range(count)])
        at += (count + count % 2) * lanes
    if at != len(words):
        raise ValueError(f"the weights have {len(words)} bytes; the row maps say {at}")
    return tiles


def _choose_table(histogram: Sequence[int], previous: Sequence[Symbol] | None, slack: float,
                  ) -> tuple[int, list[Bin], Sequence[Symbol]]:
    """Header bits, the bins to be written, and the symbols, that take the fewest bits."""
    choices: list[tuple[float, int, list[Bin], Sequence[Symbol]]] = []
    if previous is not None:
        choices.append((cost(histogram, previous) - slack, TableKind.PREVIOUS << TABLE_SHIFT, [], previous))
    for index, table in enumerate(STANDARD_TABLES):
        choices.append((cost(histogram, table), TableKind.STANDARD << TABLE_SHIFT | index << STANDARD_SHIFT, [], table))
    for kind in (TableKind.SYMMETRIC, TableKind.GENERAL):
        try:
            bins = fit(histogram, kind is TableKind.SYMMETRIC)
            table = symbols(bins, kind is TableKind.SYMMETRIC)
        except TableError:
            continue  # a distribution that such a table can't have, of a single value for example
        choices.append((cost(histogram, table) + sum(item.bits for item in bins), kind << TABLE_SHIFT, bins, table))
    _bits, header, bins, table = min(choices, key=lambda choice: choice[0])
    return header, bins, table


def _map_steps(row_map: int, tile: Tile, lanes: int, code: MapCode) -> list[_Operation]:
    """The steps of a row map."""
    exist = (1 << tile.rows) - 1
    if code is MapCode.INVERTED:
        row_map ^= exist
    literal = (None, row_map, tile.rows)
    if code is MapCode.LITERAL:
        return [literal]
    missing = exist ^ row_map
    if not missing:
        return [(None, 0b0, 1)]
    if not row_map:
        return [(None, 0b011, 3)]
    if missing & missing - 1:
        return [(None, 0b01, 2), literal]
    return [(None, 0b111 | missing.bit_length() - 1 << 3, 3 + lanes.bit_length() - 1)]


def _choose_map_code(maps: Sequence[int], order: TileOrder) -> MapCode:
    """What takes the fewest bits."""
    if all(row_map == (1 << tile.rows) - 1 for row_map, tile in zip(maps, order, strict=True)):
        return MapCode.STORED
    return min((MapCode.LITERAL, MapCode.PREFIX, MapCode.INVERTED), key=lambda code: sum(
        bits for row_map, tile in zip(maps, order, strict=True)
        for _symbol, _value, bits in _map_steps(row_map, tile, order.lanes, code)))


def _steps(maps: Sequence[int], rows: Sequence[Sequence[bytes]], order: TileOrder, count: int, table: Sequence[Symbol],
           map_code: MapCode, check: int) -> tuple[list[list[_Operation]], list[int], int]:
    """What the states decode, step by step (a list of the active states' operations), the final states, the check."""
    of_value: dict[int, _Operation] = {}
    for symbol in table:
        for offset in range(1 << symbol.extra):
            of_value.setdefault((symbol.base + offset) & 0xFF, (symbol, offset, symbol.extra))
    width, halves = max(1, count // 2), min(count, 2)
    steps: list[list[_Operation]] = []
    final = [0] * count
    for number, (tile, row_map, stored) in enumerate(zip(order, maps, rows, strict=True), start=1):
        if map_code is not MapCode.STORED:
            check = zlib.crc32(row_map.to_bytes(order.lanes, "little"), check)
            steps += ([operation] for operation in _map_steps(row_map, tile, order.lanes, map_code))
        for rows_done, row in enumerate(stored):
            check = zlib.crc32(row, check)
            for first in range(0, tile.outputs, width):
                values = row[first : min(first + width, tile.outputs)]
                if number == order.tiles and final_step(count, tile.outputs, len(stored) - rows_done,
                                                        tile.outputs - first):
                    state = len(steps) % halves * width
                    final[state : state + len(values)] = values
                    steps.append([(None, 0, 0)] * len(values))
                else:
                    steps.append([of_value[value] for value in values])
    for state in range(min(count, CHECK_BITS // CHECK_DIGIT)):
        final[state] |= (check >> state * CHECK_DIGIT & (1 << CHECK_DIGIT) - 1) << 8
    return steps, [STATE_LOW | value for value in final], check


def _units(steps: Sequence[Sequence[_Operation]], states: list[int], bins: Sequence[Bin], check: int,
           count: int) -> bytes:
    """The units of a block after its header."""
    width, halves = max(1, count // 2), min(count, 2)
    fields: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # of each state, the last first
    for number in reversed(range(len(steps))):
        for state, (symbol, value, bits) in enumerate(steps[number], start=number % halves * width):
            if symbol is not None:
                x, frequency, least = states[state], symbol.frequency, spread(symbol.frequency)
                if x >> least >= frequency << STATE_BITS - FREQUENCY_BITS + 1:
                    value |= (x & 1) << bits + least
                    bits += 1
                    x >>= 1
                value |= (x & (1 << least) - 1) << symbol.extra
                bits += least
                x >>= least
                states[state] = (x // frequency << FREQUENCY_BITS) + x % frequency + symbol.start
            fields[state].append((value, bits))
    streams = [_Stream() for _ in range(count)]
    order: list[int] = []
    if bins:
        for _round in range(2):
            streams[0].take_unit(order, 0)
    for item in bins:
        streams[0].begin(order, 0)
        streams[0].put(item.code, item.bits)
    for _round in range(2):
        for state in range(int(bool(bins)), count):
            streams[state].take_unit(order, state)
    for state, stream in enumerate(streams):
        stream.begin(order, state)
        stream.put(states[state] - STATE_LOW, STATE_BITS)
    for number, step in enumerate(steps):
        for state in range(number % halves * width, number % halves * width + len(step)):
            streams[state].begin(order, state)
            streams[state].put(*fields[state].pop())
    position = count * CHECK_DIGIT
    for number in range(check_steps(count)):
        for state in range(number % halves * width, (number % halves + 1) * width):
            streams[state].begin(order, state)
            if number >= halves:
                streams[state].put(check >> position & (1 << CHECK_DIGIT) - 1, CHECK_DIGIT)
                position += CHECK_DIGIT
    sources = [stream.units() for stream in streams]
    return b"".join(next(sources[state]) for state in order)


class _Stream:
    """The bits of one state, and how many of them its decoder has."""

    def __init__(self) -> None:
        self._fields: list[tuple[int, int]] = []
        self._level = 0

    def take_unit(self, order: list[int], state: int) -> None:
        """The decoder takes a unit."""
        self._level += UNIT_BITS
        order.append(state)

    def begin(self, order: list[int], state: int) -> None:
        """The decoder begins a step of this state: take a unit if it does."""
        if self._level <= 2 * UNIT_BITS:
            self.take_unit(order, state)

    def put(self, value: int, bits: int) -> None:
        """Append bits."""
        self._fields.append((value, bits))
        self._level -= bits

    def units(self) -> Iterator[bytes]:
        """The units, then units of zeros."""
        buffer = level = 0
        for value, bits in self._fields:
            buffer |= value << level
            level += bits
            while level >= UNIT_BITS:
                yield (buffer & 0xFFFF).to_bytes(2, "little")
                buffer >>= UNIT_BITS
                level -= UNIT_BITS
        yield buffer.to_bytes(2, "little")
        while True:
            yield bytes(2)
