"""From a graph to layers: each operator becomes a layer of an engine, a view, or a step of the host."""

from __future__ import annotations

from typing import cast

import numpy as np

from hw.contract.commands import OPERAND_SHIFT_MIN
from hw.contract.config import KERNEL_MAX, Config
from hw.contract.image import HostStep
from hw.contract.layouts import blocks
from sw_driver.compiler.errors import CompileError
from sw_driver.compiler.feature_maps import FeatureMap, Operand
from sw_driver.compiler.layers import (
    AddLayer,
    ConvLayer,
    DepthwiseLayer,
    Geometry,
    Layer,
    MulLayer,
    PoolLayer,
    SelectLayer,
    WeightedLayer,
)
from sw_driver.compiler.masks import Grain
from sw_driver.compiler.quantisation import (
    ACTIVATION_BOUNDS,
    activation_range,
    add_parameters,
    check_shifts,
    exact_sum,
    output_multipliers,
)
from sw_driver.compiler.vector_lowering import VectorLowering
from sw_driver.compiler.views import Views, pixels_and_channels
from sw_driver.graph import Graph, Operator, Tensor
from sw_driver.tflite.support import COMPARISONS, HOST_OPERATORS, TABLE_OPERATORS


def _check_factors(operator: Operator, layer: Layer) -> None:
    """Raises CompileError when a factor that the layer's scales make is larger or smaller than the device takes."""
    try:
        if isinstance(layer, WeightedLayer):
            check_shifts(layer.shifts)
        elif isinstance(layer, MulLayer):
            check_shifts(layer.shift)
        elif isinstance(layer, PoolLayer) and layer.mean is not None:
            check_shifts(layer.mean.shift)
        elif isinstance(layer, AddLayer):
            check_shifts(layer.parameters.sum_shift)
            check_shifts((layer.parameters.a_shift, layer.parameters.b_shift), OPERAND_SHIFT_MIN, 0)
    except ValueError as error:
        raise CompileError(f"{operator}: {error}") from None


