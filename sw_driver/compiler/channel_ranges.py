"""Interval analysis: the values that each channel of each feature map can take, whatever the inputs.

Everything that the device computes is monotonic in each of its operands, requantisation included, so the exact
integer arithmetic at both ends of a range gives the range of the results. Where an accumulator could leave 32
bits (it would wrap), nothing is said about the result but its clamp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.golden.numerics import Addition, Int64, requantise
from sw_driver.compiler.activation_tables import activation_table
from sw_driver.compiler.quantisation import activation_range, add_parameters, mean_parameters, product_multiplier
from sw_driver.compiler.views import pixels_and_channels
from sw_driver.compiler.weighted_operators import WEIGHTED_OPERATORS, weighted_operator
from sw_driver.fixed_point import INT32_MAX, INT32_MIN
from sw_driver.graph import Graph, Operator, Tensor
from sw_driver.tflite.support import TABLE_OPERATORS

_INT8_MIN, _INT8_MAX = -128, 127


class ChannelRange(NamedTuple):
    """Smallest and largest value of each channel (the last dimension) of an int8 tensor: int64 [channels]."""

    low: Int64
    high: Int64

    @property
    def constant(self) -> NDArray[np.bool_]:
        """bool [channels]: the value never changes, from pixel to pixel or from input to input."""
        return self.low == self.high


def channels_of(tensor: Tensor) -> int:
    """Size of the last dimension."""
    return tensor.shape[-1] if tensor.shape else 1


def channel_ranges(graph: Graph) -> dict[int, ChannelRange]:
    """The range of every int8 tensor of a supported graph that is not a constant, by its index."""
    analysis = _Analysis(graph)
    for index in graph.inputs:
        analysis.ranges[index] = analysis.anything(graph.tensors[index])
    for operator in graph.operators:
        output = graph.tensors[operator.outputs[0]]
        if output.dtype == "int8":
            analysis.ranges[output.index] = analysis.output_range(operator)
    return {index: found for index, found in analysis.ranges.items() if graph.tensors[index].dtype == "int8"}


def requantised_range(low: ArrayLike, high: ArrayLike, multiplier: ArrayLike, shift: ArrayLike, zero_point: int,
                      clamp: tuple[int, int]) -> ChannelRange:
    """The range of requantised accumulators (bias included) between `low` and `high`, int64 [channels]; the clamp
    where they, or their left shift by a positive exponent, may leave 32 bits."""
    low, high = np.asarray(low, np.int64), np.asarray(high, np.int64)
    left = np.maximum(np.asarray(shift, np.int64), 0)
    fits = (low >= INT32_MIN >> left) & (high <= INT32_MAX >> left)
    ends = [requantise(np.where(fits, end, 0), 0, multiplier, shift, zero_point, *clamp) for end in (low, high)]
    return ChannelRange(np.where(fits, ends[0], clamp[0]), np.where(fits, ends[1], clamp[1]))


class _Analysis:
    def __init__(self, graph: Graph):
        self._graph = graph
        self.ranges: dict[int, ChannelRange] = {}
        self._handlers: dict[str, Callable[[Operator], ChannelRange]] = {
            **dict.fromkeys(WEIGHTED_OPERATORS, self._weighted), "ADD": self._add, "MUL": self._mul,
            "AVERAGE_POOL_2D": self._pool, "MAX_POOL_2D": self._pool, "MEAN": self._mean, "PAD": self._pad,
            "CONCATENATION": self._concatenation, "RESIZE_NEAREST_NEIGHBOR": self._same, "SELECT_V2": self._select,
            "RESHAPE": self._reshape, **dict.fromkeys(TABLE_OPERATORS, self._unary),
        }

    def anything(self, tensor: Tensor) -> ChannelRange:
        """All of int8."""
        return _everywhere(_INT8_MIN, _INT8_MAX, channels_of(tensor))

    def output_range(self, operator: Operator) -> ChannelRange:
        """The range of an operator's output."""
        handler = self._handlers.get(operator.op)
        output = self._graph.tensors[operator.outputs[0]]
        if handler is None:
            return self.anything(output)
        low, high = handler(operator)
        return ChannelRange(np.broadcast_to(low, channels_of(output)), np.broadcast_to(high, channels_of(output)))

    def _ends(self, operator: Operator) -> tuple[ChannelRange, Tensor, Tensor]:
        """Range of the first input, first input, output."""
        x = self._graph.tensors[operator.inputs[0]]
        return self.ranges[x.index], x, self._graph.tensors[operator.outputs[0]]

    # ---- arithmetic ---------------------------------------------------------------------------

    def _weighted(self, operator: Operator) -> ChannelRange:
        weighted = weighted_operator(self._graph, operator)
        low, high = weighted.sum_range(*self.ranges[weighted.x.index])
        return requantised_range(low + weighted.biases, high + weighted.biases, *weighted.multipliers,
                                 weighted.output.zero_point, weighted.clamp)

    def _add(self, operator: Operator) -> ChannelRange:
        a, b = (self._graph.tensors[index] for index in operator.inputs)
        output = self._graph.tensors[operator.outputs[0]]
        try:
            p = add_parameters((a.scale, a.zero_point), (b.scale, b.zero_point), (output.scale, output.zero_point),
                               operator.options["activation"])
        except ValueError:  # the lowering refuses this addition, with the reason
            return self.anything(output)
        addition = Addition(p.a_zero_point, p.a_multiplier, p.a_shift, p.b_zero_point, p.b_multiplier, p.b_shift,
                            p.sum_zero_point, p.sum_multiplier, p.sum_shift, p.sum_min, p.sum_max)
        of_a, of_b = self.ranges[a.index], self.ranges[b.index]
        return ChannelRange(addition.compute(of_a.low, of_b.low), addition.compute(of_a.high, of_b.high))

    def _mul(self, operator: Operator) -> ChannelRange:
        a, b = (self._graph.tensors[index] for index in operator.inputs)
        output = self._graph.tensors[operator.outputs[0]]
        corners = [(end_a - a.zero_point) * (end_b - b.zero_point)
                   for end_a in self.ranges[a.index] for end_b in self.ranges[b.index]]
        clamp = activation_range(operator.options["activation"], output.scale, output.zero_point)
        return requantised_range(np.min(corners, axis=0), np.max(corners, axis=0),
                                 *product_multiplier(a.scale, b.scale, output.scale), output.zero_point, clamp)

    def _mean(self, operator: Operator) -> ChannelRange:
        found, x, output = self._ends(operator)
        count = math.prod(pixels_and_channels(x.shape)[:2])
        p = mean_parameters(count, (x.scale, x.zero_point), (output.scale, output.zero_point))
        return requantised_range(count * found.low + p.bias, count * found.high + p.bias, p.multiplier, p.shift,
                                 p.output_zero_point, (_INT8_MIN, _INT8_MAX))

    def _pool(self, operator: Operator) -> ChannelRange:
        """Windows leave padding out: their average and their maximum lie between the smallest and largest value."""
        found, _x, output = self._ends(operator)
        clamp = activation_range(operator.options["activation"], output.scale, output.zero_point)
        return ChannelRange(np.clip(found.low, *clamp), np.clip(found.high, *clamp))

    def _unary(self, operator: Operator) -> ChannelRange:
        """The results of all values of the range: not every table is monotonic."""
        found, x, output = self._ends(operator)
        table = activation_table(operator.op, operator.options, (x.scale, x.zero_point),
                                 (output.scale, output.zero_point)).astype(np.int64)
        results = [table[np.arange(low, high + 1) % len(table)] for low, high in zip(*found, strict=True)]
        return ChannelRange(np.array([values.min() for values in results]), np.array([values.max()
                                                                                      for values in results]))

    # ---- other places -------------------------------------------------------------------------

    def _same(self, operator: Operator) -> ChannelRange:
        return self._ends(operator)[0]

    def _select(self, operator: Operator) -> ChannelRange:
        return _union([self.ranges[index] for index in operator.inputs[1:]])

    def _pad(self, operator: Operator) -> ChannelRange:
        found, _x, output = self._ends(operator)
        paddings = cast(np.ndarray, self._graph.tensors[operator.inputs[1]].data)
        if not paddings.any():
            return found
        return _union([found, _everywhere(output.zero_point, output.zero_point, channels_of(output))])

    def _concatenation(self, operator: Operator) -> ChannelRange:
        parts = [self.ranges[index] for index in operator.inputs]
        if operator.options["axis"] % 4 != 3:
            return _union(parts)
        return ChannelRange(np.concatenate([part.low for part in parts]), np.concatenate([part.high for part in parts]))

    def _reshape(self, operator: Operator) -> ChannelRange:
        found, x, output = self._ends(operator)
        times, rest = divmod(channels_of(output), channels_of(x))
        if rest == 0:  # the channels again and again
            return ChannelRange(np.tile(found.low, times), np.tile(found.high, times))
        return _everywhere(int(found.low.min()), int(found.high.max()), channels_of(output))


def _everywhere(low: int, high: int, channels: int) -> ChannelRange:
    return ChannelRange(np.full(channels, low, np.int64), np.full(channels, high, np.int64))


def _union(parts: list[ChannelRange]) -> ChannelRange:
    return ChannelRange(np.min([part.low for part in parts], axis=0), np.max([part.high for part in parts], axis=0))
