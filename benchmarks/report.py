"""The page of results: kept as JSON, section by section, and written as Markdown from it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from benchmarks.plots import NEEDED, plot
from benchmarks.tables import Section

#: Sections of the page by key, in its order.
ORDER = ("zero_activations", "dense_layers", "decision_masks", "gated_layers", "dynamic", "peers", "mlperf_tiny",
         "networks", "weight_bytes", "decoder", "weights", "pruning", "simulation_speed", "area")

_HEAD = (
    "# Results\n\n"
    "Written by `make bench` (`python -m benchmarks`), never by hand; the same as JSON: [results.json](results.json). "
    "Cycles are counted by the RTL, simulated on Verilator, with an external memory of 20 cycles of latency and 8 "
    "bytes per cycle. A figure is reported only when the outputs of its run equal TFLite Micro's bit for bit. Where a "
    "table does not say otherwise, the device is `large`: 8 rows x 16 lanes, 128 multipliers.\n"
)


def read_report(directory: Path) -> dict[str, Section]:
    """Sections that results.json of a directory holds, in the order of the page; none where there is no such file."""
    store = directory / "results.json"
    kept = json.loads(store.read_text()) if store.exists() else {}
    return {key: Section.from_json(key, kept[key]) for key in ORDER if key in kept}


def write_report(directory: Path, section: Section) -> None:
    """Put a section into results.json of a directory, in place of an older one, and write results.md anew.

    Sections of an older version that ORDER does not have are dropped. With matplotlib, results.svg is drawn as well.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sections = {**read_report(directory), section.key: section}
    sections = {key: sections[key] for key in ORDER if key in sections}
    kept = {key: each.json() for key, each in sections.items()}
    (directory / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
    picture = directory / "results.svg"
    if section.key in NEEDED and set(NEEDED) <= set(sections) and importlib.util.find_spec("matplotlib") is not None:
        plot(sections, picture)
    figure = ["![Utilisation by zeros, efficiency by mask density](results.svg)\n"] if picture.exists() else []
    (directory / "results.md").write_text("\n".join([_HEAD, *figure, *(each.markdown() for each in sections.values())]))
