"""`make bench`, or python -m benchmarks [--only SECTION ...] [--preset large] [--device rtl] [--out DIR]."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.dynamic import dynamic
from benchmarks.gating import decision_masks, gated_layers
from benchmarks.measuring import RESNET, ROOT, Bench, NotExact
from benchmarks.mlperf_tiny import mlperf_tiny
from benchmarks.networks import networks, simulation_speed
from benchmarks.pruning import pruning
from benchmarks.report import write_report
from benchmarks.shapes import peers
from benchmarks.skipping import dense_layers, zero_activations
from benchmarks.tables import Section
from benchmarks.weight_bytes import shared_models, weight_bytes
from benchmarks.weights import decoder, weights
from hw.contract.config import PRESETS, preset
from sw_driver.device import DeviceError
from sw_driver.links.link import LinkError
from sw_driver.opening import open_device

#: Sections that one device measures, in the order of the page.
ON_A_DEVICE: dict[str, Callable[[Bench], Section]] = {
    "zero_activations": zero_activations, "dense_layers": dense_layers, "decision_masks": decision_masks,
    "gated_layers": gated_layers, "dynamic": dynamic, "peers": peers, "mlperf_tiny": mlperf_tiny,
    "pruning": pruning,
}
SECTIONS = (*ON_A_DEVICE, "networks", "weight_bytes", "decoder", "weights", "simulation_speed")

#: Sections that are measured on the RTL only.
RTL_ONLY = ("decoder", "weights", "simulation_speed")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the documentation states.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections; the others of the page stay")
    parser.add_argument("--preset", choices=list(PRESETS), default="large")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["small", "medium", "large", "xlarge"],
                        help="for the section networks")
    parser.add_argument("--device", choices=["rtl", "golden"], default="rtl")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where results.md and results.json go; docs, when all is measured on the RTL of large")
    options = parser.parse_args()
    out = options.out or (ROOT / "docs" if (options.device, options.preset) == ("rtl", "large") else None)

    console = Console()
    console = console if console.is_terminal else Console(width=180)
    wanted = options.only or [name for name in SECTIONS if name not in RTL_ONLY or options.device == "rtl"]
    if not RESNET.exists():
        print("ResNet-8 is not beside the project: the digits network stands in for it")
    started = time.perf_counter()
    with console.status("Opening the device") as status:
        def progress(text: str) -> None:
            status.update(text)

        def show(section: Section) -> None:
            console.print(f"\n[bold]{section.title}[/] ({options.device})")
            console.print(section.note, style="dim", highlight=False)
            console.print(section.table())
            if out is not None:
                write_report(out, section)

        if set(wanted) & set(ON_A_DEVICE):
            given = {"progress": progress} if options.device == "rtl" else {}
            with open_device(options.device, options.preset, **given) as device:
                bench = Bench(device, progress)
                for name, measure in ON_A_DEVICE.items():
                    if name in wanted:
                        show(measure(bench))
        if "networks" in wanted:
            show(networks(options.device, progress, options.presets))
        if "weight_bytes" in wanted:
            show(weight_bytes(preset(options.preset), shared_models(), progress))
        if "decoder" in wanted:
            show(decoder(progress))
        if "weights" in wanted:
            show(weights(options.preset, progress))
        if "simulation_speed" in wanted:
            show(simulation_speed(options.preset, progress))
    print(f"\n{len(wanted)} sections in {time.perf_counter() - started:.0f} s"
          + (f", written to {out / 'results.md'} and results.json" if out is not None else ""))


if __name__ == "__main__":
    try:
        main()
    except (LinkError, DeviceError, NotExact) as error:  # sections measured before it are written
        sys.exit(f"benchmarks: error: {error}")
