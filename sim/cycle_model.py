"""Cycles per command and per program, predicted without RTL.

Two ways in for a convolution: `expected` from its shape and an assumed density of non-zero activations
(the compiler's choice of unrolling), `convolution` from what the golden model saw in real activations.
Both describe the conv engine of the contract (layouts, "Waves"): rows that each issue one surviving weight
row per cycle, two tile slots per row, a shared tile loader, fetch ports, and a shared requantiser behind
double-buffered accumulators. `sim.timeline` puts the commands of a program on the four engines.

Every constant that comes from the RTL's pipelines stands in `Costs`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Flag, Opcode, Space, transfer_beats
from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_KEPT_LINES, DEPTHWISE_TAPS, depthwise_lines, mask_row_words
from hw.contract.weight_format import BlockHeader, MapCode, TableKind, TileOrder
from hw.contract.weight_tables import FREQUENCIES


@dataclasses.dataclass(frozen=True)
class Costs:
    """Cycles that follow from the RTL's pipelines, not from the amount of work."""

    conv_start: int = 16  #: command accepted until the first output pixel is walked
    wave: int = 3  #: a wave's last pixel walked until the next wave's first
    tile_rows_per_cycle: int = 2  #: weight rows that the loader moves per cycle
    tile_minimum: int = 1  #: cycles that a tile takes the loader, even one without rows
    tile_free: int = 1  #: a row's last issue for a tile until the loader may send the next one
    tile_latency: int = 4  #: a tile's last weight rows sent until its rows can use it
    fetch_latency: int = 10  #: an activation word requested until its row sees it
    drain_latency: int = 7  #: a wave's last issue until its first accumulators are taken
    conv_end: int = 23  #: the last accumulators taken until the last word is written
    conv_add: int = 19  #: with a residual ADD, so much longer
    conv_leave: int = 4  #: a command's last issue until the next one's first activation may be fetched
    conv_empty: int = 4  #: the end of a command without active pixels
    vector: int = 50  #: a vector command, but the steps of its words
    depthwise: int = 62  #: a DEPTHWISE command, but its steps
    dilate: int = 9  #: a DILATE command, but its steps
    combine: int = 10  #: a COMBINE command, but its words
    combine_word: int = 9  #: a word of a COMBINE command
    load: int = 9  #: a LOAD, but latency and beats
    load_end: int = 2  #: the last beat read until the command is complete
    block: int = 36  #: a block of compressed weights, but table and steps
    table: int = 28  #: the symbol table of a block, but its entries
    row_map: int = 5  #: a row map in a block
    parameter_check: int = 8  #: longer where an entry's beats are no power of two
    store: int = 20  #: a STORE, but latency and beats
    read_latency: int = 20  #: external memory: address accepted until the first beat
    write_latency: int = 20  #: external memory: last beat until the response
    restart: int = 3  #: a command complete until the engine, or one that waited for it, starts the next
    fetch_start: int = 9  #: doorbell until the first commands are asked for
    fetch_request: int = 8  #: room for further commands until they are asked for
    fetch_chunk: int = 4  #: commands asked for at once
    fetch_ahead: int = 8  #: commands held in front of the dispatcher
    dispatch: int = 15  #: a command's first beat at the dispatcher until its engine can start
    finish: int = 45  #: last command complete until the interrupt: its record written


COSTS = Costs()

#: How much of a row's spread of work per tile the two tile slots and the fetch queue do not hide, in standard
#: deviations; fitted to `convolution` on random activations.
_SPREAD = 0.6


@dataclasses.dataclass
class ConvWork:
    """What a convolution asks of the engine, for its n active pixels in row-major order.

    issue : [n, kernel tiles, output blocks] weight rows that each pixel multiplies in each tile.
    banks : [n, kernel tiles] bit i: its activation word lies in bank i of the feature memory (two bits where it
        straddles two words); 0: it is padding.
    tile_rows : [kernel tiles, output blocks] rows stored in each tile.
    unrolling : log2 of the output blocks worked on at once.
    empty_words : mask words without active pixels that are walked; none where the whole command is passed over.
    add : a residual ADD follows.
    """

    issue: NDArray[np.integer]
    banks: NDArray[np.integer]
    tile_rows: NDArray[np.integer]
    unrolling: int
    empty_words: int = 0
    add: bool = False


