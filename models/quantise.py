"""Quantise the digits network and write it as TFLite: `python -m models.quantise`. Needs neither PyTorch nor mlxtend.

TFLite's int8 scheme (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018; TFLite's "8-bit quantization specification"): real value =
scale x (stored value - zero point).
- Weights: int8 in -127 to 127, zero point 0; one scale per output channel of a convolution, one for all of a
  fully connected layer.
- Biases: int32, zero point 0, scale = input scale x weight scale.
- Activations: int8 in -128 to 127, one scale and zero point per tensor, from calibration: of ranges between
  the whole one and 60% of it, the one with the least squared error on the calibration images. What a SELECT_V2
  takes from and makes shares one scale and zero point.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import digits_data
from models.digits_network import NETWORK
from models.float_reference import forward
from models.layers import INPUT, Layer, Network
from sw_driver.tflite.builder import TfliteBuilder

#: Float weights that training writes: float32 `<layer>_weights` and `<layer>_bias`.
FLOAT_WEIGHTS = Path(__file__).with_name("digits_float.npz")

#: The int8 model.
MODEL = Path(__file__).with_name("digits.tflite")

#: Ranges tried for an activation tensor, as shares of its whole range.
_SHARES = np.linspace(1.0, 0.6, 41)

_INT32 = np.iinfo(np.int32)


@dataclasses.dataclass(frozen=True)
class Activation:
    """Scale, a float32 value, and zero point, -128 to 127, of an int8 activation tensor."""

    scale: float
    zero_point: int


def quantise_weights(weights: NDArray[np.floating], per_channel: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8 in -127 to 127, the largest magnitude becoming 127, and their scales.

    Parameters
    ----------
    weights : output channels first.
    per_channel : one scale per output channel, float32 [out]; otherwise one for all, float32 [1].

    A channel of zeros has scale 1. Raises ValueError for a weight that is not finite.
    """
    if not np.isfinite(weights).all():
        raise ValueError(f"Weights must be finite; {np.count_nonzero(~np.isfinite(weights))} of {weights.size} are not")
    rows = np.abs(weights).reshape(len(weights) if per_channel else 1, -1).astype(np.float64)
    largest = rows.max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    divisor = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.rint(weights / divisor), -127, 127).astype(np.int8), scales


