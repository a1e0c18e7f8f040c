"""What of a model the device (with the host's help) can run. Everything that it can't is reported at once.

This is about operators, types and options; whether a layer fits a preset's memories is the compiler's question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from hw.contract.config import KERNEL_MAX, PRESETS, Config
from sw_driver.graph import Graph, ModelError, Operator, Tensor, short_name

#: Operators that run on the host, after everything else.
HOST_OPERATORS = ("SOFTMAX",)

#: Unary activations: tables of all results.
TABLE_OPERATORS = ("RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH")

#: Comparisons: decisions, whose results are masks.
COMPARISONS = ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")

#: Operators on decisions: masks of masks.
LOGICAL_OPERATORS = ("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT")

#: Fused activations: clamps.
_CLAMPS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")

#: Largest stride, dilation, pooling side and padding: fields of 8 bits in the commands.
_BYTE_MAX = 255

#: Largest height and width of a feature map: fields of 16 bits in the commands.
_SIDE_MAX = 65535

#: A bias' scale may differ from input scale x weight scale by this part of the output's scale (TFLite's
#: GetQuantizedConvolutionMultipler, kernel_util.cc).
_BIAS_SCALE_DIFFERENCE = 0.02


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that can't run.

    Parameters
    ----------
    index : operator index; None when it is about the graph as a whole.
    op, name : the operator's.
    reason : what is there. limit : what there may be. remedy : what to do.
    """

    index: int | None
    op: str
    name: str
    reason: str
    limit: str
    remedy: str

    def __str__(self) -> str:
        where = "graph" if self.index is None else f"operator {self.index} {self.op} {short_name(self.name)!r}"
        return f"{where}: {self.reason}; limit: {self.limit}; remedy: {self.remedy}"


class UnsupportedError(ModelError):
    """A valid model that the device can't run. `problems` has all the reasons.

    Parameters
    ----------
    problems : at least one.
    """

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        count = "1 thing" if len(problems) == 1 else f"{len(problems)} things"
        super().__init__("\n".join([f"{count} in this model can't run:", *(f"  {problem}" for problem in problems)]))


def check(graph: Graph, config: Config | None = None) -> list[Problem]:
    """Everything in `graph` that can't run, in order of execution; an empty list when all can.

    `config` says how large pooling windows may be; without it, the largest of the presets counts.
    """
    area = max(preset.pool_area for preset in PRESETS.values()) if config is None else config.pool_area
    checker = _Checker(graph, area)
    problems = list(checker.graph_problems())
    for operator in graph.operators:
        problems += checker.operator_problems(operator)
    return problems


def require_supported(graph: Graph, config: Config | None = None) -> None:
    """Raise UnsupportedError with everything that `check` finds."""
    problems = check(graph, config)
    if problems:
        raise UnsupportedError(problems)


#: What is wrong, what there may be, what to do.
_Finding = tuple[str, str, str]

_QUANTISE = "quantise the whole model to int8"
_EXPORT = "change the layer before converting the model"