def _word_cycles(config: Config, *, twice: bool) -> int:
    """Cycles that a word of results takes in a requantiser; `twice`: ADD or MUL, which take two turns."""
    return config.lanes // config.requantise_lanes * (2 if twice else 1)


def _conv_end(*, add: bool) -> int:
    """Cycles from the last accumulators taken until the last word is written."""
    return COSTS.conv_end + (COSTS.conv_add if add else 0)


def _row_cycles(work: ConvWork, waves: int, depth: int, pixel_groups: int) -> NDArray[np.int64]:
    """Cycles that each row is busy with each tile: [waves, pixel groups, kernel tiles, output blocks].

    A word takes as many cycles as it has surviving channels. One without any takes none where it passes behind a
    word that is being issued, else one.
    """
    shape = waves, depth, pixel_groups
    padded = np.zeros((waves * depth * pixel_groups, *work.issue.shape[1:]), dtype=np.int16)
    padded[: len(work.issue)] = work.issue
    issue = padded.reshape(*shape, *work.issue.shape[1:])
    padded_words = np.zeros((waves * depth * pixel_groups, work.banks.shape[1], 1), dtype=bool)
    padded_words[: len(work.banks), :, 0] = work.banks != 0
    words = padded_words.reshape(*shape, -1, 1)
    cycles = np.zeros((waves, *issue.shape[2:]), dtype=np.int64)
    slack = np.zeros_like(cycles)
    for pixel in range(depth):
        count = issue[:, pixel].astype(np.int64)
        empty = words[:, pixel] & (count == 0)
        cycles += count + (empty & (slack == 0))
        slack = np.where(count > 0, count - 1, np.maximum(slack - empty, 0))
    return np.maximum(cycles, 1)


