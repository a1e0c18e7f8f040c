"""Compressed weights in the golden model: what a LOAD with COMPRESSED writes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from hw.contract.commands import transfer_bytes
from hw.contract.config import Config
from hw.contract.registers import Error
from hw.contract.weight_decoding import Tiles, WeightStreamError, decode
from hw.contract.weight_format import TileOrder
from sim.golden.memory import DeviceError


@functools.lru_cache(maxsize=256)
def _decoded(block: bytes, order: TileOrder) -> Tiles | str:
    """The tiles of a block, or why it is damaged: programs load the same ones again and again."""
    try:
        return decode(block, order)
    except WeightStreamError as error:
        return str(error)


def read_block(values: Mapping[str, int], beats: bytes, config: Config) -> Tiles:
    """The tiles that a LOAD which passed `limits.check` writes; `beats` is what it reads (`transfer_bytes`).

    Raises DeviceError(WEIGHT_STREAM) where the block is damaged, or has more row maps than the map memory.
    """
    order = TileOrder.of_command(values, config.lanes)
    if order.tiles > config.weight_maps:
        raise DeviceError(Error.WEIGHT_STREAM, f"the block has {order.tiles} tiles, the map memory room for "
                                               f"{config.weight_maps}", values["offset"])
    skip = values["offset"] - transfer_bytes(values)[0]
    found = _decoded(beats[skip : skip + values["length"]], order)
    if isinstance(found, str):
        raise DeviceError(Error.WEIGHT_STREAM, f"the weights are damaged: {found}", values["offset"])
    return found
