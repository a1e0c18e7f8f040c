"""Motifs of the vector engine: depthwise convolutions, tables, products, means, and maps put together."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.support import TABLE_OPERATORS
from testbench.random_tensors import random_activation, random_zero_point

T = TypeVar("T")

#: Largest pooling window drawn, in pixels: what the smallest preset takes.
_MEAN_AREA = 256


class VectorMotifs(abc.ABC):
    """Each motif takes a feature map and returns a new one. `GraphGenerator` is one; its members are used here."""

    _rng: np.random.Generator
    _maps: list[int]
    builder: TfliteBuilder

    @abc.abstractmethod
    def _chance(self, probability: float) -> bool:
        """True with this probability."""

    @abc.abstractmethod
    def _pick(self, values: Sequence[T]) -> T:
        """One of the values."""

    @abc.abstractmethod
    def _between(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""

    @abc.abstractmethod
    def _note(self, x: int, *inputs: int) -> int:
        """Keep a new map; the maps it was made of are used."""

    def _quantisation_near(self, scale: float) -> tuple[float, int]:
        """A scale not far from `scale`, and a zero point."""
        return float(np.float32(scale * 2.0 ** self._rng.uniform(-1, 1))), random_zero_point(self._rng)

    def _unary(self, x: int) -> int:
        """A unary activation."""
        op = self._pick(TABLE_OPERATORS)
        if op == "LOGISTIC":
            return self._note(self.builder.add_logistic(x), x)
        scale, zero_point = self._quantisation_near(self.builder.scale(x))
        if op == "TANH":
            scale, zero_point = 1 / 128, 0
        elif op == "RELU6":
            scale, zero_point = self.builder.scale(x), self.builder.zero_point(x)
        alpha = float(self._rng.uniform(-0.3, 0.9))
        return self._note(self.builder.add_unary(op, x, scale=scale, zero_point=zero_point, alpha=alpha), x)

    def _mean(self, x: int) -> int:
        """The mean of a map's pixels, or the map itself where it is too large."""
        _batch, height, width, _channels = self.builder.shape(x)
        if height * width > _MEAN_AREA or max(height, width) > 255:
            return x
        scale, zero_point = self._quantisation_near(self.builder.scale(x))
        return self._note(self.builder.add_mean(x, [1, 2], scale=scale, zero_point=zero_point), x)

    def _product(self, x: int) -> int:
        """A product with a map of the same shape, or with a gate for each channel."""
        partners = [y for y in self._maps if self.builder.shape(y) == self.builder.shape(x)]
        gate = self._pick(partners)
        if self._chance(0.6):
            gate = self._mean(x)
            if self._chance(0.5):
                gate = self._unary(gate)
        scale = float(np.float32(self.builder.scale(x) * self.builder.scale(gate) * 2.0 ** self._rng.uniform(4, 8)))
        zero_point = random_zero_point(self._rng)
        activation = random_activation(self._rng, scale, zero_point)
        operands = (gate, x) if self._chance(0.3) else (x, gate)
        return self._note(self.builder.add_mul(*operands, scale=scale, zero_point=zero_point, activation=activation),
                          x, gate)

    def _together(self, x: int) -> int:
        """PAD, CONCATENATION or RESIZE_NEAREST_NEIGHBOR."""
        _batch, height, width, channels = self.builder.shape(x)
        kind = self._pick(["pad", "join", "resize"])
        if kind == "resize" and max(height, width) <= 16:
            size = ((height * self._between(1, 2), width * self._between(1, 3)) if self._chance(0.5) else
                    (self._between(1, 2 * height), self._between(1, 2 * width)))
            corners = self._chance(0.3)  # TFLite has either, not both
            return self._note(self.builder.add_resize_nearest_neighbor(
                x, size, half_pixel_centers=not corners and self._chance(0.5), align_corners=corners), x)
        if kind == "join" and max(height, width) <= 32:
            axis = 3 if self._chance(0.6 if channels % 16 == 0 else 0.3) else self._between(1, 2)
            same = (self.builder.scale(x), self.builder.zero_point(x))
            others = [y for y in self._maps if (self.builder.scale(y), self.builder.zero_point(y)) == same
                      and all(a == b for i, (a, b) in enumerate(
                          zip(self.builder.shape(x), self.builder.shape(y), strict=True)) if i != axis)]
            other = self._pick(others)
            return self._note(self.builder.add_concatenation([x, other], axis=axis), x, other)
        paddings = [(0, 0), *((self._between(0, 2), self._between(0, 2)) for _ in range(2)), (0, 0)]
        return self._note(self.builder.add_pad(x, paddings), x)
