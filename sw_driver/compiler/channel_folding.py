"""Exact folding of channels: what is constant, and what nobody reads, is neither stored nor computed.

A channel that interval analysis proves constant adds the same to every sum that a convolution or fully connected
layer makes of it: that goes into the bias, and the channel goes. So does a channel that only meets weights of zero.
Where a constant channel is not the zero point, and windows at the border see less of it than others, what it adds
is no constant: it stays. Sums wrap at 32 bits as TFLite Micro's do, in whatever order they are made, so every
remaining value is the same to the bit.

Operators without weights keep channels apart: a channel goes through all of them or stays in all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sim.golden.numerics import wrap32
from sw_driver.compiler.channel_ranges import ChannelRange, channel_ranges, channels_of
from sw_driver.compiler.weighted_operators import WEIGHTED_OPERATORS, WeightedOperator, weighted_operator
from sw_driver.graph import Graph, Operator, Tensor
from sw_driver.tflite.support import TABLE_OPERATORS

#: Operators that compute each channel from the same channel of all of their feature maps.
CHANNEL_BY_CHANNEL = ("ADD", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "PAD", "RESIZE_NEAREST_NEIGHBOR",
                      "SELECT_V2", *TABLE_OPERATORS)

Channels = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class FoldedTensor:
    """A tensor without some of its channels.

    Parameters
    ----------
    tensor : index in the graph. channels : in the model. kept : the channels that the device computes.
    constants : (channel, value) of those removed because they are constant. Other channels that are missing in `kept`
        are computed by nobody: nothing reads them.
    """

    tensor: int
    channels: int
    kept: list[int]
    constants: list[tuple[int, int]]

    def restored(self, values: np.ndarray) -> np.ma.MaskedArray:
        """`values` int8 [..., len(kept)] as the model has them, [..., channels]; channels that are not computed are
        masked."""
        whole = np.zeros((*values.shape[:-1], self.channels), np.int8)
        missing = np.ones(whole.shape, np.bool_)
        whole[..., self.kept], missing[..., self.kept] = values, False
        for channel, value in self.constants:
            whole[..., channel], missing[..., channel] = value, False
        return np.ma.masked_array(whole, missing)


@dataclasses.dataclass(frozen=True)
class Folding:
    """The result: `graph` with the same indices of operators and tensors (new constants come last), and every
    tensor that lost channels. `report` is for people, and for JSON."""

    graph: Graph
    tensors: list[FoldedTensor]
    report: dict[str, Any]


def folded_tensors(report: dict[str, Any]) -> dict[int, FoldedTensor]:
    """The tensors that lost channels, by index, from the `folding` of a program's report."""
    return {item["tensor"]: FoldedTensor(item["tensor"], item["channels"], item["kept"],
                                         [(channel, value) for channel, value in item["constants"]])
            for item in report["tensors"]}


def folding_summary(report: dict[str, Any] | None) -> str:
    """One line about the `folding` of a program's report; empty where nothing was folded."""
    removed = [] if report is None else [layer["removed"] for layer in report["layers"] if layer["removed"]]
    if report is None or not removed:
        return ""
    operators = "1 operator" if len(removed) == 1 else f"{len(removed)} operators"
    return (f"folding removed {sum(removed):,} channels that are constant or unused from {operators}; "
            f"{report['weights_kept']:,} of {report['weights']:,} weights are left")


def fold_channels(graph: Graph, lanes: int) -> Folding:
    """Fold all that can be folded in a supported graph, for a device of `lanes` lanes. `graph` stays as it is."""
    ranges = channel_ranges(graph)
    weighted = {operator.index: weighted_operator(graph, operator)
                for operator in graph.operators if operator.op in WEIGHTED_OPERATORS}
    kept = {index: ~removable for index, removable in _Removal(graph, lanes, ranges, weighted).removable.items()}
    folded = _Rewriting(graph, ranges, weighted, kept).graph
    tensors = [_folded_tensor(index, ranges[index], kept[index]) for index in sorted(kept) if not kept[index].all()]
    return Folding(folded, tensors, _report(graph, folded, tensors))


def _folded_tensor(index: int, found: ChannelRange, kept: Channels) -> FoldedTensor:
    constants = np.flatnonzero(~kept & found.constant)
    return FoldedTensor(index, len(kept), np.flatnonzero(kept).tolist(),
                        list(zip(constants.tolist(), found.low[constants].tolist(), strict=True)))