def _fetch_cycles(pixels: int, pixel_groups: int, config: Config) -> int:
    """Cycles that the activation fetch takes for one tile of a wave: it visits padding too, and each row once."""
    at_once = 1 if pixel_groups == 1 else config.fetch_ports
    return -(-max(pixels, pixel_groups) // at_once)


def _bank_conflicts(work: ConvWork, waves: int, wave_pixels: int) -> NDArray[np.int64]:
    """Pairs of words, fetched at once, that share a bank, and so take a cycle more: [waves, kernel tiles]."""
    padded = np.zeros((waves * wave_pixels, work.banks.shape[1]), dtype=np.int64)
    padded[: len(work.banks)] = work.banks
    pairs = padded.reshape(waves, wave_pixels // 2, 2, -1)
    return (pairs[:, :, 0] & pairs[:, :, 1] != 0).sum(axis=1)


def _drain_cycles(pixels: int, blocks: int, pixel_groups: int, config: Config, *, add: bool) -> int:
    """Cycles that the drain takes for a wave: Q lanes per cycle, with a residual ADD every other cycle, and one for
    each row without an output block."""
    idle_rows = config.rows - min(pixels, pixel_groups) * blocks
    return pixels * blocks * _word_cycles(config, twice=add) + idle_rows


def convolution(work: ConvWork, config: Config) -> int:
    """Cycles of a CONV command with this work."""
    n, kernel_tiles, blocks = work.issue.shape
    group_blocks = 1 << work.unrolling
    if n == 0:
        groups = -(-blocks // group_blocks) if work.empty_words else 0
        return COSTS.conv_start + COSTS.conv_empty + groups * (work.empty_words + COSTS.wave)
    pixel_groups = config.rows // group_blocks
    wave_pixels = pixel_groups * config.pixels_per_row
    waves = -(-n // wave_pixels)
    busy = _row_cycles(work, waves, config.pixels_per_row, pixel_groups)
    conflicts = _bank_conflicts(work, waves, wave_pixels)
    if pixel_groups == 1 or config.fetch_ports == 1:
        conflicts[:] = 0
    load = np.maximum(-(-work.tile_rows // COSTS.tile_rows_per_cycle), COSTS.tile_minimum).tolist()
    pace = (n + work.empty_words) / n  # cycles of the walk per active pixel
    walked = COSTS.conv_start + min(n, wave_pixels) * pace  # the last pixel of a wave is known
    ready = np.full((pixel_groups, min(group_blocks, blocks)), walked, dtype=np.float64)
    before = ready  # when each row was done with the tile before the last
    banks = [np.zeros_like(ready), np.zeros_like(ready)]  # when each row's accumulator banks are free
    drained = 0.0  # when the drain is done with all waves so far; it takes the rows block by block
    entries = _word_cycles(config, twice=work.add)
    loader = fetched = walked
    wave_index = 0
    for first in range(0, blocks, group_blocks):
        last = min(first + group_blocks, blocks)
        ready, before = ready[:, : last - first], before[:, : last - first]
        for wave in range(waves):
            pixels = min(wave_pixels, n - wave * wave_pixels)
            if wave_index:
                walked += pixels * pace + COSTS.wave
            fetched = max(fetched, walked)
            visits = _fetch_cycles(pixels, pixel_groups, config)
            # Tiles between the last word fetched and the one taken from the queue to make room for it.
            behind = (config.activation_fifo + 1) / -(-pixels // pixel_groups) - 1
            bank = banks[wave_index % 2]
            ready = np.maximum(ready, bank[:, : last - first])
            for tile in range(kernel_tiles):
                free = before.max(axis=0).tolist()
                loads = []
                for slot_free, cycles in zip(free, load[tile][first:last], strict=True):
                    loader = max(loader, slot_free + COSTS.tile_free) + cycles
                    loads.append(loader + COSTS.tile_latency)
                fetched += visits + int(conflicts[wave, tile])
                if behind < 1:  # the slowest row must have taken the word whose room in its queue was needed
                    taken = ready - (ready - before) * behind
                    fetched = max(fetched, float(taken.max()) + COSTS.fetch_latency)
                before, ready = ready, np.maximum(
                    np.maximum(ready, loads) + busy[wave, :, tile, first:last], fetched + 1)
            for block, finished_groups in enumerate((ready + COSTS.drain_latency).T.tolist()):
                for group, finished in enumerate(finished_groups):
                    launched = -(-(pixels - group) // pixel_groups) * entries  # for each row; none: it is passed
                    drained = max(drained, finished) + max(launched, 1)
                    bank[group, block] = drained
            drained += (group_blocks - (last - first)) * pixel_groups  # rows without an output block
            wave_index += 1
    return math.ceil(drained) + _conv_end(add=work.add)


def expected(config: Config, *, pixels: int, kernel_tiles: int, output_blocks: int, unrolling: int,
             density: float = 0.5, lanes_per_word: float | None = None, weight_density: float = 1.0,
             words_per_tap: float = 1.0, add: bool = False) -> int:
    """Cycles of a CONV command from its shape.

    Parameters
    ----------
    pixels : active output pixels. kernel_tiles : taps x input blocks. output_blocks, unrolling : of the command.
    density : share of non-zero activations inside the input. lanes_per_word : valid channels per activation
        word, `lanes` unless given. weight_density : share of weight rows that are stored.
    words_per_tap : share of taps that lie inside the input. add : a residual ADD follows.
    """
    if pixels == 0:
        return COSTS.conv_start + COSTS.conv_empty
    lanes = config.lanes if lanes_per_word is None else lanes_per_word
    survive = density * weight_density
    group_blocks = 1 << unrolling
    pixel_groups = config.rows // group_blocks
    wave_pixels = pixel_groups * config.pixels_per_row
    full_waves, rest = divmod(pixels, wave_pixels)
    total = float(COSTS.conv_start + min(pixels, wave_pixels) + COSTS.fetch_latency)
    drain = 0
    for first in range(0, output_blocks, group_blocks):
        blocks = min(group_blocks, output_blocks - first)
        load = blocks * max(math.ceil(config.lanes * weight_density / COSTS.tile_rows_per_cycle), COSTS.tile_minimum)
        for count, wave in ((full_waves, wave_pixels), (1, rest)):
            if not wave or not count:
                continue
            words = -(-wave // pixel_groups) * words_per_tap
            busy_rows = min(wave, pixel_groups) * blocks
            spread = _SPREAD * math.sqrt(words * lanes * survive * (1 - survive)) if busy_rows > 1 else 0.0
            fetch = _fetch_cycles(wave, pixel_groups, config)
            drain = _drain_cycles(wave, blocks, pixel_groups, config, add=add)
            per_tile = max(words * lanes * survive + spread, words, 1, load, fetch)
            total += count * max(kernel_tiles * per_tile, drain, wave)
    return math.ceil(total + COSTS.drain_latency + drain + _conv_end(add=add))


def overlap(values: Mapping[str, int], config: Config) -> tuple[int, int]:
    """Cycles of a CONV command that the commands beside it can hide: setup and walk of its first wave, in which the
    one before still computes, and the drain of its last wave, in which the next one computes already."""
    pixels = values["output_rows"] * values["output_width"]
    pixel_groups = config.rows >> values["unrolling"]
    wave_pixels = pixel_groups * config.pixels_per_row
    last = (pixels - 1) % wave_pixels + 1
    add = bool(values["flags"] & Flag.ADD)
    blocks = (values["output_blocks"] - 1) % (1 << values["unrolling"]) + 1
    return (COSTS.conv_start + min(pixels, wave_pixels),
            COSTS.drain_latency + _drain_cycles(last, blocks, pixel_groups, config, add=add) + _conv_end(add=add)
            - COSTS.conv_leave)


#: Commands that read two words at once.
_PAIRS = (Opcode.ADD, Opcode.MUL)


def vector(opcode: Opcode, counters: Mapping[str, int], config: Config) -> int:
    """Cycles of a command of the vector engine from its counters."""
    pairs = opcode in _PAIRS
    taps = counters["words_read"] // 2 if pairs else counters["words_read"]
    return COSTS.vector + max(taps, counters["words_written"] * _word_cycles(config, twice=pairs))


def depthwise(steps: int, words_written: int, config: Config) -> int:
    """Cycles of a DEPTHWISE command from its steps (see `golden.depthwise.fetches`) and the words it writes."""
    return COSTS.depthwise + max(steps * config.depthwise_cycles, words_written * _word_cycles(config, twice=False))


def combine(values: Mapping[str, int]) -> int:
    """Cycles of a COMBINE command from its fields."""
    return COSTS.combine + COSTS.combine_word * values["output_rows"] * mask_row_words(values["output_width"])


def transfer(opcode: Opcode, values: Mapping[str, int], config: Config, pace: int = 1) -> int:
    """Cycles of a LOAD or STORE with these fields, with the bus to itself. pace : of memory, cycles for a beat."""
    if values["flags"] & Flag.COMPRESSED:
        return block(values, config, pace=pace)
    beats = values["length"] // 8 * pace
    if opcode is Opcode.STORE:
        return COSTS.store + COSTS.write_latency + beats
    entry = config.parameter_entry_bytes // 8
    check = COSTS.parameter_check if values["space"] == Space.PARAMETER and entry & (entry - 1) else 0
    return COSTS.load + COSTS.read_latency + check + beats


def block(values: Mapping[str, int], config: Config, maps: Sequence[int] | None = None,
          header: BlockHeader | None = None, *, pace: int = 1) -> int:
    """Cycles of a LOAD of compressed weights, with the bus to itself.

    maps : their row maps; None: all rows stored. header : of the block; None: all ways, and a table. pace : cycles that
    memory takes for a beat.

    The decoder makes a step of half of the states per cycle, and is behind a queue.
    """
    order = TileOrder.of_command(values, config.lanes)
    if header is None:
        coded = MapCode.STORED if maps is None else MapCode.PREFIX
        header = BlockHeader(config.weight_ways, TableKind.GENERAL, coded)
    decoder = decoding(order, header, config, maps)
    return COSTS.load + COSTS.read_latency + max(transfer_beats(values) * pace, decoder)


def decoding(order: TileOrder, header: BlockHeader, config: Config, maps: Sequence[int] | None) -> int:
    """Cycles of the weight decoder for a block; maps : row maps of the tiles; None: all rows are stored."""
    parts = config.lanes // config.weights_per_cycle

    def row(outputs: int) -> int:
        """Steps, and cycles for the parts of the row that do not exist; then the other half of the states goes on."""
        steps = -(-outputs // header.width) * (2 if header.ways == 1 else 1)
        empty = parts - -(-outputs // config.weights_per_cycle)
        return steps + empty + empty % 2

    if maps is None:
        rows = order.taps * ((order.input_blocks - 1) * order.lanes + order.last_rows)
        steps = rows * ((order.output_blocks - 1) * row(order.lanes) + row(order.last_outputs))
    else:
        stored = [row_map.bit_count() for row_map in maps]
        steps = sum(rows * row(tile.outputs) for rows, tile in zip(stored, order, strict=True))
        if header.maps is not MapCode.STORED:
            steps += COSTS.row_map * len(stored)
    return COSTS.block + (0 if header.table is TableKind.PREVIOUS else table(config)) + steps


def table(config: Config) -> int:
    """Cycles in which the weight decoder builds a symbol table."""
    return COSTS.table + FREQUENCIES // config.table_entries


def expected_command(opcode: Opcode, values: Mapping[str, int], config: Config, density: float = 0.5,
                     active: float = 0.5, pace: int = 1) -> int:
    """Cycles of a command from its fields alone. density : of activations that are not zero; active : share of the
    pixels that a mask lets through; pace : cycles that memory takes for a beat."""
    if opcode in (Opcode.LOAD, Opcode.STORE):
        return transfer(opcode, values, config, pace)
    pixels = values["output_rows"] * values["output_width"]
    if values["flags"] & Flag.GATED:
        pixels = math.ceil(pixels * active)
    if opcode is Opcode.CONV:
        taps = values["kernel_height"] * values["kernel_width"]
        lanes = ((values["input_blocks"] - 1) * config.lanes + values["last_lanes"]) / values["input_blocks"]
        return expected(config, pixels=pixels, kernel_tiles=taps * values["input_blocks"],
                        output_blocks=values["output_blocks"], unrolling=values["unrolling"],
                        density=density, lanes_per_word=lanes, add=bool(values["flags"] & Flag.ADD))
    if opcode is Opcode.DILATE:
        words = values["input_height"] * mask_row_words(values["input_width"])
        # A word takes a walk over its bits, and one over the rows of each source word that it sees.
        rows = (values["kernel_height"] - 1) * values["dilation_y"]
        column = min(values["dilation_x"], 8 + values["dilation_x"] // 8)
        return COSTS.dilate + words * (20 + values["kernel_width"] * column + 2 * (rows + 4))
    if opcode is Opcode.COMBINE:
        return combine(values)
    if opcode is Opcode.DEPTHWISE:
        lines = values["kernel_height"] * depthwise_lines(values["kernel_width"])
        kept = values["dilation_x"] == 1 and lines <= DEPTHWISE_KEPT_LINES and values["stride_x"] < DEPTHWISE_TAPS
        words = pixels * values["output_blocks"]
        return depthwise(words * lines if kept else 2 * words * lines, words, config)
    taps = 2 if opcode in _PAIRS else values["kernel_height"] * values["kernel_width"]
    words = pixels * values["output_blocks"]
    return vector(opcode, {"words_read": words * taps, "words_written": words}, config)
