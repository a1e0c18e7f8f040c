"""Reading a TFLite file into the layer graph. Whatever is wrong with the file, the error is a ModelError.

What is returned has been checked: offsets and lengths of the file, indices, sizes of constants, order of
execution, quantisation parameters, and the shapes of the operators that `consistency` knows. What the device
can do with it is another question, which `support` answers.

Field numbers follow TFLite's schema (tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sw_driver.graph import NUMPY_TYPES, Graph, ModelError, Operator, Tensor
from sw_driver.tflite.consistency import check_consistency
from sw_driver.tflite.flatbuffer import FlatBuffer, Table
from sw_driver.tflite.schema import ACTIVATIONS, FILE_IDENTIFIER, PADDINGS, SCHEMA_VERSION, enum_names

#: Bytes that one tensor may take: TFLite files and its interpreters count in 32 bits.
TENSOR_BYTES_MAX = (1 << 31) - 1

#: Dimensions that a tensor may have: as many as any TFLite kernel takes (RuntimeShape, for BROADCAST_TO).
TENSOR_RANK_MAX = 8


def load_graph(source: str | Path | bytes) -> Graph:
    """The graph of a TFLite file, given by its path or its bytes.

    Raises ModelError, with the file's name where there is one, for a file that is missing, empty, cut short,
    damaged, not a TFLite file or inconsistent.
    """
    if isinstance(source, bytes):
        return _read(source, "")
    data = read_model(source)
    try:
        return _read(data, Path(source).stem)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None


def read_model(path: str | Path) -> bytes:
    """The bytes of a model file. Raises ModelError when it can't be read; the contents are not looked at."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: the model file can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"{path!r} is not a file name: {error}") from None


def _read(data: bytes, name: str) -> Graph:
    if not data:
        raise ModelError("the file is empty")
    if data[4:8] != FILE_IDENTIFIER:
        raise ModelError(f"not a TFLite file: bytes 4 to 7 must be {FILE_IDENTIFIER!r}, not {data[4:8]!r}")
    model = FlatBuffer(data).root()
    version = model.integer(0, "I")
    if version != SCHEMA_VERSION:
        raise ModelError(f"the TFLite schema version must be {SCHEMA_VERSION}, not {version}")
    subgraphs = model.tables(2)
    if len(subgraphs) != 1:
        raise ModelError(f"a model must have one subgraph, not {len(subgraphs)}; convert it without control flow")
    _check_unused(model)
    subgraph = subgraphs[0]
    buffers = [_buffer(index, table) for index, table in enumerate(model.tables(4))]
    tensors = [_tensor(index, table, buffers) for index, table in enumerate(subgraph.tables(0))]
    codes = [_operator_code(table) for table in model.tables(1)]
    operators = [_operator(index, table, codes, tensors) for index, table in enumerate(subgraph.tables(3))]
    graph = Graph(
        name=name or model.string(3) or "model",
        tensors=tensors,
        operators=operators,
        inputs=_indices(subgraph, 1, len(tensors), "the graph's inputs"),
        outputs=_indices(subgraph, 2, len(tensors), "the graph's outputs"),
    )
    check_consistency(graph)
    return graph


def _check_unused(model: Table) -> None:
    """Follow what is not needed here but read by interpreters, so that damage there is found too."""
    model.string(3)
    model.vector(5, "i4")
    for metadata in model.tables(6):
        metadata.string(0)
    for signature in model.tables(7):
        signature.string(2)
        for tensor_map in (*signature.tables(0), *signature.tables(1)):
            tensor_map.string(0)
    for number in (8, 9):
        if model.tables(number):
            raise ModelError("constants outside the file (external buffers) are not supported; store them inside")


def _buffer(index: int, table: Table) -> np.ndarray:
    if table.integer(1, "Q") or table.integer(2, "Q"):
        raise ModelError(f"buffer {index} lies behind the model's tables (files over 2 GB); that is not supported")
    data = table.vector(0, "u1")
    return np.zeros(0, np.uint8) if data is None else data


def _indices(table: Table, number: int, count: int, what: str, optional: bool = False) -> list[int]:
    values = table.vector(number, "i4")
    indices = [] if values is None else values.tolist()
    for index in indices:
        if not (0 <= index < count or (optional and index == -1)):
            raise ModelError(f"{what} refer to tensor {index}, but there are {count} tensors")
    return indices


# ---- tensors -----------------------------------------------------------------------------------