def _report(graph: Graph, folded: Graph, tensors: list[FoldedTensor]) -> dict[str, Any]:
    lost = {tensor.tensor: tensor for tensor in tensors}
    layers = []
    for before, after in zip(graph.operators, folded.operators, strict=True):
        if before.op == "RESHAPE":
            continue
        weights, weights_kept = _weights(graph, before), _weights(folded, after)
        tensor = lost.get(before.outputs[0])
        if tensor is not None or weights_kept < weights:
            channels = channels_of(graph.tensors[before.outputs[0]])
            removed = 0 if tensor is None else channels - len(tensor.kept)
            constant = 0 if tensor is None else len(tensor.constants)
            layers.append({"operator": before.index, "op": before.op, "layer": before.name, "channels": channels,
                           "removed": removed, "constant": constant, "unused": removed - constant,
                           "weights": weights, "weights_kept": weights_kept})
    return {
        "weights": sum(_weights(graph, operator) for operator in graph.operators),
        "weights_kept": sum(_weights(folded, operator) for operator in folded.operators),
        "layers": layers,
        "tensors": [dataclasses.asdict(tensor) for tensor in tensors],
    }


def _weights(graph: Graph, operator: Operator) -> int:
    return graph.tensors[operator.inputs[1]].elements if operator.op in WEIGHTED_OPERATORS else 0


