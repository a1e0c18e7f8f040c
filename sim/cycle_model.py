"""Cycles per command and per program, predicted without RTL.

Two ways in for a convolution: `expected` from its shape and an assumed density of non-zero activations
(the compiler's choice of unrolling), `convolution` from what the golden model saw in real activations.
Both describe the conv engine of the contract (layouts, "Waves"): rows that each issue one surviving weight
row per cycle, two tile slots per row, a shared tile loader, fetch ports, and a shared requantiser behind
double-buffered accumulators. `timeline` puts the commands of a program on the four engines by their tokens.

Every constant that comes from the RTL's pipelines stands in `Costs`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import COMMAND_BYTES, ENGINE_OF, Engine, Flag, Opcode
from hw.contract.config import Config
from sim.tokens import Command, predecessors


@dataclasses.dataclass(frozen=True)
class Costs:
    """Cycles that follow from the RTL's pipelines, not from the amount of work."""

    conv_start: int = 12  #: command accepted until the first activation word reaches a row
    conv_wave: int = 4  #: a wave's first tile after the last one of the wave before
    conv_end: int = 14  #: the last weight row issued until the last word is written, draining apart
    tile_rows_per_cycle: int = 2  #: weight rows that the loader moves per cycle
    tile_minimum: int = 1  #: cycles that a tile takes the loader, even one without rows
    drain_start: int = 6  #: a wave's last issue until its first result is requantised
    vector_start: int = 8  #: command accepted until the first word is requested
    vector_end: int = 12  #: the last word requested until the last word is written
    transfer_start: int = 10  #: command accepted until the first address is on the bus, and its end
    read_latency: int = 20  #: external memory: address accepted until the first beat
    write_latency: int = 6  #: external memory: last beat until the response
    fetch: int = 40  #: doorbell until the first command is decoded
    dispatch: int = COMMAND_BYTES // 8  #: command fetched after the one before
    finish: int = 30  #: last command complete until the interrupt: its record written


COSTS = Costs()

#: How much of a row's spread of work per tile the two tile slots and the fetch queue do not hide, in standard
#: deviations; fitted to `convolution` on random activations.
_SPREAD = 0.6


@dataclasses.dataclass
class ConvWork:
    """What a convolution asks of the engine, for its n active pixels in row-major order.

    issue : [n, kernel tiles, output blocks] weight rows that each pixel multiplies in each tile.
    words : bool [n, kernel tiles], whether the pixel has an activation word there (padding has none).
    tile_rows : [kernel tiles, output blocks] rows stored in each tile.
    unrolling : log2 of the output blocks worked on at once. fused_add : a residual ADD follows.
    """

    issue: NDArray[np.integer]
    words: NDArray[np.bool_]
    tile_rows: NDArray[np.integer]
    unrolling: int
    fused_add: bool


def _by_wave(values: NDArray[np.integer], waves: int, depth: int, pixel_groups: int) -> NDArray[np.int64]:
    """[n, ...] per pixel -> [waves, pixel groups, ...], summed over a group's pixels."""
    padded = np.zeros((waves * depth * pixel_groups, *values.shape[1:]), dtype=np.int64)
    padded[: len(values)] = values
    return padded.reshape(waves, depth, pixel_groups, *values.shape[1:]).sum(axis=1)


