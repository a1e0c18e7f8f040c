"""Nearest-neighbour resizing along one axis, as runs of equal steps: each is a copy with strides.

Source of the formula: `GetNearestNeighbor` of TFLite's reference kernels, single precision throughout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """Output indices first, first + step, ... (`count` of them) are input indices source, source + stride, ..."""

    first: int
    step: int
    source: int
    stride: int
    count: int


def nearest(inputs: int, outputs: int, *, align_corners: bool, half_pixel_centers: bool) -> list[int]:
    """The input index of every output index."""
    single = np.float32
    scale = (single(inputs - 1) / single(outputs - 1) if align_corners and outputs > 1
             else single(inputs) / single(outputs))
    places = (np.arange(outputs, dtype=single) + single(0.5 if half_pixel_centers else 0)) * scale
    whole = np.floor(places)
    if align_corners:  # to the nearest, halves up
        whole = np.where(places - whole >= single(0.5), whole + 1, whole)
    return np.clip(whole.astype(np.int64), 0, inputs - 1).tolist()


def runs(sources: list[int], inputs: int) -> list[Run]:
    """These indices (`nearest`) in as few runs as two ways of cutting give: by the period of both sizes, where every
    output within a period has a run, and by neighbouring outputs."""
    period = len(sources) // math.gcd(inputs, len(sources))
    choices = [
        [run for first in range(step) for run in _cut(list(range(first, len(sources), step)), step, sources)]
        for step in {period, 1}
    ]
    return min(choices, key=len)


def _cut(outputs: list[int], step: int, sources: list[int]) -> list[Run]:
    found: list[Run] = []
    while outputs:
        values = [sources[at] for at in outputs]
        stride = values[1] - values[0] if len(values) > 1 else 1
        count = next((k for k in range(1, len(values)) if values[k] - values[k - 1] != stride), len(values))
        found.append(Run(outputs[0], step, values[0], stride, count))
        outputs = outputs[count:]
    return found
