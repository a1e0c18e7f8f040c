"""Compressed weights as one object: encoded and decoded in software, and decoded in hardware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hw.contract.config import Config
from hw.contract.weight_decoding import Tiles, decode
from hw.contract.weight_encoding import encode
from hw.contract.weight_format import TileOrder

if TYPE_CHECKING:
    from hw.weight_decoder.decoder import WeightDecoder


class WeightCodec:
    """The weight format (`hw.contract.weight_format`) for a configuration.

    The driver, which never imports hardware, uses `encode` and `decode` of `hw.contract` directly.

    Parameters
    ----------
    config : lanes and ways follow from it.

    Attributes
    ----------
    ways : weights per cycle that the decoder makes at best.
    """

    def __init__(self, config: Config):
        self.config = config
        self.ways = config.weight_ways

    def encode(self, maps: Sequence[int], words: bytes, order: TileOrder) -> bytes:
        """The block of these tiles; see `hw.contract.weight_encoding.encode`."""
        return encode(maps, words, order, self.ways)

    def decode(self, block: bytes, order: TileOrder) -> Tiles:
        """The tiles of a block. Raises WeightStreamError if it is damaged."""
        return decode(block, order)

    def create(self) -> WeightDecoder:
        """The decoder in hardware."""
        from hw.weight_decoder.decoder import WeightDecoder

        return WeightDecoder(self.config)
