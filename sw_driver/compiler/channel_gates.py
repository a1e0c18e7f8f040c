"""Channel gates: blocks of output channels whose gate is closed are not computed.

Where a map is multiplied by a vector of channels, a channel whose gate is its zero point becomes the zero point of the
product, whatever the map holds: 0 times anything, requantised, is 0. So the blocks of channels of the map whose gates
are all closed are not demanded, nor are those blocks of what is computed channel by channel in between. The
convolutions that make them do so block by block, each command gated by one bit; a DECIDE finds the bits. The channels
that the product leaves at zero cost the next convolution nothing, as any zero.
"""

from __future__ import annotations

from sw_driver.compiler.feature_maps import Buffer, FeatureMap
from sw_driver.compiler.layers import GateLayer, Layer, MulLayer


def open_gates(layers: list[Layer], wanted: set[FeatureMap]) -> list[Layer]:
    """The layers, and one that finds the open blocks in front of every product whose gate does not depend on the map
    that it gates. Sets `gate` of these products."""
    makers = {layer.output: layer for layer in layers}
    result: list[Layer] = []
    found: dict[FeatureMap, GateLayer] = {}
    for layer in layers:
        if isinstance(layer, MulLayer) and layer.broadcast and _independent(layer, makers, wanted):
            gates = layer.b.map
            opening = found.get(gates)
            if opening is None:
                opening = found[gates] = _gate_layer(layer)
                result.append(opening)
            layer.gate = opening.opened
        result.append(layer)
    return result


def drop_idle(layers: list[Layer]) -> list[Layer]:
    """The layers without those that find open blocks for nobody."""
    used = {layer.mask for layer in layers}
    return [layer for layer in layers if not isinstance(layer, GateLayer) or layer.opened in used]


def _independent(product: MulLayer, makers: dict[FeatureMap, Layer], wanted: set[FeatureMap]) -> bool:
    gates, gated = product.b.map, product.a.map
    if gates.tensor < 0 or not product.b.whole or not product.a.whole or gated not in makers or gated in wanted:
        return False
    waiting, seen = [gates], {gates}
    while waiting:
        maker = makers.get(waiting.pop())
        for needed in [] if maker is None else maker.needs:
            if needed is gated:
                return False
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    return True


def _gate_layer(product: MulLayer) -> GateLayer:
    gates = product.b.map
    name = f"{gates.name}/open"
    output = FeatureMap(name, -1, gates.blocks, 1, 1, 0, 0, Buffer(name, 0))
    return GateLayer(name=name, op="MUL/open", shape=(gates.blocks,), operators=product.operators, output=output,
                     mask_tensor=gates.tensor, input=product.b, closed=product.b_zero_point)
