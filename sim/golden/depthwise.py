"""The DEPTHWISE command in NumPy: values, counters, and the steps that the vector engine takes for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_KEPT_LINES, DEPTHWISE_LINE_WORDS, DEPTHWISE_TAPS, depthwise_lines
from sim.golden.addressing import active_pixels, input_columns, input_rows, input_taps, output_words
from sim.golden.memory import OnChip
from sim.golden.numerics import requantise
from sim.golden.vector import through_table

_CHUNK_ELEMENTS = 1 << 22


def read_weights(values: Mapping[str, int], memory: OnChip) -> NDArray[np.int64]:
    """The weights of a command: [taps, output_blocks, lanes], taps in the order ky, kx."""
    height, width, blocks = values["kernel_height"], values["kernel_width"], values["output_blocks"]
    lines = depthwise_lines(width)
    store = memory.weight_rows
    rows = 2 * DEPTHWISE_LINE_WORDS
    index = 2 * values["weight_base"] + np.arange(blocks * height * lines * rows)
    stored = store[index % store.shape[0]].reshape(blocks, height, lines, rows, -1)
    taps = stored[:, :, :, :DEPTHWISE_TAPS].reshape(blocks, height, lines * DEPTHWISE_TAPS, -1)
    taps = taps[:, :, lines * DEPTHWISE_TAPS - width :].reshape(blocks, height * width, -1)
    return taps.transpose(1, 0, 2).astype(np.int64)


def run(values: Mapping[str, int], memory: OnChip, config: Config) -> tuple[dict[str, int], int]:
    """Execute a DEPTHWISE command that passed `limits.check`: its counters, and the steps it takes."""
    y, x = active_pixels(values, memory.mask_bits)
    blocks, lanes = values["output_blocks"], config.lanes
    weights = read_weights(values, memory)
    bias, multiplier, shift = (part.reshape(blocks, lanes) for part in memory.parameters(
        values["parameter_base"], blocks * (lanes // config.requantise_lanes)))
    results = np.empty((len(y), blocks, lanes), dtype=np.int8)
    step = max(1, _CHUNK_ELEMENTS // (weights.shape[0] * blocks * lanes))
    for at in range(0, len(y), step):
        part = slice(at, at + step)
        address, valid = input_taps(values, y[part], x[part])
        word = (address[:, :, None] + np.arange(blocks)) % config.feature_words
        centred = memory.feature[word].astype(np.int64) - values["input_zero_point"]  # [pixels, taps, blocks, lanes]
        accumulators = np.einsum("ptbl,tbl->pbl", np.where(valid[:, :, None, None], centred, 0), weights)
        results[part] = requantise(accumulators, bias, multiplier, shift, values["output_zero_point"],
                                   values["output_min"], values["output_max"])
    words = output_words(values, y, x, config.feature_words)
    memory.feature[words] = through_table(values, memory, results)
    read, steps = fetches(values, y, x)
    counters = {"active_pixels": len(y), "words_read": read * blocks, "words_written": words.size}
    return counters, steps * blocks


def fetches(values: Mapping[str, int], y: NDArray[np.int64], x: NDArray[np.int64]) -> tuple[int, int]:
    """Words that one channel block of these active pixels reads, and the steps it takes.

    A line of taps keeps its words from a pixel to the next in a row, so that only the columns are read that are
    new; where all three are, the first takes a step of its own, unless it is padding.
    """
    if not len(y):
        return 0, 0
    lines = depthwise_lines(values["kernel_width"])
    kept = values["dilation_x"] == 1 and lines * values["kernel_height"] <= DEPTHWISE_KEPT_LINES
    fresh = np.full(len(y), DEPTHWISE_TAPS)
    if kept:
        new = np.minimum(np.diff(x) * values["stride_x"], DEPTHWISE_TAPS)
        fresh[1:] = np.where(np.diff(y) == 0, new, DEPTHWISE_TAPS)
    columns = input_columns(values, x)
    inside = (columns >= 0) & (columns < values["input_width"])
    taps = np.zeros((len(x), lines * DEPTHWISE_TAPS), dtype=bool)
    taps[:, lines * DEPTHWISE_TAPS - values["kernel_width"] :] = inside
    wanted = taps.reshape(len(x), lines, DEPTHWISE_TAPS) & (
        np.arange(DEPTHWISE_TAPS) >= DEPTHWISE_TAPS - fresh[:, None, None])
    rows = input_rows(values, y)
    row_count = ((rows >= 0) & (rows < values["input_height"])).sum(axis=1)
    read = (wanted.sum(axis=(1, 2)) * row_count).sum()
    two_steps = wanted[:, :, 0].sum(axis=1)
    steps = (lines * np.maximum(row_count, 1) + two_steps * row_count).sum()
    return int(read), int(steps)
