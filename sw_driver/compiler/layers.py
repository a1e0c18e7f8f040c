"""What the compiler works on: layers, each of which makes one feature map or mask."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from hw.contract.layouts import depthwise_lines
from sw_driver.compiler.feature_maps import FeatureMap, Operand
from sw_driver.compiler.masks import DemandStep, Grain, Mask
from sw_driver.compiler.quantisation import AddParameters, MeanParameters

#: Fewest pixels of a layer that is computed block by block of its channels: rows of the conv engine share them.
BLOCK_PIXELS_MIN = 16


@dataclasses.dataclass(eq=False)
class Layer(abc.ABC):
    """One layer of an engine: `op` is its TFLite name (fused operators joined by +), `output` what it writes.

    mask : None, or the pixels that are computed. operators : indices in the graph.
    table : int8 [256] that every result goes through.
    beneath : a map that must be in the output's buffer before, because this layer writes only some of its pixels.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    operators: list[int]
    output: FeatureMap
    mask: Mask | None = dataclasses.field(default=None, init=False)
    beneath: FeatureMap | None = dataclasses.field(default=None, init=False)
    table: np.ndarray | None = dataclasses.field(default=None, init=False)

    @property
    @abc.abstractmethod
    def operands(self) -> list[Operand]:
        """Everything it reads."""

    @property
    def maps(self) -> list[FeatureMap]:
        """The maps that must be there before it starts, and its output."""
        beneath = [] if self.beneath is None else [self.beneath]
        return [*(operand.map for operand in self.operands), *beneath, self.output]

    @property
    def elementwise(self) -> list[Operand]:
        """The operands whose pixel is read just before the same pixel of the output is written."""
        return []

    @property
    def needs(self) -> list[FeatureMap]:
        """The maps whose layers must run before, decisions included."""
        return [operand.map for operand in self.operands]

    def step(self, operand: Operand) -> DemandStep:
        """How the demand on the output becomes a demand on `operand`."""
        return DemandStep((1, 1), (1, 1), (1, 1), (0, 0), (operand.height, operand.width))

    def can_be_gated(self, mask: Mask) -> bool:
        """Whether the layer may compute only what this mask says."""
        return mask.grain is not Grain.BLOCK

    def demand(self, operand: Operand, mask: Mask) -> Mask | None:
        """The demand on `operand`, given the one on the output; None: all of it. Blocks of channels: where each
        channel is computed from the same channel."""
        return mask.before(self.step(operand))

    def rows(self, operand: Operand, first: int, end: int) -> tuple[int, int]:
        """The rows of `operand`, from one to before another, that output rows first .. end - 1 depend on."""
        step = self.step(operand)
        low = first * step.stride[0] - step.pad[0]
        high = (end - 1) * step.stride[0] - step.pad[0] + (step.kernel[0] - 1) * step.dilation[0] + 1
        low = min(max(low, 0), operand.height - 1)
        return low, max(min(high, operand.height), low + 1)

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.op})"


