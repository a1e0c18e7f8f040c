"""`make bench`, or python -m benchmarks [--preset large] [--device rtl] [--only SECTION] [--json FILE] ..."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console

from benchmarks.measuring import RESNET, Bench
from benchmarks.networks import networks, simulation_speed
from benchmarks.shapes import peers
from benchmarks.skipping import decision_masks, zero_activations
from benchmarks.tables import Section
from hw.contract.config import PRESETS
from sw_driver.opening import open_device

SECTIONS = ("zero_activations", "decision_masks", "peers", "networks", "simulation_speed")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the documentation states.")
    parser.add_argument("--preset", choices=list(PRESETS), default="large")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["small", "medium", "large", "xlarge"],
                        help="for the section networks")
    parser.add_argument("--device", choices=["rtl", "golden"], default="rtl")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()

    console = Console()
    console = console if console.is_terminal else Console(width=180)
    wanted = options.only or [name for name in SECTIONS if name != "simulation_speed" or options.device == "rtl"]
    if not RESNET.exists():
        print("ResNet-8 is not beside the project: the digits network stands in for it")
    started = time.perf_counter()
    sections: list[Section] = []
    with console.status("Opening the device") as status:
        def progress(text: str) -> None:
            status.update(text)

        def show(section: Section) -> None:
            sections.append(section)
            console.print(f"\n[bold]{section.title}[/] ({options.device})")
            console.print(section.note, style="dim", highlight=False)
            console.print(section.table())

        measured = [name for name in wanted if name != "networks"]
        if measured:
            given = {"progress": progress} if options.device == "rtl" else {}
            with open_device(options.device, options.preset, **given) as device:
                bench = Bench(device, progress)
                for name in measured:
                    if name == "simulation_speed":
                        show(simulation_speed(device, progress))
                    else:
                        show({"zero_activations": zero_activations, "decision_masks": decision_masks,
                              "peers": peers}[name](bench))
        if "networks" in wanted:
            show(networks(options.device, progress, options.presets))
    print(f"\n{len(sections)} sections in {time.perf_counter() - started:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps({section.key: section.json() for section in sections}, indent=2) + "\n")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(section.markdown() for section in sections))


if __name__ == "__main__":
    main()
