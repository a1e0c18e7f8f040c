"""Random contents for tests: activations, weights, requantisation parameters, decision masks.

Drawn so that results use the whole of int8 without being clamped all the time, and with the special cases that
break things: nothing but zeros, single pixels, multipliers that vanish, biases near the limit.
"""

from __future__ import annotations

import numpy as np

from hw.contract.commands import LEFT_SHIFT_MAX

#: What activations are taken to be, root mean square distance from the zero point, to choose multipliers.
_ACTIVATION_RMS = 60.0

#: Root mean square of results aimed at.
_RESULT_RMS = 45.0

#: Accumulators stay below 2^31 (where TFLite's kernels are undefined) with biases up to this.
_BIAS_MAX = 1 << 30


def random_scale(rng: np.random.Generator) -> float:
    """A tensor's scale."""
    return float(np.float32(2.0 ** rng.uniform(-9, -1)))


def random_zero_point(rng: np.random.Generator) -> int:
    """A tensor's zero point: the usual ones, the extremes, or anything."""
    return int(rng.choice([-128, -128, 0, 127, -1, rng.integers(-128, 128)]))


def random_activation(rng: np.random.Generator, scale: float, zero_point: int) -> str:
    """A fused activation; seldom one that leaves less than 24 of the 256 values."""
    activation = str(rng.choice(["NONE", "NONE", "RELU", "RELU", "RELU6", "RELU_N1_TO_1"]))
    low, high = {"NONE": (-1e9, 1e9), "RELU": (0, 1e9), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[activation]
    values = min(127, zero_point + high / scale) - max(-128, zero_point + low / scale)
    return activation if values >= 24 or rng.random() < 0.1 else "NONE"


def random_activations(rng: np.random.Generator, shape: tuple[int, ...], zero_point: int) -> np.ndarray:
    """int8 activations of which a share (none to all) equals the zero point, element by element, pixel by pixel
    or channel by channel."""
    values = rng.integers(-128, 128, shape)
    if rng.random() < 0.3:
        values = np.clip(np.rint(zero_point + rng.normal(0, 20, shape)), -128, 127)
    density = rng.choice([0.0, 0.1, 0.3, 0.5, 0.75, 0.9, *[1.0] * 8])
    kind = rng.integers(4)
    pattern = shape if kind < 2 else (*shape[:-1], 1) if kind == 2 else (*(1,) * (len(shape) - 1), shape[-1])
    return np.where(rng.random(pattern) < density, values, zero_point).astype(np.int8)


def random_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """int8 weights, output channels first: dense or sparse, maybe with dead output channels, with taps or input
    channels that are zero for all output channels, or nothing but zeros."""
    weights = np.rint(rng.normal(0, 40, shape)) if rng.random() < 0.7 else rng.integers(-128, 128, shape)
    weights = np.clip(weights, -128 if rng.random() < 0.1 else -127, 127)
    if rng.random() < 0.3:
        weights = weights * (rng.random(shape) < rng.choice([0.05, 0.3, 0.7]))
    if rng.random() < 0.2:
        weights = weights * (rng.random((shape[0], *(1,) * (len(shape) - 1))) < 0.7)
    if rng.random() < 0.3:
        weights = weights * (rng.random((1, *shape[1:])) < rng.choice([0.1, 0.5, 0.8]))
    if rng.random() < 0.02:
        weights = weights * 0
    return weights.astype(np.int8)


def random_multipliers(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """float64 [1] or [output channels]: input scale x weight scale / output scale, for weights with the output
    channels first. Rarely below 2^-32 (taken as 0 by TFLite), or above 1 as far as accumulators allow."""
    outputs = weights.shape[0]
    flat = weights.reshape(outputs, -1).astype(np.float64)
    rms = np.sqrt((flat**2).sum(axis=1).mean()) * _ACTIVATION_RMS + 1.0
    multipliers = np.full(outputs, _RESULT_RMS / rms * 2.0 ** rng.uniform(-1.5, 1.5))
    if rng.random() < 0.3:
        multipliers = multipliers[:1]
    else:
        multipliers = multipliers * 2.0 ** rng.normal(0, 0.7, outputs)
        if rng.random() < 0.2:
            extreme = 2.0 ** rng.choice([rng.uniform(-36, -29), rng.uniform(-3, 6)], outputs)
            multipliers = np.where(rng.random(outputs) < 0.3, extreme, multipliers)
    # A multiplier above 1 shifts the accumulator left: it must not leave 32 bits, nor by more than the device can.
    largest = np.abs(flat).sum(axis=1).max() * 255 + 1
    return np.minimum(multipliers, min(0.99 * 2.0**LEFT_SHIFT_MAX, max(0.99, 2.0**28 / largest)))


def random_bias(rng: np.random.Generator, weights: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """int32 [output channels], of a size that matters after requantisation; where multipliers are tiny, up to
    2^30."""
    outputs = weights.shape[0]
    if rng.random() < 0.1:
        return np.zeros(outputs, np.int32)
    limit = np.where(multipliers < 1, _BIAS_MAX, 1 << 20)
    bias = rng.normal(0, _RESULT_RMS, outputs) / multipliers
    return np.rint(np.clip(bias, -limit, limit)).astype(np.int32)


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """bool [1, height, width, 1]: empty, full, one pixel, random densities, borders, a block."""
    _batch, height, width, _one = shape
    mask = np.zeros((height, width), bool)
    kind = rng.integers(10)
    if kind == 0:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 1:
        mask[:] = True
        mask[1:-1, 1:-1] = False
    elif kind == 2:
        top, left = rng.integers(height), rng.integers(width)
        mask[top : top + 1 + height // 2, left : left + 1 + width // 2] = True
    elif kind == 3:
        mask[rng.integers(height)] = True
    else:
        mask = rng.random((height, width)) < rng.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    return mask.reshape(shape)
