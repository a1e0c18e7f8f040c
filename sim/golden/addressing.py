"""Which pixels and feature memory words a compute command touches: the address formulas of the contract."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Flag
from hw.contract.config import MASK_WORD_BITS
from hw.contract.layouts import mask_row_words

Indices = NDArray[np.int64]


def all_pixels(values: Mapping[str, int]) -> tuple[Indices, Indices]:
    """y and x of every output pixel of the command, active or not, in row-major order."""
    rows, width = values["output_rows"], values["output_width"]
    y = values["output_y"] + np.arange(rows)
    return np.repeat(y, width), np.tile(np.arange(width), rows)


def mask_words(values: Mapping[str, int], mask_entries: int) -> Indices:
    """Mask memory words of a gated command: [output rows, words of a row]; WHOLE: the same one again and again."""
    row_words = mask_row_words(values["output_width"])
    count = values["output_rows"] * row_words
    place = np.zeros(count, np.int64) if values["flags"] & Flag.WHOLE else np.arange(count)
    return ((values["mask_base"] + place) % mask_entries).reshape(-1, row_words)


def active_pixels(values: Mapping[str, int], mask_bits: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """y and x of the output pixels that are computed; `mask_bits` is the mask memory, bool [words, 64]."""
    y, x = all_pixels(values)
    if not values["flags"] & Flag.GATED:
        return y, x
    if values["flags"] & Flag.WHOLE:
        run = mask_bits[values["mask_base"] % mask_bits.shape[0], 0]
        return (y, x) if run else (y[:0], x[:0])
    words = mask_words(values, mask_bits.shape[0])
    bits = mask_bits[words].reshape(words.shape[0], words.shape[1] * MASK_WORD_BITS)[:, : values["output_width"]]
    active = bits.reshape(-1)
    return y[active], x[active]


def output_words(values: Mapping[str, int], y: Indices, x: Indices, feature_words: int) -> Indices:
    """Words of output pixels: [pixels, output_blocks]."""
    return _words(values, "output_base", "output", y, x, feature_words)


def operand_words(values: Mapping[str, int], operand: str, y: Indices, x: Indices, feature_words: int) -> Indices:
    """Words of operand `a` or `b` of an ADD at output pixels: [pixels, output_blocks].

    In a CONV command operand b has the output's strides.
    """
    strides = operand if f"{operand}_row_stride" in values else "output"
    return _words(values, f"{operand}_base", strides, y, x, feature_words)


def _words(values: Mapping[str, int], base: str, strides: str, y: Indices, x: Indices,
           feature_words: int) -> Indices:
    pixel = values[base] + y * values[f"{strides}_row_stride"] + x * values[f"{strides}_pixel_stride"]
    return (pixel[:, None] + np.arange(values["output_blocks"])) % feature_words


def input_rows(values: Mapping[str, int], y: Indices) -> Indices:
    """Input row of each tap: [output rows given, kernel_height]; outside 0 .. input_height - 1 is padding."""
    return (y * values["stride_y"] - values["pad_top"])[:, None] + \
        np.arange(values["kernel_height"]) * values["dilation_y"]


def input_columns(values: Mapping[str, int], x: Indices) -> Indices:
    """Input column of each tap: [output columns given, kernel_width]; outside 0 .. input_width - 1 is padding."""
    return (x * values["stride_x"] - values["pad_left"])[:, None] + \
        np.arange(values["kernel_width"]) * values["dilation_x"]


def input_taps(values: Mapping[str, int], y: Indices, x: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Address of block 0 of each tap, before the modulo, and whether it lies inside: [pixels, taps] each.

    Taps are in the order ky, kx. The address is in words; PACKED: in bytes.
    """
    rows, columns = input_rows(values, y), input_columns(values, x)
    row_valid = (rows >= 0) & (rows < values["input_height"])
    column_valid = (columns >= 0) & (columns < values["input_width"])
    address = (values["input_base"] + rows * values["input_row_stride"])[:, :, None] + \
        (columns * values["input_pixel_stride"])[:, None, :]
    valid = row_valid[:, :, None] & column_valid[:, None, :]
    taps = rows.shape[1] * columns.shape[1]
    return address.reshape(len(y), taps), valid.reshape(len(y), taps)


def input_words(values: Mapping[str, int], blocks: int, feature_words: int, lanes: int) -> Indices:
    """Every feature memory word that the command reads as input, each once; PACKED bytes count as their words.

    `blocks` is the number of words per tap: input_blocks of a CONV, output_blocks of a pool.
    """
    rows = np.unique(input_rows(values, values["output_y"] + np.arange(values["output_rows"])))
    rows = rows[(rows >= 0) & (rows < values["input_height"])]
    columns = np.unique(input_columns(values, np.arange(values["output_width"])))
    columns = columns[(columns >= 0) & (columns < values["input_width"])]
    pixel = (values["input_base"] + rows * values["input_row_stride"])[:, None] + \
        columns * values["input_pixel_stride"]
    pixel = pixel.reshape(-1, 1)
    if values["flags"] & Flag.PACKED:
        length = (blocks - 1) * lanes + values["last_lanes"]
        words = (pixel + np.arange(length)) % (feature_words * lanes) // lanes
    else:
        words = (pixel + np.arange(blocks)) % feature_words
    return np.unique(words)