def _tensor(index: int, table: Table, buffers: list[np.ndarray]) -> Tensor:
    number = table.integer(1, "b")
    dtype = enum_names("TensorType").get(number, f"type_{number}").lower()
    dimensions = table.vector(0, "i4")
    shape = () if dimensions is None else tuple(dimensions.tolist())
    tensor = Tensor(index, table.string(3), shape, dtype, variable=table.boolean(5))
    table.vector(7, "i4")
    if any(size < 0 for size in shape):
        raise ModelError(f"{tensor}: the dimensions must not be negative")
    if len(shape) > TENSOR_RANK_MAX:
        raise ModelError(f"tensor {index} has {len(shape)} dimensions; a tensor may have {TENSOR_RANK_MAX} at most")
    extent = math.prod(size for size in shape if size)
    if extent * (tensor.element_bytes if dtype in NUMPY_TYPES else 1) > TENSOR_BYTES_MAX:
        raise ModelError(f"{tensor}: a tensor may take {TENSOR_BYTES_MAX} bytes at most")
    if table.has(6) or table.has(9):
        raise ModelError(f"{tensor}: sparse and variant tensors are not supported; convert without them")
    if table.integer(10, "I"):
        raise ModelError(f"{tensor}: its constant lies outside the file (external buffer); store it inside")
    buffer = table.integer(2, "I")
    if buffer >= len(buffers):
        raise ModelError(f"{tensor} refers to buffer {buffer}, but there are {len(buffers)} buffers")
    if not tensor.variable:
        tensor.data = _constant(tensor, buffers[buffer])
    _quantise(tensor, table.table(4))
    return tensor


def _constant(tensor: Tensor, raw: np.ndarray) -> np.ndarray | None:
    if not raw.size and tensor.elements:
        return None
    if tensor.dtype not in NUMPY_TYPES:
        return raw
    expected = tensor.elements * tensor.element_bytes
    if raw.size != expected:
        raise ModelError(f"{tensor}: the constant has {raw.size} bytes, its shape and type need {expected}")
    return raw.view(NUMPY_TYPES[tensor.dtype].newbyteorder("<")).reshape(tensor.shape)


def _quantise(tensor: Tensor, table: Table | None) -> None:
    if table is None:
        return
    if table.has(5):
        raise ModelError(f"{tensor}: custom quantisation is not supported; use scale and zero point")
    table.vector(0, "f4")
    table.vector(1, "f4")
    scales, zero_points = table.vector(2, "f4"), table.vector(3, "i8")
    scales = np.zeros(0, np.float32) if scales is None else scales
    if zero_points is None or not zero_points.size:
        zero_points = np.zeros(scales.size, np.int64)
    if zero_points.size == 1 and scales.size > 1:
        zero_points = np.repeat(zero_points, scales.size)
    if scales.size != zero_points.size:
        raise ModelError(f"{tensor} has {scales.size} scales and {zero_points.size} zero points")
    tensor.scales, tensor.zero_points = scales, zero_points
    tensor.quantised_dimension = table.integer(6, "i")


# ---- operators ---------------------------------------------------------------------------------


def _operator_code(table: Table) -> str:
    # Files older than schema 3a have only the first field, which stops at 127 in newer ones.
    number = max(table.integer(0, "b"), table.integer(3, "i"))
    op = enum_names("BuiltinOperator").get(number, f"BUILTIN_{number}")
    custom = table.string(1)
    return f"CUSTOM:{custom}" if op == "CUSTOM" else op


def _operator(index: int, table: Table, codes: list[str], tensors: list[Tensor]) -> Operator:
    code = table.integer(0, "I")
    if code >= len(codes):
        raise ModelError(f"operator {index} refers to operator code {code}, but there are {len(codes)} codes")
    op = codes[code]
    inputs = _indices(table, 1, len(tensors), f"the inputs of operator {index} {op}", optional=True)
    outputs = _indices(table, 2, len(tensors), f"the outputs of operator {index} {op}")
    operator = Operator(index, op, tensors[outputs[0]].name if outputs else "", inputs, outputs)
    table.vector(5, "u1")
    table.vector(7, "u1")
    _indices(table, 8, len(tensors), f"the intermediates of {operator}", optional=True)
    if op in _OPTIONS:
        kind, read = _OPTIONS[op]
        found = enum_names("BuiltinOptions").get(table.integer(3, "B"), "unknown")
        if found not in (kind, "NONE"):
            raise ModelError(f"{operator} must have options of type {kind}, not {found}")
        options = table.table(4) if found == kind else None
        operator.options = read(operator, options or _EMPTY)
    return operator


