"""The page of results: kept as JSON, section by section, and written as Markdown from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Section

_HEAD = (
    "# Results\n\n"
    "Written by `make bench` (`python -m benchmarks`), never by hand; the same as JSON: [results.json](results.json). "
    "Cycles are counted by the RTL, simulated on Verilator, with an external memory of 20 cycles of latency and 8 "
    "bytes per cycle. A figure is reported only when the outputs of its run equal TFLite Micro's bit for bit. Where a "
    "table does not say otherwise, the device is `large`: 8 rows x 16 lanes, 128 multipliers.\n"
)


def write_report(directory: Path, section: Section, order: Sequence[str]) -> None:
    """Put a section into results.json of a directory, in place of an older one, and write results.md anew.

    order : of the sections, by key; sections of other keys are dropped.
    """
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "results.json"
    kept = json.loads(store.read_text()) if store.exists() else {}
    kept[section.key] = section.json()
    kept = {key: kept[key] for key in order if key in kept}
    store.write_text(json.dumps(kept, indent=1) + "\n")
    pages = [Section.from_json(key, value).markdown() for key, value in kept.items()]
    (directory / "results.md").write_text("\n".join([_HEAD, *pages]))
