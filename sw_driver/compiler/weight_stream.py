"""The weights of a layer on their way through the rings: compressed or raw, loaded once or again for every stripe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hw.contract.commands import Space
from hw.contract.layouts import DEPTHWISE_LINE_WORDS
from sw_driver.compiler.compression import Block, Part
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.instructions import Placement
from sw_driver.compiler.layers import ConvLayer, DepthwiseLayer
from sw_driver.compiler.masks import Grain
from sw_driver.compiler.transfers import Transfers
from sw_driver.compiler.unrolling import Chunk, choose_chunks, cost
from sw_driver.compiler.weights import DepthwiseWeights, WeightTiles


@dataclasses.dataclass
class WeightReport:
    """What one layer's weights take, and how it is unrolled: for people.

    raw_bytes : a byte for each weight of the model. entropy_bytes : their entropy of order 0.
    weight_bytes : in the image, row maps included. mode : "compressed", "raw", or "mixed".
    store_bytes : of the weight store; map_bytes : of the map memory. parameter_bytes : in the image.
    rows, rows_skipped : weight rows of the layer, and how many of them are all zero and not stored.
    """

    layer: str
    raw_bytes: int
    entropy_bytes: float
    weight_bytes: int
    mode: str
    rows: int
    rows_skipped: int
    store_bytes: int
    map_bytes: int
    parameter_bytes: int
    commands: int
    output_blocks_at_once: list[int]


def weights_total(reports: Sequence[WeightReport]) -> dict[str, Any]:
    """The sums of a report's layers."""
    names = ("raw_bytes", "entropy_bytes", "weight_bytes", "rows", "rows_skipped", "parameter_bytes")
    return {name: sum(getattr(report, name) for report in reports) for name in names}


def entropy_bytes(weights: np.ndarray, count: int) -> float:
    """Entropy of order 0 of `count` weights: those of `weights` that are not zero, and zeros."""
    values = np.bincount(weights.reshape(-1).view(np.uint8), minlength=256)
    count = max(count, int(values[1:].sum()))  # layers that only move data have weights of their own
    values[0] = count - values[1:].sum()
    values = values[values > 0]
    return float(-(values * np.log2(values / count)).sum() / 8)


def _mode(blocks: Sequence[Block | None]) -> str:
    compressed = sum(block is not None for block in blocks)
    return "compressed" if compressed == len(blocks) else "mixed" if compressed else "raw"


class ConvStream:
    """The weights of a convolution: loaded once where the rings hold them all, otherwise again for every stripe.

    last : no weights come after them.

    Members
    -------
    chunks : the commands that the layer takes. report : what the weights take. keeps : the rings hold them all.
    """

    def __init__(self, transfers: Transfers, layer: ConvLayer, compressed: bool, *, last: bool):
        config = transfers.streaming
        tiles = WeightTiles(layer.weights, layer.bias, layer.multipliers, layer.shifts, config)
        self._transfers = transfers
        self.chunks = choose_chunks(layer, tiles, config, last=last, resident=transfers.resident)
        self._packed = {chunk: tiles.pack(chunk.first_block, chunk.blocks, 1 << chunk.unrolling)
                        for chunk in self.chunks}
        encoded: list[Block | None] = [None] * len(self.chunks)
        if compressed:
            encoded = transfers.compress([Part(tuple(packed.row_maps), packed.tiles, packed.order)
                                          for packed in self._packed.values()],
                                         sum(cost(layer, tiles, config, chunk.blocks, chunk.unrolling)
                                             for chunk in self.chunks))
        self._blocks = dict(zip(self.chunks, encoded, strict=True))
        self._placements: dict[Chunk, Placement] = {}
        parts, blocks = list(self._packed.values()), list(self._blocks.values())
        self.keeps = transfers.resident or len(parts) == 1 or (
            2 * sum(len(part.tiles) for part in parts) <= config.weight_bytes
            and 2 * sum(len(part.maps) for part in parts) <= 8 * config.map_entries
            and 2 * sum(len(part.parameters) for part in parts) <= (
                config.parameter_entries * config.parameter_entry_bytes))
        raw = layer.taps_channels * layer.output.channels
        rows = sum(tile.rows for part in parts for tile in part.order)
        self.report = WeightReport(
            layer.name, raw, entropy_bytes(layer.weights, raw),
            sum(len(part.tiles) + len(part.maps) if block is None else len(block.data)
                for part, block in zip(parts, blocks, strict=True)),
            _mode(blocks), rows, rows - sum(int(part.rows.sum()) for part in parts),
            sum(len(part.tiles) for part in parts), sum(len(part.maps) for part in parts),
            sum(len(part.parameters) for part in parts), len(self.chunks),
            [1 << chunk.unrolling for chunk in self.chunks])

    def place(self, chunk: Chunk) -> Placement:
        """Load the weights of a command, unless they are there."""
        if chunk not in self._placements or not self.keeps:
            self._placements[chunk] = self._load(chunk)
        return self._placements[chunk]

    def _load(self, chunk: Chunk) -> Placement:
        packed, block = self._packed[chunk], self._blocks[chunk]
        if block is None:
            return Placement(self._transfers.stream(packed.tiles, Space.WEIGHT),
                             self._transfers.stream(packed.parameters, Space.PARAMETER),
                             self._transfers.stream(packed.maps, Space.MAP))
        weight, maps, parameters = self._transfers.block(block, packed.parameters)
        return Placement(weight, parameters, maps)