class _EmptyTable(Table):
    """Options that the file leaves out: every field has its default."""

    def __init__(self) -> None:
        self._fields = ()


_EMPTY = _EmptyTable()


def _choice(operator: Operator, names: tuple[str, ...], number: int, what: str) -> str:
    if not 0 <= number < len(names):
        raise ModelError(f"{operator}: there is no {what} {number}")
    return names[number]


def _padding(operator: Operator, table: Table) -> str:
    return _choice(operator, PADDINGS, table.integer(0, "b"), "padding")


def _activation(operator: Operator, table: Table, number: int) -> str:
    return _choice(operator, ACTIVATIONS, table.integer(number, "b"), "activation")


def _conv_2d(operator: Operator, table: Table) -> dict[str, Any]:
    return {
        "padding": _padding(operator, table), "activation": _activation(operator, table, 3),
        "stride_w": table.integer(1, "i"), "stride_h": table.integer(2, "i"),
        "dilation_w": table.integer(4, "i", 1), "dilation_h": table.integer(5, "i", 1),
    }


def _depthwise_conv_2d(operator: Operator, table: Table) -> dict[str, Any]:
    return {
        "padding": _padding(operator, table), "activation": _activation(operator, table, 4),
        "stride_w": table.integer(1, "i"), "stride_h": table.integer(2, "i"),
        "depth_multiplier": table.integer(3, "i"),
        "dilation_w": table.integer(5, "i", 1), "dilation_h": table.integer(6, "i", 1),
    }


def _pool_2d(operator: Operator, table: Table) -> dict[str, Any]:
    return {
        "padding": _padding(operator, table), "activation": _activation(operator, table, 5),
        "stride_w": table.integer(1, "i"), "stride_h": table.integer(2, "i"),
        "filter_w": table.integer(3, "i"), "filter_h": table.integer(4, "i"),
    }


def _fully_connected(operator: Operator, table: Table) -> dict[str, Any]:
    table.vector(5, "i4")
    return {
        "activation": _activation(operator, table, 0), "weights_format": table.integer(1, "b"),
        "keep_num_dims": table.boolean(2),
    }


def _elementwise(operator: Operator, table: Table) -> dict[str, Any]:
    return {"activation": _activation(operator, table, 0)}


def _reshape(operator: Operator, table: Table) -> dict[str, Any]:
    del operator
    new_shape = table.vector(0, "i4")
    return {"new_shape": None if new_shape is None else tuple(new_shape.tolist())}


def _softmax(operator: Operator, table: Table) -> dict[str, Any]:
    del operator
    return {"beta": table.real(0)}


def _concatenation(operator: Operator, table: Table) -> dict[str, Any]:
    return {"axis": table.integer(0, "i"), "activation": _activation(operator, table, 1)}


def _leaky_relu(operator: Operator, table: Table) -> dict[str, Any]:
    del operator
    return {"alpha": table.real(0)}


def _reducer(operator: Operator, table: Table) -> dict[str, Any]:
    del operator
    return {"keep_dims": table.boolean(0)}


def _resize(operator: Operator, table: Table) -> dict[str, Any]:
    del operator
    return {"align_corners": table.boolean(0), "half_pixel_centers": table.boolean(1)}


def _none(operator: Operator, table: Table) -> dict[str, Any]:
    del operator, table
    return {}


_OPTIONS: dict[str, tuple[str, Callable[[Operator, Table], dict[str, Any]]]] = {
    "CONV_2D": ("Conv2DOptions", _conv_2d),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _depthwise_conv_2d),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _pool_2d),
    "MAX_POOL_2D": ("Pool2DOptions", _pool_2d),
    "FULLY_CONNECTED": ("FullyConnectedOptions", _fully_connected),
    "ADD": ("AddOptions", _elementwise),
    "SUB": ("SubOptions", _elementwise),
    "MUL": ("MulOptions", _elementwise),
    "RESHAPE": ("ReshapeOptions", _reshape),
    "SOFTMAX": ("SoftmaxOptions", _softmax),
    "CONCATENATION": ("ConcatenationOptions", _concatenation),
    "SELECT_V2": ("SelectV2Options", _none),
    "LEAKY_RELU": ("LeakyReluOptions", _leaky_relu),
    "MEAN": ("ReducerOptions", _reducer),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", _resize),
}
