"""Networks described once, for training, quantisation, the TFLite file and the figures: layers and their shapes."""

from __future__ import annotations

import dataclasses
import functools
import math

#: Name of a network's input tensor.
INPUT = "input"

#: Operators whose output has the shape of their first or, for SELECT_V2, second input.
_SAME_SHAPE = {"ADD": 0, "SOFTMAX": 0, "GREATER_EQUAL": 0, "SELECT_V2": 1}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operator. Its output tensor has the layer's name.

    Parameters
    ----------
    operator : TFLite's name of the operator. GREATER_EQUAL compares with 0: it is a decision.
    inputs : names of layers (or INPUT) whose outputs are read; of SELECT_V2 the mask, what is taken where it is
        true, what is taken elsewhere.
    channels : output channels, of CONV_2D and FULLY_CONNECTED.
    kernel : side of the window, of CONV_2D and the poolings. Padding is TFLite's SAME throughout.
    stride, dilation : in both directions.
    relu : RELU is fused.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    relu: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers in an order in which they can run; the last one's output is the network's.

    Parameters
    ----------
    title : description in the TFLite file. image_size : height and width of the grey input image.
    """

    title: str
    image_size: int
    layers: tuple[Layer, ...]

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, batch of 1: (1, height, width, channels), or (1, channels) behind a RESHAPE."""
        known: dict[str, tuple[int, ...]] = {INPUT: (1, self.image_size, self.image_size, 1)}
        for layer in self.layers:
            source = known[layer.inputs[0]]
            if layer.operator in ("CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D"):
                height, width = (padding_of(layer, size)[0] for size in source[1:3])
                known[layer.name] = (1, height, width, layer.channels or source[3])
            elif layer.operator == "RESHAPE":
                known[layer.name] = (1, math.prod(source))
            elif layer.operator == "FULLY_CONNECTED":
                known[layer.name] = (1, layer.channels)
            else:
                known[layer.name] = known[layer.inputs[_SAME_SHAPE[layer.operator]]]
        return known

    def weight_shape(self, layer: Layer) -> tuple[int, ...]:
        """Weights in TFLite's order: (out, kernel, kernel, in) of CONV_2D, (out, in) of FULLY_CONNECTED."""
        inputs = self.shapes[layer.inputs[0]][-1]
        if layer.operator == "CONV_2D":
            return (layer.channels, layer.kernel, layer.kernel, inputs)
        return (layer.channels, inputs)

    @property
    def weighted_layers(self) -> tuple[Layer, ...]:
        """The layers that have weights and biases."""
        return tuple(layer for layer in self.layers if layer.operator in ("CONV_2D", "FULLY_CONNECTED"))

    @property
    def parameters(self) -> int:
        """Weights and biases (batch normalisation folded)."""
        return sum(math.prod(self.weight_shape(layer)) + layer.channels for layer in self.weighted_layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one dense inference, padding included: output pixels times weights."""
        return sum(math.prod(self.shapes[layer.name][1:-1]) * math.prod(self.weight_shape(layer))
                   for layer in self.weighted_layers)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int, int]:
    """Output size, padding before and padding after of TFLite's SAME rule: the odd pixel goes after."""
    output = -(-size // stride)
    total = max((output - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return output, total // 2, total - total // 2


def padding_of(layer: Layer, size: int) -> tuple[int, int, int]:
    """`same_padding` of a layer's window on an input of this height or width."""
    return same_padding(size, layer.kernel, layer.stride, layer.dilation)
