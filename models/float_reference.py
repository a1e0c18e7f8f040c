"""The digits network in floating point, every tensor of it: what calibration looks at. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.layers import INPUT, Layer, Network, padding_of

Array = NDArray[Any]


def forward(network: Network, weights: Mapping[str, NDArray[np.float32]], images: Array) -> dict[str, Array]:
    """Every tensor of the network by name.

    Parameters
    ----------
    weights : `<layer>_weights` ([out][kernel][kernel][in] or [out][in]) and `<layer>_bias` ([out]).
    images : [n][height][width][1], 0 to 1.

    A decision is bool.

    Sums are in double precision, so that their order, which differs between machines, leaves no trace in
    the scales that are taken from the result and rounded to single precision.
    """
    known = {INPUT: images.astype(np.float64)}
    for layer in network.layers:
        result = _layer(layer, weights, *(known[name] for name in layer.inputs))
        known[layer.name] = np.maximum(result, 0) if layer.relu else result
    return known


def _layer(layer: Layer, weights: Mapping[str, NDArray[np.float32]], source: Array,
           *others: Array) -> Array:
    match layer.operator:
        case "CONV_2D":
            kernel = weights[f"{layer.name}_weights"].astype(np.float64)
            products = np.tensordot(_windows(source, layer, 0.0), kernel, axes=([3, 4, 5], [3, 1, 2]))
            return products + _bias(layer, weights)
        case "FULLY_CONNECTED":
            return source @ weights[f"{layer.name}_weights"].astype(np.float64).T + _bias(layer, weights)
        case "ADD":
            return source + others[0]
        case "GREATER_EQUAL":
            return source >= 0
        case "SELECT_V2":
            return np.where(source, *others)
        case "MAX_POOL_2D":
            return _windows(source, layer, -np.inf).max(axis=(4, 5))
        case "AVERAGE_POOL_2D":
            return _windows(source, layer, 0.0).mean(axis=(4, 5))  # these networks' windows hold no padding
        case "RESHAPE":
            return source.reshape(len(source), -1)
        case "SOFTMAX":
            exponentials = np.exp(source - source.max(axis=1, keepdims=True))
            return exponentials / exponentials.sum(axis=1, keepdims=True)
        case _:
            raise ValueError(f"Layer {layer.name}: no floating-point rule for operator {layer.operator}")


def _bias(layer: Layer, weights: Mapping[str, NDArray[np.float32]]) -> Array:
    return weights[f"{layer.name}_bias"].astype(np.float64)


def _windows(source: Array, layer: Layer, padding: float) -> Array:
    """The windows of a convolution or pooling: [n][y][x][channel][kernel][kernel]."""
    pads = [padding_of(layer, size)[1:] for size in source.shape[1:3]]
    padded = np.pad(source, [(0, 0), *pads, (0, 0)], constant_values=padding)
    extent = (layer.kernel - 1) * layer.dilation + 1
    windows = sliding_window_view(padded, (extent, extent), axis=(1, 2))
    return windows[:, :: layer.stride, :: layer.stride, :, :: layer.dilation, :: layer.dilation]
