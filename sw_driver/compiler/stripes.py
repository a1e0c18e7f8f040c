"""Where feature maps lie: on chip as long as they are needed, or in external memory and on chip by stripes of rows.

A map that does not fit is spilled: its layers work on stripes of output rows, with the input rows of a stripe
loaded before, and its output rows stored after. Every spilled buffer of a layer has two stripe buffers on chip
where there is room, so that transfers and computing overlap.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from hw.contract.config import Config
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.feature_maps import Buffer
from sw_driver.compiler.layers import Layer
from sw_driver.compiler.memory import Lifetime, plan

#: Parts of the memory left beside the whole maps that stripe buffers may take, one after the other, while the
#: planner does not find a place for them.
_SHARES = (1.0, 0.85, 0.7, 0.5)

#: What is tried while everything fits: (layers for which maps are kept longer, inputs are loaded at the start).
_EASIEST_LAST = ((3, True), (2, True), (1, True), (0, True), (0, False))


@dataclasses.dataclass
class StripePlan:
    """How one layer works by stripes: `rows` of output at a time.

    addresses : of the stripe buffers of each spilled buffer; stripes take them in turn.
    """

    rows: int
    sizes: dict[Buffer, int]
    copies: int
    addresses: dict[Buffer, list[int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class FeaturePlan:
    """The whole plan; addresses of whole maps are set in their buffers. peak : words in use at the busiest layer."""

    spilled: set[Buffer]
    stripes: dict[Layer, StripePlan]
    peak: int


class FeaturePlanner:
    """Plans the feature memory for layers in their order of execution."""

    def __init__(self, layers: list[Layer], config: Config):
        self.layers = layers
        self.config = config
        self.unit = max(1, 8 // config.lanes)  # words of the smallest transfer
        self.uses: dict[Buffer, list[int]] = {}
        self.loaded: set[Buffer] = set()
        for position, layer in enumerate(layers):
            for feature_map in layer.maps:
                self.uses.setdefault(feature_map.buffer, []).append(position)
                if feature_map.loaded:
                    self.loaded.add(feature_map.buffer)

    def plan(self) -> FeaturePlan:
        """Keep as much on chip as possible. Raises CapacityError when a layer's rows don't fit one by one."""
        spilled: set[Buffer] = set()
        if not self.layers:
            return FeaturePlan(spilled, {}, 0)
        while True:
            for kept, early in _EASIEST_LAST if not spilled else _EASIEST_LAST[-2:]:
                found = self._try(spilled, early, kept)
                if isinstance(found, FeaturePlan):
                    return found
            candidates = [buffer for buffer in self._alive(found) if buffer not in spilled]
            if not candidates:
                raise self._too_large(self.layers[found])
            spilled.add(max(candidates, key=lambda buffer: buffer.words))

    def _alive(self, position: int) -> list[Buffer]:
        return [buffer for buffer, uses in self.uses.items() if min(uses) <= position <= max(uses)]

    def _try(self, spilled: set[Buffer], early: bool, kept: int = 0) -> FeaturePlan | int:
        """A plan, or the position of the layer that has too little room. early : inputs are loaded at the start.
        kept : layers after its last use for which a map's room is not used again, so that they need not wait."""
        whole = [
            Lifetime(buffer, buffer.words, 0 if early and buffer in self.loaded else min(uses),
                     min(max(uses) + kept, len(self.layers) - 1))
            for buffer, uses in self.uses.items() if buffer not in spilled
        ]
        used = [sum(item.size for item in whole if item.start <= position <= item.end)
                for position in range(len(self.layers))]
        busiest = max(range(len(used)), key=lambda position: used[position])
        if used[busiest] > self.config.feature_words:
            return busiest
        for share in _SHARES:
            stripes: dict[Layer, StripePlan] = {}
            for position, layer in enumerate(self.layers):
                own = list(dict.fromkeys(m.buffer for m in layer.maps if m.buffer in spilled))
                if own:
                    found = self._stripe_plan(layer, own, int((self.config.feature_words - used[position]) * share))
                    if found is None:
                        return position
                    stripes[layer] = found
            items = whole + [
                Lifetime((layer, buffer, copy), size, self.layers.index(layer), self.layers.index(layer))
                for layer, stripe in stripes.items() for buffer, size in stripe.sizes.items()
                for copy in range(stripe.copies)
            ]
            addresses = plan(items, self.config.feature_words)
            if addresses is not None:
                return self._finish(whole, stripes, addresses, used, spilled)
            if not stripes:
                break
        return busiest

    def _finish(self, whole: list[Lifetime], stripes: dict[Layer, StripePlan], addresses: dict, used: list[int],
                spilled: set[Buffer]) -> FeaturePlan:
        for item in whole:
            item.key.address = addresses[item.key]
        for layer, stripe in stripes.items():
            stripe.addresses = {buffer: [addresses[layer, buffer, copy] for copy in range(stripe.copies)]
                                for buffer in stripe.sizes}
        peak = max((used[position] + (stripes[layer].copies * sum(stripes[layer].sizes.values())
                                      if layer in stripes else 0)
                    for position, layer in enumerate(self.layers)), default=0)
        return FeaturePlan(spilled, stripes, peak)

    def _stripe_plan(self, layer: Layer, own: list[Buffer], budget: int) -> StripePlan | None:
        """The largest stripes for which two buffers each fit `budget` words, or else one each."""
        height = layer.output.height
        step = self.row_step(layer)
        for copies in (2, 1):
            low, high = 0, math.ceil(height / step)  # in steps; the largest that fits lies in low .. high
            while low < high:
                middle = (low + high + 1) // 2
                sizes = self.stripe_words(layer, own, middle * step)
                count = 1 if middle * step >= height else copies
                if count * sum(sizes.values()) <= budget:
                    low = middle
                else:
                    high = middle - 1
            if low:
                rows = min(low * step, height)
                return StripePlan(rows, self.stripe_words(layer, own, rows), 1 if rows >= height else copies)
        return None

    def row_step(self, layer: Layer) -> int:
        """Rows of a stripe must be a multiple of this, so that stripes of the output start at a transfer's unit."""
        row = layer.output.width * layer.output.blocks
        return self.unit // math.gcd(self.unit, row)

    def stripe_words(self, layer: Layer, own: Iterable[Buffer], rows: int) -> dict[Buffer, int]:
        """Words of a stripe buffer for each of these buffers, for stripes of so many output rows."""
        sizes = dict.fromkeys(own, 0)
        for first in range(0, layer.output.height, rows):
            for buffer, (low, high) in self.ranges(layer, sizes, first, min(first + rows, layer.output.height)).items():
                sizes[buffer] = max(sizes[buffer], high - low)
        return sizes

    def ranges(self, layer: Layer, own: Iterable[Buffer], first: int, end: int) -> dict[Buffer, tuple[int, int]]:
        """The words of each buffer that output rows first .. end - 1 touch, widened to the unit of transfers."""
        touched: dict[Buffer, list[tuple[int, int]]] = {buffer: [] for buffer in own}
        for operand in layer.operands:
            if operand.map.buffer in touched:
                touched[operand.map.buffer].append(
                    operand.words(*layer.rows(operand, first, end), self.config.lanes))
        if layer.output.buffer in touched:
            row = layer.output.width * layer.output.blocks
            touched[layer.output.buffer].append((first * row, end * row))
        return {
            buffer: (min(low for low, _high in parts) // self.unit * self.unit,
                     -(-max(high for _low, high in parts) // self.unit) * self.unit)
            for buffer, parts in touched.items() if parts
        }

    def _too_large(self, layer: Layer) -> CapacityError:
        lanes = self.config.lanes
        sizes = self.stripe_words(layer, list(dict.fromkeys(m.buffer for m in layer.maps)), self.row_step(layer))
        parts = ", ".join(f"{buffer.name!r} {words * lanes} bytes" for buffer, words in sizes.items())
        return CapacityError(f"{layer} needs {sum(sizes.values()) * lanes} bytes for one row of its output and the "
                             f"rows it is computed from ({parts}), the feature memory has {self.config.feature_bytes}")
