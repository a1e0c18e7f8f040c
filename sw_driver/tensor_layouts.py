"""Tensors to bytes and back, in the layouts of `hw.contract.layouts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hw.contract.config import MASK_WORD_BITS
from hw.contract.image import Feed, Result
from hw.contract.layouts import blocks, mask_row_words


def block(array: np.ndarray, lanes: int, zero_point: int) -> np.ndarray:
    """int8 [height, width, channels] to the blocked layout, int8 [height, width, blocks, lanes]."""
    height, width, channels = array.shape
    count = blocks(channels, lanes)
    result = np.full((height, width, count * lanes), zero_point, np.int8)
    result[:, :, :channels] = array
    return result.reshape(height, width, count, lanes)


def unblock(data: bytes, height: int, width: int, channels: int, lanes: int) -> np.ndarray:
    """The blocked layout to int8 [height, width, channels]; bytes past the map are ignored."""
    size = height * width * blocks(channels, lanes) * lanes
    return np.frombuffer(data[:size], np.int8).reshape(height, width, -1)[:, :, :channels].copy()


def pack(array: np.ndarray, feed: Feed) -> np.ndarray:
    """int8 [height, width, channels] to the packed layout of `feed`, int8 [feed.length]."""
    padded = np.pad(array, ((feed.pad_top, feed.pad_bottom), (feed.pad_left, feed.pad_right), (0, 0)),
                    constant_values=feed.zero_point)
    rows = padded.reshape(padded.shape[0], -1)
    result = np.full(feed.length, feed.zero_point, np.int8)
    spaced = np.full((rows.shape[0], feed.row_bytes), feed.zero_point, np.int8)
    spaced[:, : rows.shape[1]] = rows
    result[: spaced.size] = spaced.reshape(-1)
    return result


def demand(mask: np.ndarray, steps: Sequence[Mapping[str, Sequence[int]]]) -> np.ndarray:
    """The positions that are read, through a chain of convolutions, to compute the pixels of a mask.

    `mask` is bool [height, width]; each step is as in `Feed`. Returns bool of the last step's size.
    """
    for step in steps:
        height, width = step["size"]
        needed = np.zeros((height, width), bool)
        ys, xs = np.nonzero(mask)
        for ky in range(step["kernel"][0]):
            y = ys * step["stride"][0] - step["pad"][0] + ky * step["dilation"][0]
            for kx in range(step["kernel"][1]):
                x = xs * step["stride"][1] - step["pad"][1] + kx * step["dilation"][1]
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                needed[y[inside], x[inside]] = True
        mask = needed
    return mask


def mask_words(mask: np.ndarray) -> np.ndarray:
    """bool [height, width] to mask words, little-endian uint64 [height * words of a row]."""
    height, width = mask.shape
    padded = np.zeros((height, mask_row_words(width) * MASK_WORD_BITS), bool)
    padded[:, :width] = mask
    return np.packbits(padded, axis=1, bitorder="little").reshape(-1).view("<u8")


def feed_bytes(feed: Feed, array: np.ndarray, lanes: int) -> bytes:
    """The bytes that `feed` puts into window INPUT for a graph input: int8, or bool for a mask, of its elements."""
    if feed.layout == "mask":
        mask = array.reshape(feed.height, feed.width).astype(bool) ^ feed.invert
        data = mask_words(demand(mask, feed.demand)).tobytes()
    else:
        pixels = array.reshape(feed.height, feed.width, feed.channels)
        data = (pack(pixels, feed) if feed.layout == "packed" else block(pixels, lanes, feed.zero_point)).tobytes()
    return data.ljust(feed.length, b"\0")


def result_array(result: Result, data: bytes, lanes: int) -> np.ndarray:
    """The tensor of a result, int8 of `result.shape`."""
    return unblock(data, result.height, result.width, result.channels, lanes).reshape(result.shape)
