"""Whole networks on every preset, and how fast they are simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import DIGITS, RESNET, Bench
from benchmarks.tables import Section
from hw.contract.config import PRESETS
from sw_driver.compiler import CompileError
from sw_driver.device import Device
from sw_driver.inputs import load_input
from sw_driver.opening import open_device
from sw_driver.tflite.reader import load_graph

#: Cycles of ResNet-8 elsewhere, with the kind of the figure.
RESNET_ELSEWHERE = (
    ("Ethos-U55-128 (Vela 5.2 estimate)", 128, 184_083),
    ("NNgen 1.3.4, 144 multipliers (RTL simulation)", 144, 261_137),
    ("GAP9 with NE16, 162 multipliers (measured silicon)", 162, 228_000),
)


def networks(device: str, progress: Callable[[str], None], names: list[str]) -> Section:
    """Cycles per inference by preset: the range over a network's inputs."""
    rows: list[list[Any]] = []
    for network, model, files in _networks():
        graph = load_graph(model)
        for name in names:
            with open_device(device, name, **({"progress": progress} if device == "rtl" else {})) as opened:
                bench = Bench(opened, progress)
                try:
                    cycles = [
                        bench.run(model, {graph.input_names[0]: load_input(file, graph.tensors[graph.inputs[0]])},
                                  f"{network} on {name}: {file.name}").cycles for file in files]
                except CompileError as error:
                    rows.append([network, name, PRESETS[name].macs_per_cycle, f"does not fit: {error}", "", ""])
                    continue
            rows.append([network, name, PRESETS[name].macs_per_cycle, min(cycles), max(cycles), len(cycles)])
        if model == RESNET:
            rows += [[network, where, macs, cycles, cycles, ""] for where, macs, cycles in RESNET_ELSEWHERE]
    return Section(
        "networks", "Networks",
        "Cycles from doorbell to interrupt, everything included: commands, weights and inputs come over the bus. The "
        "least and the most over all inputs; every output equals TFLite Micro's bit for bit.",
        ["network", "device", "multipliers", "cycles, least", "cycles, most", "inputs"], rows)


def simulation_speed(device: Device, progress: Callable[[str], None]) -> Section:
    """Simulated cycles per second of a network under cocotb and under a bare Verilator main, same netlist."""
    from sim.session import netlist, run_bare
    from sw_driver.links.recorder import RecordingLink

    network, model, files = _networks()[0]
    graph = load_graph(model)
    recorder = RecordingLink(device.link)
    device.link = recorder
    bench = Bench(device, progress)
    for file in files:
        bench.run(model, {graph.input_names[0]: load_input(file, graph.tensors[graph.inputs[0]])},
                  f"speed: {network}, {file.name}")
    under_cocotb = device.link.simulator["cycles_per_second"]
    progress(f"speed: {network} under a bare main")
    bare = run_bare(netlist(device.config, progress), recorder.requests, progress=progress).cycles_per_second
    return Section(
        "simulation_speed", "Simulation speed",
        f"{network} on {device.config.name}, {len(files)} inputs; simulated cycles / wall clock while waiting for the "
        "interrupt, both in this run. Bare: the same netlist and requests under a C++ main without cocotb.",
        ["simulation", "cycles/s", "of bare"],
        [["cocotb on Verilator", round(under_cocotb), round(under_cocotb / bare, 3)],
         ["bare Verilator", round(bare), 1.0]])


def _networks() -> list[tuple[str, Path, list[Path]]]:
    found = [("digits", DIGITS, sorted((DIGITS.parent / "digits_inputs").iterdir()))]
    if RESNET.exists():
        found.insert(0, ("ResNet-8", RESNET, sorted((RESNET.parent / "inputs").iterdir())))
    return found
