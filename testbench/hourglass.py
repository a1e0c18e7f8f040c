"""An hourglass in small (Newell et al., "Stacked Hourglass Networks for Human Pose Estimation", 2016), random weights.

An encoder halves the map twice, a decoder doubles it again by RESIZE_NEAREST_NEIGHBOR, and what the encoder had at
each size is added there. At every size there are gated residual blocks with decisions of their own: ResNet's basic
block (3x3, 3x3) and MobileNetV2's inverted residual (1x1 to more channels, depthwise 3x3, 1x1 back), of which
only the pixels that the decision switches on are computed: y = SELECT_V2(score >= level, branch(x), x).
"""

from __future__ import annotations

import numpy as np

from sw_driver.tflite.builder import TfliteBuilder

#: Scale and zero point of all feature maps, so that they can be selected from and added.
SCALE, ZERO_POINT = 0.05, -4

#: Deviation of random weights, and of results, in steps of int8.
_WEIGHT_STEPS, _RESULT_STEPS = 40, 45

#: Heatmaps that come out.
JOINTS = 4


class Hourglass:
    """Builds the model.

    Parameters
    ----------
    rng : weights, biases. size : side of the input, a multiple of 8. channels : at the first size; twice as many
        inside. level : the score, -128 to 127, from which a pixel is active.
    """

    def __init__(self, rng: np.random.Generator, size: int = 32, channels: int = 16, level: int = 20):
        self._rng = rng
        self._level = level
        self.builder = TfliteBuilder("Hourglass with gated residual blocks")
        x = self.builder.add_input("image", (1, size, size, 3), scale=SCALE, zero_point=ZERO_POINT)
        outer = self._basic(self._conv(x, channels, 3, stride=2, relu=True))
        inner = self._inverted(self._conv(outer, 2 * channels, 3, stride=2))
        deepest = self._basic(self._conv(inner, 2 * channels, 3, stride=2))
        y = self._inverted(self._add(self._doubled(deepest), inner))
        y = self._doubled(self._conv(y, channels, 1))
        y = self._basic(self._inverted(self._add(y, outer)))
        self.builder.add_output(self._conv(y, JOINTS, 1))

    def to_bytes(self) -> bytes:
        """The TFLite file: input `image`, int8 [1][size][size][3]; output int8 [1][size / 2][size / 2][JOINTS]."""
        return self.builder.to_bytes()

    def _conv(self, x: int, channels: int, kernel: int, stride: int = 1, relu: bool = False) -> int:
        inputs = self.builder.shape(x)[3]
        weights = self._weights((channels, kernel, kernel, inputs))
        return self.builder.add_conv_2d(
            x, weights, self._bias(channels), self._weight_scales(channels, kernel * kernel * inputs), scale=SCALE,
            zero_point=ZERO_POINT, stride=stride, activation="RELU" if relu else "NONE")

    def _depthwise(self, x: int) -> int:
        channels = self.builder.shape(x)[3]
        return self.builder.add_depthwise_conv_2d(
            x, self._weights((1, 3, 3, channels)), self._bias(channels), self._weight_scales(channels, 9),
            scale=SCALE, zero_point=ZERO_POINT, activation="RELU")

    def _weights(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.clip(np.rint(self._rng.normal(0, _WEIGHT_STEPS, shape)), -127, 127).astype(np.int8)

    def _bias(self, channels: int) -> np.ndarray:
        return self._rng.integers(-2000, 2000, channels, dtype=np.int32)

    def _weight_scales(self, channels: int, terms: int) -> np.ndarray:
        """Of such a size that results have a deviation of about _RESULT_STEPS; one for each output channel."""
        scale = _RESULT_STEPS / (_WEIGHT_STEPS * 60 * np.sqrt(terms))
        return (scale * self._rng.uniform(0.7, 1.4, channels)).astype(np.float32)

    def _doubled(self, x: int) -> int:
        _batch, height, width, _channels = self.builder.shape(x)
        return self.builder.add_resize_nearest_neighbor(x, (2 * height, 2 * width))

    def _add(self, a: int, b: int) -> int:
        return self.builder.add_add(a, b, scale=SCALE, zero_point=ZERO_POINT)

    def _gate(self, x: int, branch: int, kernel: int) -> int:
        score = self._conv(x, 1, kernel)
        level = self.builder.add_constant(f"level_{score}", np.array(self._level, np.int8), scale=SCALE,
                                          zero_point=ZERO_POINT)
        return self.builder.add_select_v2(self.builder.add_greater_equal(score, level), branch, x)

    def _basic(self, x: int) -> int:
        channels = self.builder.shape(x)[3]
        branch = self._conv(self._conv(x, channels, 3, relu=True), channels, 3)
        return self._gate(x, self._add(branch, x), 1)

    def _inverted(self, x: int) -> int:
        channels = self.builder.shape(x)[3]
        branch = self._conv(self._depthwise(self._conv(x, 2 * channels, 1, relu=True)), channels, 1)
        return self._gate(x, self._add(branch, x), 3)
