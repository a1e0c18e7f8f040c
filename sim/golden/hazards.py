"""Proof that a program's result does not depend on timing: every two accesses that conflict are ordered.

Works on the commands alone, for every mask: a gated command counts as if all its pixels were active. On chip
it is exact to the memory entry; in the windows, to the byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import ENGINE_OF, Engine, Flag, Opcode, Space, transfers
from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_LINE_WORDS, TABLE_BYTES, depthwise_lines, table_entries
from hw.contract.registers import Window
from hw.contract.weight_decoding import Tiles
from hw.contract.weight_format import TileOrder
from hw.contract.weight_tables import Symbol
from sim.golden.addressing import all_pixels, input_words, mask_words, operand_words, output_words
from sim.golden.compressed import read_block
from sim.golden.masks import source_words, target_words
from sim.golden.memory import DeviceError, entry_bytes, entry_count
from sim.tokens import Command, ProgramError, check_counts, clocks

Indices = NDArray[np.int64]


class HazardError(ProgramError):
    """Two commands touch the same memory in an order that the tokens do not settle, or one overwrites its own input."""


@dataclasses.dataclass
class _Accesses:
    """Entries read and written on chip, per memory, and in windows: (window, first byte, end).

    fetched : feature memory words that a convolution reads as input. While the one before it on its engine is being
        drained it reads nothing else there, and writes nothing.
    """

    reads: dict[Space, Indices] = dataclasses.field(default_factory=dict)
    writes: dict[Space, Indices] = dataclasses.field(default_factory=dict)
    window_reads: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    window_writes: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    fetched: Indices | None = None


def _ring(first: int, count: int, size: int) -> Indices:
    return (first + np.arange(min(count, size))) % size


def _transfer(command: Command, config: Config) -> _Accesses:
    values = command.values
    space = Space(values["space"])
    entries = _ring(values["address"], values["length"] // entry_bytes(config, space), entry_count(config, space))
    window = values["window"], values["offset"], values["offset"] + values["length"]
    if command.opcode is Opcode.LOAD:
        return _Accesses(writes={space: entries}, window_reads=[window])
    return _Accesses(reads={space: entries}, window_writes=[window])


def _load_block(command: Command, tiles: Tiles | None, config: Config) -> _Accesses:
    """`tiles` : None where they are not known; then all rows are taken to be stored."""
    values, order = command.values, TileOrder.of_command(command.values, config.lanes)
    count = min(order.tiles, config.weight_maps)
    words = (count * -(-config.lanes // 2) if tiles is None
             else len(tiles.words) // config.weight_word_bytes)
    writes = {Space.WEIGHT: _ring(values["address"], words, config.weight_words)}
    if not values["flags"] & Flag.WITHOUT_MAPS:
        entries = -(-count // config.maps_per_entry)
        writes[Space.MAP] = _ring(values["map_address"], entries, config.map_entries)
    if values["parameter_length"]:
        entries = values["parameter_length"] // config.parameter_entry_bytes
        writes[Space.PARAMETER] = _ring(values["parameter_address"], entries, config.parameter_entries)
    return _Accesses(writes=writes, window_reads=[(values["window"], first, first + length)
                                                  for first, length in transfers(values)])


def _compute(command: Command, config: Config, weight_words: int) -> _Accesses:
    values, words = command.values, config.feature_words
    y, x = all_pixels(values)
    output = output_words(values, y, x, words)
    if np.unique(output).size != output.size:
        raise HazardError(f"{command} writes some feature memory word twice: output strides "
                          f"{values['output_row_stride']} and {values['output_pixel_stride']} for "
                          f"{values['output_width']} pixels of {values['output_blocks']} blocks")
    reads: dict[Space, Indices] = {}
    inputs = np.empty(0, dtype=np.int64)
    elementwise = command.opcode in (Opcode.ADD, Opcode.MUL)
    if not elementwise:
        blocks = values["input_blocks" if command.opcode is Opcode.CONV else "output_blocks"]
        inputs = input_words(values, blocks, words, config.lanes)
        own = np.intersect1d(inputs, output)
        if own.size:
            raise HazardError(f"{command} overwrites feature memory word {own[0]}, which it also reads as input")
    in_place = [name for name in ("a", "b") if f"{name}_base" in values
                and (elementwise or values["flags"] & Flag.ADD)]
    parts = [inputs]
    for name in in_place:
        operand = operand_words(values, name, y, x, words)
        if not np.array_equal(operand, output) and np.intersect1d(operand, output).size:
            raise HazardError(f"{command} overwrites words of its operand {name} that belong to other pixels")
        parts.append(operand.reshape(-1))
    reads[Space.FEATURE] = np.unique(np.concatenate(parts))
    if values["flags"] & Flag.GATED:
        reads[Space.MASK] = mask_words(values, config.mask_words).reshape(-1)
    if command.opcode is Opcode.CONV:
        tiles = values["kernel_height"] * values["kernel_width"] * values["input_blocks"] * values["output_blocks"]
        maps = _ring(values["map_base"], tiles, config.weight_maps)
        reads[Space.MAP] = np.unique(maps // config.maps_per_entry)
        reads[Space.PARAMETER] = _ring(
            values["parameter_base"], values["output_blocks"] * (config.lanes // config.requantise_lanes),
            config.parameter_entries)
        reads[Space.WEIGHT] = _ring(values["weight_base"], weight_words, config.weight_words)
    if command.opcode is Opcode.DEPTHWISE:
        lines = values["kernel_height"] * depthwise_lines(values["kernel_width"]) * values["output_blocks"]
        reads[Space.WEIGHT] = _ring(values["weight_base"], lines * DEPTHWISE_LINE_WORDS, config.weight_words)
        reads[Space.PARAMETER] = _ring(
            values["parameter_base"], values["output_blocks"] * (config.lanes // config.requantise_lanes),
            config.parameter_entries)
    if command.opcode is Opcode.CONV and values["flags"] & Flag.TABLE:
        table = _ring(values["table_base"], table_entries(config), config.parameter_entries)
        reads[Space.PARAMETER] = np.union1d(reads[Space.PARAMETER], table)
    elif "table_base" in values and values["flags"] & Flag.TABLE:
        table = _ring(values["table_base"], TABLE_BYTES // config.weight_word_bytes, config.weight_words)
        reads[Space.WEIGHT] = np.union1d(reads.get(Space.WEIGHT, inputs[:0]), table)
    return _Accesses(reads=reads, writes={Space.FEATURE: output.reshape(-1)},
                     fetched=inputs if command.opcode is Opcode.CONV else None)


def _mask_making(command: Command, config: Config) -> _Accesses:
    values = command.values
    target = target_words(command.opcode, values, config).reshape(-1)
    if command.opcode is Opcode.DECIDE:
        return _Accesses(reads={Space.FEATURE: input_words(values, 1, config.feature_words, config.lanes)},
                         writes={Space.MASK: target})
    if command.opcode is Opcode.COMBINE:
        sources = np.unique(np.concatenate(source_words(values, config)))
        return _Accesses(reads={Space.MASK: sources}, writes={Space.MASK: target})
    source = mask_words(values, config.mask_words).reshape(-1)
    own = np.intersect1d(source, target)
    if own.size:
        raise HazardError(f"{command} overwrites mask word {own[0]}, which it also reads")
    return _Accesses(reads={Space.MASK: source}, writes={Space.MASK: target})


class _Weights:
    """Rows per tile as the LOAD commands leave them, so that the words that a CONV reads are known.

    Maps that do not come from window IMAGE are taken for full ones.
    """

    def __init__(self, config: Config, image: bytes):
        self.config, self.image = config, image
        self.rows = np.zeros(config.weight_maps, dtype=np.int64)
        self.table: tuple[Symbol, ...] | None = None

    def block(self, command: Command) -> Tiles | None:
        """The tiles of a LOAD with COMPRESSED; None if they can't be known."""
        values = command.values
        if values["window"] != Window.IMAGE:
            return None
        first, length = transfers(values)[0]
        try:
            tiles, self.table = read_block(values, self.image[first : first + length], self.table, self.config)
            return tiles
        except DeviceError:
            return None

    def load(self, command: Command, tiles: Tiles | None = None) -> None:
        values = command.values
        if values["flags"] & Flag.COMPRESSED:
            if not values["flags"] & Flag.WITHOUT_MAPS:
                order = TileOrder.of_command(values, self.config.lanes)
                rows = [self.config.lanes] * min(order.tiles, self.config.weight_maps) if tiles is None else [
                    row_map.bit_count() for row_map in tiles.maps]
                first = values["map_address"] * self.config.maps_per_entry
                self.rows[(first + np.arange(len(rows))) % self.config.weight_maps] = rows
            return
        if values["space"] != Space.MAP:
            return
        count = values["length"] * 8 // self.config.lanes
        maps = (values["address"] * self.config.maps_per_entry + np.arange(count)) % self.config.weight_maps
        if values["window"] == Window.IMAGE:
            data = np.frombuffer(self.image, np.uint8)[values["offset"] : values["offset"] + values["length"]]
            self.rows[maps] = np.unpackbits(data, bitorder="little").reshape(count, -1).sum(axis=1)
        else:
            self.rows[maps] = self.config.lanes

    def words(self, command: Command) -> int:
        values = command.values
        tiles = values["kernel_height"] * values["kernel_width"] * values["input_blocks"] * values["output_blocks"]
        rows = self.rows[(values["map_base"] + np.arange(tiles)) % self.config.weight_maps]
        return int(((rows + 1) // 2).sum())


class _LastAccess:
    """Per engine, the last position in the program that read or wrote each entry; -1: none."""

    def __init__(self, size: int):
        self.reads = {engine: np.full(size, -1, dtype=np.int64) for engine in Engine}
        self.writes = {engine: np.full(size, -1, dtype=np.int64) for engine in Engine}


def check_hazards(commands: Sequence[Command], config: Config, image: bytes,
                  loading: Sequence[Command] = ()) -> None:
    """Raise HazardError unless all conflicting accesses of different engines are ordered by tokens.

    `commands` come from `read_program` and passed `limits.check`; `image` is the content of window IMAGE, from
    which the row maps are read. loading : commands that ran before, and whose weights these compute with. Names the
    later command, the earlier one, the memory and the entries. Raises TokenError where a command waits for tokens that
    do not come, or where too many may pile up.
    """
    check_counts(commands)
    known = clocks(commands)
    memory = {space: _LastAccess(entry_count(config, space)) for space in Space}
    windows: list[tuple[int, bool, tuple[int, int, int]]] = []
    weights = _Weights(config, image)
    for command in loading:
        if command.opcode is Opcode.LOAD:
            weights.load(command, weights.block(command) if command.values["flags"] & Flag.COMPRESSED else None)

    def conflict(i: int, earlier: int, kind: str, where: str) -> HazardError:
        return HazardError(f"{commands[i]} {kind} of {commands[earlier]} on {where}, and no token puts one after "
                           "the other")

    for i, command in enumerate(commands):
        if ENGINE_OF[command.opcode] in (Engine.LOAD, Engine.STORE):
            if command.values["flags"] & Flag.COMPRESSED:
                tiles = weights.block(command)
                accesses = _load_block(command, tiles, config)
                weights.load(command, tiles)
            else:
                accesses = _transfer(command, config)
                if command.opcode is Opcode.LOAD:
                    weights.load(command)
        elif command.opcode in (Opcode.DECIDE, Opcode.DILATE, Opcode.COMBINE):
            accesses = _mask_making(command, config)
        else:
            words = weights.words(command) if command.opcode is Opcode.CONV else 0
            accesses = _compute(command, config, words)
        for kind, entries_of, against in (
            ("may read before the write", accesses.reads, ("writes",)),
            ("may write before the write", accesses.writes, ("writes",)),
            ("may write before the read", accesses.writes, ("reads",)),
        ):
            for space, entries in entries_of.items():
                for engine in set(Engine) - {command.engine}:
                    last = getattr(memory[space], against[0])[engine][entries]
                    late = last > known[i][engine]
                    if late.any():
                        first = int(np.argmax(late))
                        same = entries[last == last[first]]
                        raise conflict(i, int(last[first]), kind,
                                       f"{space.name.lower()} memory, entries {same.min()} to {same.max()}")
        if accesses.fetched is not None:
            last = memory[Space.FEATURE].writes[Engine.CONV][accesses.fetched]
            late = last > known[i][Engine.CONV]
            if late.any():
                words = accesses.fetched[late]
                raise HazardError(f"{command} may fetch before the write of {commands[int(last[late][0])]} on feature "
                                  f"memory, entries {words.min()} to {words.max()}, because it is not ORDERED")
        for space, entries in accesses.reads.items():
            memory[space].reads[command.engine][entries] = i
        for space, entries in accesses.writes.items():
            memory[space].writes[command.engine][entries] = i
        moved = [*((False, window) for window in accesses.window_reads),
                 *((True, window) for window in accesses.window_writes)]
        for writing, window in moved:
            for j, other_writing, other in windows:
                engine = commands[j].engine
                overlap = other[0] == window[0] and other[1] < window[2] and window[1] < other[2]
                if overlap and (writing or other_writing) and engine != command.engine and j > known[i][engine]:
                    raise conflict(i, j, "may access before the access",
                                   f"window {window[0]}, bytes {max(window[1], other[1])} to "
                                   f"{min(window[2], other[2]) - 1}")
            windows.append((i, writing, window))
