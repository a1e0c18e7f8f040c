"""The motifs that random graphs are built of: convolutions, residual blocks, pools, gated branches, dense layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from hw.contract.config import PRESETS
from hw.contract.layouts import blocks, mask_row_words
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.support import COMPARISONS
from testbench.random_tensors import (
    random_activation,
    random_activations,
    random_bias,
    random_mask,
    random_multipliers,
    random_scale,
    random_weights,
    random_zero_point,
)
from testbench.random_vector_motifs import VectorMotifs

T = TypeVar("T")

#: Largest pooling window drawn, in pixels: what the smallest preset takes.
POOL_AREA = min(preset.pool_area for preset in PRESETS.values())


@dataclasses.dataclass(frozen=True)
class GraphSize:
    """Bounds of a random graph: sides and channels of feature maps, motifs, and multiply-accumulates in all."""

    side: int
    channels: int
    motifs: int
    macs: int


@dataclasses.dataclass(frozen=True)
class _Window:
    """Geometry of a convolution."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "SAME"


class GraphGenerator(VectorMotifs):
    """One graph, as it grows.

    Parameters
    ----------
    rng, size : as for `random_graphs.random_graph`. max_macs, max_weights : what choices try to keep to.
    reshape_channels : as there. lanes : channels of a word, for `largest_tiles`.

    Members, after `grow`
    ---------------------
    builder : the model. macs : multiply-accumulates of all layers. largest_weights : bytes of the largest layer's
    weights. largest_tiles : most tiles of weights that one block of output channels needs. largest_mask : words of the
    largest decision mask.
    """

    def __init__(self, rng: np.random.Generator, size: GraphSize, *, max_macs: int, max_weights: int,
                 reshape_channels: bool, lanes: int):
        self._rng = rng
        self._size = size
        self._max_macs = max_macs
        self._max_weights = max_weights
        self._reshape_channels = reshape_channels
        self.builder = TfliteBuilder("random")
        self.macs = 0
        self.largest_weights = 0
        self.largest_tiles = 0
        self.largest_mask = 0
        self._lanes = lanes
        self._block = int(rng.choice([4, 8, 16]))  # channels of which gates close all at a time
        self._maps: list[int] = []  # feature maps, rank 4, that motifs may start from
        self._consumed: set[int] = set()
        self._produced: list[int] = []
        self._masks: list[int] = []
        self._inputs: dict[int, str] = {}

    # ---- choices ------------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _pick(self, values: Sequence[T]) -> T:
        return values[int(self._rng.integers(len(values)))]

    def _between(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def _channels(self, spatial: int, input_channels: int, taps: int) -> int:
        """Output channels that leave something of the budget."""
        budget = max(1, (self._max_macs - self.macs) // 2)
        most = min(self._size.channels, budget // (spatial * input_channels * taps),
                   self._max_weights // (input_channels * taps))
        if most < 1:
            return 1
        return self._pick([most, self._between(1, most), min(most, self._pick([1, 4, 8, 16, 17]))])

    # ---- the graph ----------------------------------------------------------------------------

    def grow(self, gated: bool | None, all_outputs: bool = False) -> None:
        """Add inputs, motifs, a tail and outputs."""
        if gated is not True and self._chance(0.08):
            self._dense_graph()
        else:
            self._add_input_map()
            if self._chance(0.15):
                self._add_input_map()
            motifs = [self._plain_conv, self._plain_conv, self._residual, self._residual, self._pool, self._pool,
                      self._any_add, self._reshape_map, self._any_depthwise, self._any_depthwise,
                      self._unary, self._unary, self._unary, self._product, self._together, self._together,
                      self._channel_gated, self._channel_gated]
            if gated is not False:
                motifs += [self._gated] * 3
            count = self._between(1, self._size.motifs)
            forced = self._between(1, count) if gated else 0
            for number in range(1, count + 1):
                motif = self._gated if number == forced else self._pick(motifs)
                motif(self._pick(self._maps[-3:] if self._chance(0.8) else self._maps))
            self._tail()
        self._choose_outputs(all_outputs)

    def random_inputs(self) -> dict[str, np.ndarray]:
        """An array for each graph input."""
        inputs = {}
        for index, name in self._inputs.items():
            shape = self.builder.shape(index)
            if index in self._masks:
                inputs[name] = random_mask(self._rng, shape)
            else:
                inputs[name] = random_activations(self._rng, shape, self.builder.zero_point(index))
        return inputs

    def _add_input_map(self) -> None:
        side = self._size.side
        height, width = self._between(1, side), self._between(1, side)
        if self._chance(0.7):
            height, width = max(height, side // 2), max(width, side // 2)
        channels = self._pick([1, 2, 3, 4, 3, self._between(1, self._size.channels), 8, 16])
        self._add_input((1, height, width, min(channels, self._size.channels)))

    def _add_input(self, shape: tuple[int, ...]) -> int:
        name = "input" if not self._inputs else f"input_{len(self._inputs)}"
        x = self.builder.add_input(name, shape, scale=random_scale(self._rng), zero_point=random_zero_point(self._rng))
        self._inputs[x] = name
        self._note(x)
        return x

    def _note(self, x: int, *inputs: int) -> int:
        """Keep account of a new tensor `x` and of what was read for it."""
        self._consumed.update(inputs)
        self._produced.append(x)
        if len(self.builder.shape(x)) == 4:
            self._maps.append(x)
        return x

    def _choose_outputs(self, every: bool) -> None:
        computed = [x for x in self._produced if x not in self._inputs]
        outputs = [x for x in computed if every or x not in self._consumed or self._chance(0.08)]
        for index in self._rng.permutation(len(outputs)):
            self.builder.add_output(outputs[index])

    # ---- layers -------------------------------------------------------------------------------

    def _conv(self, x: int, window: _Window, channels: int, quantisation: tuple[float, int] | None = None) -> int:
        rng = self._rng
        input_channels = self.builder.shape(x)[3]
        weights = random_weights(rng, (channels, *window.kernel, input_channels))
        multipliers, bias = self._requantisation(weights)
        scale, zero_point = quantisation or (random_scale(rng), random_zero_point(rng))
        activation = random_activation(rng, scale, zero_point)
        y = self.builder.add_conv_2d(
            x, weights, bias, multipliers * scale / self.builder.scale(x), scale=scale, zero_point=zero_point,
            stride=window.stride, dilation=window.dilation, padding=window.padding, activation=activation)
        self._count(y, weights, math.prod(window.kernel) * blocks(input_channels, self._lanes))
        return self._note(y, x)

    def _depthwise(self, x: int, window: _Window, quantisation: tuple[float, int] | None = None,
                   multiplier: int = 1) -> int:
        rng = self._rng
        channels = self.builder.shape(x)[3] * multiplier
        weights = random_weights(rng, (channels, *window.kernel, 1))
        multipliers, bias = self._requantisation(weights)
        scale, zero_point = quantisation or (random_scale(rng), random_zero_point(rng))
        activation = random_activation(rng, scale, zero_point)
        y = self.builder.add_depthwise_conv_2d(
            x, np.ascontiguousarray(weights.transpose(3, 1, 2, 0)), bias, multipliers * scale / self.builder.scale(x),
            scale=scale, zero_point=zero_point, stride=window.stride, dilation=window.dilation,
            padding=window.padding, activation=activation)
        self._count(y, weights, blocks(channels // multiplier, self._lanes))
        return self._note(y, x)

    def _any_depthwise(self, x: int) -> int:
        """A depthwise convolution, more often with a depth multiplier where there are few channels."""
        window = self._window(x)
        side = self._between(1, 16)
        kernel = self._pick([window.kernel, window.kernel, (3, 3), (1, side), (side, 1)])
        channels = self.builder.shape(x)[3]
        multiplier = self._between(2, 4) if channels < 8 and self._chance(0.3) else 1
        padding = window.padding if kernel == window.kernel else "SAME"
        return self._depthwise(x, dataclasses.replace(window, kernel=kernel, padding=padding), multiplier=multiplier)

    def _requantisation(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        multipliers = random_multipliers(self._rng, weights)
        bias = None if self._chance(0.15) else random_bias(self._rng, weights, multipliers)
        return multipliers, bias

    def _count(self, y: int, weights: np.ndarray, tiles: int) -> None:
        self.macs += math.prod(self.builder.shape(y)) * weights[0].size
        self.largest_tiles = max(self.largest_tiles, tiles)
        self.largest_weights = max(self.largest_weights, weights.size)

    def _add(self, a: int, b: int, quantisation: tuple[float, int] | None = None) -> int:
        rng = self._rng
        larger = max(self.builder.scale(a), self.builder.scale(b))
        ratio = 2.0 ** rng.uniform(-10, 6) if self._chance(0.1) else 2.0 ** rng.uniform(-0.5, 1.5)
        scale, zero_point = quantisation or (larger * ratio, random_zero_point(rng))
        activation = random_activation(rng, scale, zero_point)
        y = self.builder.add_add(a, b, scale=scale, zero_point=zero_point, activation=activation)
        return self._note(y, a, b)

    def _fully_connected(self, x: int, outputs: int, features: int, channels: int | None = None,
                         keep_num_dims: bool = False) -> int:
        """`channels` of the feature map whose pixels make a row of features, where it is a flattened one."""
        rng = self._rng
        weights = random_weights(rng, (outputs, features))
        multipliers, bias = self._requantisation(weights)
        scale, zero_point = random_scale(rng), random_zero_point(rng)
        y = self.builder.add_fully_connected(
            x, weights, bias, multipliers * scale / self.builder.scale(x), scale=scale, zero_point=zero_point,
            activation=random_activation(rng, scale, zero_point), keep_num_dims=keep_num_dims)
        # A flattened feature map keeps its spare channels: blocks for each of its pixels.
        channels = channels or features
        self._count(y, weights, features // channels * blocks(channels, self._lanes))
        return self._note(y, x)

    def _window(self, x: int, padding: str | None = None) -> _Window:
        """A window that fits on `x`; padding 'SAME' on request."""
        _batch, height, width, _channels = self.builder.shape(x)
        kernel = self._pick([(1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (self._between(1, 7), self._between(1, 7))])
        if self._chance(0.04):
            kernel = (self._between(1, 16), self._between(1, 16))
        stride = (1, 1) if self._chance(0.6) else (self._between(1, 3), self._between(1, 3))
        dilation = (1, 1) if self._chance(0.8) else (self._between(1, 3), self._between(1, 3))
        extent = [(kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
        if padding is None:
            padding = "VALID" if extent[0] <= height and extent[1] <= width and self._chance(0.4) else "SAME"
        return _Window(kernel, stride, dilation, padding)

    # ---- motifs -------------------------------------------------------------------------------

    def _plain_conv(self, x: int) -> int:
        window = self._window(x)
        _batch, height, width, channels = self.builder.shape(x)
        spatial = -(-height // window.stride[0]) * -(-width // window.stride[1])
        return self._conv(x, window, self._channels(spatial, channels, math.prod(window.kernel)))

    def _same_shape_conv(self, x: int, quantisation: tuple[float, int] | None = None,
                         channels: int | None = None) -> int:
        """A convolution that keeps height and width, and the channels unless told otherwise."""
        _batch, height, width, input_channels = self.builder.shape(x)
        kernel = self._pick([(1, 1), (3, 3), (3, 3), (1, 3), (5, 5), (2, 2)])
        channels = channels or input_channels
        if channels == input_channels and self._chance(0.25):
            return self._depthwise(x, _Window(kernel, dilation=self._pick([(1, 1), (1, 1), (1, 2)])), quantisation)
        if self.macs + height * width * input_channels * channels * math.prod(kernel) > self._max_macs:
            kernel = (1, 1)
        dilation = self._pick([(1, 1), (1, 1), (1, 1), (2, 1), (2, 2)])
        return self._conv(x, _Window(kernel, dilation=dilation), channels, quantisation)

    def _residual(self, x: int) -> int:
        if self._chance(0.3):  # with a stride, and a convolution on the shortcut
            window = _Window((3, 3), self._pick([(2, 2), (1, 2), (2, 1)]))
            _batch, height, width, channels = self.builder.shape(x)
            outputs = self._channels(height * width, channels, 9)
            branch = self._conv(x, window, outputs)
            shortcut = self._conv(x, _Window((1, 1), window.stride), outputs)
        else:
            branch, shortcut = x, x
        for _ in range(self._between(1, 2)):
            branch = self._same_shape_conv(branch)
        return self._add(branch, shortcut) if self._chance(0.5) else self._add(shortcut, branch)

    def _any_add(self, x: int) -> int:
        partners = [y for y in self._maps if self.builder.shape(y) == self.builder.shape(x)]
        return self._add(x, self._pick(partners) if self._chance(0.7) else x)

    def _pool(self, x: int) -> int:
        _batch, height, width, _channels = self.builder.shape(x)
        add_pool = self._pick([self.builder.add_average_pool_2d, self.builder.add_max_pool_2d])
        padding = self._pick(["SAME", "VALID"])
        if self._chance(0.25) and height * width <= POOL_AREA and max(height, width) <= 255:
            window, stride = (height, width), (height, width)
        else:
            window = (self._between(1, min(4, height)), self._between(1, min(4, width)))
            stride = (self._between(1, 3), self._between(1, 3))
        activation = random_activation(self._rng, self.builder.scale(x), self.builder.zero_point(x))
        return self._note(add_pool(x, window, stride=stride, padding=padding, activation=activation), x)

    def _reshape_map(self, x: int) -> int:
        _batch, height, width, channels = self.builder.shape(x)
        shapes = [(1, 1, height * width, channels), (1, height * width, 1, channels), (1, width, height, channels)]
        if self._reshape_channels:
            shapes += [(1, height, width * channels, 1), (1, height, channels, width), (1, 1, 1, -1)]
        return self._note(self.builder.add_reshape(x, self._pick(shapes)), x)

    def _mask(self, shape: tuple[int, ...]) -> int:
        fitting = [mask for mask in self._masks if self.builder.shape(mask) == shape]
        if fitting and self._chance(0.3):
            return self._pick(fitting)
        name = f"mask_{len(self._masks)}"
        mask = self.builder.add_input(name, shape, "bool")
        self.largest_mask = max(self.largest_mask, shape[1] * mask_row_words(shape[2]))
        self._inputs[mask] = name
        self._masks.append(mask)
        return mask

    def _condition(self, x: int, depth: int = 0) -> int:
        """A mask for the pixels of `x`, or for all of it: an input, a decision, or masks put together."""
        height, width = self.builder.shape(x)[1:3]
        kind = self._pick(["decision", "decision", "mask", "mask", "once", "combined" if depth < 2 else "mask"])
        if kind == "mask":
            return self._mask((1, 1, 1, 1) if self._chance(0.15) else (1, height, width, 1))
        if kind == "combined":
            self.largest_mask = max(self.largest_mask, 3 * height * mask_row_words(width))
            operands = [self._condition(x, depth + 1) for _ in range(2)]
            if self._chance(0.3):
                operands[0] = self.builder.add_logical("LOGICAL_NOT", operands[0])
            return self.builder.add_logical(self._pick(["LOGICAL_AND", "LOGICAL_OR"]), *operands)
        pooled = self._mean(x) if kind == "once" else x
        return self._decision_once(pooled) if pooled != x else self._decision(x)

    def _decision_once(self, pooled: int) -> int:
        """A decision about all pixels, from pooled features: a convolution or a fully connected layer, compared."""
        channels = self.builder.shape(pooled)[3]
        if self._chance(0.5):
            return self._compare(self._fully_connected(pooled, 1, channels, keep_num_dims=self._chance(0.5)))
        return self._compare(self._conv(pooled, _Window((1, 1)), 1))

    def _decision(self, x: int) -> int:
        """A mask that the network decides: a convolution to one channel, compared with a constant."""
        kernel = self._pick([(1, 1), (3, 3)])
        score = self._conv(x, _Window(kernel), 1, (random_scale(self._rng), random_zero_point(self._rng)))
        height, width = self.builder.shape(x)[1:3]
        self.largest_mask = max(self.largest_mask, 2 * height * mask_row_words(width))
        return self._compare(score)

    def _compare(self, score: int) -> int:
        """A comparison with a constant."""
        same = self._chance(0.5)
        scale = self.builder.scale(score) if same else random_scale(self._rng)
        zero_point = self.builder.zero_point(score) if same else random_zero_point(self._rng)
        level = np.array([self._between(-128, 127)] if self._chance(0.3) else [zero_point], np.int8)
        bound = self.builder.add_constant(f"bound_{score}", level.reshape(self._pick([(), (1,), (1, 1, 1, 1)])),
                                          scale=scale, zero_point=zero_point)
        op = self._pick(COMPARISONS)
        return self.builder.add_comparison(op, *((bound, score) if self._chance(0.3) else (score, bound)))

    def _gated(self, x: int, nested: bool = False) -> int:
        """y = SELECT_V2(mask, branch(x), skip); the branch has one to three convolutions, maybe a stride."""
        _batch, height, width, channels = self.builder.shape(x)
        stride = self._pick([(1, 1), (1, 1), (1, 1), (2, 2), (1, 2)])
        kept = len(self._maps)
        skip, outputs = x, channels
        if stride != (1, 1) or self._chance(0.3):
            outputs = self._channels(height * width, channels, 9)
            skip = self._conv(x, _Window(self._pick([(1, 1), (3, 3)]), stride), outputs)
        quantisation = (self.builder.scale(skip), self.builder.zero_point(skip))
        branch = x
        length = self._between(1, 3)
        strided = self._between(0, length - 1)
        for number in range(length):
            last = number == length - 1
            target = quantisation if last else None
            if number == strided and stride != (1, 1):
                branch = self._conv(branch, _Window((3, 3), stride), outputs, target)
            else:
                branch = self._same_shape_conv(branch, target, outputs if last else None)
            if not last and not nested and self._chance(0.12):
                branch = self._gated_in_place(branch)
        branch = self._end_of_branch(branch, skip, quantisation)
        if not self._chance(0.2):  # most often nobody else reads what the branch computes
            del self._maps[kept:]
        mask = self._condition(skip)
        operands = (skip, branch) if self._chance(0.12) else (branch, skip)
        return self._note(self.builder.add_select_v2(mask, *operands), *operands)

    def _channel_gated(self, x: int) -> int:
        """Channels that a gate, made of another map's pooled features, closes: some of them by whole blocks."""
        pooled = self._mean(x)
        if pooled == x:
            return x
        rng, builder = self._rng, self.builder
        _batch, height, width, inputs = builder.shape(x)
        kernel = self._pick([(1, 1), (3, 3)])
        channels = self._channels(height * width, inputs, kernel[0] * kernel[1])
        weights = random_weights(rng, (channels, inputs))
        bias = rng.integers(-2000, 2000, channels).astype(np.int32)
        bias[rng.random(channels // self._block + 1).repeat(self._block)[:channels] < 0.4] = -1_000_000
        scale, zero_point = random_scale(rng), random_zero_point(rng)
        gate = builder.add_fully_connected(
            pooled, weights, bias, random_multipliers(rng, weights) * scale / builder.scale(pooled), scale=scale,
            zero_point=zero_point, keep_num_dims=True, activation="RELU" if self._chance(0.5) else "NONE")
        self._count(gate, weights, blocks(inputs, self._lanes))
        if self._chance(0.5):
            gate = builder.add_unary("RELU", gate, scale=scale, zero_point=zero_point)
        kept = len(self._maps)
        y = self._conv(x, _Window(kernel), channels)
        for _ in range(self._between(0, 1)):
            y = self._depthwise(y, _Window((3, 3)))
        if self._chance(0.7):  # most often nobody else reads what the gate closes
            del self._maps[kept:]
        scale = float(np.float32(builder.scale(y) * builder.scale(gate) * 2.0 ** rng.uniform(4, 8)))
        operands = (gate, y) if self._chance(0.3) else (y, gate)
        return self._note(builder.add_mul(*operands, scale=scale, zero_point=random_zero_point(rng)), y, gate)

    def _gated_in_place(self, x: int) -> int:
        """A gate inside a branch, around one convolution."""
        branch = self._same_shape_conv(x, (self.builder.scale(x), self.builder.zero_point(x)))
        mask = self._mask((*self.builder.shape(x)[:3], 1))
        return self._note(self.builder.add_select_v2(mask, branch, x), branch, x)

    def _end_of_branch(self, branch: int, skip: int, quantisation: tuple[float, int]) -> int:
        """Sometimes the branch ends in an ADD or in a pool that keeps the shape."""
        if self._chance(0.2):
            return self._add(branch, skip, quantisation)
        if self._chance(0.1):
            return self._note(self.builder.add_max_pool_2d(branch, (3, 3), stride=1, padding="SAME"), branch)
        return branch

    # ---- fully connected layers ---------------------------------------------------------------

    def _dense_graph(self) -> None:
        """FULLY_CONNECTED layers on rows of features."""
        rows = self._pick([1, 1, self._between(2, 5)])
        x = self._add_input((rows, self._between(1, 100)))
        for _ in range(self._between(1, self._size.motifs)):
            y = self._dense(x)
            if self.builder.shape(y) == self.builder.shape(x) or self._chance(0.1):
                y = self._add(y, x if self.builder.shape(y) == self.builder.shape(x) else y)
            x = y
        self._end(x)

    def _dense(self, x: int, channels: int | None = None) -> int:
        rows, features = self.builder.shape(x)
        same = self._chance(0.2) and features <= self._size.channels
        return self._fully_connected(x, features if same else self._channels(rows, features, 1), features,
                                     channels)

    def _tail(self) -> None:
        """After the feature maps: nothing, or fully connected layers, and maybe SOFTMAX."""
        x = self._maps[-1]
        _batch, height, width, channels = self.builder.shape(x)
        elements = height * width * channels
        kind = self._pick(["none", "flatten", "flatten", "flatten", "direct", "pixels", "rows"])
        if kind == "none":
            if self._chance(0.3):
                self._note(self.builder.add_reshape(x, self._pick([(1, -1), (height, -1), (-1, channels)])), x)
            return
        if kind == "flatten":
            x = self._dense(self._note(self.builder.add_reshape(x, (1, -1)), x), channels)
        elif kind == "rows":
            x = self._dense(self._note(self.builder.add_reshape(x, (height * width, channels)), x))
        elif kind == "direct":
            x = self._fully_connected(x, self._channels(1, elements, 1), elements, channels)
        else:
            outputs = self._channels(height * width, channels, 1)
            x = self._fully_connected(x, outputs, channels, keep_num_dims=self._chance(0.5))
        if len(self.builder.shape(x)) == 2 and self._chance(0.3):
            x = self._dense(x)
        self._end(x)

    def _end(self, x: int) -> None:
        if self._chance(0.4):
            x = self._note(self.builder.add_softmax(x, beta=self._pick([1.0, 1.0, 0.5, 2.0])), x)
            if self._chance(0.1):
                self._note(self.builder.add_reshape(x, (-1,)), x)
