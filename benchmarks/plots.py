"""The page's figure: utilisation over zeros and over mask density, synthetic layer and real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.tables import Section

#: Sections that the figure is made of.
NEEDED = ("zero_activations", "decision_masks")


def plot(sections: Mapping[str, Section], file: Path) -> None:
    """Write the figure as SVG, the same bytes for the same figures. Raises ImportError without matplotlib."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "lacuna", "svg.fonttype": "none", "font.size": 9,
                                "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    zeros = sections["zero_activations"]
    for kind, marker, label in (("random", "o-", "synthetic layer"), ("real", "s", "layers of a network, real inputs")):
        points = [(float(row[2].rstrip("%")), row[-1]) for row in zeros.rows if row[1] == kind]
        left.plot(*zip(*points, strict=True), marker, label=label, markersize=4)
    left.set(xlabel="zero activations, %", ylabel="non-zero MACs / (cycles x multipliers)")
    masks = sections["decision_masks"]
    points = [(100 * float(row[0]), row[3], row[4]) for row in masks.rows]
    density, mean, least = zip(*points, strict=True)
    right.plot(density, mean, "o-", label="mean of the masks", markersize=4)
    right.plot(density, least, "v", label="least", markersize=4)
    right.set(xlabel="active pixels, %", ylabel="dense cycles x density / cycles")
    for axes in (left, right):
        axes.set(xlim=(0, 102), ylim=(0, 1.1))
        axes.legend(loc="lower center", frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
