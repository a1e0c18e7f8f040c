"""Gating: which pixels of each map some active output reads, and SELECT_V2 without a copy.

Working backwards from SELECT_V2, a map that is only read where a mask is set gets that mask; through a
convolution the mask grows by the kernel (design, section 2). The layer that makes the map computes nothing
else. The branch's last layer then writes straight into the buffer that holds the other operand, or both
operands' layers into a new one; only where neither is possible is an operand copied, its own pixels only.
"""

from __future__ import annotations

import dataclasses

from sw_driver.compiler.decisions import decided_at
from sw_driver.compiler.feature_maps import FeatureMap, Operand
from sw_driver.compiler.fusing import readers
from sw_driver.compiler.layers import Geometry, Layer, MulLayer, PoolLayer, SelectLayer
from sw_driver.compiler.masks import Grain, Mask


def gate(layers: list[Layer], wanted: set[FeatureMap], *, branches: bool = True) -> list[Layer]:
    """Set `mask` of the layers and replace every SelectLayer. Where not `branches`, only the last layer of a
    branch is gated, the others compute all their pixels (for small mask memories)."""
    _analyse(layers, wanted)
    if not branches:
        selected = {operand.map for layer in layers if isinstance(layer, SelectLayer) for operand in layer.operands}
        for layer in layers:
            if layer.output not in selected and layer.mask is not None and layer.mask.grain is Grain.PIXEL:
                layer.mask = None
    result = list(layers)
    for layer in layers:
        if isinstance(layer, SelectLayer):
            _Merge(layer, result, wanted).apply()
    return result


def _analyse(layers: list[Layer], wanted: set[FeatureMap]) -> None:
    demands: dict[FeatureMap, Mask | None] = dict.fromkeys(wanted)
    decided = decided_at(layers)

    def require(operand: Operand, mask: Mask | None) -> None:
        target = operand.map
        if (mask is not None and mask.grain is Grain.PIXEL
                and not (operand.whole and mask.size == (target.height, target.width))):
            mask = None
        if mask is not None and mask.grain is Grain.BLOCK and not (operand.whole and operand.blocks == mask.height):
            mask = None
        demands[target] = mask if demands.get(target, mask) == mask else None

    for position, layer in reversed(list(enumerate(layers))):
        if isinstance(layer, SelectLayer):
            # Whatever is demanded of the result, each operand is needed at most where it is selected.
            require(layer.a, layer.select)
            require(layer.b, layer.select.complement())
            continue
        mask = demands.get(layer.output)
        if mask is not None and mask.decided and decided[mask.tensor] > position:
            mask = None  # the decision depends on what this layer makes
        layer.mask = mask if mask is not None and layer.can_be_gated(mask) else None
        if layer.mask is None and mask is not None and mask.grain is not Grain.BLOCK:
            mask = None
        for operand in layer.operands:
            if mask is None and isinstance(layer, MulLayer) and operand is layer.a:
                require(operand, layer.gate)  # where the gate is closed, anything will do
            else:
                require(operand, mask and layer.demand(operand, mask))


@dataclasses.dataclass
class _Side:
    """One operand of a selection, and the mask of the pixels that come from it."""

    operand: Operand
    mask: Mask
    writer: Layer | None


class _Merge:
    """Replaces one SelectLayer in `layers`, which changes in place."""

    def __init__(self, select: SelectLayer, layers: list[Layer], wanted: set[FeatureMap]):
        self.select = select
        self.layers = layers
        self.wanted = wanted
        self.sides = [self._side(select.a, select.select), self._side(select.b, select.select.complement())]

    def _side(self, operand: Operand, mask: Mask) -> _Side:
        """`writer` is the layer that can write this side's pixels into the result itself; None where it can't."""
        writers = [layer for layer in self.layers if layer.output.buffer is operand.map.buffer]
        free = (len(writers) == 1 and writers[0].mask == mask and operand.whole and not operand.map.loaded
                and operand.map not in self.wanted and len(readers(self.layers, operand.map)) == 1)
        return _Side(operand, mask, writers[0] if free else None)

    def apply(self) -> None:
        a, b = self.sides
        if a.writer and b.writer:
            self._redirect(a)
            self._redirect(b)
            self._finish([])
            return
        for one, other in ((a, b), (b, a)):
            if one.writer and self._may_overwrite(other, one.writer):
                self._in_place(other)
                self._redirect(one)
                one.writer.beneath = other.operand.map
                self._finish([])
                return
        for one, other in ((a, b), (b, a)):
            if one.operand.map.buffer is not other.operand.map.buffer and self._may_overwrite(one, self.select):
                self._in_place(one)
                self._finish([other], beneath=one.operand.map)
                return
        for side in self.sides:
            if side.writer:
                self._redirect(side)
        self._finish([side for side in self.sides if not side.writer])

    def _may_overwrite(self, side: _Side, writer: Layer) -> bool:
        """Whether `writer`, at its place in the order, may write over the map of `side`."""
        buffer, position = side.operand.map.buffer, self.layers.index(writer)
        if (not side.operand.whole or side.operand.map.words != self.select.output.words
                or any(feature_map.buffer is buffer for feature_map in self.wanted)):
            return False
        for at, layer in enumerate(self.layers):
            if layer is self.select:
                continue
            if layer.output.buffer is buffer and at >= position:
                return False
            for operand in layer.operands:
                safe = at < position or (layer is writer and operand in layer.elementwise and operand.whole)
                if operand.map.buffer is buffer and not safe:
                    return False
        return True

    def _in_place(self, side: _Side) -> None:
        self.select.output.buffer = side.operand.map.buffer

    def _redirect(self, side: _Side) -> None:
        assert side.writer is not None
        side.writer.output = self.select.output
        side.writer.op += "+SELECT_V2"
        side.writer.operators = side.writer.operators + self.select.operators

    def _finish(self, copied: list[_Side], beneath: FeatureMap | None = None) -> None:
        """Put copies of these sides' pixels in the place of the selection."""
        at = self.layers.index(self.select)
        self.layers[at : at + 1] = [self._copy(side, beneath) for side in copied]

    def _copy(self, side: _Side, beneath: FeatureMap | None) -> PoolLayer:
        select = self.select
        copy = PoolLayer(name=select.name, op="SELECT_V2", shape=select.shape, operators=select.operators,
                         output=select.output, input=side.operand,
                         geometry=Geometry((1, 1), (1, 1), (1, 1), (0, 0)), average=False,
                         output_min=-128, output_max=127)
        copy.mask, copy.beneath = side.mask, beneath
        return copy