def quantise_bias(bias: NDArray[np.floating], input_scale: float, scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """Biases as int32 [out] at input scale x weight scale. Raises ValueError where one does not fit."""
    stored = np.rint(bias.astype(np.float64) / (np.float32(input_scale) * scales).astype(np.float64))
    if (np.abs(stored) > _INT32.max).any():
        channel = int(np.abs(stored).argmax())
        raise ValueError(f"Bias of output channel {channel}, {bias[channel]:g}, takes {stored[channel]:.0f} steps of "
                         f"its scale, more than int32 holds ({_INT32.max}): its weights are too small for this bias")
    return stored.astype(np.int32)


def activation_for(low: float, high: float) -> Activation:
    """Scale and zero point for values from `low` to `high`; the range is widened to hold 0, which is then exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Activation(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def calibrate(values: NDArray[np.floating]) -> Activation:
    """The Activation with the least squared error for these values, among those of part of their range."""
    low, high = float(values.min()), float(values.max())
    candidates = [activation_for(low * share, high * share) for share in _SHARES]

    def error(candidate: Activation) -> float:
        steps = np.clip(np.rint(values / candidate.scale) + candidate.zero_point, -128, 127)
        return float(np.square((steps - candidate.zero_point) * candidate.scale - values).sum())

    return min(candidates, key=error)


def build(network: Network, weights: Mapping[str, NDArray[np.float32]], images: digits_data.Images) -> TfliteBuilder:
    """The int8 model of float weights (see `float_reference.forward`), calibrated on uint8 images [n][y][x]."""
    known = forward(network, weights, images[..., np.newaxis] / 255)
    ranges = _calibrated(network, known)
    builder = TfliteBuilder(network.title)
    tensors = {INPUT: builder.add_input(INPUT, network.shapes[INPUT], scale=float(np.float32(1 / 255)),
                                        zero_point=-128)}
    for layer in network.layers:
        sources = [tensors[name] for name in layer.inputs]
        tensors[layer.name] = _add(builder, network, layer, weights, ranges.get(layer.name), *sources)
    builder.add_output(tensors[network.layers[-1].name])
    return builder


def _calibrated(network: Network, known: Mapping[str, NDArray]) -> dict[str, Activation]:
    """Scale and zero point of the outputs of convolutions, fully connected layers and additions.

    The operands and the result of a SELECT_V2 have those that suit all of its results, one behind the other: of an
    operand only what some result holds matters.
    """
    leader: dict[str, str] = {}
    for layer in network.layers:
        if layer.operator == "SELECT_V2":
            _mask, branch, skip = layer.inputs
            leader[branch] = leader[layer.name] = leader.setdefault(skip, skip)
    shared: dict[str, list[str]] = {}
    for layer in network.layers:
        selected = layer.operator == "SELECT_V2" or (layer.name in leader and leader[layer.name] == layer.name)
        if selected:
            shared.setdefault(leader[layer.name], []).append(layer.name)
    common = {name: calibrate(np.concatenate([known[member] for member in members]))
              for name, members in shared.items()}
    return {layer.name: common[leader[layer.name]] if layer.name in leader else calibrate(known[layer.name])
            for layer in network.layers if layer.operator in ("CONV_2D", "FULLY_CONNECTED", "ADD")}


def _add(builder: TfliteBuilder, network: Network, layer: Layer, weights: Mapping[str, NDArray[np.float32]],
         output: Activation | None, source: int, *others: int) -> int:
    """Add one layer; `output` where calibration has one for it. Returns its output tensor."""
    name = layer.name
    common = {} if output is None else {"scale": output.scale, "zero_point": output.zero_point,
                                        "activation": "RELU" if layer.relu else "NONE", "name": name}
    match layer.operator:
        case "CONV_2D" | "FULLY_CONNECTED":
            convolution = layer.operator == "CONV_2D"
            stored, scales = quantise_weights(weights[f"{name}_weights"], per_channel=convolution)
            bias = quantise_bias(weights[f"{name}_bias"], builder.scale(source), scales)
            if convolution:
                return builder.add_conv_2d(source, stored, bias, scales, stride=layer.stride,
                                           dilation=layer.dilation, padding="SAME", **common)
            return builder.add_fully_connected(source, stored, bias, scales, **common)
        case "ADD":
            return builder.add_add(source, others[0], **common)
        case "GREATER_EQUAL":
            zero = builder.add_constant(f"{name}/zero", np.array(builder.zero_point(source), np.int8),
                                        scale=builder.scale(source), zero_point=builder.zero_point(source))
            return builder.add_greater_equal(source, zero, name=name)
        case "SELECT_V2":
            return builder.add_select_v2(source, *others, name=name)
        case "MAX_POOL_2D":
            return builder.add_max_pool_2d(source, layer.kernel, stride=layer.stride, padding="SAME", name=name)
        case "AVERAGE_POOL_2D":
            return builder.add_average_pool_2d(source, layer.kernel, stride=layer.stride, padding="SAME", name=name)
        case "RESHAPE":
            return builder.add_reshape(source, network.shapes[name], name=name)
        case "SOFTMAX":
            return builder.add_softmax(source, name=name)
        case _:
            raise ValueError(f"Layer {name}: no int8 rule for operator {layer.operator}")


def main() -> None:
    """Quantise FLOAT_WEIGHTS, calibrated on the samples, and write the model."""
    parser = argparse.ArgumentParser(prog="python -m models.quantise",
                                     description="Quantise the float weights and write the model.")
    parser.add_argument("--output", type=Path, default=MODEL, help="the .tflite file to write")
    output: Path = parser.parse_args().output
    calibration, _held_out = digits_data.load_samples()
    with np.load(FLOAT_WEIGHTS) as weights:
        build(NETWORK, dict(weights), calibration.images).save(output)
    print(f"written: {output.name}, {output.stat().st_size:,} bytes, calibrated on {len(calibration)} training images")


if __name__ == "__main__":
    main()