class _Checker:
    def __init__(self, graph: Graph, pool_area: int):
        self._graph = graph
        self._pool_area = pool_area
        self._masks = {index for operator in graph.operators for index in (
            operator.inputs[:1] if operator.op == "SELECT_V2"
            else operator.inputs if operator.op in LOGICAL_OPERATORS else ())}
        self._checks: dict[str, Callable[[Operator], Iterator[_Finding]]] = {
            "CONV_2D": self._conv_2d,
            "DEPTHWISE_CONV_2D": self._conv_2d,
            "FULLY_CONNECTED": self._fully_connected,
            "ADD": self._add,
            "AVERAGE_POOL_2D": self._pool,
            "MAX_POOL_2D": self._pool,
            "RESHAPE": self._reshape,
            "SOFTMAX": self._softmax,
            "SELECT_V2": self._select_v2,
            **dict.fromkeys(COMPARISONS, self._comparison),
            **dict.fromkeys(LOGICAL_OPERATORS, self._logical),
            "MUL": self._mul,
            "MEAN": self._mean,
            "PAD": self._pad,
            "CONCATENATION": self._concatenation,
            "RESIZE_NEAREST_NEIGHBOR": self._resize,
            **dict.fromkeys(TABLE_OPERATORS, self._unary),
        }

    def graph_problems(self) -> Iterator[Problem]:
        graph = self._graph
        found: list[_Finding] = []
        for name, index in zip(graph.input_names, graph.inputs, strict=True):
            tensor = graph.tensors[index]
            if index in self._masks and tensor.dtype == "bool":
                continue
            if tensor.dtype != "int8":
                found.append((f"input {name!r} is {tensor.dtype}", "int8, or bool for a SELECT_V2 mask", _QUANTISE))
            else:
                found += _activation_findings(tensor)
        for name, index in zip(graph.output_names, graph.outputs, strict=True):
            tensor = graph.tensors[index]
            if tensor.dtype != "int8":
                found.append((f"output {name!r} is {tensor.dtype}", "int8", _QUANTISE))
            if graph.producer(index) is None:
                found.append((f"output {name!r} is a graph input or a constant", "a tensor that an operator computes",
                              "leave this output out of the model"))
        for reason, limit, remedy in found:
            yield Problem(None, "", graph.name, reason, limit, remedy)

    def operator_problems(self, operator: Operator) -> Iterator[Problem]:
        findings = self._checks.get(operator.op)
        if findings is None:
            yield Problem(operator.index, operator.op, operator.name, f"operator {operator.op} is not supported",
                          f"one of {', '.join(self._checks)}", "replace it with supported operators")
            return
        for reason, limit, remedy in findings(operator):
            yield Problem(operator.index, operator.op, operator.name, reason, limit, remedy)

    # ---- operators ----------------------------------------------------------------------------

    def _feature_maps(self, *indices: int) -> Iterator[_Finding]:
        """What all tensors between operators must be."""
        for index in dict.fromkeys(indices):
            tensor = self._graph.tensors[index]
            if tensor.constant:
                yield f"{tensor} is a constant", "a tensor computed at run time", "fold it into the layer before"
            if tensor.dtype != "int8":
                yield f"{tensor} is {tensor.dtype}", "int8", _QUANTISE
            else:
                yield from _activation_findings(tensor)

    def _from_device(self, *indices: int) -> Iterator[_Finding]:
        """Operators of the device can't follow those of the host."""
        for index in dict.fromkeys(indices):
            producer = self._graph.producer(index)
            while producer is not None and producer.op == "RESHAPE":
                producer = self._graph.producer(producer.inputs[0])
            if producer is not None and producer.op in HOST_OPERATORS:
                yield (f"it follows {producer}, which runs on the host", "only RESHAPE and SOFTMAX may follow",
                       f"leave {producer.op} to the end of the model")

    def _clamp(self, operator: Operator) -> Iterator[_Finding]:
        activation = operator.options["activation"]
        if activation not in _CLAMPS:
            yield f"its fused activation is {activation}", f"one of {', '.join(_CLAMPS)}", _EXPORT

    def _same_quantisation(self, operator: Operator, *indices: int) -> Iterator[_Finding]:
        y = self._graph.tensors[operator.outputs[0]]
        for x in (self._graph.tensors[index] for index in dict.fromkeys(indices)):
            if len(x.scales) == 1 == len(y.scales) and (
                    abs(x.scale - y.scale) > 1e-6 * y.scale or x.zero_point != y.zero_point):
                reason = (f"{x} has scale {x.scale:.6g} and zero point {x.zero_point}, "
                          f"its output {y.scale:.6g} and {y.zero_point}")
                yield reason, "the same scale and zero point", "requantise in the layer before"

    def _parameters(self, operator: Operator) -> Iterator[_Finding]:
        weights, bias = (self._graph.input_tensors(operator) + [None])[1:3]
        assert weights is not None
        if weights.data is None:
            yield f"the weights {weights} are not a constant", "weights stored in the file", _EXPORT
        if weights.dtype != "int8":
            yield f"the weights {weights} are {weights.dtype}", "int8", _QUANTISE
        elif not weights.quantised:
            yield f"the weights {weights} have no scale", "a scale per tensor or per output channel", _QUANTISE
        if weights.zero_points.any():
            yield f"the weights {weights} have a zero point that is not 0", "0", "quantise weights symmetrically"
        if bias is not None and bias.dtype != "int32":
            yield f"the bias {bias} is {bias.dtype}", "int32", _QUANTISE
        elif bias is not None and bias.data is None:
            yield f"the bias {bias} is not a constant", "a bias stored in the file", _EXPORT

    def _strides(self, operator: Operator) -> Iterator[_Finding]:
        for name in ("stride", "dilation"):
            values = [operator.options.get(f"{name}_{side}", 1) for side in "hw"]
            if max(values) > _BYTE_MAX:
                yield f"its {name} is {values[0]}x{values[1]}", f"{_BYTE_MAX} each way", _EXPORT

    def _conv_2d(self, operator: Operator) -> Iterator[_Finding]:
        x, weights = (self._graph.tensors[index] for index in operator.inputs[:2])
        yield from self._feature_maps(x.index, *operator.outputs)
        yield from self._from_device(x.index)
        yield from self._parameters(operator)
        yield from self._clamp(operator)
        yield from self._strides(operator)
        _outputs, height, width, channels = weights.shape
        if max(height, width) > KERNEL_MAX:
            yield f"its kernel is {height}x{width}", f"{KERNEL_MAX}x{KERNEL_MAX}", _EXPORT
        if operator.op == "CONV_2D" and channels != x.shape[3]:
            yield (f"it is grouped: {x.shape[3]} input channels, kernels of {channels}", "one group",
                   "write one convolution per group, or a dense kernel with zeros")
        padding = [_padding_before(operator, x.shape[1 + i], weights.shape[1 + i], side) for i, side in enumerate("hw")]
        if max(padding) > _BYTE_MAX:
            yield f"it is padded by {padding[0]} rows and {padding[1]} columns", f"{_BYTE_MAX} each way", _EXPORT

    def _fully_connected(self, operator: Operator) -> Iterator[_Finding]:
        x, weights = (self._graph.tensors[index] for index in operator.inputs[:2])
        (y,) = self._graph.output_tensors(operator)
        yield from self._feature_maps(x.index, y.index)
        yield from self._from_device(x.index)
        yield from self._parameters(operator)
        yield from self._clamp(operator)
        if operator.options["weights_format"] != 0:
            yield f"its weights have format {operator.options['weights_format']}", "0, the plain one", _EXPORT
        bias = self._graph.input_tensors(operator)[2] if len(operator.inputs) > 2 else None
        if bias is not None and len(x.scales) == len(y.scales) == len(weights.scales) == len(bias.scales) == 1:
            difference = abs(x.scale * weights.scale - bias.scale) / y.scale
            if difference > _BIAS_SCALE_DIFFERENCE:
                yield (f"the bias has the scale {bias.scale:.6g}, input x weights {x.scale * weights.scale:.6g}",
                       f"a difference of {_BIAS_SCALE_DIFFERENCE} of the output's scale", "quantise the model again")

    def _add(self, operator: Operator) -> Iterator[_Finding]:
        a, b = (self._graph.tensors[index] for index in operator.inputs)
        yield from self._feature_maps(a.index, b.index, *operator.outputs)
        yield from self._from_device(a.index, b.index)
        yield from self._clamp(operator)
        if a.shape != b.shape:
            yield f"its operands {a} and {b} are broadcast", "operands of one shape", _EXPORT

    def _pool(self, operator: Operator) -> Iterator[_Finding]:
        yield from self._feature_maps(operator.inputs[0], *operator.outputs)
        yield from self._from_device(operator.inputs[0])
        yield from self._same_quantisation(operator, operator.inputs[0])
        yield from self._clamp(operator)
        yield from self._strides(operator)
        height, width = operator.options["filter_h"], operator.options["filter_w"]
        if max(height, width) > _BYTE_MAX or height * width > self._pool_area:
            yield (f"its window is {height}x{width}", f"{_BYTE_MAX} each way and {self._pool_area} pixels",
                   "pool in two steps, or choose a preset with a larger pool_area")

    def _unary(self, operator: Operator) -> Iterator[_Finding]:
        yield from self._feature_maps(operator.inputs[0], *operator.outputs)
        yield from self._from_device(operator.inputs[0])
        (y,) = self._graph.output_tensors(operator)
        steps, zero_point = {"LOGISTIC": (256, -128), "TANH": (128, 0)}.get(operator.op, (0, 0))
        if steps and len(y.scales) == 1 and (abs(y.scale * steps - 1) > 1e-3 or y.zero_point != zero_point):
            yield (f"its output has the scale {y.scale:.6g} and the zero point {y.zero_point}",
                   f"1/{steps} and {zero_point}", "quantise the model again")
        if operator.op == "RELU6":
            yield from self._same_quantisation(operator, operator.inputs[0])

    def _mul(self, operator: Operator) -> Iterator[_Finding]:
        a, b = (self._graph.tensors[index] for index in operator.inputs)
        (y,) = self._graph.output_tensors(operator)
        yield from self._feature_maps(a.index, b.index, y.index)
        yield from self._from_device(a.index, b.index)
        yield from self._clamp(operator)
        vector = (1, 1, 1, y.shape[-1]) if len(y.shape) == 4 else y.shape
        shapes = {a.shape, b.shape}
        if not (y.shape in shapes and shapes <= {y.shape, vector}):
            yield f"its operands are {a} and {b}", "operands of one shape, or a vector of channels as one", _EXPORT

    def _comparison(self, operator: Operator) -> Iterator[_Finding]:
        operands = [self._graph.tensors[index] for index in operator.inputs]
        (y,) = self._graph.output_tensors(operator)
        compared = [tensor for tensor in operands if not tensor.constant]
        if len(compared) != 1 or any(tensor.constant and tensor.elements != 1 for tensor in operands):
            yield (f"it compares {operands[0]} and {operands[1]}", "a feature map and a constant of one element",
                   _EXPORT)
            return
        yield from self._feature_maps(compared[0].index)
        yield from self._from_device(compared[0].index)
        for tensor in operands:
            if tensor.dtype != "int8" or len(tensor.scales) != 1:
                yield f"{tensor} is {tensor.dtype} with {len(tensor.scales)} scales", "int8 with one scale", _QUANTISE
            elif tensor.scale >= 1:
                yield f"{tensor} has the scale {tensor.scale:.6g}", "below 1", "quantise the model again"
        yield from self._decisions(y)

    def _decisions(self, y: Tensor) -> Iterator[_Finding]:
        """What a bool result must be, and who may read it."""
        if y.elements != 1 and (len(y.shape) != 4 or y.shape[0] != 1 or y.shape[3] != 1):
            yield f"its result is {y}", "one decision, or one per pixel, 1 x height x width x 1", _EXPORT
        for reader in self._graph.consumers(y.index):
            if reader.op != "SELECT_V2" and reader.op not in LOGICAL_OPERATORS:
                yield f"{reader} reads its result", f"SELECT_V2, {', '.join(LOGICAL_OPERATORS)}", _EXPORT

    def _logical(self, operator: Operator) -> Iterator[_Finding]:
        (y,) = self._graph.output_tensors(operator)
        for index in operator.inputs:
            yield from self._is_decision(self._graph.tensors[index])
            x = self._graph.tensors[index]
            if x.elements not in (1, y.elements):
                yield f"{x} would be broadcast to {y}", "a single decision, or as many as the result has", _EXPORT
        yield from self._decisions(y)

    def _is_decision(self, condition: Tensor) -> Iterator[_Finding]:
        decision = self._graph.producer(condition.index)
        if condition.index not in self._graph.inputs and (
                decision is None or decision.op not in (*COMPARISONS, *LOGICAL_OPERATORS)):
            yield (f"its mask {condition} is neither a graph input nor the result of a comparison",
                   "a mask given with the inputs, or a decision", _EXPORT)

    def _constant(self, operator: Operator) -> Iterator[_Finding]:
        tensor = self._graph.tensors[operator.inputs[1]]
        if not tensor.constant:
            yield f"{tensor} is not a constant", "values stored in the file", _EXPORT

    def _mean(self, operator: Operator) -> Iterator[_Finding]:
        x, axes = (self._graph.tensors[index] for index in operator.inputs)
        yield from self._feature_maps(x.index, *operator.outputs)
        yield from self._from_device(x.index)
        yield from self._constant(operator)
        wanted = [] if axes.data is None else sorted(int(axis) % len(x.shape) for axis in axes.data.reshape(-1))
        if len(x.shape) != 4 or wanted != [1, 2]:
            yield f"it takes the mean over axes {wanted} of {x}", "axes 1 and 2 of four", _EXPORT
        elif max(x.shape[1:3]) > _BYTE_MAX or x.shape[1] * x.shape[2] > self._pool_area:
            yield (f"its window is {x.shape[1]}x{x.shape[2]}", f"{_BYTE_MAX} each way and {self._pool_area} pixels",
                   "pool in two steps, or choose a preset with a larger pool_area")

    def _pad(self, operator: Operator) -> Iterator[_Finding]:
        x, paddings = (self._graph.tensors[index] for index in operator.inputs)
        yield from self._feature_maps(x.index, *operator.outputs)
        yield from self._from_device(x.index)
        yield from self._same_quantisation(operator, x.index)
        yield from self._constant(operator)
        if len(x.shape) != 4 or (paddings.data is not None and paddings.data[[0, -1]].any()):
            yield f"it pads {x} beyond rows and columns", "padding of height and width, of four dimensions", _EXPORT

    def _concatenation(self, operator: Operator) -> Iterator[_Finding]:
        yield from self._feature_maps(*operator.inputs, *operator.outputs)
        yield from self._from_device(*operator.inputs)
        yield from self._same_quantisation(operator, *operator.inputs)
        (y,) = self._graph.output_tensors(operator)
        if len(y.shape) != 4 or operator.options["axis"] % 4 == 0:
            yield f"it puts {y} together along axis {operator.options['axis']}", "axis 1, 2 or 3 of four", _EXPORT
        if operator.options["activation"] != "NONE":
            yield f"its fused activation is {operator.options['activation']}", "none", _EXPORT

    def _resize(self, operator: Operator) -> Iterator[_Finding]:
        x = self._graph.tensors[operator.inputs[0]]
        (y,) = self._graph.output_tensors(operator)
        yield from self._feature_maps(x.index, y.index)
        yield from self._from_device(x.index)
        yield from self._same_quantisation(operator, x.index)
        yield from self._constant(operator)

    def _reshape(self, operator: Operator) -> Iterator[_Finding]:
        yield from self._feature_maps(operator.inputs[0], *operator.outputs)
        yield from self._same_quantisation(operator, operator.inputs[0])
        if len(operator.inputs) > 1 and operator.inputs[1] >= 0:
            shape = self._graph.tensors[operator.inputs[1]]
            if not shape.constant:
                yield f"its shape {shape} is not a constant", "a shape stored in the file", _EXPORT

    def _softmax(self, operator: Operator) -> Iterator[_Finding]:
        yield from self._feature_maps(operator.inputs[0], *operator.outputs)
        (y,) = self._graph.output_tensors(operator)
        if y.dtype == "int8" and len(y.scales) == 1 and (abs(y.scale * 256 - 1) > 1e-3 or y.zero_point != -128):
            yield (f"its output has the scale {y.scale:.6g} and the zero point {y.zero_point}", "1/256 and -128",
                   "quantise the model again")
        if not operator.options["beta"] > 0:
            yield f"its beta is {operator.options['beta']}", "a positive number", _EXPORT

    def _select_v2(self, operator: Operator) -> Iterator[_Finding]:
        condition, a, b = (self._graph.tensors[index] for index in operator.inputs)
        (y,) = self._graph.output_tensors(operator)
        yield from self._feature_maps(a.index, b.index, y.index)
        yield from self._from_device(a.index, b.index)
        yield from self._same_quantisation(operator, a.index, b.index)
        yield from self._is_decision(condition)
        if not a.shape == b.shape == y.shape or (len(y.shape) != 4 and condition.elements != 1):
            yield (f"its operands are {a} and {b}", "operands of one shape, 1 x height x width x channels", _EXPORT)
        elif condition.elements != 1 and condition.shape != (*y.shape[:3], 1):
            yield (f"its mask is {condition}", f"one bit, or one per pixel, {'x'.join(map(str, y.shape[:3]))}x1",
                   _EXPORT)


def _activation_findings(tensor: Tensor) -> Iterator[_Finding]:
    if len(tensor.scales) != 1:
        yield f"{tensor} has {len(tensor.scales)} scales", "one scale and zero point", _QUANTISE
    if len(tensor.shape) == 4 and tensor.shape[0] != 1:
        yield f"{tensor} has a batch of {tensor.shape[0]}", "batch 1", "convert the model with batch 1"
    if not 1 <= len(tensor.shape) <= 4:
        yield f"{tensor} has {len(tensor.shape)} dimensions", "1 to 4", _EXPORT
    if len(tensor.shape) == 4 and max(tensor.shape[1:3]) > _SIDE_MAX:
        yield f"{tensor} is too high or too wide", f"{_SIDE_MAX} each way", "cut the input into parts"


def _padding_before(operator: Operator, size: int, window: int, side: str) -> int:
    """Rows above, or columns before, the feature map (TFLite's ComputePaddingWithOffset)."""
    if operator.options["padding"] == "VALID":
        return 0
    stride, dilation = operator.options[f"stride_{side}"], operator.options[f"dilation_{side}"]
    outputs = -(-size // stride)
    return max(0, (outputs - 1) * stride + (window - 1) * dilation + 1 - size) // 2