def convolution(work: ConvWork, config: Config) -> int:
    """Cycles of a CONV command with this work."""
    n, kernel_tiles, blocks = work.issue.shape
    group_blocks = 1 << work.unrolling
    pixel_groups = config.rows // group_blocks
    wave_pixels = pixel_groups * config.pixels_per_row
    waves = -(-n // wave_pixels)
    issue = _by_wave(work.issue, waves, config.pixels_per_row, pixel_groups)  # [waves, groups, tiles, blocks]
    words = _by_wave(work.words.astype(np.int64), waves, config.pixels_per_row, pixel_groups)
    fetch = (words.sum(axis=1) / config.fetch_ports).tolist()  # [waves][tiles]
    # A row also needs a cycle per activation word to move it out of the queue.
    issue = np.maximum(issue, words[..., None])
    load = np.maximum(-(-work.tile_rows // COSTS.tile_rows_per_cycle), COSTS.tile_minimum)
    entries = config.lanes // config.requantise_lanes
    drained = [0.0, 0.0]
    loader = fetched = 0.0
    rows = np.zeros((pixel_groups, min(group_blocks, blocks)))
    wave_index = 0
    for first in range(0, blocks, group_blocks):
        last = min(first + group_blocks, blocks)
        rows = np.full((pixel_groups, last - first), rows.max())
        released = rows.max(axis=0)
        load_steps = np.cumsum(load[:, first:last], axis=1)
        for wave in range(waves):
            rows = np.maximum(rows, drained[wave_index % 2]) + COSTS.conv_wave
            for tile in range(kernel_tiles):
                before = rows
                steps = load_steps[tile]
                loads = max(loader, float(released.max())) + steps
                loader = float(loads[-1])
                fetched = max(fetched, float(released.min())) + fetch[wave][tile]
                work_here = issue[wave, :, tile, first:last]
                rows = np.maximum(np.maximum(before, loads) + work_here, np.where(work_here > 0, fetched + 1, 0))
                released = before.max(axis=0)
            pixels = min(wave_pixels, n - wave * wave_pixels)
            end = max(float(rows.max()) + COSTS.drain_start, *drained)
            drained[wave_index % 2] = end + pixels * (last - first) * entries
            wave_index += 1
    return COSTS.conv_start + math.ceil(max(float(rows.max()), *drained)) + COSTS.conv_end


def expected(config: Config, *, pixels: int, kernel_tiles: int, output_blocks: int, unrolling: int,
             density: float = 0.5, lanes_per_word: float | None = None, weight_density: float = 1.0,
             words_per_tap: float = 1.0) -> int:
    """Cycles of a CONV command from its shape.

    Parameters
    ----------
    pixels : active output pixels. kernel_tiles : taps x input blocks. output_blocks, unrolling : of the command.
    density : share of non-zero activations inside the input. lanes_per_word : valid channels per activation
        word, `lanes` unless given. weight_density : share of weight rows that are stored.
    words_per_tap : share of taps that lie inside the input.
    """
    if pixels == 0:
        return COSTS.conv_start + COSTS.conv_end
    lanes = config.lanes if lanes_per_word is None else lanes_per_word
    group_blocks = 1 << unrolling
    pixel_groups = config.rows // group_blocks
    wave_pixels = pixel_groups * config.pixels_per_row
    entries = config.lanes // config.requantise_lanes
    total = float(COSTS.conv_start + COSTS.conv_end)
    for first in range(0, output_blocks, group_blocks):
        blocks = min(group_blocks, output_blocks - first)
        load = blocks * max(math.ceil(config.lanes * weight_density / COSTS.tile_rows_per_cycle), COSTS.tile_minimum)
        full, rest = divmod(pixels, wave_pixels)
        for count, wave in ((full, wave_pixels), (1, rest)):
            if wave == 0 or count == 0:
                continue
            deep = -(-wave // pixel_groups) * words_per_tap
            trials = deep * lanes
            survive = density * weight_density
            busy_rows = min(wave, pixel_groups) * blocks
            spread = _SPREAD * math.sqrt(trials * survive * (1 - survive)) if busy_rows > 1 else 0.0
            issue = max(trials * survive + spread, deep)
            fetch = wave * words_per_tap / config.fetch_ports
            compute = kernel_tiles * max(issue, load, fetch) + COSTS.conv_wave
            total += count * max(compute, wave * blocks * entries)
        total += load if unrolling else 0
    last = min(pixels, wave_pixels) * min(group_blocks, output_blocks) * entries
    return math.ceil(total + last)


def vector(opcode: Opcode, counters: Mapping[str, int], config: Config) -> int:
    """Cycles of a command of the vector engine from its counters."""
    entries = config.lanes // config.requantise_lanes if opcode is not Opcode.MAX_POOL else 1
    work = max(counters["words_read"], counters["words_written"] * entries)
    return COSTS.vector_start + work + COSTS.vector_end


def transfer(opcode: Opcode, beats: int) -> int:
    """Cycles of a LOAD or STORE of so many beats."""
    latency = COSTS.read_latency if opcode is Opcode.LOAD else COSTS.write_latency
    return COSTS.transfer_start + latency + beats


def expected_command(opcode: Opcode, values: Mapping[str, int], config: Config, density: float = 0.5) -> int:
    """Cycles of a command from its fields alone; `density` is assumed for activations and for masks."""
    if opcode in (Opcode.LOAD, Opcode.STORE):
        return transfer(opcode, values["length"] // 8)
    pixels = values["output_rows"] * values["output_width"]
    if values["flags"] & Flag.GATED:
        pixels = math.ceil(pixels * density)
    if opcode is Opcode.CONV:
        taps = values["kernel_height"] * values["kernel_width"]
        lanes = ((values["input_blocks"] - 1) * config.lanes + values["last_lanes"]) / values["input_blocks"]
        return expected(config, pixels=pixels, kernel_tiles=taps * values["input_blocks"],
                        output_blocks=values["output_blocks"], unrolling=values["unrolling"],
                        density=density, lanes_per_word=lanes)
    taps = 2 if opcode is Opcode.ADD else values["kernel_height"] * values["kernel_width"]
    words = pixels * values["output_blocks"]
    return vector(opcode, {"words_read": words * taps, "words_written": words}, config)


@dataclasses.dataclass(frozen=True)
class Span:
    """When an engine worked on a command, in cycles since the doorbell."""

    start: int
    end: int


def timeline(commands: Sequence[Command], cycles: Sequence[int], config: Config) -> tuple[list[Span], int]:
    """When each command runs, given the cycles that each takes, and the cycles of the whole program.

    `commands` are the program's commands between BEGIN and END, in order; `cycles[i]` belongs to commands[i].
    Raises TokenError where the tokens can't be right.
    """
    before = predecessors(commands)
    spans: list[Span] = []
    on_engine: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    dispatched = COSTS.fetch
    for i, command in enumerate(commands):
        queue = on_engine[ENGINE_OF[command.opcode]]
        if len(queue) > config.command_queue:
            dispatched = max(dispatched, spans[queue[-config.command_queue - 1]].end)
        dispatched += COSTS.dispatch
        start = max([dispatched, *(spans[j].end for j in before[i])], default=dispatched)
        if queue:
            start = max(start, spans[queue[-1]].end)
        spans.append(Span(start, start + cycles[i]))
        queue.append(i)
    end = max((span.end for span in spans), default=dispatched)
    return spans, max(end, dispatched) + COSTS.finish