class _Removal:
    """`removable`, after construction: the channels that go, for every int8 tensor that is not a constant.

    At first everything may go. Every reader then takes back what it needs, until none does: what is left is the
    largest set that can go at once.
    """

    def __init__(self, graph: Graph, lanes: int, ranges: dict[int, ChannelRange],
                 weighted: dict[int, WeightedOperator]):
        self._graph = graph
        self._lanes = lanes
        self._weighted = weighted
        self.removable: dict[int, Channels] = {index: np.ones(len(found.low), np.bool_)
                                               for index, found in ranges.items()}
        self._needed = {index: operator.contributions(*ranges[operator.x.index])[0]
                        for index, operator in weighted.items() if not operator.depthwise}
        for index in (*graph.inputs, *graph.outputs):
            self._keep(index)
        while self._restrict() or self._keep_shapes():
            pass

    def _keep(self, *tensors: int) -> None:
        for index in tensors:
            if index in self.removable:
                self.removable[index][:] = False

    def _left(self) -> int:
        return sum(int(channels.sum()) for channels in self.removable.values())

    def _restrict(self) -> bool:
        """Let every operator take back what it needs, once. Returns whether any did."""
        before = self._left()
        for operator in reversed(self._graph.operators):
            if operator.op in WEIGHTED_OPERATORS:
                self._restrict_weighted(self._weighted[operator.index])
            elif operator.op in CHANNEL_BY_CHANNEL:
                self._together([index for index in (*operator.inputs, *operator.outputs) if index in self.removable])
            elif operator.op == "CONCATENATION":
                self._restrict_concatenation(operator)
            elif operator.op == "RESHAPE":
                self._restrict_reshape(operator.inputs[0], operator.outputs[0])
            else:
                self._keep(*operator.inputs, *operator.outputs)
        return self._left() < before

    def _together(self, tensors: list[int]) -> None:
        """A channel goes in all of them or in none."""
        common = np.all([self.removable[index] for index in tensors], axis=0)
        for index in tensors:
            self.removable[index][:] = common

    def _restrict_weighted(self, operator: WeightedOperator) -> None:
        of_x, of_output = self.removable[operator.x.index], self.removable[operator.output.index]
        if operator.depthwise:
            common = of_x & of_output.reshape(len(of_x), -1).all(axis=1)
            of_x[:] = common
            of_output[:] = np.repeat(common, len(of_output) // len(of_x))
            return
        needed: Channels = np.any(self._needed[operator.operator.index][~of_output], axis=0)
        if len(needed) % len(of_x):  # x is cut across its channels
            of_x[:] = False
        else:
            of_x &= ~needed.reshape(-1, len(of_x)).any(axis=0)

    def _restrict_concatenation(self, operator: Operator) -> None:
        (output,) = operator.outputs
        if operator.options["axis"] % 4 != 3:
            self._together([*operator.inputs, output])
            return
        at = 0
        for index in operator.inputs:
            part = self.removable[output][at : at + len(self.removable[index])]
            part &= self.removable[index]
            self.removable[index][:] = part
            at += len(part)

    def _restrict_reshape(self, x: int, output: int) -> None:
        """Views keep their bytes: channels go where they stay channels, or become channels of pixels put together for
        a convolution or fully connected layer."""
        of_x, of_output = self.removable[x], self.removable[output]
        regrouped = len(of_output) % len(of_x) == 0 and self._only_summed(output)
        if len(of_x) != len(of_output) and not regrouped:
            self._keep(x, output)
            return
        common = of_x & of_output.reshape(-1, len(of_x)).all(axis=0)
        of_x[:] = common
        of_output[:] = np.tile(common, len(of_output) // len(of_x))

    def _only_summed(self, tensor: int) -> bool:
        """Whether all that read a tensor are convolutions and fully connected layers, through views of the same
        channels or not."""
        for operator in self._graph.consumers(tensor):
            view = operator.op == "RESHAPE" and (
                len(self.removable[operator.outputs[0]]) == len(self.removable[tensor])
                and self._only_summed(operator.outputs[0]))
            if not view and operator.op not in ("CONV_2D", "FULLY_CONNECTED"):
                return False
        return True

    def _keep_shapes(self) -> bool:
        """Keep a channel of every tensor, and whole words where operands of a concatenation meet. Returns whether
        that took back any."""
        before = self._left()
        for channels in self.removable.values():
            channels[0] &= not channels.all()
        for operator in self._graph.operators:
            if operator.op == "CONCATENATION" and operator.options["axis"] % 4 == 3:
                for index in operator.inputs[:-1]:
                    removable = self.removable[index]
                    spare = int((~removable).sum()) % self._lanes
                    if spare:
                        removable[np.flatnonzero(removable)[: self._lanes - spare]] = False
        return self._left() < before


class _Rewriting:
    """`graph`, after construction: the graph with the channels in `kept` only."""

    def __init__(self, graph: Graph, ranges: dict[int, ChannelRange], weighted: dict[int, WeightedOperator],
                 kept: dict[int, Channels]):
        self._ranges = ranges
        self._kept = kept
        self._tensors = [self._without_channels(tensor) for tensor in graph.tensors]
        operators = [self._weighted(weighted[operator.index]) if operator.op in WEIGHTED_OPERATORS
                     else self._reshape(operator) if operator.op == "RESHAPE" else operator
                     for operator in graph.operators]
        self.graph = Graph(graph.name, self._tensors, operators, graph.inputs, graph.outputs)

    def _without_channels(self, tensor: Tensor) -> Tensor:
        kept = self._kept.get(tensor.index)
        if kept is None or kept.all():
            return tensor
        return dataclasses.replace(tensor, shape=(*tensor.shape[:-1], int(kept.sum())))

    def _reshape(self, operator: Operator) -> Operator:
        shape = self._tensors[operator.outputs[0]].shape
        if self._kept[operator.outputs[0]].all():
            return operator
        return dataclasses.replace(operator, inputs=operator.inputs[:1], options={"new_shape": shape})

    def _weighted(self, operator: WeightedOperator) -> Operator:
        of_x, of_output = self._kept[operator.x.index], self._kept[operator.output.index]
        if of_x.all() and of_output.all():
            return operator.operator
        weights = cast(np.ndarray, operator.weights.data)
        biases, options = operator.biases, operator.operator.options
        if operator.operator.op == "DEPTHWISE_CONV_2D":
            weights = weights[..., of_output]
            options = {**options, "depth_multiplier": int(of_output.sum()) // int(of_x.sum())}
        else:
            inputs = np.tile(of_x, operator.filters.shape[3] // len(of_x))
            weights = weights[of_output][..., inputs]
            _varies, constants = operator.contributions(*self._ranges[operator.x.index])
            biases = wrap32(biases + constants[:, ~inputs].sum(axis=1))
        inputs = [operator.x.index, self._constant(operator.weights, weights, of_output)]
        if operator.bias is not None:
            inputs.append(self._constant(operator.bias, biases[of_output].astype(np.int32), of_output))
        elif biases.any():
            inputs.append(self._new_constant(f"{operator.operator.name}/bias", biases[of_output].astype(np.int32)))
        return dataclasses.replace(operator.operator, inputs=inputs, options=options)

    def _constant(self, tensor: Tensor, data: np.ndarray, of_output: Channels) -> int:
        """A constant in the place of another, with the scales of the channels that are kept."""
        index = self._new_constant(tensor.name, data)
        scales, zero_points = tensor.scales, tensor.zero_points
        if tensor.per_channel:
            scales, zero_points = scales[of_output], zero_points[of_output]
        self._tensors[index] = dataclasses.replace(tensor, index=index, shape=data.shape, data=data, scales=scales,
                                                   zero_points=zero_points)
        return index

    def _new_constant(self, name: str, data: np.ndarray) -> int:
        self._tensors.append(Tensor(len(self._tensors), name, data.shape, data.dtype.name, data=data))
        return len(self._tensors) - 1


