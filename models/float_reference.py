"""The digits network in floating point, every tensor of it: what calibration looks at. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.digits_network import INPUT, LAYERS, Layer, same_padding

Array = NDArray[np.float64]


def forward(weights: Mapping[str, NDArray[np.float32]], images: Array) -> dict[str, Array]:
    """Every tensor of the network by name.

    Parameters
    ----------
    weights : `<layer>_weights` ([out][kernel][kernel][in] or [out][in]) and `<layer>_bias` ([out]).
    images : [n][28][28][1], 0 to 1.

    Sums are in double precision, so that their order, which differs between machines, leaves no trace in
    the scales that are taken from the result and rounded to single precision.
    """
    known = {INPUT: images.astype(np.float64)}
    for layer in LAYERS:
        result = _layer(layer, weights, *(known[name] for name in layer.inputs))
        known[layer.name] = np.maximum(result, 0) if layer.relu else result
    return known


def _layer(layer: Layer, weights: Mapping[str, NDArray[np.float32]], source: Array,
           other: Array | None = None) -> Array:
    match layer.operator:
        case "CONV_2D":
            kernel = weights[f"{layer.name}_weights"].astype(np.float64)
            products = np.tensordot(_windows(source, layer, 0.0), kernel, axes=([3, 4, 5], [3, 1, 2]))
            return products + _bias(layer, weights)
        case "FULLY_CONNECTED":
            return source @ weights[f"{layer.name}_weights"].astype(np.float64).T + _bias(layer, weights)
        case "ADD" if other is not None:
            return source + other
        case "MAX_POOL_2D":
            return _windows(source, layer, -np.inf).max(axis=(4, 5))
        case "AVERAGE_POOL_2D":
            return _windows(source, layer, 0.0).mean(axis=(4, 5))  # this network's windows hold no padding
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
    pads = [same_padding(size, layer.kernel, layer.stride)[1:] for size in source.shape[1:3]]
    padded = np.pad(source, [(0, 0), *pads, (0, 0)], constant_values=padding)
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    return windows[:, :: layer.stride, :: layer.stride]
