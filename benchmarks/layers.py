"""Models of one convolution, plain or gated, synthetic or cut out of a network, with inputs for them."""

from __future__ import annotations

import dataclasses

import numpy as np

from sw_driver.graph import Graph, Operator
from sw_driver.tflite.builder import TfliteBuilder


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution and the activations that it works on.

    Its result has `output_scale` and `output_zero_point`.

    Parameters
    ----------
    name : for tables. activations : int8 [1, H, W, I] of `scale` and `zero_point`.
    weights : int8 [O, KH, KW, I]. bias : int32 [O] or None. weight_scales : float32 [1] or [O].
    stride, padding, activation : as in TFLite.
    """

    name: str
    activations: np.ndarray
    scale: float
    zero_point: int
    weights: np.ndarray
    bias: np.ndarray | None
    weight_scales: np.ndarray
    stride: tuple[int, int]
    padding: str
    activation: str
    output_scale: float
    output_zero_point: int

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """[1, H, W, O] of the result."""
        _batch, height, width, _channels = self.activations.shape
        outputs, kernel_height, kernel_width, _inputs = self.weights.shape
        if self.padding == "VALID":
            height, width = height - kernel_height + 1, width - kernel_width + 1
        return 1, -(-height // self.stride[0]), -(-width // self.stride[1]), outputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padding included."""
        _batch, height, width, _channels = self.output_shape
        return height * width * self.weights.size

    def model(self, gated: bool = False) -> bytes:
        """The convolution as a TFLite model with input `x`; gated, also with inputs `mask` and `skip`."""
        builder = TfliteBuilder(self.name)
        x = builder.add_input("x", self.activations.shape, scale=self.scale, zero_point=self.zero_point)
        y = builder.add_conv_2d(
            x, self.weights, self.bias, self.weight_scales, scale=self.output_scale, zero_point=self.output_zero_point,
            stride=self.stride, padding=self.padding, activation=self.activation, name="convolution")
        if gated:
            mask = builder.add_input("mask", (*self.output_shape[:3], 1), "bool")
            skip = builder.add_input("skip", self.output_shape, scale=self.output_scale,
                                     zero_point=self.output_zero_point)
            y = builder.add_select_v2(mask, y, skip, name="selection")
        builder.add_output(y)
        return builder.to_bytes()


def synthetic(shape: tuple[int, int, int], outputs: int, kernel: int, zeros: float, generator: np.random.Generator,
              padding: str = "SAME") -> Convolution:
    """A kernel x kernel convolution of [H, W, I] to `outputs` channels, dense but for a share of activations.

    Weights and activations are random and never zero, except that exactly the share `zeros` of the activations,
    at random places, is the zero point.
    """
    activations = generator.integers(1, 128, (1, *shape)) * generator.choice([-1, 1], (1, *shape))
    chosen = generator.permutation(activations.size)[: round(zeros * activations.size)]
    activations.flat[chosen] = 0
    weights = generator.integers(1, 128, (outputs, kernel, kernel, shape[2]))
    weights *= generator.choice([-1, 1], weights.shape)
    name = f"{'x'.join(map(str, shape))} to {outputs}, {kernel}x{kernel}"
    return Convolution(name, activations.astype(np.int8), 0.05, 0, weights.astype(np.int8),
                       generator.integers(-1000, 1000, outputs, dtype=np.int32), np.full(1, 0.002, np.float32),
                       (1, 1), padding, "NONE", 0.5, 0)


def cut_out(graph: Graph, operator: Operator, tensors: dict[int, np.ndarray]) -> Convolution:
    """A CONV_2D of a network, with the activations that it saw in a run (`tensors`, by index)."""
    x, weights, bias = (*graph.input_tensors(operator), None)[:3]
    (y,) = graph.output_tensors(operator)
    assert x is not None
    assert weights is not None
    assert weights.data is not None
    options = operator.options
    return Convolution(
        operator.name, tensors[x.index], x.scale, x.zero_point, weights.data, None if bias is None else bias.data,
        weights.scales, (options["stride_h"], options["stride_w"]), options["padding"], options["activation"], y.scale,
        y.zero_point)


def random_mask(shape: tuple[int, ...], density: float, generator: np.random.Generator) -> np.ndarray:
    """bool array with exactly the share `density` (rounded to a whole pixel, at least one) true."""
    mask = np.zeros(shape, bool)
    mask.flat[generator.permutation(mask.size)[: max(1, round(density * mask.size))]] = True
    return mask


def short_name(name: str) -> str:
    """A layer's name without the scopes, and without the names of what was fused into it."""
    name = name.partition(";")[0].partition("/FusedBatchNorm")[0].removeprefix("model/")
    return name.removesuffix("/Relu").removesuffix("/BiasAdd").removesuffix("/MatMul")
