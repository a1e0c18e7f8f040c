"""Where buffers lie in an on-chip memory, and rings for what streams through one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` entries, in use from position `start` to position `end`, both included; `key` is hashable."""

    key: Any
    size: int
    start: int
    end: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are in use at some time."""
        return self.start <= other.end and other.start <= self.end


#: Positions that a buffer is left alone after its last use, where there is room: a buffer that takes its place at
#: once makes the layer that writes it wait for the other engine, which may still be reading.
_REST = 2


def plan(lifetimes: Sequence[Lifetime], capacity: int) -> dict[Any, int] | None:
    """Addresses such that buffers in use at the same time don't overlap; None if none was found."""
    rested = [dataclasses.replace(item, end=item.end + _REST) for item in lifetimes]
    return _plan(rested, capacity) or _plan(lifetimes, capacity)


def _plan(lifetimes: Sequence[Lifetime], capacity: int) -> dict[Any, int] | None:
    """As `plan`.

    Greedy placement at the lowest free address (Pisarchyk and Lee, "Efficient memory management for deep neural
    net inference", 2020), with a few orders of placement; the one with the smallest peak is taken.
    """
    busiest = {item.key: max(sum(other.size for other in lifetimes if other.start <= at <= other.end)
                             for at in (item.start, item.end)) for item in lifetimes}
    orders = (
        lambda item: (-item.size, item.start),
        lambda item: (item.start, -item.size),
        lambda item: (-(item.end - item.start), -item.size),
        lambda item: (-busiest[item.key], -item.size, item.start),
        lambda item: (-item.end, -item.size),
        lambda item: (-item.size * (item.end - item.start + 1), item.start),
    )
    best: tuple[int, dict[Any, int]] | None = None
    for order in orders:
        for high in (False, True):
            placed = _place(sorted(lifetimes, key=order), capacity, high)
            if placed is not None:
                peak = max((placed[item.key] + item.size for item in lifetimes), default=0)
                if best is None or peak < best[0]:
                    best = peak, placed
    return None if best is None else best[1]


def _place(lifetimes: Sequence[Lifetime], capacity: int, alternate: bool) -> dict[Any, int] | None:
    """First fit; where `alternate`, every second buffer from the top of the memory down."""
    placed: list[tuple[Lifetime, int]] = []
    for index, item in enumerate(lifetimes):
        taken = sorted((address, address + other.size) for other, address in placed if other.meets(item))
        gaps, at = [], 0
        for first, end in taken:
            if first - at >= item.size:
                gaps.append((at, first))
            at = max(at, end)
        if capacity - at >= item.size:
            gaps.append((at, capacity))
        if not gaps:
            return None
        placed.append((item, gaps[-1][1] - item.size if alternate and index % 2 else gaps[0][0]))
    return {item.key: address for item, address in placed}


def peak_use(lifetimes: Sequence[Lifetime]) -> tuple[int, list[Lifetime]]:
    """The most entries in use at a time, and the buffers that they are."""
    best: tuple[int, list[Lifetime]] = (0, [])
    for at in {item.start for item in lifetimes}:
        alive = [item for item in lifetimes if item.start <= at <= item.end]
        best = max(best, (sum(item.size for item in alive), alive), key=lambda pair: pair[0])
    return best


class Ring:
    """Consecutive regions of the `size` last entries of a memory, around and around.

    start : entries of the memory before them; regions wrap around at the memory's end only where there are none.
    """

    def __init__(self, size: int, start: int = 0):
        self.size = size
        self.start = start
        self.taken = 0  # entries of all regions
        self._next = 0

    def take(self, count: int) -> int:
        """The first entry of a region of `count`."""
        first = self._next
        if self.start and first + count > self.size:
            first = 0
        self._next = (first + count) % self.size
        self.taken += count
        first += self.start
        return first
