"""How a command's weights lie in the image: as they are, or as a compressed block (`hw.contract.weight_format`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from hw.contract.commands import Flag
from hw.contract.config import Config
from hw.contract.weight_encoding import encode
from hw.contract.weight_format import TileOrder

#: Ways that the decoder works with cost bytes; more are used while they take no more than this share of a block.
WAYS_SHARE = 0.003

#: The same for weights that are waited for: those of layers that read each weight once.
WAITING_SHARE = 0.01

#: What --weights may be.
MODES = ("compressed", "raw")


@dataclasses.dataclass(frozen=True)
class Block:
    """A compressed block. `fields` : of the LOAD command that reads it, but places; `words`, `entries` : what it
    writes to weight store and map memory (0 without row maps)."""

    data: bytes
    fields: dict[str, int]
    words: int
    entries: int


@functools.lru_cache(maxsize=1024)
def _encoded(maps: tuple[int, ...], words: bytes, order: TileOrder, ways: int, share: float) -> bytes:
    return encode(maps, words, order, ways, share)


def compress(maps: Sequence[int], words: bytes, order: TileOrder, config: Config, *, with_maps: bool = True,
             share: float = WAYS_SHARE) -> Block | None:
    """The tiles as a block; None where they take no fewer bytes than as they are, or the format can't express them.

    maps, words : the tiles as `hw.contract.layouts` has them. with_maps : whether the device needs the row maps.
    share : see WAYS_SHARE.
    """
    if order.tiles > config.weight_maps or not words:
        return None
    data = _encoded(tuple(maps), words, order, config.weight_ways, share)
    entries = -(-order.tiles // config.maps_per_entry) if with_maps else 0
    if len(data) >= len(words) + 8 * entries:
        return None
    fields = {
        "flags": Flag.COMPRESSED if with_maps else Flag.COMPRESSED | Flag.WITHOUT_MAPS,
        "taps": order.taps, "input_blocks": order.input_blocks, "output_blocks": order.output_blocks,
        "unrolling": order.group.bit_length() - 1, "last_rows": order.last_rows, "last_outputs": order.last_outputs,
    }
    return Block(data, {name: int(value) for name, value in fields.items()},
                 len(words) // config.weight_word_bytes, entries)
