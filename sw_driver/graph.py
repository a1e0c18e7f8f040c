"""The layer graph: a model as tensors and operators, whatever file it came from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

#: Element types that arrays exist for, by the name used in `Tensor.dtype`.
NUMPY_TYPES: dict[str, np.dtype] = {
    name: np.dtype(name)
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
                 "bool", "float16", "float32", "float64")
}


class ModelError(ValueError):
    """A model file that can't be read, is damaged, or isn't consistent in itself."""


def short_name(name: str, length: int = 48) -> str:
    """A tensor's name for people: converters list the names of all layers that they fused, with ';' between them,
    and put scopes in front. The first name, and of a long one the end."""
    first = name.partition(";")[0]
    return first if len(first) <= length else "..." + first[3 - length :]


@dataclasses.dataclass
class Tensor:
    """One tensor: an array known beforehand (`data`), or one that a run supplies or computes.

    Parameters
    ----------
    index : position in `Graph.tensors`.
    name : as in the file; may be empty or shared with another tensor.
    shape : dimensions, outermost first ([batch, height, width, channels] for feature maps); () is a scalar.
    dtype : element type, 'int8', 'int32', 'bool', 'float32', ...
    scales : float32 [n]; n is 0 (not quantised), 1 (per tensor) or shape[quantised_dimension] (per channel).
    zero_points : int64 [n]; real value = scale * (stored value - zero point).
    quantised_dimension : the dimension that `scales` go along when there is more than one.
    data : array of `shape` and `dtype` for a constant (its raw bytes as uint8 where NumPy has no such type),
        None for every other tensor.
    variable : whether it keeps its value from run to run.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    zero_points: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    quantised_dimension: int = 0
    data: np.ndarray | None = None
    variable: bool = False

    @property
    def constant(self) -> bool:
        """Whether the value is in the file."""
        return self.data is not None

    @property
    def quantised(self) -> bool:
        """Whether there is a scale."""
        return len(self.scales) > 0

    @property
    def per_channel(self) -> bool:
        """Whether there is a scale per channel."""
        return len(self.scales) > 1

    @property
    def scale(self) -> float:
        """The scale of a tensor that has one. A float32 value. Raises ValueError otherwise."""
        if len(self.scales) != 1:
            raise ValueError(f"{self} has {len(self.scales)} scales, not one")
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor that has one. Raises ValueError otherwise."""
        if len(self.zero_points) != 1:
            raise ValueError(f"{self} has {len(self.zero_points)} zero points, not one")
        return int(self.zero_points[0])

    @property
    def elements(self) -> int:
        """Elements in the tensor."""
        return math.prod(self.shape)

    @property
    def element_bytes(self) -> int:
        """Bytes of an element. Raises KeyError for types without a NumPy counterpart."""
        return NUMPY_TYPES[self.dtype].itemsize

    def __str__(self) -> str:
        dimensions = "x".join(str(size) for size in self.shape) or "scalar"
        return f"tensor {self.index} {short_name(self.name)!r} ({dimensions} {self.dtype})"


@dataclasses.dataclass
class Operator:
    """One operator.

    Parameters
    ----------
    index : position in `Graph.operators`, which is an order of execution.
    op : TFLite's builtin name ('CONV_2D', 'ADD', ...); 'CUSTOM:<name>' for a custom operator.
    name : the name of its first output, for people; may be empty or not unique.
    inputs, outputs : tensor indices; an input of -1 is an optional one that is absent.
    options : the operator's parameters, by these names:

        CONV_2D : stride_h, stride_w, dilation_h, dilation_w (int), padding ('SAME' | 'VALID'), activation
        DEPTHWISE_CONV_2D : the same, and depth_multiplier (int)
        AVERAGE_POOL_2D, MAX_POOL_2D : stride_h, stride_w, filter_h, filter_w (int), padding, activation
        FULLY_CONNECTED : activation, keep_num_dims (bool), weights_format (int, 0 is the plain one)
        ADD, SUB, MUL : activation
        RESHAPE : new_shape (tuple of int as in the file, -1 allowed; None when absent). The result is the
            output tensor's shape.
        SOFTMAX : beta (float)
        LEAKY_RELU : alpha (float)
        MEAN : keep_dims (bool)
        RESIZE_NEAREST_NEIGHBOR : align_corners, half_pixel_centers (bool)
        CONCATENATION : axis (int), activation
        others : none

        `activation` is 'NONE', 'RELU', 'RELU_N1_TO_1', 'RELU6', 'TANH' or 'SIGN_BIT'.
    """

    index: int
    op: str
    name: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"operator {self.index} {self.op} {short_name(self.name)!r}"


@dataclasses.dataclass
class Graph:
    """A model with one subgraph.

    Parameters
    ----------
    name : the model's name, for people.
    tensors, operators : operators are in an order of execution: inputs are produced before they are used.
    inputs, outputs : tensor indices, in the model's order.
    """

    name: str
    tensors: list[Tensor]
    operators: list[Operator]
    inputs: list[int]
    outputs: list[int]

    def producer(self, tensor: int) -> Operator | None:
        """The operator that computes the tensor; None for constants and graph inputs."""
        for operator in self.operators:
            if tensor in operator.outputs:
                return operator
        return None

    def consumers(self, tensor: int) -> list[Operator]:
        """The operators that read the tensor, each once, in order of execution."""
        return [operator for operator in self.operators if tensor in operator.inputs]

    def input_tensors(self, operator: Operator) -> list[Tensor | None]:
        """The operator's inputs; None for an absent one."""
        return [self.tensors[index] if index >= 0 else None for index in operator.inputs]

    def output_tensors(self, operator: Operator) -> list[Tensor]:
        """The operator's outputs."""
        return [self.tensors[index] for index in operator.outputs]

    @property
    def input_names(self) -> list[str]:
        """A name for each graph input, all different: the tensor's own where it has one that no other input
        has, else 'input' (a single input) or 'input_<position>'."""
        return _unique_names([self.tensors[index].name for index in self.inputs], "input")

    @property
    def output_names(self) -> list[str]:
        """A name for each graph output, all different: as `input_names`, with 'output'."""
        return _unique_names([self.tensors[index].name for index in self.outputs], "output")

    def input_position(self, name: str) -> int:
        """Position among the inputs of the one called `name`: one of `input_names`, 'input' for a single
        input, 'input_<position>', or a tensor name without its ':0'. Raises KeyError with the names there are."""
        return _position(name, self.input_names, "input")

    def output_position(self, name: str) -> int:
        """As `input_position`, for outputs."""
        return _position(name, self.output_names, "output")


def _unique_names(names: list[str], role: str) -> list[str]:
    fallback = [role if len(names) == 1 else f"{role}_{position}" for position in range(len(names))]
    return [
        name if name and names.count(name) == 1 and name not in fallback else fallback[position]
        for position, name in enumerate(names)
    ]


def _position(name: str, names: list[str], role: str) -> int:
    if name in names:
        return names.index(name)
    if name == role and len(names) == 1:
        return 0
    digits = name.removeprefix(f"{role}_")
    if digits != name and digits.isdecimal() and int(digits) < len(names):
        return int(digits)
    stems = [known.rsplit(":", 1)[0] for known in names]
    if stems.count(name) == 1:
        return stems.index(name)
    raise KeyError(f"The model has no {role} {name!r}; its {role}s are {', '.join(map(repr, names))}")