class Lowering(VectorLowering):
    """Lowers `graph` for `config`.

    Members, after construction
    ---------------------------
    layers : in order of execution. views : the feature maps.
    host_steps : in order. wanted : tensors that must be in external memory after a run.
    """

    def __init__(self, graph: Graph, config: Config):
        self.graph = graph
        self.config = config
        self.views = Views(graph, config)
        self.layers: list[Layer] = []
        self.host_steps: list[HostStep] = []
        self.complements: dict[int, int] = {}
        self._on_host: set[int] = set()
        handlers = {
            "CONV_2D": self._convolution, "FULLY_CONNECTED": self._fully_connected,
            "DEPTHWISE_CONV_2D": self._depthwise, "ADD": self._add,
            **dict.fromkeys(COMPARISONS, self.compare), "LOGICAL_AND": self.combine, "LOGICAL_OR": self.combine,
            "LOGICAL_NOT": self.complement, "MUL": self.multiply, "MEAN": self.mean, "PAD": self.pad,
            "CONCATENATION": self._concatenation,
            "RESIZE_NEAREST_NEIGHBOR": self.resize, **dict.fromkeys(TABLE_OPERATORS, self.unary),
            "AVERAGE_POOL_2D": self._pool, "MAX_POOL_2D": self._pool, "SELECT_V2": self._select,
        }
        for operator in graph.operators:
            if operator.op in HOST_OPERATORS or any(i in self._on_host for i in operator.inputs):
                self._host(operator)
            elif operator.op == "RESHAPE":
                self.views.reshape(operator.outputs[0], operator.inputs[0])
            elif operator.op in handlers:
                before = len(self.layers)
                handlers[operator.op](operator)
                for layer in self.layers[before:]:
                    _check_factors(operator, layer)
            else:
                raise CompileError(f"{operator} is not supported")
        self.wanted = self._wanted()

    # ---- host ---------------------------------------------------------------------------------

    def _host(self, operator: Operator) -> None:
        output = self.graph.tensors[operator.outputs[0]]
        source = self.graph.tensors[operator.inputs[0]]
        if operator.op == "SOFTMAX":
            parameters = {"beta": operator.options["beta"], "scale": source.scale, "shape": list(output.shape)}
        elif operator.op == "RESHAPE":
            parameters = {"shape": list(output.shape)}
        else:
            raise CompileError(f"{operator} reads what SOFTMAX computes on the host, and can't run there itself; "
                               "only RESHAPE and SOFTMAX may follow a SOFTMAX")
        self._on_host.add(output.index)
        self.host_steps.append(HostStep(operator.op, output.name, [source.index], [output.index], parameters))

    def _wanted(self) -> list[int]:
        """Tensors that a run must bring back: what graph outputs and host steps read, if a layer makes it.

        Views of a graph input become host steps of their own.
        """
        wanted: list[int] = []
        read = [index for step in self.host_steps for index in step.inputs]
        for index in dict.fromkeys([*read, *self.graph.outputs]):
            root = self.views.root(index)
            if self.graph.tensors[root].constant:
                raise CompileError(f"{self.graph.tensors[index]} is a constant: there is nothing to compute")
            if index in self._on_host or index in self.graph.inputs:
                continue
            if root in self.graph.inputs:
                shape = list(self.graph.tensors[index].shape)
                self.host_steps.insert(0, HostStep("RESHAPE", self.graph.tensors[index].name, [root], [index],
                                                   {"shape": shape}))
            else:
                wanted.append(index)
        return wanted

    # ---- layers -------------------------------------------------------------------------------

    def _clamp(self, operator: Operator, output: Tensor) -> tuple[int, int]:
        activation = operator.options["activation"]
        if activation not in ACTIVATION_BOUNDS:
            raise CompileError(f"{operator} has activation {activation}; supported are {', '.join(ACTIVATION_BOUNDS)}")
        return activation_range(activation, output.scale, output.zero_point)

    def _convolution(self, operator: Operator) -> None:
        x, weights, bias = self._weighted(operator)
        output = self.graph.tensors[operator.outputs[0]]
        height, width, channels = pixels_and_channels(x.shape)
        output_height, output_width, _ = pixels_and_channels(output.shape)
        options = operator.options
        filters = cast(np.ndarray, weights.data)
        if operator.op == "DEPTHWISE_CONV_2D":
            filters = filters.transpose(3, 1, 2, 0)
        kernel = filters.shape[1], filters.shape[2]
        if filters.shape[3] != channels:
            raise CompileError(f"{operator}: its filter has {filters.shape[3]} input channels, its input {channels}; "
                               "grouped convolutions are not supported")
        if max(kernel) > KERNEL_MAX:
            raise CompileError(f"{operator}: kernel {kernel[0]}x{kernel[1]} is larger than {KERNEL_MAX}x{KERNEL_MAX}")
        geometry, ends = window_geometry(options, kernel, (options["dilation_h"], options["dilation_w"]),
                                   (height, width), (output_height, output_width))
        lanes = self.config.lanes
        whole_row = blocks(kernel[1] * channels, lanes)
        last_lanes, input_blocks = lanes, blocks(channels, lanes)
        if (self.views.is_input(x.index) and channels < lanes and geometry.dilation[1] == 1
                and whole_row < kernel[1] * input_blocks):
            pads = geometry.pad[0], ends[0], geometry.pad[1], ends[1]
            packed = self.views.packed(x, (height, width, channels), pads)
            operand = Operand(packed, packed.height, packed.width, packed.blocks)
            input_blocks, last_lanes = whole_row, kernel[1] * channels - (whole_row - 1) * lanes
            filters = _spread(filters.reshape(*filters.shape[:2], 1, -1), np.arange(kernel[1] * channels),
                              whole_row * lanes)
            geometry = Geometry((kernel[0], 1), geometry.stride, geometry.dilation, (0, 0))
        else:
            operand = self.views.operand(x, height, width, channels, grouped=True)
            input_blocks = operand.blocks
            filters = _spread(filters, self.views.channel_positions(operand, channels), input_blocks * lanes)
        multipliers = output_multipliers(x.scale, weights.scales, output.scale, len(filters))
        taps = kernel[0] * kernel[1] * channels
        self._append_conv(operator, operand, geometry, filters, bias, multipliers, last_lanes, taps, input_blocks)

    def _depthwise(self, operator: Operator) -> None:
        x, weights, bias = self._weighted(operator)
        output = self.graph.tensors[operator.outputs[0]]
        height, width, channels = pixels_and_channels(x.shape)
        output_height, output_width, outputs = pixels_and_channels(output.shape)
        filters = cast(np.ndarray, weights.data)[0]
        kernel = filters.shape[0], filters.shape[1]
        if max(kernel) > KERNEL_MAX:
            raise CompileError(f"{operator}: kernel {kernel[0]}x{kernel[1]} is larger than {KERNEL_MAX}x{KERNEL_MAX}")
        if channels == 1:  # every output channel reads the only input channel: a convolution
            self._convolution(operator)
            return
        options = operator.options
        geometry, _ends = window_geometry(options, kernel, (options["dilation_h"], options["dilation_w"]),
                                    (height, width), (output_height, output_width))
        operand = self.views.operand(x, height, width, channels)
        if outputs != channels:
            operand = self._replicated(operator, operand, channels, outputs // channels)
        multipliers, shifts = output_multipliers(x.scale, weights.scales, output.scale, outputs)
        low, high = self._clamp(operator, output)
        self.layers.append(DepthwiseLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.make(output), input=operand, geometry=geometry, weights=filters, bias=bias,
            multipliers=multipliers, shifts=shifts, input_zero_point=x.zero_point,
            output_zero_point=output.zero_point, output_min=low, output_max=high))

    def _replicated(self, operator: Operator, operand: Operand, channels: int, times: int) -> Operand:
        """Every channel so many times, one after the other: a depth multiplier. A convolution with weights of one
        copies exactly, with the multiplier 1 = 2^30 * 2^(1 - 31)."""
        x = self.graph.tensors[operator.inputs[0]]
        filters = np.zeros((channels * times, 1, 1, channels), np.int8)
        filters[np.arange(channels * times), 0, 0, np.arange(channels * times) // times] = 1
        filters = _spread(filters, self.views.channel_positions(operand, channels), operand.blocks * self.config.lanes)
        name = f"{self._called(operator)}/channels"
        copies = self.views.extra(x, name, operand.height, operand.width, channels * times)
        ones = np.ones(channels * times, np.int64)
        self.layers.append(ConvLayer(
            name=copies.name, op="DEPTHWISE_CONV_2D/channels", shape=(1, operand.height, operand.width, len(ones)),
            operators=[operator.index], output=copies, input=operand,
            geometry=Geometry((1, 1), (1, 1), (1, 1), (0, 0)), weights=filters, bias=np.zeros(len(ones), np.int32),
            multipliers=(ones << 30).astype(np.int32), shifts=ones.astype(np.int8), input_zero_point=x.zero_point,
            output_zero_point=x.zero_point, output_min=-128, output_max=127, last_lanes=self.config.lanes,
            taps_channels=channels, input_blocks=operand.blocks))
        return Operand(copies, operand.height, operand.width, copies.blocks)

    def _concatenation(self, operator: Operator) -> None:
        channels = [self.graph.tensors[index].shape[-1] for index in operator.inputs]
        if operator.options["axis"] % 4 == 3 and any(count % self.config.lanes for count in channels[:-1]):
            self._joined_channels(operator)
        else:
            self.concatenation(operator)

    def _joined_channels(self, operator: Operator) -> None:
        """CONCATENATION of channels that do not start words: a convolution with weights of one puts each operand's
        channels in place, and is added to what the operands before it gave; elsewhere both are the zero point."""
        output = self.graph.tensors[operator.outputs[0]]
        height, width, channels = pixels_and_channels(output.shape)
        ones = np.ones(channels, np.int64)
        zero_point = output.zero_point
        before: FeatureMap | None = None
        first = 0
        for index in operator.inputs:
            x = self.graph.tensors[index]
            count = pixels_and_channels(x.shape)[2]
            filters = np.zeros((channels, 1, 1, count), np.int8)
            filters[first + np.arange(count), 0, 0, np.arange(count)] = 1
            first += count
            operand = self.views.operand(x, height, width, count)
            filters = _spread(filters, self.views.channel_positions(operand, count), operand.blocks * self.config.lanes)
            name = f"{self._called(operator)}/{first} channels"
            last = first == channels
            target = self.views.make(output) if last else self.views.extra(x, name, height, width, channels)
            layer = ConvLayer(
                name=self._called(operator) if last else name, op=operator.op, shape=output.shape,
                operators=[operator.index], output=target, input=operand,
                geometry=Geometry((1, 1), (1, 1), (1, 1), (0, 0)), weights=filters,
                bias=np.zeros(channels, np.int32), multipliers=(ones << 30).astype(np.int32),
                shifts=ones.astype(np.int8), input_zero_point=zero_point, output_zero_point=zero_point,
                output_min=-128, output_max=127, last_lanes=self.config.lanes, taps_channels=0,
                input_blocks=operand.blocks)
            if before is not None:
                layer.residual = Operand(before, height, width, before.blocks)
                layer.add = exact_sum(zero_point)
            self.layers.append(layer)
            before = target

    def _fully_connected(self, operator: Operator) -> None:
        x, weights, bias = self._weighted(operator)
        output = self.graph.tensors[operator.outputs[0]]
        height, width, _ = pixels_and_channels(output.shape)
        filters = cast(np.ndarray, weights.data)
        channels = filters.shape[1]
        operand = self.views.operand(x, height, width, channels, grouped=True)
        positions = self.views.channel_positions(operand, channels)
        filters = _spread(filters[:, None, None, :], positions, operand.blocks * self.config.lanes)
        multipliers = output_multipliers(x.scale, weights.scales, output.scale, len(filters))
        geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0))
        self._append_conv(operator, operand, geometry, filters, bias, multipliers, self.config.lanes, channels,
                          operand.blocks)

    def _weighted(self, operator: Operator) -> tuple[Tensor, Tensor, np.ndarray]:
        """Input, weights and bias (int32, zeros where absent) of a convolution or fully connected layer."""
        x, weights, *rest = self.graph.input_tensors(operator)
        assert x is not None and weights is not None
        if weights.data is None:
            raise CompileError(f"{operator}: its weights ({weights}) are computed at run time; they must be constants")
        if np.any(weights.zero_points):
            raise CompileError(f"{operator}: its weights ({weights}) have a zero point other than 0")
        bias = rest[0] if rest else None
        if bias is None:
            outputs = weights.data.shape[3 if operator.op == "DEPTHWISE_CONV_2D" else 0]
            return x, weights, np.zeros(outputs, np.int32)
        if bias.data is None:
            raise CompileError(f"{operator}: its bias ({bias}) is computed at run time; it must be a constant")
        return x, weights, bias.data.astype(np.int32)

    def _append_conv(self, operator: Operator, operand: Operand, geometry: Geometry, filters: np.ndarray,
                     bias: np.ndarray, multipliers: tuple[np.ndarray, np.ndarray], last_lanes: int, taps: int,
                     input_blocks: int) -> None:
        output = self.graph.tensors[operator.outputs[0]]
        x = self.graph.tensors[operator.inputs[0]]
        low, high = self._clamp(operator, output)
        self.layers.append(ConvLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.make(output), input=operand, geometry=geometry, weights=filters, bias=bias,
            multipliers=multipliers[0], shifts=multipliers[1], input_zero_point=x.zero_point,
            output_zero_point=output.zero_point, output_min=low, output_max=high, last_lanes=last_lanes,
            taps_channels=taps, input_blocks=input_blocks))

    def _add(self, operator: Operator) -> None:
        output = self.graph.tensors[operator.outputs[0]]
        a, b = (cast(Tensor, tensor) for tensor in self.graph.input_tensors(operator))
        size = pixels_and_channels(output.shape)
        for tensor in (a, b):
            if tensor.elements != output.elements:
                raise CompileError(f"{operator}: {tensor} would be broadcast to {output}; both operands must have the "
                                   "output's shape")
        try:
            parameters = add_parameters((a.scale, a.zero_point), (b.scale, b.zero_point),
                                        (output.scale, output.zero_point), operator.options["activation"])
        except (KeyError, ValueError) as error:
            raise CompileError(f"{operator}: {error}") from None
        self.layers.append(AddLayer(
            name=self._called(operator), op="ADD", shape=output.shape, operators=[operator.index],
            output=self.views.make(output), a=self.views.operand(a, *size), b=self.views.operand(b, *size),
            parameters=parameters))

    def _pool(self, operator: Operator) -> None:
        x, output = (self.graph.tensors[i] for i in (operator.inputs[0], operator.outputs[0]))
        height, width, channels = pixels_and_channels(x.shape)
        output_height, output_width, _ = pixels_and_channels(output.shape)
        options = operator.options
        kernel = options["filter_h"], options["filter_w"]
        if max(kernel) > 255 or kernel[0] * kernel[1] > self.config.pool_area:
            raise CompileError(f"{operator}: window {kernel[0]}x{kernel[1]} is larger than 255 in one direction or "
                               f"{self.config.pool_area} pixels in all")
        geometry, _ends = window_geometry(options, kernel, (1, 1), (height, width), (output_height, output_width))
        low, high = self._clamp(operator, output)
        self.layers.append(PoolLayer(
            name=self._called(operator), op=operator.op, shape=output.shape, operators=[operator.index],
            output=self.views.make(output), input=self.views.operand(x, height, width, channels), geometry=geometry,
            average=operator.op == "AVERAGE_POOL_2D", output_min=low, output_max=high))

    def _select(self, operator: Operator) -> None:
        condition, a, b = (cast(Tensor, tensor) for tensor in self.graph.input_tensors(operator))
        output = self.graph.tensors[operator.outputs[0]]
        height, width, channels = pixels_and_channels(output.shape)
        mask, decision = self.mask_of(operator, condition)
        if mask.grain is Grain.PIXEL and mask.size != (height, width):
            raise CompileError(f"{operator}: its mask {condition} must have one value for each of the {height}x{width} "
                               "pixels and a single channel")
        for tensor in (a, b):
            if tensor.elements != output.elements:
                raise CompileError(f"{operator}: {tensor} would be broadcast to {output}; both operands must have the "
                                   "output's shape")
        size = height, width, channels
        self.layers.append(SelectLayer(
            name=self._called(operator), op="SELECT_V2", shape=output.shape, operators=[operator.index],
            output=self.views.make(output), select=mask,
            a=self.views.operand(a, *size), b=self.views.operand(b, *size), decision=decision))


def _spread(filters: np.ndarray, positions: np.ndarray, channel_bytes: int) -> np.ndarray:
    """Weights [O, kh, kw, C] with channel c at byte positions[c] of a tap, zeros elsewhere."""
    spread = np.zeros((*filters.shape[:3], channel_bytes), np.int8)
    spread[..., positions] = filters
    return spread


def window_geometry(options: dict, kernel: tuple[int, int], dilation: tuple[int, int], size: tuple[int, int],
              output: tuple[int, int]) -> tuple[Geometry, tuple[int, int]]:
    """The window's geometry, and the padding after the last row and column (TFLite's ComputePaddingWithOffset)."""
    stride = options["stride_h"], options["stride_w"]
    before, after = [], []
    for i in range(2):
        reach = (output[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1
        start = max(reach - size[i], 0) // 2 if options["padding"] == "SAME" else 0
        before.append(start)
        after.append(max(reach - size[i] - start, 0))
    return (Geometry(kernel, stride, dilation, (before[0], before[1])), (after[0], after[1]))
