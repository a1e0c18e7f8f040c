"""The digits network with weights pruned and trained on: which variants there are, and where they lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

#: Weights and models of the variants.
FOLDER = Path(__file__).with_name("pruned")

#: Output channels of a weight row, `Config.lanes` of the preset `large`; presets with fewer lanes skip them as well.
ROW_LANES = 16


@dataclasses.dataclass(frozen=True)
class Variant:
    """granule : "weights", one by one, or "rows", the granule that the hardware passes over. share : of each layer's
    weights or rows, that is zero."""

    granule: str
    share: float

    @property
    def name(self) -> str:
        """As files are named."""
        return f"{self.granule}_{round(100 * self.share)}"


#: By name.
VARIANTS = {variant.name: variant for variant in (
    Variant("weights", 0.5), Variant("weights", 0.75), Variant("rows", 0.25), Variant("rows", 0.5),
    Variant("rows", 0.75),
)}


def model_path(name: str) -> Path:
    """The int8 model of a variant; its float weights have the suffix .npz."""
    return FOLDER / f"digits_{name}.tflite"
