"""Which feature map an operator reads for a tensor: reshaped tensors are views, inputs are laid out as asked for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hw.contract.config import Config
from hw.contract.image import Feed
from hw.contract.layouts import align, blocks
from sw_driver.compiler.errors import CompileError
from sw_driver.compiler.feature_maps import Buffer, FeatureMap, Operand
from sw_driver.graph import Graph, Tensor


def pixels_and_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of a tensor of any rank: [1, h, w, c] as it is, else rows of the last dimension."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1], shape[2], shape[3]
    if not shape:
        return 1, 1, 1
    return math.prod(shape[:-1]), 1, shape[-1]


class Views:
    """The feature maps of a graph.

    Parameters
    ----------
    graph : the model. config : sizes of the device.
    """

    def __init__(self, graph: Graph, config: Config):
        self.graph = graph
        self.config = config
        self.maps: dict[int, FeatureMap] = {}  #: what layers make, by tensor
        self.loaded: dict[tuple, FeatureMap] = {}  #: graph inputs, by tensor and layout
        self._source: dict[int, int] = {}

    # ---- tensors ------------------------------------------------------------------------------

    def reshape(self, output: int, source: int) -> None:
        """Tensor `output` is a view of `source`."""
        self._source[output] = self.root(source)

    def root(self, tensor: int) -> int:
        """The tensor whose bytes `tensor` is a view of."""
        return self._source.get(tensor, tensor)

    def is_input(self, tensor: int) -> bool:
        """Whether the tensor is (a view of) a graph input."""
        return self.root(tensor) in self.graph.inputs

    def aligned_words(self, byte_count: int) -> int:
        """Words that hold so many bytes and that can be loaded and stored: a multiple of 8 bytes."""
        return align(byte_count, max(8, self.config.lanes)) // self.config.lanes

    def make(self, tensor: Tensor) -> FeatureMap:
        """The feature map that a layer writes for `tensor`."""
        height, width, channels = pixels_and_channels(tensor.shape)
        feature_map = self._blocked(tensor, tensor.name or f"tensor {tensor.index}", height, width, channels)
        self.maps[tensor.index] = feature_map
        return feature_map

    def nothing(self, tensor: Tensor) -> FeatureMap:
        """The place in the order of a tensor that takes no feature memory: a mask."""
        height, width, _ = pixels_and_channels(tensor.shape)
        name = tensor.name or f"tensor {tensor.index}"
        feature_map = FeatureMap(name, tensor.index, height, width, 1, 0, 0, Buffer(name, 0))
        self.maps[tensor.index] = feature_map
        return feature_map

    def extra(self, tensor: Tensor, name: str, height: int, width: int, channels: int) -> FeatureMap:
        """A feature map that no tensor of the graph stands for, made from `tensor`: its own tensor is -1."""
        return dataclasses.replace(self._blocked(tensor, name, height, width, channels), tensor=-1)

    def _blocked(self, tensor: Tensor, name: str, height: int, width: int, channels: int) -> FeatureMap:
        lanes = self.config.lanes
        count = blocks(channels, lanes)
        words = self.aligned_words(height * width * count * lanes)
        return FeatureMap(name, tensor.index, height, width, channels, count, words, Buffer(name, words))

    # ---- operands -----------------------------------------------------------------------------

    def operand(self, tensor: Tensor, height: int, width: int, channels: int, *, grouped: bool = False) -> Operand:
        """`tensor` as height x width pixels of `channels`.

        Where `grouped`, several pixels of a map may make one pixel of the operand (a flattened map in front of
        a fully connected layer): its channels then lie as `channel_positions` says. Raises CompileError when
        the bytes do not lie so.
        """
        lanes = self.config.lanes
        root = self.graph.tensors[self.root(tensor.index)]
        if root.index in self.graph.inputs:
            return Operand(self._load(root, height, width, channels), height, width, blocks(channels, lanes))
        source = self.maps[root.index]
        if channels == source.channels:
            return Operand(source, height, width, source.blocks)
        if channels % lanes == 0 and source.channels % lanes == 0:
            return Operand(source, height, width, channels // lanes)
        if grouped and channels % source.channels == 0:
            return Operand(source, height, width, channels // source.channels * source.blocks)
        raise CompileError(
            f"{tensor} is a reshaped {source.height}x{source.width}x{source.channels} map: with {lanes} lanes its "
            f"bytes do not lie as {height}x{width}x{channels} (channel counts must be equal, or multiples of {lanes}). "
            "Reshape the graph's input or output instead, or keep the number of channels")

    def channel_positions(self, operand: Operand, channels: int) -> np.ndarray:
        """int [channels]: the byte within the operand's pixel at which each channel lies."""
        index = np.arange(channels)
        source = operand.map
        if operand.blocks * self.config.lanes == channels or channels <= source.channels:
            return index
        pixel, channel = np.divmod(index, source.channels)
        return pixel * source.blocks * self.config.lanes + channel

    def _load(self, root: Tensor, height: int, width: int, channels: int) -> FeatureMap:
        key = (root.index, height, width, channels)
        if key not in self.loaded:
            feature_map = self._blocked(root, root.name or f"tensor {root.index}", height, width, channels)
            feature_map.feed = Feed(self.input_name(root.index), "blocked", 0, feature_map.words * self.config.lanes,
                                    height, width, channels, root.zero_point)
            self.loaded[key] = feature_map
        return self.loaded[key]

    def packed(self, tensor: Tensor, size: tuple[int, int, int], pads: tuple[int, int, int, int]) -> FeatureMap:
        """A graph input of `size` (height, width, channels) in the packed layout, with `pads` (top, bottom, left,
        right) positions of zero point around it."""
        root = self.graph.tensors[self.root(tensor.index)]
        key = (root.index, size, pads)
        if key not in self.loaded:
            (height, width, channels), (top, bottom, left, right) = size, pads
            row_bytes = (left + width + right) * channels
            # Fetches of the last chunk of a row reach up to lanes - 1 bytes past it.
            words = self.aligned_words((top + height + bottom) * row_bytes + self.config.lanes - 1)
            name = root.name or f"tensor {root.index}"
            feed = Feed(self.input_name(root.index), "packed", 0, words * self.config.lanes, height, width, channels,
                        root.zero_point, row_bytes, top, bottom, left, right)
            self.loaded[key] = FeatureMap(name, root.index, top + height + bottom, left + width + right, channels, 1,
                                          words, Buffer(name, words), row_bytes, feed)
        return self.loaded[key]

    def input_name(self, tensor: int) -> str:
        """The name of a graph input."""
        return self.graph.input_names[self.graph.inputs.index(tensor)]
