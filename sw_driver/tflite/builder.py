"""Writing TFLite files: a model is built operator by operator, shapes are worked out on the way.

    builder = TfliteBuilder("digits")
    x = builder.add_input("input", (1, 28, 28, 1), scale=1 / 255, zero_point=-128)
    x = builder.add_conv_2d(x, weights, bias, weight_scales, scale=0.02, zero_point=-128, activation="RELU")
    x = builder.add_average_pool_2d(x, (28, 28))
    x = builder.add_reshape(x, (1, 16))
    x = builder.add_fully_connected(x, matrix, bias, matrix_scale, scale=0.1, zero_point=3)
    builder.add_output(builder.add_softmax(x))
    builder.save("digits.tflite")

Every `add_*` of an operator returns the index of its output tensor, which the next call takes. `scale` and
`zero_point` are the output's; `name` is optional everywhere. Weights are int8 [O, KH, KW, I] (CONV_2D),
[1, KH, KW, O] (DEPTHWISE_CONV_2D) or [O, I] (FULLY_CONNECTED); their scales are one number or one per
output channel, their zero point is 0. Biases are int32 [O] at the scale input scale x weight scale, or None.
Strides, dilations and windows are one number or (vertical, horizontal).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sw_driver.graph import NUMPY_TYPES
from sw_driver.tflite.consistency import output_size
from sw_driver.tflite.schema import (
    ACTIVATIONS,
    FILE_IDENTIFIER,
    PADDINGS,
    SCHEMA_VERSION,
    enum_values,
    load_schema,
)

#: Operator versions written: the first ones with int8 (TFLite's register_ref kernels and tools/versioning).
_VERSIONS: Mapping[str, int] = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "MUL": 2, "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2, "SOFTMAX": 2, "LOGISTIC": 2, "GREATER": 2, "GREATER_EQUAL": 2, "LESS": 2, "LESS_EQUAL": 2,
    "PAD": 2, "CONCATENATION": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "MEAN": 2, "LEAKY_RELU": 2, "TANH": 2, "RELU": 2,
    "RELU6": 2, "QUANTIZE": 2, "DEQUANTIZE": 2,
}

#: Constants start at a multiple of this (`force_align` of Buffer.data in the schema).
_BUFFER_ALIGNMENT = 16

Pair = int | tuple[int, int]


class TfliteBuilder:
    """A TFLite model under construction.

    Parameters
    ----------
    name : description stored in the file.
    """

    def __init__(self, name: str = "main"):
        self._schema = load_schema()
        self.name = name
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[tuple[int, int]] = []
        self._buffers: list[Any] = [self._schema.BufferT()]

    # ---- tensors ------------------------------------------------------------------------------

    def add_tensor(self, name: str, shape: Sequence[int], dtype: str = "int8", *, scale: ArrayLike | None = None,
                   zero_point: ArrayLike = 0, quantised_dimension: int = 0, data: np.ndarray | None = None) -> int:
        """Add a tensor and return its index. `scale` is a number, one per channel, or None (not quantised);
        `data` makes it a constant. Raises ValueError when `data` has another shape or type."""
        tensor = self._schema.TensorT()
        tensor.name = name
        tensor.shape = [int(size) for size in shape]
        tensor.type = enum_values("TensorType")[dtype.upper()]
        quantisation = self._schema.QuantizationParametersT()
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantisation.scale = scales
            quantisation.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape).copy()
            quantisation.quantizedDimension = quantised_dimension
        tensor.quantization = quantisation
        if data is not None:
            if data.shape != tuple(shape) or data.dtype != NUMPY_TYPES[dtype]:
                raise ValueError(f"The data of tensor {name!r} must be {dtype} {tuple(shape)}, "
                                 f"not {data.dtype} {data.shape}")
            tensor.buffer = len(self._buffers)
            self._buffers.append(_aligned_buffer(self._schema, data))
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def add_input(self, name: str, shape: Sequence[int], dtype: str = "int8", *, scale: float | None = None,
                  zero_point: int = 0) -> int:
        """Add a graph input."""
        index = self.add_tensor(name, shape, dtype, scale=scale, zero_point=zero_point)
        self.inputs.append(index)
        return index

    def add_output(self, tensor: int) -> None:
        """Make a tensor a graph output."""
        self.outputs.append(tensor)

    def add_constant(self, name: str, data: np.ndarray, *, scale: ArrayLike | None = None, zero_point: ArrayLike = 0,
                     quantised_dimension: int = 0) -> int:
        """Add a constant of `data`'s shape and type."""
        return self.add_tensor(name, data.shape, data.dtype.name, scale=scale, zero_point=zero_point,
                               quantised_dimension=quantised_dimension, data=data)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._tensors[tensor].shape)

    def scale(self, tensor: int) -> float:
        """A tensor's (first) scale."""
        return float(self._tensors[tensor].quantization.scale[0])

    def zero_point(self, tensor: int) -> int:
        """A tensor's (first) zero point."""
        return int(self._tensors[tensor].quantization.zeroPoint[0])

    # ---- operators ----------------------------------------------------------------------------

    def add_operator(self, op: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None,
                     version: int | None = None) -> None:
        """Add any builtin operator: `op` as in the schema ('CONV_2D'), `options` an object of its
        `<Something>OptionsT` class or None, `version` by default the first one with int8."""
        code = (enum_values("BuiltinOperator")[op], version or _VERSIONS.get(op, 1))
        if code not in self._codes:
            self._codes.append(code)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs = [int(index) for index in inputs]
        operator.outputs = [int(index) for index in outputs]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = enum_values("BuiltinOptions")[type(options).__name__.removesuffix("T")]
        self._operators.append(operator)

    def add_conv_2d(self, x: int, weights: np.ndarray, bias: np.ndarray | None, weight_scales: ArrayLike, *,
                    scale: float, zero_point: int, stride: Pair = 1, dilation: Pair = 1, padding: str = "SAME",
                    activation: str = "NONE", name: str = "") -> int:
        """CONV_2D: x int8 [N, H, W, I], weights int8 [O, KH, KW, I], bias int32 [O] or None."""
        options = self._schema.Conv2DOptionsT()
        options.strideH, options.strideW = _pair(stride)
        options.dilationHFactor, options.dilationWFactor = _pair(dilation)
        return self._add_convolution("CONV_2D", x, weights, bias, weight_scales, 0, options, padding, activation,
                                     scale, zero_point, name)

    def add_depthwise_conv_2d(self, x: int, weights: np.ndarray, bias: np.ndarray | None, weight_scales: ArrayLike, *,
                              scale: float, zero_point: int, stride: Pair = 1, dilation: Pair = 1,
                              padding: str = "SAME", activation: str = "NONE", name: str = "") -> int:
        """DEPTHWISE_CONV_2D: x int8 [N, H, W, I], weights int8 [1, KH, KW, O] with O a multiple of I."""
        options = self._schema.DepthwiseConv2DOptionsT()
        options.strideH, options.strideW = _pair(stride)
        options.dilationHFactor, options.dilationWFactor = _pair(dilation)
        options.depthMultiplier = weights.shape[3] // self.shape(x)[3]
        return self._add_convolution("DEPTHWISE_CONV_2D", x, weights, bias, weight_scales, 3, options, padding,
                                     activation, scale, zero_point, name)

    def _add_convolution(self, op: str, x: int, weights: np.ndarray, bias: np.ndarray | None,
                         weight_scales: ArrayLike, channel_dimension: int, options: Any, padding: str,
                         activation: str, scale: float, zero_point: int, name: str) -> int:
        options.padding = PADDINGS.index(padding)
        options.fusedActivationFunction = ACTIVATIONS.index(activation)
        batch, height, width, _channels = self.shape(x)
        shape = (
            batch,
            output_size(height, weights.shape[1], options.strideH, options.dilationHFactor, padding),
            output_size(width, weights.shape[2], options.strideW, options.dilationWFactor, padding),
            weights.shape[channel_dimension],
        )
        name = name or self._next_name(op)
        constants = self._add_weights(x, weights, bias, weight_scales, channel_dimension, name)
        return self._add_layer(op, [x, *constants], shape, scale, zero_point, name, options)

    def _add_weights(self, x: int, weights: np.ndarray, bias: np.ndarray | None, weight_scales: ArrayLike,
                     channel_dimension: int, name: str) -> list[int]:
        scales = np.atleast_1d(np.asarray(weight_scales, np.float32))
        if scales.size not in (1, weights.shape[channel_dimension]):
            raise ValueError(f"The weights of {name!r} need 1 or {weights.shape[channel_dimension]} scales, "
                             f"not {scales.size}")
        constants = [self.add_constant(f"{name}/weights", weights, scale=scales,
                                       quantised_dimension=channel_dimension if scales.size > 1 else 0)]
        if bias is not None:
            constants.append(self.add_constant(f"{name}/bias", bias, scale=np.float32(self.scale(x)) * scales))
        return constants

    def add_fully_connected(self, x: int, weights: np.ndarray, bias: np.ndarray | None, weight_scales: ArrayLike, *,
                            scale: float, zero_point: int, activation: str = "NONE", keep_num_dims: bool = False,
                            name: str = "") -> int:
        """FULLY_CONNECTED: x int8 of any shape with a multiple of I elements, weights int8 [O, I]. The result is
        [elements / I, O]; with `keep_num_dims`, x's shape with O in place of the last dimension."""
        options = self._schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = ACTIVATIONS.index(activation)
        options.keepNumDims = keep_num_dims
        name = name or self._next_name("FULLY_CONNECTED")
        outputs, features = weights.shape
        shape = (*self.shape(x)[:-1], outputs) if keep_num_dims else (math.prod(self.shape(x)) // features, outputs)
        constants = self._add_weights(x, weights, bias, weight_scales, 0, name)
        return self._add_layer("FULLY_CONNECTED", [x, *constants], shape, scale, zero_point, name, options,
                               version=12 if np.size(weight_scales) > 1 else None)

    def add_add(self, a: int, b: int, *, scale: float, zero_point: int, activation: str = "NONE",
                name: str = "") -> int:
        """ADD, with NumPy's broadcasting."""
        return self._add_elementwise("ADD", self._schema.AddOptionsT(), a, b, scale, zero_point, activation, name)

    def add_mul(self, a: int, b: int, *, scale: float, zero_point: int, activation: str = "NONE",
                name: str = "") -> int:
        """MUL, with NumPy's broadcasting."""
        return self._add_elementwise("MUL", self._schema.MulOptionsT(), a, b, scale, zero_point, activation, name)

    def _add_elementwise(self, op: str, options: Any, a: int, b: int, scale: float, zero_point: int,
                         activation: str, name: str) -> int:
        options.fusedActivationFunction = ACTIVATIONS.index(activation)
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        return self._add_layer(op, [a, b], shape, scale, zero_point, name, options)

    def add_average_pool_2d(self, x: int, window: Pair, *, stride: Pair | None = None, padding: str = "VALID",
                            activation: str = "NONE", name: str = "") -> int:
        """AVERAGE_POOL_2D; the output has the input's scale. `stride` is the window by default."""
        return self._add_pool("AVERAGE_POOL_2D", x, window, stride, padding, activation, name)

    def add_max_pool_2d(self, x: int, window: Pair, *, stride: Pair | None = None, padding: str = "VALID",
                        activation: str = "NONE", name: str = "") -> int:
        """MAX_POOL_2D; the output has the input's scale. `stride` is the window by default."""
        return self._add_pool("MAX_POOL_2D", x, window, stride, padding, activation, name)

    def _add_pool(self, op: str, x: int, window: Pair, stride: Pair | None, padding: str, activation: str,
                  name: str) -> int:
        options = self._schema.Pool2DOptionsT()
        options.filterHeight, options.filterWidth = _pair(window)
        options.strideH, options.strideW = _pair(window if stride is None else stride)
        options.padding = PADDINGS.index(padding)
        options.fusedActivationFunction = ACTIVATIONS.index(activation)
        batch, height, width, channels = self.shape(x)
        shape = (batch, output_size(height, options.filterHeight, options.strideH, 1, padding),
                 output_size(width, options.filterWidth, options.strideW, 1, padding), channels)
        return self._add_layer(op, [x], shape, self.scale(x), self.zero_point(x), name, options)

    def add_reshape(self, x: int, shape: Sequence[int], name: str = "") -> int:
        """RESHAPE; one dimension may be -1."""
        new_shape = [int(size) for size in shape]
        if -1 in new_shape:
            known = math.prod(size for size in new_shape if size != -1)
            new_shape[new_shape.index(-1)] = math.prod(self.shape(x)) // known
        options = self._schema.ReshapeOptionsT()
        options.newShape = new_shape
        name = name or self._next_name("RESHAPE")
        constant = self.add_constant(f"{name}/shape", np.array(new_shape, np.int32))
        return self._add_layer("RESHAPE", [x, constant], new_shape, self.scale(x), self.zero_point(x), name, options)

    def add_softmax(self, x: int, *, beta: float = 1.0, name: str = "") -> int:
        """SOFTMAX along the last dimension; the output's scale is 1/256, its zero point -128, as TFLite requires."""
        options = self._schema.SoftmaxOptionsT()
        options.beta = beta
        return self._add_layer("SOFTMAX", [x], self.shape(x), 1 / 256, -128, name, options)

    def add_select_v2(self, condition: int, a: int, b: int, name: str = "") -> int:
        """SELECT_V2: `a` where the bool tensor `condition` is true, else `b`, with NumPy's broadcasting. a, b and
        the output have the same scale and zero point. Raises ValueError when a's and b's differ."""
        if (self.scale(a), self.zero_point(a)) != (self.scale(b), self.zero_point(b)):
            raise ValueError(f"SELECT_V2 {name!r}: both operands must have the same scale and zero point, not "
                             f"{self.scale(a)}, {self.zero_point(a)} and {self.scale(b)}, {self.zero_point(b)}")
        shape = np.broadcast_shapes(self.shape(condition), self.shape(a), self.shape(b))
        return self._add_layer("SELECT_V2", [condition, a, b], shape, self.scale(a), self.zero_point(a), name,
                               self._schema.SelectV2OptionsT())

    def add_greater_equal(self, a: int, b: int, name: str = "") -> int:
        """GREATER_EQUAL: bool, with NumPy's broadcasting."""
        return self.add_comparison("GREATER_EQUAL", a, b, name)

    def add_comparison(self, op: str, a: int, b: int, name: str = "") -> int:
        """GREATER, GREATER_EQUAL, LESS or LESS_EQUAL: bool, with NumPy's broadcasting."""
        options = {"GREATER": self._schema.GreaterOptionsT, "GREATER_EQUAL": self._schema.GreaterEqualOptionsT,
                   "LESS": self._schema.LessOptionsT, "LESS_EQUAL": self._schema.LessEqualOptionsT}[op]()
        name = name or self._next_name(op)
        output = self.add_tensor(name, np.broadcast_shapes(self.shape(a), self.shape(b)), "bool")
        self.add_operator(op, [a, b], [output], options)
        return output

    def add_logical(self, op: str, *operands: int, name: str = "") -> int:
        """LOGICAL_AND or LOGICAL_OR of two bool tensors, with NumPy's broadcasting, or LOGICAL_NOT of one."""
        options = {"LOGICAL_AND": self._schema.LogicalAndOptionsT, "LOGICAL_OR": self._schema.LogicalOrOptionsT,
                   "LOGICAL_NOT": self._schema.LogicalNotOptionsT}[op]()
        name = name or self._next_name(op)
        output = self.add_tensor(name, np.broadcast_shapes(*(self.shape(x) for x in operands)), "bool")
        self.add_operator(op, operands, [output], options)
        return output

    def add_logistic(self, x: int, name: str = "") -> int:
        """LOGISTIC; the output's scale is 1/256, its zero point -128, as TFLite requires."""
        return self._add_layer("LOGISTIC", [x], self.shape(x), 1 / 256, -128, name, None)

    def add_unary(self, op: str, x: int, *, scale: float, zero_point: int, alpha: float = 0.0, name: str = "") -> int:
        """RELU, RELU6, TANH, HARD_SWISH or LEAKY_RELU (with `alpha`)."""
        options = None
        if op == "LEAKY_RELU":
            options = self._schema.LeakyReluOptionsT()
            options.alpha = alpha
        elif op == "HARD_SWISH":
            options = self._schema.HardSwishOptionsT()
        return self._add_layer(op, [x], self.shape(x), scale, zero_point, name, options)

    def add_mean(self, x: int, axes: Sequence[int], *, scale: float, zero_point: int, keep_dims: bool = True,
                 name: str = "") -> int:
        """MEAN over `axes`."""
        options = self._schema.ReducerOptionsT()
        options.keepDims = keep_dims
        name = name or self._next_name("MEAN")
        constant = self.add_constant(f"{name}/axes", np.array(axes, np.int32))
        shape = [1 if axis in axes else size for axis, size in enumerate(self.shape(x))
                 if keep_dims or axis not in axes]
        return self._add_layer("MEAN", [x, constant], shape, scale, zero_point, name, options)

    def add_concatenation(self, xs: Sequence[int], axis: int = 3, name: str = "") -> int:
        """CONCATENATION of tensors with the same scale and zero point."""
        options = self._schema.ConcatenationOptionsT()
        options.axis = axis
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self._add_layer("CONCATENATION", xs, shape, self.scale(xs[0]), self.zero_point(xs[0]), name, options)

    def add_resize_nearest_neighbor(self, x: int, size: tuple[int, int], *, half_pixel_centers: bool = False,
                                    align_corners: bool = False, name: str = "") -> int:
        """RESIZE_NEAREST_NEIGHBOR to a height and width."""
        options = self._schema.ResizeNearestNeighborOptionsT()
        options.halfPixelCenters, options.alignCorners = half_pixel_centers, align_corners
        batch, _height, _width, channels = self.shape(x)
        name = name or self._next_name("RESIZE_NEAREST_NEIGHBOR")
        constant = self.add_constant(f"{name}/size", np.array(size, np.int32))
        return self._add_layer("RESIZE_NEAREST_NEIGHBOR", [x, constant], (batch, *size, channels), self.scale(x),
                               self.zero_point(x), name, options)

    def add_pad(self, x: int, paddings: Sequence[tuple[int, int]], name: str = "") -> int:
        """PAD with the zero point: one (before, after) for each dimension."""
        name = name or self._next_name("PAD")
        constant = self.add_constant(f"{name}/paddings", np.array(paddings, np.int32))
        shape = [size + before + after for size, (before, after) in zip(self.shape(x), paddings, strict=True)]
        return self._add_layer("PAD", [x, constant], shape, self.scale(x), self.zero_point(x), name,
                               self._schema.PadOptionsT())

    def _add_layer(self, op: str, inputs: Sequence[int], shape: Sequence[int], scale: float, zero_point: int,
                   name: str, options: Any, version: int | None = None) -> int:
        name = name or self._next_name(op)
        if any(size < 1 for size in shape):
            raise ValueError(f"{op} {name!r} would have an empty output, {tuple(shape)}")
        output = self.add_tensor(name, shape, scale=scale, zero_point=zero_point)
        self.add_operator(op, inputs, [output], options, version)
        return output

    def _next_name(self, op: str) -> str:
        return f"{op.lower()}_{len(self._operators)}"

    # ---- the file -----------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The file. Raises ValueError for a model without outputs."""
        import flatbuffers

        if not self.outputs:
            raise ValueError(f"Model {self.name!r} has no output: call add_output")
        subgraph = self._schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = self.inputs, self.outputs
        model = self._schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = self.name
        model.subgraphs = [subgraph]
        model.buffers = self._buffers
        model.operatorCodes = []
        for number, version in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode, code.version = number, version
            code.deprecatedBuiltinCode = min(number, 127)  # PLACEHOLDER_FOR_GREATER_OP_CODES
            model.operatorCodes.append(code)
        writer = flatbuffers.Builder(1024 + sum(buffer.size_hint for buffer in self._buffers[1:]))
        writer.Finish(model.Pack(writer), file_identifier=FILE_IDENTIFIER)
        return bytes(writer.Output())

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.to_bytes())


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _aligned_buffer(schema: Any, data: np.ndarray) -> Any:
    """A BufferT whose bytes are aligned as the schema demands; the generated Python code ignores force_align."""

    class AlignedBuffer(schema.BufferT):
        size_hint = data.nbytes + 64

        def Pack(self, builder: Any) -> int:
            raw = data.tobytes()
            builder.StartVector(1, len(raw), _BUFFER_ALIGNMENT)
            builder.head -= len(raw)
            builder.Bytes[builder.head : builder.head + len(raw)] = raw
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer()
