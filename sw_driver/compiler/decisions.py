"""Decisions come first: a mask must be there before the layers that it gates."""

from __future__ import annotations

import heapq

from sw_driver.compiler.feature_maps import FeatureMap
from sw_driver.compiler.layers import Layer, MaskLayer


def decisions_first(layers: list[Layer]) -> list[Layer]:
    """The layers in an order in which every decision, with all that it depends on, comes as early as it can."""
    makers: dict[FeatureMap, int] = {layer.output: i for i, layer in enumerate(layers)}
    before = [{makers[feature_map] for feature_map in layer.needs if feature_map in makers} for layer in layers]
    # Which decision needs a layer first: one that only a later decision needs must not delay an earlier decision,
    # whose branch it may be part of.
    decisions = [i for i, layer in enumerate(layers) if isinstance(layer, MaskLayer)]
    urgency: dict[int, int] = {}
    for rank, decision in enumerate(decisions):
        waiting = [decision]
        while waiting:
            i = waiting.pop()
            if i not in urgency:
                urgency[i] = rank
                waiting += before[i]
    keys = [(urgency.get(i, len(decisions)), i) for i in range(len(layers))]
    after: list[list[int]] = [[] for _ in layers]
    missing = [len(needed) for needed in before]
    for i, needed in enumerate(before):
        for j in needed:
            after[j].append(i)
    ready = [keys[i] for i in range(len(layers)) if not missing[i]]
    heapq.heapify(ready)
    order: list[Layer] = []
    while ready:
        _urgency, i = heapq.heappop(ready)
        order.append(layers[i])
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                heapq.heappush(ready, keys[j])
    return order


def decided_at(layers: list[Layer]) -> dict[int, int]:
    """The position of the layer that makes each mask, by its tensor."""
    return {layer.mask_tensor: i for i, layer in enumerate(layers) if isinstance(layer, MaskLayer)}
