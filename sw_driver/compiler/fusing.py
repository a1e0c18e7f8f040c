"""Fusing a residual ADD into the convolution in front of it and a table into any layer, dropping dead layers, and
buffers shared in place."""

from __future__ import annotations

from collections.abc import Iterable

from hw.contract.config import Config
from hw.contract.layouts import table_entries
from sw_driver.compiler.feature_maps import Buffer, FeatureMap, Operand
from sw_driver.compiler.layers import AddLayer, ConvLayer, DepthwiseLayer, Layer, MulLayer, PoolLayer
from sw_driver.tflite.support import TABLE_OPERATORS


def readers(layers: Iterable[Layer], feature_map: FeatureMap) -> list[Layer]:
    """The layers that read a map, once for every operand that is it."""
    return [layer for layer in layers for operand in layer.operands if operand.map is feature_map]


def drop_unused(layers: list[Layer], wanted: set[FeatureMap]) -> list[Layer]:
    """Without the layers that nothing depends on. `wanted` are the maps that a run brings back."""
    needed, kept = set(wanted), []
    for layer in reversed(layers):
        if layer.output in needed:
            kept.append(layer)
            needed.update(layer.needs)
    return kept[::-1]


def fuse_additions(layers: list[Layer], wanted: set[FeatureMap]) -> list[Layer]:
    """Each ADD that can becomes part of the convolution that makes one of its operands.

    The convolution moves to the addition's place in the order, where the other operand is there. Of two
    convolutions the later one is taken.
    """
    fused = list(layers)
    for addition in [layer for layer in layers if isinstance(layer, AddLayer)]:
        candidates = [
            (fused.index(layer), layer, other, parameters)
            for layer in fused if isinstance(layer, ConvLayer)
            for operand, other, parameters in ((addition.a, addition.b, addition.parameters),
                                               (addition.b, addition.a, addition.parameters.swapped()))
            if layer.output is operand.map and _fits(layer, operand, other, addition, fused, wanted)
        ]
        if not candidates:
            continue
        _at, convolution, other, parameters = max(candidates, key=lambda candidate: candidate[0])
        convolution.residual, convolution.add = other, parameters
        convolution.output = addition.output
        convolution.op += "+ADD"
        convolution.name = addition.name
        convolution.shape = addition.shape
        convolution.operators = convolution.operators + addition.operators
        fused.remove(convolution)
        fused[fused.index(addition)] = convolution
    return fused


def _fits(convolution: ConvLayer, operand: Operand, other: Operand, addition: AddLayer, layers: list[Layer],
          wanted: set[FeatureMap]) -> bool:
    output = addition.output
    same_pixels = all((x.height, x.width, x.blocks) == (output.height, output.width, output.blocks)
                      for x in (operand, other))
    return (convolution.residual is None and operand.whole and same_pixels and other.map is not operand.map
            and convolution.output not in wanted and len(readers(layers, operand.map)) == 1)


def fuse_tables(layers: list[Layer], wanted: set[FeatureMap], config: Config) -> list[Layer]:
    """Each table behind another layer that nobody else reads becomes part of that layer."""
    fused = list(layers)
    for layer in layers:
        if not isinstance(layer, PoolLayer) or layer.op not in TABLE_OPERATORS:
            continue
        makers = [other for other in fused if other.output is layer.input.map]
        if (len(makers) == 1 and _takes_table(makers[0], config)
                and makers[0].table is None and layer.input.whole and makers[0].output not in wanted
                and len(readers(fused, layer.input.map)) == 1):
            maker = makers[0]
            maker.table, maker.output = layer.table, layer.output
            maker.op, maker.name, maker.shape = f"{maker.op}+{layer.op}", layer.name, layer.shape
            maker.operators = maker.operators + layer.operators
            fused.remove(layer)
    return fused


def _takes_table(layer: Layer, config: Config) -> bool:
    """Whether a layer can have a table. That of a convolution lies beside its parameters."""
    if isinstance(layer, ConvLayer):
        entries = layer.output.blocks * (config.lanes // config.requantise_lanes) + table_entries(config)
        return entries <= config.parameter_entries // 2
    return isinstance(layer, (AddLayer, DepthwiseLayer, MulLayer, PoolLayer))


def share_in_place(layers: list[Layer], wanted: set[FeatureMap]) -> None:
    """Let an element-wise layer write over an operand that nobody needs any more: their maps share the buffer."""
    for layer in layers:
        target = layer.output
        if layer.beneath is not None or len([w for w in layers if w.output.buffer is target.buffer]) > 1:
            continue
        for operand in layer.elementwise:
            others = [other for other in layer.operands if other not in layer.elementwise]
            if (operand.whole and operand.map.words == target.words and target.buffer is not operand.map.buffer
                    and all(other.map.buffer is not operand.map.buffer for other in others)
                    and not _needed_later(operand.map.buffer, layer, layers, wanted)):
                target.buffer = operand.map.buffer
                break


def _needed_later(buffer: Buffer, layer: Layer, layers: list[Layer], wanted: set[FeatureMap]) -> bool:
    position = layers.index(layer)
    return (any(feature_map.buffer is buffer for feature_map in wanted)
            or any(other.output.buffer is buffer for other in layers[position:])
            or any(operand.map.buffer is buffer for other in layers[position + 1:] for operand in other.operands))