class DepthwiseStream:
    """The weights of a depthwise layer, like those of a convolution."""

    def __init__(self, transfers: Transfers, layer: DepthwiseLayer, compressed: bool):
        config = transfers.streaming
        filters = layer.weights.transpose(1, 0, 2) if layer.transposed else layer.weights
        self._weights = DepthwiseWeights(filters, layer.bias, layer.multipliers, layer.shifts, config)
        self._transfers = transfers
        count = self._weights.blocks_at_once
        if not count:
            raise CapacityError(f"{layer}: the weights of {config.lanes} channels take "
                                f"{self._weights.block_words * config.weight_word_bytes} bytes, the weight store has "
                                f"{config.weight_bytes}")
        total = self._weights.output_blocks
        if transfers.resident:
            count = total
        self.keeps = count == total
        if layer.mask is not None and layer.mask.grain is Grain.BLOCK:
            count = 1
        self.chunks = [(first, min(count, total - first)) for first in range(0, total, count)]
        self._packed = {chunk: self._weights.pack(*chunk) for chunk in self.chunks}
        encoded: list[Block | None] = [None] * len(self.chunks)
        if compressed:
            steps = layer.output.height * layer.output.width * self._weights.block_words // DEPTHWISE_LINE_WORDS
            encoded = transfers.compress([self._part(chunk) for chunk in self.chunks],
                                         steps * self._weights.output_blocks, with_maps=False)
        self._blocks = dict(zip(self.chunks, encoded, strict=True))
        self._placements: dict[int, Placement] = {}
        raw = layer.weights.size
        blocks = list(self._blocks.values())
        stored = [len(weights) for weights, _parameters in self._packed.values()]
        self.report = WeightReport(
            layer.name, raw, entropy_bytes(layer.weights, raw),
            sum(size if block is None else len(block.data) for size, block in zip(stored, blocks, strict=True)),
            _mode(blocks), 0, 0, sum(stored), 0,
            sum(len(parameters) for _weights, parameters in self._packed.values()), len(self.chunks),
            [1] * len(self.chunks))

    def _part(self, chunk: tuple[int, int]) -> Part:
        order = self._weights.order(*chunk)
        every = (1 << order.last_rows) - 1
        return Part((every,) * order.tiles, self._packed[chunk][0], order)

    def place(self, first: int, count: int) -> Placement:
        """Load the weights of a command, unless they are there."""
        if first not in self._placements or not self.keeps:
            weights, parameters = self._packed[first, count]
            block = self._blocks[first, count]
            if block is None:
                self._placements[first] = Placement(self._transfers.stream(weights, Space.WEIGHT),
                                                    self._transfers.stream(parameters, Space.PARAMETER))
            else:
                weight, _maps, own = self._transfers.block(block, parameters)
                self._placements[first] = Placement(weight, own)
        return self._placements[first]
