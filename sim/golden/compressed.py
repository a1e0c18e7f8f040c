"""Compressed weights in the golden model: what a LOAD with COMPRESSED writes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from hw.contract.config import Config
from hw.contract.registers import Error
from hw.contract.weight_decoding import Tiles, WeightStreamError, decode_block
from hw.contract.weight_format import TileOrder
from hw.contract.weight_tables import Symbol
from sim.golden.memory import DeviceError


@functools.lru_cache(maxsize=256)
def _decoded(block: bytes, order: TileOrder, previous: tuple[Symbol, ...] | None,
             ) -> tuple[Tiles, tuple[Symbol, ...]] | str:
    """Tiles and table of a block, or why it is damaged: programs load the same ones again and again."""
    try:
        tiles, table = decode_block(block, order, previous)
        return tiles, tuple(table)
    except WeightStreamError as error:
        return str(error)


def read_block(values: Mapping[str, int], beats: bytes, previous: tuple[Symbol, ...] | None, config: Config,
               ) -> tuple[Tiles, tuple[Symbol, ...]]:
    """The tiles that a LOAD which passed `limits.check` writes, and its symbol table.

    beats : those that the block lies in. previous : the table of the program's block before, if there was one.

    Raises DeviceError(WEIGHT_STREAM) where the block is damaged, or has more row maps than the map memory.
    """
    order = TileOrder.of_command(values, config.lanes)
    if order.tiles > config.weight_maps:
        raise DeviceError(Error.WEIGHT_STREAM, f"the block has {order.tiles} tiles, the map memory room for "
                                               f"{config.weight_maps}", values["offset"])
    skip = values["offset"] % 8
    found = _decoded(beats[skip : skip + values["length"]], order, previous)
    if isinstance(found, str):
        raise DeviceError(Error.WEIGHT_STREAM, f"the weights are damaged: {found}", values["offset"])
    return found
