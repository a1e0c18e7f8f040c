"""The digits network: its layers, described once for training, quantisation, the TFLite file and the figures.

A residual network in the manner of ResNet-8 (He et al., "Deep Residual Learning", 2016) for 28 x 28 grey
images: a 3x3 convolution and a max-pooling layer, three residual blocks, the second with stride 2 and a 1x1
shortcut, then average pooling, one fully connected layer and softmax.
"""

from __future__ import annotations

import dataclasses

#: Height and width of an image.
IMAGE_SIZE = 28

#: Classes: the digits 0 to 9.
CLASSES = 10

#: Name of the graph's input tensor.
INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operator. Its output tensor has the layer's name.

    Parameters
    ----------
    operator : TFLite's name of the operator.
    inputs : names of layers (or INPUT) whose outputs are read.
    channels : output channels, of CONV_2D and FULLY_CONNECTED.
    kernel : side of the window, of CONV_2D and the poolings. Padding is TFLite's SAME throughout.
    stride : in both directions.
    relu : RELU is fused.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    relu: bool = False


def _convolution(name: str, source: str, channels: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> Layer:
    return Layer(name, "CONV_2D", (source,), channels, kernel, stride, relu)


def _block(name: str, source: str, channels: int, shortcut: bool = False) -> tuple[Layer, ...]:
    """Two 3x3 convolutions and the residual addition; `shortcut`: stride 2, and a 1x1 convolution beside them."""
    stride = 2 if shortcut else 1
    layers = [_convolution(f"{name}_conv1", source, channels, stride=stride),
              _convolution(f"{name}_conv2", f"{name}_conv1", channels, relu=False)]
    skip = source
    if shortcut:
        skip = f"{name}_shortcut"
        layers.append(_convolution(skip, source, channels, kernel=1, stride=stride, relu=False))
    return (*layers, Layer(f"{name}_add", "ADD", (f"{name}_conv2", skip), relu=True))


LAYERS: tuple[Layer, ...] = (
    _convolution("conv", INPUT, 16),
    Layer("max_pool", "MAX_POOL_2D", ("conv",), kernel=2, stride=2),
    *_block("block1", "max_pool", 16),
    *_block("block2", "block1_add", 32, shortcut=True),
    *_block("block3", "block2_add", 32),
    Layer("average_pool", "AVERAGE_POOL_2D", ("block3_add",), kernel=7, stride=7),
    Layer("flatten", "RESHAPE", ("average_pool",)),
    Layer("logits", "FULLY_CONNECTED", ("flatten",), CLASSES),
    Layer("probabilities", "SOFTMAX", ("logits",)),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Output size, padding before and padding after of TFLite's SAME rule: the odd pixel goes after."""
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return output, total // 2, total - total // 2


def shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, batch of 1: (1, height, width, channels), or (1, channels) from `flatten` on."""
    known: dict[str, tuple[int, ...]] = {INPUT: (1, IMAGE_SIZE, IMAGE_SIZE, 1)}
    for layer in LAYERS:
        source = known[layer.inputs[0]]
        if layer.operator in ("CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D"):
            height, width = (same_padding(size, layer.kernel, layer.stride)[0] for size in source[1:3])
            known[layer.name] = (1, height, width, layer.channels or source[3])
        elif layer.operator == "RESHAPE":
            known[layer.name] = (1, source[1] * source[2] * source[3])
        elif layer.operator == "FULLY_CONNECTED":
            known[layer.name] = (1, layer.channels)
        else:  # ADD, SOFTMAX
            known[layer.name] = source
    return known


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of the weights in TFLite's order: (out, kernel, kernel, in) of CONV_2D, (out, in) of FULLY_CONNECTED."""
    inputs = shapes()[layer.inputs[0]][-1]
    if layer.operator == "CONV_2D":
        return (layer.channels, layer.kernel, layer.kernel, inputs)
    return (layer.channels, inputs)


def weighted_layers() -> tuple[Layer, ...]:
    """The layers that have weights and biases."""
    return tuple(layer for layer in LAYERS if layer.operator in ("CONV_2D", "FULLY_CONNECTED"))


def parameters() -> int:
    """Weights and biases of the network (batch normalisation folded)."""
    return sum(_product(weight_shape(layer)) + layer.channels for layer in weighted_layers())


def macs() -> int:
    """Multiply-accumulates of one inference, padding included: output pixels times weights."""
    total = 0
    for layer in weighted_layers():
        pixels = _product(shapes()[layer.name][1:-1])
        total += pixels * _product(weight_shape(layer))
    return total


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
