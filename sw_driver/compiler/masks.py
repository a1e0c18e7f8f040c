"""Decision masks: what a bit stands for, and how the demand on an output becomes the demand on what it is made of."""

from __future__ import annotations

import dataclasses
import enum

from hw.contract.config import KERNEL_MAX
from hw.contract.layouts import DILATE_STRIDE_MAX


@dataclasses.dataclass(frozen=True)
class DemandStep:
    """From the demand on a convolution's output to the demand on its input of `size`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    size: tuple[int, int]


class Grain(enum.Enum):
    """What a bit of a mask stands for: a pixel; all that a layer computes; all pixels of a block of channels, where
    each has a word of its own."""

    PIXEL = "pixel"
    LAYER = "layer"
    BLOCK = "block"


@dataclasses.dataclass(frozen=True)
class Mask:
    """A decision mask: the bool `tensor` (or its complement) of height x width, then demand steps. decided : a layer
    makes it on the device; else it is a graph input. Only pixels have demand steps."""

    tensor: int
    invert: bool
    height: int
    width: int
    steps: tuple[DemandStep, ...] = ()
    decided: bool = False
    grain: Grain = Grain.PIXEL

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels that it gates."""
        return self.steps[-1].size if self.steps else (self.height, self.width)

    def before(self, step: DemandStep) -> Mask | None:
        """The demand on the input of a layer whose output this mask gates; None where the device can't make it."""
        if self.grain is not Grain.PIXEL:
            return self
        if (step.kernel, step.stride, step.pad) == ((1, 1), (1, 1), (0, 0)) and step.size == self.size:
            return self
        if self.decided and (max(step.stride) > DILATE_STRIDE_MAX or max(step.kernel) > KERNEL_MAX):
            return None
        return dataclasses.replace(self, steps=(*self.steps, step))

    @property
    def chain(self) -> list[Mask]:
        """The masks that it is made of, step by step, itself last."""
        return [dataclasses.replace(self, steps=self.steps[:count]) for count in range(len(self.steps) + 1)]

    def complement(self) -> Mask:
        """The mask of the other pixels; only for a mask without demand steps."""
        if self.steps:
            raise ValueError("a demand mask has no complement")
        return dataclasses.replace(self, invert=not self.invert)