@dataclasses.dataclass(eq=False)
class Geometry:
    """How a window moves over the input: pairs are (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]


@dataclasses.dataclass(eq=False)
class WindowLayer(Layer):
    """A layer that makes each pixel of a window of its input."""

    input: Operand
    geometry: Geometry

    @property
    def operands(self) -> list[Operand]:
        return [self.input]

    def step(self, operand: Operand) -> DemandStep:
        if operand is not self.input:
            return super().step(operand)
        g = self.geometry
        return DemandStep(g.kernel, g.stride, g.dilation, g.pad, (operand.height, operand.width))


@dataclasses.dataclass(eq=False)
class WeightedLayer(WindowLayer):
    """A window layer with weights.

    Parameters
    ----------
    bias, multipliers : int32 [output channels]; shifts : int8 [output channels].
    """

    weights: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    shifts: np.ndarray
    input_zero_point: int
    output_zero_point: int
    output_min: int
    output_max: int

    def can_be_gated(self, mask: Mask) -> bool:
        return super().can_be_gated(mask) or self.output.height * self.output.width >= BLOCK_PIXELS_MIN


@dataclasses.dataclass(eq=False)
class ConvLayer(WeightedLayer):
    """A convolution.

    Parameters
    ----------
    weights : int8 [output channels, kernel height, kernel width, input blocks x lanes] in the order of the
        input's bytes, zero where these are spare; packed: kernel width 1, the last dimension a kernel row.
    last_lanes : valid bytes of a tap's last word.
    taps_channels : multiplications of one output value in the model.
    residual : operand b of a fused ADD, with its parameters.
    """

    last_lanes: int
    taps_channels: int
    input_blocks: int
    residual: Operand | None = None
    add: AddParameters | None = None

    @property
    def operands(self) -> list[Operand]:
        return [self.input] if self.residual is None else [self.input, self.residual]

    @property
    def elementwise(self) -> list[Operand]:
        return [] if self.residual is None else [self.residual]

    def demand(self, operand: Operand, mask: Mask) -> Mask | None:
        return None if operand is self.input and mask.grain is Grain.BLOCK else super().demand(operand, mask)


@dataclasses.dataclass(eq=False)
class DepthwiseLayer(WeightedLayer):
    """A depthwise convolution on the vector engine: channel c of the output from channel c of the input.

    Parameters
    ----------
    weights : int8 [kernel height, kernel width, channels].
    """

    @property
    def transposed(self) -> bool:
        """Whether the engine walks along columns, where that takes fewer steps: tall kernels. A mask has its order."""
        height, width = self.geometry.kernel
        in_order = self.mask is not None and self.mask.grain is Grain.PIXEL
        return not in_order and height * depthwise_lines(width) > width * depthwise_lines(height)


@dataclasses.dataclass(eq=False)
class AddLayer(Layer):
    """An addition on the vector engine."""

    a: Operand
    b: Operand
    parameters: AddParameters

    @property
    def operands(self) -> list[Operand]:
        return [self.a, self.b]

    @property
    def elementwise(self) -> list[Operand]:
        return [self.a, self.b]


@dataclasses.dataclass(eq=False)
class MulLayer(Layer):
    """A product; b may be one pixel, a vector of channels. gate : the blocks of channels in which b is not all zero
    points, where a layer finds them."""

    a: Operand
    b: Operand
    multiplier: int
    shift: int
    a_zero_point: int
    b_zero_point: int
    output_zero_point: int
    output_min: int
    output_max: int
    gate: Mask | None = dataclasses.field(default=None, init=False)

    @property
    def broadcast(self) -> bool:
        """Whether b is a vector of channels."""
        return (self.b.height, self.b.width) != (self.output.height, self.output.width)

    @property
    def operands(self) -> list[Operand]:
        return [self.a, self.b]

    @property
    def elementwise(self) -> list[Operand]:
        return [self.a] if self.broadcast else [self.a, self.b]

    def demand(self, operand: Operand, mask: Mask) -> Mask | None:
        if operand is self.b and self.broadcast and mask.grain is not Grain.LAYER:
            return None
        return super().demand(operand, mask)


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Part of a copy: for i < count[0] and j < count[1], pixel start + stride * (i, j) of `input` goes to output pixel
    origin + step * (i, j), from channel block `first_block` of it on. fill : the value written instead, if any."""

    input: Operand
    origin: tuple[int, int]
    count: tuple[int, int]
    step: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    first_block: int = 0
    fill: int | None = None

    def rows(self, first: int, end: int) -> tuple[int, int]:
        """The i whose output rows are first .. end - 1: from one to before another."""
        low = max(0, -(-(first - self.origin[0]) // self.step[0]))
        high = min(self.count[0], -(-(end - self.origin[0]) // self.step[0]))
        return low, max(low, high)


@dataclasses.dataclass(eq=False)
class CopyLayer(Layer):
    """Maps put together: PAD, CONCATENATION, RESIZE_NEAREST_NEIGHBOR. The pieces cover the output."""

    pieces: list[Piece]

    @property
    def operands(self) -> list[Operand]:
        return list(dict.fromkeys(piece.input for piece in self.pieces))

    def can_be_gated(self, mask: Mask) -> bool:
        return mask.grain is Grain.LAYER

    def demand(self, operand: Operand, mask: Mask) -> Mask | None:
        return None if mask.grain is Grain.BLOCK else super().demand(operand, mask)

    def rows(self, operand: Operand, first: int, end: int) -> tuple[int, int]:
        read = []
        for piece in self.pieces:
            if piece.input is operand and piece.fill is not None:
                read.append(0)  # the word that stands for the value is read, if only to be overruled
            elif piece.input is operand:
                low, high = piece.rows(first, end)
                read += [piece.start[0] + piece.stride[0] * i for i in (low, high - 1) if high > low]
        read = read or [0]
        return min(read), max(read) + 1


@dataclasses.dataclass(eq=False)
class PoolLayer(WindowLayer):
    """Pooling; a MAX_POOL of 1x1 without clamp is a copy. mean : parameters of a MEAN."""

    average: bool
    output_min: int
    output_max: int
    mean: MeanParameters | None = None


@dataclasses.dataclass(eq=False)
class MaskLayer(Layer):
    """A layer that makes a mask. Its output takes no feature memory.

    mask_tensor : the tensor that its masks are said to be of: the bool tensor.
    """

    mask_tensor: int


@dataclasses.dataclass(eq=False)
class DecideLayer(MaskLayer):
    """A decision: bit of a mask for each pixel of a one-channel map.

    bound, invert : the bit is (value >= bound) != invert.
    """

    input: Operand
    bound: int
    invert: bool

    @property
    def operands(self) -> list[Operand]:
        return [self.input]


@dataclasses.dataclass(eq=False)
class GateLayer(MaskLayer):
    """Finds the blocks of channels whose gate is open: those in which a vector of channels is not `closed` alone.

    mask_tensor : the vector's tensor.
    """

    input: Operand
    closed: int

    @property
    def opened(self) -> Mask:
        """The mask that it makes."""
        return Mask(self.mask_tensor, False, self.input.blocks, 1, decided=True, grain=Grain.BLOCK)

    @property
    def operands(self) -> list[Operand]:
        return [self.input]


@dataclasses.dataclass(eq=False)
class CombineLayer(MaskLayer):
    """LOGICAL_AND or LOGICAL_OR of two masks: the AND of both, each inverted or not, inverted or not.

    first, second : without demand steps, not inverted. inverted : of the first, the second, the result.
    decisions : the outputs of the layers that make them on the device.
    """

    first: Mask
    second: Mask
    inverted: tuple[bool, bool, bool]
    decisions: list[FeatureMap]

    @property
    def operands(self) -> list[Operand]:
        return []

    @property
    def needs(self) -> list[FeatureMap]:
        return self.decisions


@dataclasses.dataclass(eq=False)
class SelectLayer(Layer):
    """SELECT_V2, until the demand analysis has replaced it: a where the mask is true, else b. decision : the output
    of the layer that makes the mask on the device."""

    select: Mask
    a: Operand
    b: Operand
    decision: FeatureMap | None = None

    @property
    def operands(self) -> list[Operand]:
        return [self.a, self.b]

    @property
    def needs(self) -> list[FeatureMap]:
        return [*super().needs, *([] if self.decision is None else [self.decision])]
