"""Pruning by magnitude: the smallest weights of every layer become zero, one by one or in rows that cost no time.

Magnitudes are of real values: a weight's integer times the scale of its output channel. Every layer loses the same
share. A row is what the conv engine reads at once: the weights from one input channel, at one tap of the kernel, to
`lanes` output channels in a row of blocks. One that is all zero is neither stored nor multiplied. Depthwise
convolutions have no such rows: they are pruned by weights only.

Nothing is trained again here: what accuracy is left, a run says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from sw_driver.graph import Graph, Operator, Tensor
from sw_driver.tflite.constants import replace_constants

#: Operators with weights, and those of them whose rows of zeros are skipped.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
WITH_ROWS = ("CONV_2D", "FULLY_CONNECTED")


@dataclasses.dataclass(frozen=True)
class PrunedLayer:
    """The weights of one operator: how many, how many of them were and are zero. pruned : whether they took part."""

    operator: int
    op: str
    name: str
    weights: int
    zeros_before: int
    zeros_after: int
    pruned: bool


def prune_weights(weights: np.ndarray, scales: np.ndarray, share: float) -> np.ndarray:
    """Without the `share` of weights of the smallest magnitude; zeros count, of equals the first go first.

    weights : int8, output channels along the dimension in which `scales` is not 1 (or anywhere, for one scale).
    scales : float32, to be broadcast to the weights' shape. share : 0 to 1.
    """
    magnitude = np.abs(weights.astype(np.float64) * scales).reshape(-1)
    pruned = weights.copy().reshape(-1)
    pruned[np.argsort(magnitude, kind="stable")[: round(share * pruned.size)]] = 0
    return pruned.reshape(weights.shape)


def prune_rows(weights: np.ndarray, scales: np.ndarray, share: float, lanes: int,
               outputs: Sequence[int] | None = None, inputs: Sequence[int] | None = None) -> np.ndarray:
    """Without the `share` of weight rows of the smallest sum of magnitudes; rows of zeros count.

    weights : int8 [output channels, ...]: [O, KH, KW, I] or [O, I]. scales, share : as in `prune_weights`.
    lanes : output channels of a row (`Config.lanes`); the last row of a tap and channel may have fewer.
    outputs, inputs : the channels of the first and the last dimension that rows are made of, in their order; all by
        default. Other weights stay as they are.
    """
    first = np.arange(len(weights)) if outputs is None else np.asarray(outputs, np.int64)
    last = np.arange(weights.shape[-1]) if inputs is None else np.asarray(inputs, np.int64)
    if not len(first) or not len(last):
        return weights.copy()
    magnitude = np.abs(weights.astype(np.float64) * scales)[first][..., last]
    starts = np.arange(0, len(first), lanes)
    norms = np.add.reduceat(magnitude, starts, axis=0)  # [output blocks, taps and input channels]
    dead = np.zeros(norms.size, np.bool_)
    dead[np.argsort(norms, axis=None, kind="stable")[: round(share * norms.size)]] = True
    gone = np.zeros(weights.shape, np.bool_)
    of_outputs = np.zeros((len(first), *weights.shape[1:]), np.bool_)
    of_outputs[..., last] = np.repeat(dead.reshape(norms.shape), lanes, axis=0)[: len(first)]
    gone[first] = of_outputs
    return np.where(gone, np.int8(0), weights)


def prune_model(data: bytes, graph: Graph, share: float, lanes: int | None = None,
                kept: Mapping[int, Sequence[int]] | None = None) -> tuple[bytes, list[PrunedLayer]]:
    """A model's file with the smallest weights of each of its layers set to zero.

    Parameters
    ----------
    data : a TFLite file. graph : `load_graph(data)`, of this very object.
    share : of each layer's weights, or rows, that will be zero: above 0, below 1.
    lanes : prune rows of so many output channels. None: single weights.
    kept : by tensor index, the channels that are left of feature maps from which the compiler folds some away
        (`tensors` in the report of its folding); rows are made of them.

    Returns the file, the same but for the weights, and its layers with int8 weights in the file, in order; none if
    there are none. Raises ValueError for a share outside the range; ModelError as `replace_constants`.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of weights to prune must be above 0 and below 1, not {share}")
    kept = kept or {}
    arrays: dict[int, np.ndarray] = {}
    layers = []
    for operator in graph.operators:
        tensor = graph.input_tensors(operator)[1] if operator.op in WEIGHTED else None
        if tensor is None or tensor.data is None or tensor.dtype != "int8" or tensor.zero_points.any():
            continue
        weights = tensor.data
        pruned = lanes is None or operator.op in WITH_ROWS
        if pruned and tensor.index not in arrays:
            arrays[tensor.index] = (prune_weights(weights, _scales(tensor), share) if lanes is None
                                    else prune_rows(weights, _scales(tensor), share, lanes,
                                                     kept.get(operator.outputs[0]), _inputs(graph, operator, kept)))
        after = arrays.get(tensor.index, weights)
        layers.append(PrunedLayer(operator.index, operator.op, operator.name, weights.size,
                                  int(weights.size - np.count_nonzero(weights)),
                                  int(weights.size - np.count_nonzero(after)), pruned))
    return replace_constants(data, graph, arrays), layers


def _inputs(graph: Graph, operator: Operator, kept: Mapping[int, Sequence[int]]) -> Sequence[int] | None:
    """The channels that are left of an operator's input; None for all, and where they are not one to one with the last
    dimension of its weights: a fully connected layer may flatten a feature map by itself."""
    x, weights = (graph.tensors[index] for index in operator.inputs[:2])
    return kept.get(x.index) if x.shape[-1:] == weights.shape[-1:] else None


def _scales(tensor: Tensor) -> np.ndarray:
    """The tensor's scales in a shape that goes with its own; 1 where it has none."""
    if not tensor.per_channel:
        return np.float32(tensor.scales[0] if tensor.quantised else 1).reshape(1)
    shape = [1] * len(tensor.shape)
    shape[tensor.quantised_dimension] = -1
    return tensor.scales.reshape(shape)
