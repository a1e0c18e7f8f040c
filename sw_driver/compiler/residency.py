"""Which layers' weights stay on chip from run to run: all of them, or those that fit beside rings for the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hw.contract.commands import Space
from hw.contract.config import Config
from sw_driver.compiler.layers import Layer

#: Memories that hold weights, row maps, parameters and tables.
MEMORIES = (Space.WEIGHT, Space.MAP, Space.PARAMETER)

#: Parts of these memories that are left to the rings where not everything fits, the best one first: one over ...
RING_SHARES = (4, 2)


@dataclasses.dataclass(frozen=True)
class Residency:
    """What stays on chip.

    layers : whose weights and tables. ring_share : one over the part of the memories through which all others are
    streamed; 0: there are no others.
    """

    layers: frozenset[Layer] = frozenset()
    ring_share: int = 1

    def room(self, size: int) -> int:
        """Entries of a memory of `size` for what stays."""
        return size - size // self.ring_share if self.ring_share else size

    def streaming(self, config: Config) -> Config:
        """The configuration, but with memories as large as the rings are."""
        share = self.ring_share or 1
        return dataclasses.replace(config, weight_bytes=config.weight_bytes // share,
                                   weight_maps=config.weight_maps // share,
                                   parameter_channels=max(config.parameter_channels // share, config.lanes))


#: Every run loads all weights.
NOTHING = Residency()


def keep(needs: Mapping[Layer, Mapping[Space, int]], sizes: Mapping[Space, int], ring_share: int) -> Residency:
    """The layers that stay where not all can: the largest weights first, as long as there is room. needs : entries that
    each layer takes."""
    residency = Residency(frozenset(), ring_share)
    left = {space: residency.room(sizes[space]) for space in MEMORIES}
    kept: set[Layer] = set()
    for layer, need in sorted(needs.items(), key=lambda item: -item[1][Space.WEIGHT]):
        if any(need.values()) and all(need[space] <= left[space] for space in MEMORIES):
            kept.add(layer)
            for space in MEMORIES:
                left[space] -= need[space]
    return Residency(frozenset(kept), ring_share)
