"""The digits network: a residual network in the manner of ResNet-8 (He et al., "Deep Residual Learning", 2016) for
28 x 28 grey images: a 3x3 convolution and a max-pooling layer, three residual blocks, the second with stride 2 and
a 1x1 shortcut, then average pooling, one fully connected layer and softmax.
"""

from __future__ import annotations

from models.layers import INPUT, Layer, Network

#: Height and width of an image.
IMAGE_SIZE = 28

#: Classes: the digits 0 to 9.
CLASSES = 10


def _convolution(name: str, source: str, channels: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> Layer:
    return Layer(name, "CONV_2D", (source,), channels, kernel, stride, relu=relu)


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


NETWORK = Network("Handwritten digits, a residual network", IMAGE_SIZE, (
    _convolution("conv", INPUT, 16),
    Layer("max_pool", "MAX_POOL_2D", ("conv",), kernel=2, stride=2),
    *_block("block1", "max_pool", 16),
    *_block("block2", "block1_add", 32, shortcut=True),
    *_block("block3", "block2_add", 32),
    Layer("average_pool", "AVERAGE_POOL_2D", ("block3_add",), kernel=7, stride=7),
    Layer("flatten", "RESHAPE", ("average_pool",)),
    Layer("logits", "FULLY_CONNECTED", ("flatten",), CLASSES),
    Layer("probabilities", "SOFTMAX", ("logits",)),
))
