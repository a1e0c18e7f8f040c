"""Encoding of weights: tiles as `layouts` lays them out -> a compressed block (`weight_format`)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from hw.contract.weight_format import (
    CHECK_BITS,
    MAPS_CODED,
    STANDARD_SHIFT,
    STATE_BITS,
    STATE_CHECK_BITS,
    STATE_LOW,
    TABLE_SHIFT,
    UNIT_BITS,
    TableKind,
    TileOrder,
    check_fields,
)
from hw.contract.weight_standard_tables import STANDARD_TABLES
from hw.contract.weight_tables import FREQUENCIES, FREQUENCY_BITS, Bin, Symbol, TableError, cost, fit, symbols

#: A way more than needed costs about this many bits: its state's surplus and what is left in its last unit.
WAY_BITS = 20

#: An operation of a way: the state's symbol, and the bits that follow it.
_Operation = tuple[Symbol, int]


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
    count = max(1, min(ways, order.lanes))
    while count > 1 and WAY_BITS * count > share * bits:
        count //= 2
    header |= count.bit_length() - 1
    prefix = b""
    zeros = 0
    exist = sum(tile.rows for tile in order)
    missing = exist - sum(row_map.bit_count() for row_map in maps)
    if missing:
        header |= MAPS_CODED
        zeros = min(FREQUENCIES - 1, max(1, round(missing / exist * FREQUENCIES)))
        prefix = zeros.to_bytes(2, "little")
    check = zlib.crc32((header | zeros << UNIT_BITS).to_bytes(order.lanes, "little"))
    for item in bins:
        check = zlib.crc32(item.code.to_bytes(order.lanes, "little"), check)
    steps, final, check = _steps(maps, rows, order, count, table, zeros, check)
    body = _units(steps, final, bins, check, count)
    block = header.to_bytes(2, "little") + prefix + body
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


def _steps(maps: Sequence[int], rows: Sequence[Sequence[bytes]], order: TileOrder, count: int,
           table: Sequence[Symbol], zeros: int, check: int) -> tuple[list[list[_Operation]], list[int], int]:
    """What the ways decode, step by step (a list of the active ways' operations), the final states, the check."""
    of_value: dict[int, _Operation] = {}
    for symbol in table:
        for offset in range(1 << symbol.extra):
            of_value.setdefault((symbol.base + offset) & 0xFF, (symbol, offset))
    row_symbols = (Symbol(0, 0, zeros, 0), 0), (Symbol(1, 0, FREQUENCIES - zeros, zeros), 0)
    steps: list[list[_Operation]] = []
    for tile, row_map, stored in zip(order, maps, rows, strict=True):
        if zeros:
            check = zlib.crc32(row_map.to_bytes(order.lanes, "little"), check)
            bits = [row_symbols[row_map >> row & 1] for row in range(tile.rows)]
            steps += [bits[first : first + count] for first in range(0, tile.rows, count)]
        for row in stored:
            check = zlib.crc32(row, check)
            weights = [of_value[value] for value in row[: tile.outputs]]
            steps += [weights[first : first + count] for first in range(0, tile.outputs, count)]
    final = [0] * count
    if rows[-1]:
        steps.pop()
        outputs = list(order)[-1].outputs
        last = rows[-1][-1][(outputs - 1) // count * count : outputs]
        final[: len(last)] = last
    for way in range(min(count, CHECK_BITS // STATE_CHECK_BITS)):
        final[way] |= (check >> way * STATE_CHECK_BITS & (1 << STATE_CHECK_BITS) - 1) << 8
    return steps, [STATE_LOW | value for value in final], check


def _units(steps: Sequence[Sequence[_Operation]], states: list[int], bins: Sequence[Bin], check: int,
           count: int) -> bytes:
    """The units of a block after its header."""
    fields: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # of each way, the last first
    for step in reversed(steps):
        for way, (symbol, offset) in enumerate(step):
            state, frequency = states[way], symbol.frequency
            shift = max(0, STATE_BITS - frequency.bit_length() - (STATE_BITS - FREQUENCY_BITS))
            if state >> shift >= frequency << STATE_BITS - FREQUENCY_BITS + 1:
                shift += 1
            low, high = state & (1 << shift) - 1, state >> shift
            states[way] = (high // frequency << FREQUENCY_BITS) + high % frequency + symbol.start
            fields[way].append((low | offset << shift, shift + symbol.extra))
    streams = [_Stream() for _ in range(count)]
    order: list[int] = []
    if bins:
        streams[0].ask(order, 0, UNIT_BITS)
    for item in bins:
        streams[0].ask(order, 0)
        streams[0].put(item.code, item.bits)
    for way, stream in enumerate(streams):
        stream.ask(order, way, UNIT_BITS)
    for way, stream in enumerate(streams):
        stream.ask(order, way)
        stream.put(states[way] - STATE_LOW, STATE_BITS)
    for step in steps:
        for way in range(len(step)):
            streams[way].ask(order, way)
            streams[way].put(*fields[way].pop())
    position = count * STATE_CHECK_BITS
    for way, bits in check_fields(count):
        streams[way].ask(order, way)
        streams[way].put(check >> position & (1 << bits) - 1, bits)
        position += bits
    sources = [stream.units() for stream in streams]
    return b"".join(next(sources[way]) for way in order)


class _Stream:
    """The bits of one way, and how many of them its decoder has."""

    def __init__(self) -> None:
        self._fields: list[tuple[int, int]] = []
        self._level = 0

    def ask(self, order: list[int], way: int, least: int = 2 * UNIT_BITS) -> None:
        """The decoder begins a step of this way: take a unit if it does."""
        if self._level < least:
            self._level += UNIT_BITS
            order.append(way)

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
