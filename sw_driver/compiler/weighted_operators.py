"""Convolutions and fully connected layers as sums: which weight meets which channel in which window.

Near the border, a window sees only some of its taps: the others meet padding, which adds nothing. The windows of
an operator that see the same taps make one kind; there are few kinds, and what is proved for each of them holds
for every output value.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sim.golden.numerics import Int64
from sw_driver.compiler.lowering import window_geometry
from sw_driver.compiler.quantisation import activation_range, output_multipliers
from sw_driver.compiler.views import pixels_and_channels
from sw_driver.graph import Graph, Operator, Tensor

#: Operators that this module is about.
WEIGHTED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclasses.dataclass(frozen=True, eq=False)
class WeightedOperator:
    """One of WEIGHTED_OPERATORS, as a sum over taps and inputs of weight * (value - zero point), plus bias.

    Parameters
    ----------
    x, output : tensors. weights, bias : their constants.
    filters : int64 [outputs, kernel height, kernel width, inputs].
    sources : int [1, inputs]: the channel of x that each input is; depthwise: int [outputs, 1]. Empty where x is cut
        across its channels.
    rows, columns : bool [kinds of windows, kernel height] and [.., kernel width]: the taps that windows see. A kind
        of window is one of `rows` with one of `columns`.
    """

    operator: Operator
    x: Tensor
    output: Tensor
    weights: Tensor
    bias: Tensor | None
    filters: Int64
    sources: NDArray[np.int64]
    rows: NDArray[np.bool_]
    columns: NDArray[np.bool_]

    @property
    def biases(self) -> Int64:
        """int64 [outputs]; zeros where there is none."""
        return np.zeros(len(self.filters), np.int64) if self.bias is None else (
            cast(np.ndarray, self.bias.data).astype(np.int64))

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel of several."""
        return self.operator.op == "DEPTHWISE_CONV_2D" and self.x.shape[-1] > 1

    @property
    def multipliers(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 [outputs] and int8 [outputs]: multipliers and shifts."""
        return output_multipliers(self.x.scale, self.weights.scales, self.output.scale, len(self.filters))

    @property
    def clamp(self) -> tuple[int, int]:
        """Smallest and largest output."""
        return activation_range(self.operator.options["activation"], self.output.scale, self.output.zero_point)

    def window_sums(self, terms: Int64) -> Int64:
        """Sums of `terms` [outputs, kernel height, kernel width, ...] over the taps that each kind of window sees:
        [kinds, outputs, ...]."""
        by_row = np.einsum("ri,oij...->rjo...", self.rows.astype(np.int64), terms)
        sums = np.einsum("cj,rjo...->rco...", self.columns.astype(np.int64), by_row)
        return sums.reshape(-1, *sums.shape[2:])

    def sum_range(self, low: Int64, high: Int64) -> tuple[Int64, Int64]:
        """Smallest and largest accumulators without bias, int64 [outputs], for values of x's channels between `low`
        and `high`, int64 [channels]."""
        if self.sources.size:
            low, high = low[self.sources], high[self.sources]
        else:
            low, high = low.min(), high.max()
        low, high = (np.broadcast_to(bound - self.x.zero_point, (len(self.filters), self.filters.shape[3]))
                     [:, None, None, :] for bound in (low, high))
        at_low, at_high = self.filters * low, self.filters * high
        return (self.window_sums(np.minimum(at_low, at_high).sum(axis=3)).min(axis=0),
                self.window_sums(np.maximum(at_low, at_high).sum(axis=3)).max(axis=0))

    def contributions(self, low: Int64, high: Int64) -> tuple[NDArray[np.bool_], Int64]:
        """What each input adds to each output, for values between `low` and `high`, int64 [channels]: whether it
        varies, bool [outputs, inputs], and where it does not, what it always is, int64 [outputs, inputs]. Not for
        depthwise."""
        seen = np.logical_and.outer(self.rows.any(axis=0), self.columns.any(axis=0))
        used = np.any(self.filters[:, seen] != 0, axis=1)
        constants = np.zeros(used.shape, np.int64)
        if not self.sources.size:
            return used, constants
        channels = self.sources[0]
        known = np.flatnonzero(low[channels] == high[channels])
        if known.size:
            sums = self.window_sums(self.filters[..., known])
            offsets = low[channels][known] - self.x.zero_point
            used[:, known] = (sums != sums[0]).any(axis=0) & (offsets != 0)
            constants[:, known] = sums[0] * offsets
        return used, constants


def weighted_operator(graph: Graph, operator: Operator) -> WeightedOperator:
    """One of WEIGHTED_OPERATORS of a supported graph."""
    x, weights, *rest = (cast(Tensor, tensor) for tensor in graph.input_tensors(operator))
    output = graph.tensors[operator.outputs[0]]
    filters = cast(np.ndarray, weights.data).astype(np.int64)
    channels = x.shape[-1]
    rows = columns = np.ones((1, 1), np.bool_)
    if operator.op == "FULLY_CONNECTED":
        filters = filters[:, None, None, :]
    else:
        if operator.op == "DEPTHWISE_CONV_2D":
            filters = filters.transpose(3, 1, 2, 0)
        rows, columns = _seen_taps(operator, x, output, (filters.shape[1], filters.shape[2]))
    inputs = filters.shape[3]
    if operator.op == "DEPTHWISE_CONV_2D":
        sources = np.arange(len(filters))[:, None] // (len(filters) // channels)
    else:  # a flattened map in front of a fully connected layer: its channels again and again
        sources = np.arange(inputs)[None] % channels if inputs % channels == 0 else np.zeros((1, 0), np.int64)
    return WeightedOperator(operator, x, output, weights, rest[0] if rest else None, filters, sources, rows, columns)


def _seen_taps(operator: Operator, x: Tensor, output: Tensor,
               kernel: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    options = operator.options
    size, output_size = pixels_and_channels(x.shape)[:2], pixels_and_channels(output.shape)[:2]
    geometry, _ends = window_geometry(options, kernel, (options["dilation_h"], options["dilation_w"]), size,
                                      output_size)
    seen = []
    for i in range(2):
        at = (np.arange(output_size[i])[:, None] * geometry.stride[i] - geometry.pad[i]
              + np.arange(kernel[i]) * geometry.dilation[i])
        seen.append(np.unique((at >= 0) & (at < size[i]), axis=0))
    return seen[0], seen[1]
