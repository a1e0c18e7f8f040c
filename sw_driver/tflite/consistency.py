"""Whether a graph is consistent in itself: order of execution, quantisation, and the operators' shapes.

TFLite's interpreters believe these things; a file that breaks them can make them read or write out of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sw_driver.graph import Graph, ModelError, Operator, Tensor

#: Zero points that each quantised type allows.
_ZERO_POINTS: dict[str, tuple[int, int]] = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (0, 0), "int64": (0, 0),
}


def output_size(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Output rows or columns of a convolution or pooling (TFLite's ComputeOutSize); below 1 where the window
    does not fit."""
    if padding == "SAME":
        return -(-size // stride)
    return -(-(size - (window - 1) * dilation) // stride)


def check_consistency(graph: Graph) -> None:
    """Raise ModelError at the first thing that contradicts itself."""
    if not graph.outputs:
        raise ModelError("the graph has no outputs")
    for tensor in graph.tensors:
        _check_quantisation(tensor)
    _check_order(graph)
    for operator in graph.operators:
        check = _CHECKS.get(operator.op)
        if check is not None:
            check(graph, operator)


def _check_quantisation(tensor: Tensor) -> None:
    scales = tensor.scales
    if not tensor.quantised:
        return
    # A constant may have a scale of 0: biases of channels whose weights' scale is next to nothing.
    lowest_is_valid = scales >= 0 if tensor.constant else scales > 0
    if not (np.isfinite(scales) & lowest_is_valid).all():
        raise ModelError(f"{tensor}: scales must be finite and positive")
    low, high = _ZERO_POINTS.get(tensor.dtype, (-(1 << 31), (1 << 31) - 1))
    if ((tensor.zero_points < low) | (tensor.zero_points > high)).any():
        raise ModelError(f"{tensor}: zero points must be in {low} to {high}, not {tensor.zero_points.tolist()[:8]}")
    if tensor.per_channel:
        dimension = tensor.quantised_dimension
        if not 0 <= dimension < len(tensor.shape) or tensor.shape[dimension] != len(scales):
            raise ModelError(f"{tensor} has {len(scales)} scales along dimension {dimension}, which does not match")


def _check_order(graph: Graph) -> None:
    for tensor in (graph.tensors[index] for index in graph.inputs):
        if tensor.constant:
            raise ModelError(f"graph input {tensor} is a constant")
    if len(set(graph.inputs)) != len(graph.inputs):
        raise ModelError("the same tensor is a graph input twice")
    known = {tensor.index for tensor in graph.tensors if tensor.constant or tensor.variable} | set(graph.inputs)
    given = set(known)
    for operator in graph.operators:
        for index in operator.inputs:
            if index >= 0 and index not in known:
                raise ModelError(f"{operator} reads {graph.tensors[index]}, which nothing before it computes")
        for index in operator.outputs:
            if index in known and not graph.tensors[index].variable:
                what = "a graph input or constant" if index in given else "computed already"
                raise ModelError(f"{operator} computes {graph.tensors[index]}, which is {what}")
            known.add(index)
    for index in graph.outputs:
        if index not in known:
            raise ModelError(f"graph output {graph.tensors[index]} is not computed by any operator")


# ---- operators ---------------------------------------------------------------------------------


def _require(condition: bool, operator: Operator, text: str) -> None:
    if not condition:
        raise ModelError(f"{operator}: {text}")


def _operands(graph: Graph, operator: Operator, required: int, optional: int = 0) -> list[Tensor | None]:
    """Inputs, absent optional ones as None; the number of inputs and outputs and their presence are checked."""
    count = len(operator.inputs)
    _require(required <= count <= required + optional, operator,
             f"must have {required}{f' to {required + optional}' if optional else ''} inputs, not {count}")
    _require(len(operator.outputs) == 1, operator, f"must have one output, not {len(operator.outputs)}")
    operands = graph.input_tensors(operator)
    _require(all(tensor is not None for tensor in operands[:required]), operator, "an input is absent")
    return operands + [None] * (required + optional - count)


def _require_rank(operator: Operator, tensor: Tensor, rank: int) -> None:
    _require(len(tensor.shape) == rank, operator, f"{tensor} must have {rank} dimensions")
    _require(all(size > 0 for size in tensor.shape), operator, f"{tensor} is empty")


def _check_window(operator: Operator, x: Tensor, y: Tensor, window: tuple[int, int], dilation: tuple[int, int],
                  channels: int) -> None:
    """`y` must be what a window sliding over `x` gives."""
    stride = (operator.options["stride_h"], operator.options["stride_w"])
    for name, values in (("stride", stride), ("window", window), ("dilation", dilation)):
        _require(all(1 <= value < 1 << 16 for value in values), operator,
                 f"{name} must be 1 to 65535, not {values[0]}x{values[1]}")
    padding = operator.options["padding"]
    height, width = (output_size(x.shape[1 + i], window[i], stride[i], dilation[i], padding) for i in (0, 1))
    _require(height > 0 and width > 0, operator, f"the window does not fit into {x}")
    expected = (x.shape[0], height, width, channels)
    _require(y.shape == expected, operator, f"the output {y} must be {'x'.join(map(str, expected))}")


def _check_convolution(graph: Graph, operator: Operator, channel_dimension: int) -> None:
    x, weights, bias = _operands(graph, operator, 2, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    assert weights is not None
    for tensor in (x, weights, y):
        _require_rank(operator, tensor, 4)
    outputs = weights.shape[channel_dimension]
    if channel_dimension == 0:
        _require(x.shape[3] % weights.shape[3] == 0 and outputs % (x.shape[3] // weights.shape[3]) == 0, operator,
                 f"{weights} does not match the channels of {x}")
    else:
        _require(weights.shape[0] == 1 and outputs == x.shape[3] * operator.options["depth_multiplier"], operator,
                 f"{weights} does not match the channels of {x} "
                 f"with depth multiplier {operator.options['depth_multiplier']}")
    dilation = (operator.options["dilation_h"], operator.options["dilation_w"])
    _check_window(operator, x, y, (weights.shape[1], weights.shape[2]), dilation, outputs)
    _check_parameters(operator, weights, bias, outputs, channel_dimension)


def _check_parameters(operator: Operator, weights: Tensor, bias: Tensor | None, outputs: int,
                      channel_dimension: int) -> None:
    _require(not weights.per_channel or weights.quantised_dimension == channel_dimension, operator,
             f"the scales of {weights} must go along dimension {channel_dimension}, not {weights.quantised_dimension}")
    if bias is not None:
        _require(bias.shape == (outputs,), operator, f"the bias {bias} must have {outputs} elements")
        _require(len(bias.scales) in (0, 1, outputs), operator, f"the bias {bias} must have 1 or {outputs} scales")


def _check_conv_2d(graph: Graph, operator: Operator) -> None:
    _check_convolution(graph, operator, 0)


def _check_depthwise_conv_2d(graph: Graph, operator: Operator) -> None:
    _check_convolution(graph, operator, 3)


def _check_fully_connected(graph: Graph, operator: Operator) -> None:
    x, weights, bias = _operands(graph, operator, 2, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    assert weights is not None
    _require_rank(operator, weights, 2)
    outputs, features = weights.shape
    _require(len(y.shape) >= 1 and y.shape[-1] == outputs, operator, f"the output {y} must end in {outputs} channels")
    _require(x.elements > 0 and x.elements == math.prod(y.shape[:-1]) * features, operator,
             f"{x}, {weights} and the output {y} do not match")
    _check_parameters(operator, weights, bias, outputs, 0)


def _check_pool(graph: Graph, operator: Operator) -> None:
    (x,) = _operands(graph, operator, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    for tensor in (x, y):
        _require_rank(operator, tensor, 4)
    window = (operator.options["filter_h"], operator.options["filter_w"])
    _check_window(operator, x, y, window, (1, 1), x.shape[3])


def _check_broadcast(graph: Graph, operator: Operator, count: int) -> None:
    operands = [tensor for tensor in _operands(graph, operator, count) if tensor is not None]
    y = graph.tensors[operator.outputs[0]]
    try:
        shape = np.broadcast_shapes(*(tensor.shape for tensor in operands))
    except ValueError:
        shape = None
    _require(shape == y.shape and y.elements > 0, operator,
             f"the operands {', '.join(map(str, operands))} do not give the output {y}")


def _check_elementwise(graph: Graph, operator: Operator) -> None:
    _check_broadcast(graph, operator, 2)
    a, b, y = (graph.tensors[index] for index in (*operator.inputs, *operator.outputs))
    _require(a.dtype == b.dtype == y.dtype, operator, f"{a}, {b} and the output {y} must have one type")


def _check_select_v2(graph: Graph, operator: Operator) -> None:
    _check_broadcast(graph, operator, 3)
    condition, a, b, y = (graph.tensors[index] for index in (*operator.inputs, *operator.outputs))
    _require(condition.dtype == "bool", operator, f"the condition {condition} must be bool")
    _require(a.dtype == b.dtype == y.dtype, operator, f"{a}, {b} and the output {y} must have one type")


def _check_reshape(graph: Graph, operator: Operator) -> None:
    x, shape = _operands(graph, operator, 1, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    _require(x.elements == y.elements > 0 and x.dtype == y.dtype, operator,
             f"{x} can't become the output {y}: other elements")
    wanted = operator.options["new_shape"]
    if shape is not None and shape.data is not None:
        _require(shape.dtype == "int32" and len(shape.shape) <= 1, operator, f"the shape {shape} must be int32 [n]")
        wanted = tuple(shape.data.reshape(-1).tolist())
    if wanted is not None:
        _require(len(wanted) == len(y.shape) and all(a in (-1, b) for a, b in zip(wanted, y.shape, strict=True)),
                 operator, f"the new shape {wanted} does not give the output {y}")


def _check_softmax(graph: Graph, operator: Operator) -> None:
    (x,) = _operands(graph, operator, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    _require(x.shape == y.shape and len(x.shape) >= 1 and x.elements > 0, operator,
             f"{x} and the output {y} must have one shape")
    _require(math.isfinite(operator.options["beta"]), operator, f"beta must be finite, not {operator.options['beta']}")


def _check_unary(graph: Graph, operator: Operator) -> None:
    (x,) = _operands(graph, operator, 1)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    _require(x.shape == y.shape and x.elements > 0 and x.dtype == y.dtype, operator,
             f"{x} and the output {y} must have one shape and type")
    _require(math.isfinite(operator.options.get("alpha", 0.0)), operator, "alpha must be finite")


def _check_mean(graph: Graph, operator: Operator) -> None:
    x, axes = _operands(graph, operator, 2)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    assert axes is not None
    _require(x.elements > 0 and axes.dtype == "int32", operator, f"{axes} must be int32 and {x} not empty")
    if axes.data is None:
        return
    wanted = [int(axis) for axis in axes.data.reshape(-1)]
    rank = len(x.shape)
    _require(all(-rank <= axis < rank for axis in wanted), operator, f"{x} has no axes {wanted}")
    reduced = {axis % rank for axis in wanted}
    keep = operator.options["keep_dims"]
    shape = tuple(1 if axis in reduced else size for axis, size in enumerate(x.shape) if keep or axis not in reduced)
    _require(y.shape == shape, operator, f"the output {y} must be {'x'.join(map(str, shape)) or 'a scalar'}")


def _check_pad(graph: Graph, operator: Operator) -> None:
    x, paddings = _operands(graph, operator, 2)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    assert paddings is not None
    _require(x.elements > 0 and paddings.shape == (len(x.shape), 2), operator,
             f"{paddings} must have a pair for each dimension of {x}")
    if paddings.data is None:
        return
    pairs = paddings.data.tolist()
    _require(min(min(pair) for pair in pairs) >= 0, operator, f"{paddings} must not be negative")
    shape = tuple(size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True))
    _require(y.shape == shape, operator, f"the output {y} must be {'x'.join(map(str, shape))}")


def _check_concatenation(graph: Graph, operator: Operator) -> None:
    _require(len(operator.inputs) > 0 and len(operator.outputs) == 1 and min(operator.inputs) >= 0, operator,
             "must have inputs and one output")
    parts, y = [graph.tensors[index] for index in operator.inputs], graph.tensors[operator.outputs[0]]
    rank, axis = len(y.shape), operator.options["axis"]
    _require(-rank <= axis < rank and all(len(part.shape) == rank for part in parts), operator,
             f"the operands {', '.join(map(str, parts))} do not go along axis {axis}")
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    others = [[size for i, size in enumerate(part.shape) if i != axis % rank] for part in parts]
    _require(all(other == others[0] for other in others) and y.shape == tuple(shape) and y.elements > 0, operator,
             f"the operands {', '.join(map(str, parts))} do not give the output {y}")


def _check_resize(graph: Graph, operator: Operator) -> None:
    x, size = _operands(graph, operator, 2)
    y = graph.tensors[operator.outputs[0]]
    assert x is not None
    assert size is not None
    for tensor in (x, y):
        _require_rank(operator, tensor, 4)
    _require(size.shape == (2,), operator, f"{size} must have two elements")
    if size.data is not None:
        expected = (x.shape[0], *(int(value) for value in size.data), x.shape[3])
        _require(y.shape == expected, operator, f"the output {y} must be {'x'.join(map(str, expected))}")


def _check_comparison(graph: Graph, operator: Operator) -> None:
    _check_broadcast(graph, operator, 2)
    a, b, y = (graph.tensors[index] for index in (*operator.inputs, *operator.outputs))
    _require(a.dtype == b.dtype and y.dtype == "bool", operator,
             f"{a} and {b} must have one type, and the output {y} be bool")


def _check_logical(graph: Graph, operator: Operator) -> None:
    _check_broadcast(graph, operator, 1 if operator.op == "LOGICAL_NOT" else 2)
    for index in (*operator.inputs, *operator.outputs):
        tensor = graph.tensors[index]
        _require(tensor.dtype == "bool", operator, f"{tensor} must be bool")


_CHECKS: dict[str, Callable[[Graph, Operator], None]] = {
    "CONV_2D": _check_conv_2d,
    "DEPTHWISE_CONV_2D": _check_depthwise_conv_2d,
    "FULLY_CONNECTED": _check_fully_connected,
    "AVERAGE_POOL_2D": _check_pool,
    "MAX_POOL_2D": _check_pool,
    "ADD": _check_elementwise,
    "SUB": _check_elementwise,
    "MUL": _check_elementwise,
    "SELECT_V2": _check_select_v2,
    "RESHAPE": _check_reshape,
    "SOFTMAX": _check_softmax,
    "MEAN": _check_mean,
    **dict.fromkeys(("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), _check_comparison),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"), _check_logical),
    "PAD": _check_pad,
    "CONCATENATION": _check_concatenation,
    "RESIZE_NEAREST_NEIGHBOR": _check_resize,
    **dict.fromkeys(("RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH"), _check_unary),
}
