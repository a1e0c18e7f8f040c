"""Feature maps in buffers of the feature memory, and how layers read them."""

from __future__ import annotations

import dataclasses

from hw.contract.image import Feed


@dataclasses.dataclass(eq=False)
class Buffer:
    """A region of feature memory, `words` long; several feature maps in place of one another may share it.

    `address` (a word) is set by the memory planner.
    """

    name: str
    words: int
    address: int = -1


@dataclasses.dataclass(eq=False)
class FeatureMap:
    """A tensor as it lies in feature memory.

    Parameters
    ----------
    tensor : index in the graph; -1 for a map that the compiler adds.
    height, width, channels : how its pixels lie; a reshaped tensor keeps those of the map that it is a view of.
    blocks : words per pixel. lanes : bytes per word.
    words : all of it; for a packed map what its bytes take.
    row_bytes : packed maps only: bytes from a row to the next.
    feed : what the driver puts into window INPUT for it, if it comes from there.
    """

    name: str
    tensor: int
    height: int
    width: int
    channels: int
    blocks: int
    words: int
    buffer: Buffer
    row_bytes: int = 0
    feed: Feed | None = None

    @property
    def packed(self) -> bool:
        """Whether it has the packed layout."""
        return self.row_bytes > 0

    @property
    def loaded(self) -> bool:
        """Whether a LOAD brings it, not a layer."""
        return self.feed is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """A feature map as a layer reads it: as height x width pixels of `blocks` words that follow one another."""

    map: FeatureMap
    height: int
    width: int
    blocks: int

    def words(self, first: int, end: int, lanes: int) -> tuple[int, int]:
        """The words of the map, from one to before another, that hold rows first .. end - 1 of the operand."""
        if self.map.packed:
            # The last chunk of a row reaches up to lanes - 1 bytes past it.
            return first * self.map.row_bytes // lanes, min((end * self.map.row_bytes + lanes - 1) // lanes + 1,
                                                            self.map.words)
        return first * self.width * self.blocks, end * self.width * self.blocks

    @property
    def whole(self) -> bool:
        """Whether pixels are those of the map, and not regrouped."""
        return (self.height, self.width, self.blocks) == (self.map.height, self.map.width, self.map.blocks)
