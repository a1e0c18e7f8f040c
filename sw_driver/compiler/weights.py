"""Weights, row maps and parameters of a convolution as the device reads them (`hw.contract.layouts`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_LINE_WORDS, DEPTHWISE_TAPS, align, blocks, depthwise_lines, table_entries
from hw.contract.weight_format import TileOrder


@dataclasses.dataclass(frozen=True)
class PackedWeights:
    """The bytes that a CONV command's tiles, row maps and parameters take; each padded to whole entries.

    rows : rows stored in each tile, in the order of tiles. row_maps : which these are.
    order : of the tiles, with the rows and output channels that are not all zero behind the last of them.
    """

    tiles: bytes
    maps: bytes
    parameters: bytes
    rows: NDArray[np.int64]
    row_maps: list[int]
    order: TileOrder


class DepthwiseWeights:
    """The weights of one depthwise convolution: lines of taps, and parameters.

    Parameters
    ----------
    weights : int8 [kernel height, kernel width, channels]. bias, multipliers : int32 [channels]; shifts : int8.
    """

    def __init__(self, weights: np.ndarray, bias: np.ndarray, multipliers: np.ndarray, shifts: np.ndarray,
                 config: Config):
        self.config = config
        height, width, channels = weights.shape
        lines = depthwise_lines(width)
        self.output_blocks = blocks(channels, config.lanes)
        self.block_words = height * lines * DEPTHWISE_LINE_WORDS
        padded = np.zeros((height, lines * DEPTHWISE_TAPS, self.output_blocks * config.lanes), np.int8)
        padded[:, lines * DEPTHWISE_TAPS - width :, :channels] = weights
        rows = np.zeros((self.output_blocks, height, lines, 2 * DEPTHWISE_LINE_WORDS, config.lanes), np.int8)
        taps = padded.reshape(height, lines, DEPTHWISE_TAPS, self.output_blocks, config.lanes)
        rows[:, :, :, :DEPTHWISE_TAPS] = taps.transpose(3, 0, 1, 2, 4)
        self._rows = rows
        self._parameters = Parameters((bias, multipliers, shifts), self.output_blocks, config)

    @property
    def blocks_at_once(self) -> int:
        """Output blocks that one command works on: half of what fits, so that the next weights arrive meanwhile.
        0 where not even one fits."""
        entries = self.config.lanes // self.config.requantise_lanes
        fit = min(self.config.weight_words // self.block_words, self.config.parameter_entries // entries)
        return min(self.output_blocks, max(fit // 2, min(fit, 1)))

    def pack(self, first: int, count: int) -> tuple[bytes, bytes]:
        """Weights and parameters of output blocks first .. first + count - 1."""
        return self._rows[first : first + count].tobytes(), self._parameters.pack(first, count)

    def order(self, first: int, count: int) -> TileOrder:
        """The lines of these blocks as tiles of DEPTHWISE_TAPS rows, all of which are stored."""
        lines = self._rows.shape[1] * self._rows.shape[2]
        return TileOrder(self.config.lanes, 1, count, lines, 1, DEPTHWISE_TAPS,
                         _last(self._rows[first + count - 1].any(axis=(0, 1, 2))))


def packed_table(table: np.ndarray, config: Config) -> bytes:
    """The parameter entries of the table of a convolution: int8 [256]."""
    entries = np.zeros((table_entries(config), config.parameter_entry_bytes), np.uint8)
    entries[:, : 8 * config.requantise_lanes] = table.view(np.uint8).reshape(len(entries), -1)
    return entries.tobytes()


class Parameters:
    """Bias, multiplier and shift of every output channel, as the parameter memory holds them.

    Parameters
    ----------
    values : bias, multipliers (int32), shifts (int8), [channels] each; spare channels get zeros.
    """

    def __init__(self, values: Sequence[np.ndarray], output_blocks: int, config: Config):
        self.config = config
        self._values = [np.zeros(output_blocks * config.lanes, dtype) for dtype in ("<i4", "<i4", "i1")]
        for padded, given in zip(self._values, values, strict=True):
            padded[: len(given)] = given

    def entries(self, count: int) -> int:
        """Parameter entries of `count` output blocks."""
        return count * (self.config.lanes // self.config.requantise_lanes)

    def pack(self, first: int, count: int) -> bytes:
        """The entries of output blocks first .. first + count - 1."""
        lanes, q = self.config.lanes, self.config.requantise_lanes
        entries = np.zeros((self.entries(count), self.config.parameter_entry_bytes), np.uint8)
        at = 0
        for values in self._values:
            part = values[first * lanes : (first + count) * lanes].view(np.uint8).reshape(len(entries), -1)
            entries[:, at : at + part.shape[1]] = part
            at += q * values.itemsize
        return entries.tobytes()


class WeightTiles:
    """The tiles of one convolution.

    Parameters
    ----------
    weights : int8 [output channels, kernel height, kernel width, input blocks x lanes].
    bias, multipliers : int32 [output channels]; shifts : int8 [output channels].
    """

    def __init__(self, weights: np.ndarray, bias: np.ndarray, multipliers: np.ndarray, shifts: np.ndarray,
                 config: Config):
        self.config = config
        lanes = config.lanes
        channels = len(weights)
        self.output_blocks = blocks(channels, lanes)
        padded = np.zeros((self.output_blocks * lanes, *weights.shape[1:]), np.int8)
        padded[:channels] = weights
        taps = weights.shape[1] * weights.shape[2]
        input_blocks = weights.shape[3] // lanes
        self._taps, self._input_blocks = taps, input_blocks
        self.tiles_per_block = taps * input_blocks
        # [output block, output lane, tap x input block, input lane] -> [tile of the block, output block, in, out]
        tiles = padded.reshape(self.output_blocks, lanes, self.tiles_per_block, lanes)
        self._tiles = np.ascontiguousarray(tiles.transpose(2, 0, 3, 1))
        self._stored: NDArray[np.bool_] = np.any(self._tiles, axis=3)  # [tile of the block, output block, input lane]
        words = (self._stored.sum(axis=2) + 1) // 2
        self.block_words: NDArray[np.int64] = words.sum(axis=0)
        self._parameters = Parameters((bias, multipliers, shifts), self.output_blocks, config)

    @property
    def row_density(self) -> float:
        """Share of the weight rows that are stored."""
        return float(self._stored.mean())

    def words(self, first: int, count: int) -> int:
        """Weight store words of output blocks first .. first + count - 1."""
        return int(self.block_words[first : first + count].sum())

    def map_entries(self, count: int) -> int:
        """Map memory entries of `count` output blocks."""
        return -(-count * self.tiles_per_block // self.config.maps_per_entry)

    def parameter_entries(self, count: int) -> int:
        """Parameter entries of `count` output blocks."""
        return self._parameters.entries(count)

    def pack(self, first: int, count: int, group: int) -> PackedWeights:
        """Tiles of output blocks first .. first + count - 1, worked on in groups of `group`."""
        order = [
            (slice(None), slice(start, min(start + group, first + count)))
            for start in range(first, first + count, group)
        ]
        lanes = self.config.lanes
        tiles = np.concatenate([self._tiles[at].reshape(-1, lanes, lanes) for at in order])
        stored = np.concatenate([self._stored[at].reshape(-1, lanes) for at in order])
        row_maps = (stored @ (1 << np.arange(lanes))).tolist()
        return PackedWeights(_compact(tiles, stored), self._maps(stored), self._parameters.pack(first, count),
                             stored.sum(axis=1), row_maps, self._order(first, count, group))

    def _order(self, first: int, count: int, group: int) -> TileOrder:
        part = slice(first, first + count)
        rows = np.asarray(self._stored[self._input_blocks - 1 :: self._input_blocks, part].any(axis=(0, 1)))
        outputs = np.asarray(self._tiles[:, first + count - 1].any(axis=(0, 1)))
        return TileOrder(self.config.lanes, group, count, self._taps, self._input_blocks, _last(rows), _last(outputs))

    def _maps(self, stored: NDArray[np.bool_]) -> bytes:
        data = np.packbits(stored.reshape(-1), bitorder="little").tobytes()
        return data.ljust(align(len(data), 8), b"\0")


def _last(used: NDArray[np.bool_]) -> int:
    """How many of the entries of `used` reach up to the last true one; at least 1."""
    return max(1, int(np.flatnonzero(used)[-1]) + 1 if used.any() else 1)


def _compact(tiles: NDArray[np.int8], stored: NDArray[np.bool_]) -> bytes:
    """The stored rows of tiles [n, lanes, lanes], every tile padded to an even number of rows."""
    counts = stored.sum(axis=1)
    padded = counts + counts % 2
    starts = np.concatenate([[0], np.cumsum(padded)[:-1]])
    rows = np.zeros((int(padded.sum()), tiles.shape[2]), np.int8)
    rank = np.cumsum(stored, axis=1) - 1
    rows[(starts[:, None] + rank)[stored]] = tiles[stored]
    return rows.tobytes()
