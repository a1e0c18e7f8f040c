"""From operators to layers of the vector engine: tables, products, means, and copies with another place."""

from __future__ import annotations

from typing import cast

import numpy as np

from hw.contract.config import Config
from hw.contract.layouts import blocks
from sw_driver.compiler.activation_tables import activation_table
from sw_driver.compiler.errors import CompileError
from sw_driver.compiler.feature_maps import FeatureMap
from sw_driver.compiler.layers import CombineLayer, CopyLayer, DecideLayer, Geometry, Layer, MulLayer, Piece, PoolLayer
from sw_driver.compiler.masks import Grain, Mask
from sw_driver.compiler.nearest import nearest, runs
from sw_driver.compiler.quantisation import activation_range, decision, mean_parameters, product_multiplier
from sw_driver.compiler.views import Views, pixels_and_channels
from sw_driver.graph import Graph, Operator, Tensor

_ONE_PIXEL = Geometry((1, 1), (1, 1), (1, 1), (0, 0))


class VectorLowering:
    """Methods that lower one operator each. `Lowering` is one; its members are used here."""

    graph: Graph
    config: Config
    views: Views
    layers: list[Layer]
    complements: dict[int, int]  #: what LOGICAL_NOT makes: of which tensor

    def _ends(self, operator: Operator) -> tuple[Tensor, Tensor]:
        """First input and output."""
        return self.graph.tensors[operator.inputs[0]], self.graph.tensors[operator.outputs[0]]

    def _called(self, operator: Operator) -> str:
        return operator.name or f"{operator.op.lower()}_{operator.index}"

    def unary(self, operator: Operator) -> None:
        """An activation: a copy through a table."""
        x, output = self._ends(operator)
        operand = self.views.operand(x, *pixels_and_channels(x.shape))
        layer = PoolLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.make(output), input=operand, geometry=_ONE_PIXEL, average=False, output_min=-128,
            output_max=127)
        layer.table = activation_table(operator.op, operator.options, (x.scale, x.zero_point),
                                       (output.scale, output.zero_point))
        self.layers.append(layer)

    def multiply(self, operator: Operator) -> None:
        """MUL of two feature maps, one of which may be a vector of channels."""
        a, b = (cast(Tensor, tensor) for tensor in self.graph.input_tensors(operator))
        output = self.graph.tensors[operator.outputs[0]]
        if a.elements != output.elements:
            a, b = b, a
        height, width, channels = pixels_and_channels(output.shape)
        factor = (height, width, channels) if b.elements == output.elements else (1, 1, channels)
        if a.elements != output.elements or pixels_and_channels(b.shape) != factor:
            raise CompileError(f"{operator}: {b} would be broadcast to {output}; only a vector of channels can be")
        multiplier, shift = product_multiplier(a.scale, b.scale, output.scale)
        low, high = activation_range(operator.options["activation"], output.scale, output.zero_point)
        self.layers.append(MulLayer(
            name=self._called(operator), op="MUL", shape=output.shape, operators=[operator.index],
            output=self.views.make(output), a=self.views.operand(a, height, width, channels),
            b=self.views.operand(b, *factor), multiplier=multiplier, shift=shift, a_zero_point=a.zero_point,
            b_zero_point=b.zero_point, output_zero_point=output.zero_point, output_min=low, output_max=high))

    def mean(self, operator: Operator) -> None:
        """MEAN over height and width: one window."""
        x, output = self._ends(operator)
        height, width, channels = pixels_and_channels(x.shape)
        if height * width > self.config.pool_area:
            raise CompileError(f"{operator}: {height}x{width} pixels are more than {self.config.pool_area}")
        self.layers.append(PoolLayer(
            name=self._called(operator), op="MEAN", shape=output.shape, operators=[operator.index],
            output=self.views.make(output), input=self.views.operand(x, height, width, channels),
            geometry=Geometry((height, width), (1, 1), (1, 1), (0, 0)), average=False, output_min=-128,
            output_max=127, mean=mean_parameters(height * width, (x.scale, x.zero_point),
                                                 (output.scale, output.zero_point))))

    def compare(self, operator: Operator) -> None:
        """A comparison with a constant: a decision."""
        a, b = (cast(Tensor, tensor) for tensor in self.graph.input_tensors(operator))
        output = self.graph.tensors[operator.outputs[0]]
        swapped = a.constant
        x, constant = (b, a) if swapped else (a, b)
        value = int(cast(np.ndarray, constant.data).reshape(-1)[0])
        bound, invert = decision(operator.op, (x.scale, x.zero_point), (constant.scale, constant.zero_point), value,
                                 swapped=swapped)
        operand = self.views.operand(x, *pixels_and_channels(output.shape))
        self.layers.append(DecideLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.nothing(output), input=operand, mask_tensor=output.index, bound=bound, invert=invert))

    def mask_of(self, operator: Operator, condition: Tensor) -> tuple[Mask, FeatureMap | None]:
        """The mask that a bool tensor is for `operator`, and the output of the layer that makes it on the device."""
        tensor, invert = condition.index, False
        while tensor in self.complements:
            tensor, invert = self.complements[tensor], not invert
        decision = self.views.maps.get(tensor)
        if (decision is None and tensor not in self.graph.inputs) or condition.dtype != "bool":
            raise CompileError(f"{operator}: its mask {condition} must be a bool graph input or a decision")
        height, width, channels = pixels_and_channels(condition.shape)
        if channels != 1:
            raise CompileError(f"{operator}: its mask {condition} must have a single channel")
        grain = Grain.LAYER if condition.elements == 1 else Grain.PIXEL
        return Mask(tensor, invert, height, width, decided=decision is not None, grain=grain), decision

    def combine(self, operator: Operator) -> None:
        """LOGICAL_AND, or LOGICAL_OR: not (not a and not b)."""
        output = self.graph.tensors[operator.outputs[0]]
        sides = [self.mask_of(operator, cast(Tensor, tensor)) for tensor in self.graph.input_tensors(operator)]
        either = operator.op == "LOGICAL_OR"
        first, second = (mask.complement() if mask.invert else mask for mask, _decision in sides)
        self.layers.append(CombineLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.nothing(output), mask_tensor=output.index, first=first, second=second,
            inverted=(sides[0][0].invert != either, sides[1][0].invert != either, either),
            decisions=[decision for _mask, decision in sides if decision is not None]))

    def complement(self, operator: Operator) -> None:
        """LOGICAL_NOT: whoever makes or reads the mask inverts it."""
        self.complements[operator.outputs[0]] = operator.inputs[0]

    # ---- copies -----------------------------------------------------------------------------------------------

    def _copy(self, operator: Operator, pieces: list[Piece]) -> None:
        output = self.graph.tensors[operator.outputs[0]]
        self.layers.append(CopyLayer(name=self._called(operator), op=operator.op, shape=output.shape,
                                     operators=[operator.index], output=self.views.make(output), pieces=pieces))

    def pad(self, operator: Operator) -> None:
        """PAD of rows and columns with the zero point."""
        x, output = self._ends(operator)
        paddings = cast(np.ndarray, self.graph.tensors[operator.inputs[1]].data).tolist()
        (top, bottom), (left, right) = paddings[1], paddings[2]
        height, width, channels = pixels_and_channels(x.shape)
        operand = self.views.operand(x, height, width, channels)
        rows, columns = pixels_and_channels(output.shape)[:2]
        borders = [((0, 0), (top, columns)), ((rows - bottom, 0), (bottom, columns)), ((top, 0), (height, left)),
                   ((top, columns - right), (height, right))]
        pieces = [Piece(operand, (top, left), (height, width))]
        pieces += [Piece(operand, origin, count, fill=output.zero_point) for origin, count in borders if min(count)]
        self._copy(operator, pieces)

    def concatenation(self, operator: Operator) -> None:
        """CONCATENATION of rows, columns, or channels in whole words: copies."""
        axis = operator.options["axis"] % 4
        at = 0
        pieces = []
        for index in operator.inputs:
            x = self.graph.tensors[index]
            height, width, channels = pixels_and_channels(x.shape)
            origin = (at, 0) if axis == 1 else (0, at) if axis == 2 else (0, 0)
            pieces.append(Piece(self.views.operand(x, height, width, channels), origin, (height, width),
                                first_block=blocks(at, self.config.lanes) if axis == 3 else 0))
            at += x.shape[axis]
        self._copy(operator, pieces)

    def resize(self, operator: Operator) -> None:
        """RESIZE_NEAREST_NEIGHBOR: by whole factors, the input once for every place within a pixel."""
        x, output = self._ends(operator)
        height, width, channels = pixels_and_channels(x.shape)
        operand = self.views.operand(x, height, width, channels)
        rows, columns = (runs(nearest(inputs, outputs, align_corners=operator.options["align_corners"],
                                      half_pixel_centers=operator.options["half_pixel_centers"]), inputs)
                         for inputs, outputs in ((height, output.shape[1]), (width, output.shape[2])))
        self._copy(operator, [
            Piece(operand, (row.first, column.first), (row.count, column.count), (row.step, column.step),
                  (row.source, column.source), (row.stride, column.stride))
            for row in rows for column in columns])
