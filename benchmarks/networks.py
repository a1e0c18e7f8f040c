"""Whole networks on every preset, and how fast they are simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import RESNET, Bench, real_networks
from benchmarks.tables import Section
from hw.contract.config import PRESETS
from sw_driver.compiler import CompileError
from sw_driver.device import Device
from sw_driver.opening import open_device

#: Cycles of ResNet-8 elsewhere, with the kind of the figure.
RESNET_ELSEWHERE = (
    ("Ethos-U55-32 (Vela 5.2 estimate)", 32, 703_122),
    ("Ethos-U55-64 (Vela 5.2 estimate)", 64, 356_303),
    ("Ethos-U55-128 (Vela 5.2 estimate)", 128, 184_083),
    ("Ethos-U55-256 (Vela 5.2 estimate)", 256, 107_151),
    ("NNgen 1.3.4 (RTL simulation)", 144, 261_137),
    ("GAP9 with NE16 (measured silicon)", 162, 228_000),
)

#: Measurements of simulation speed, of which the fastest counts: others share the machine.
ROUNDS = 3


def networks(device: str, progress: Callable[[str], None], names: list[str]) -> Section:
    """Cycles per inference by preset: the range over a network's inputs."""
    rows: list[list[Any]] = []
    for network in real_networks():
        macs = 0
        for name in names:
            with open_device(device, name, **({"progress": progress} if device == "rtl" else {})) as opened:
                bench = Bench(opened, progress)
                try:
                    runs = [bench.run(network.model, network.inputs(file), f"{network.name} on {name}: {file.name}")
                            for file in network.files]
                except CompileError as error:
                    rows.append([network.name, name, PRESETS[name].macs_per_cycle, f"does not fit: {error}", *[""] * 3])
                    continue
            cycles = [run.cycles for run in runs]
            macs = sum(layer.macs for layer in runs[0].layers)
            dense = macs / PRESETS[name].macs_per_cycle
            rows.append([network.name, name, PRESETS[name].macs_per_cycle, min(cycles), max(cycles),
                         round(dense / max(cycles), 2), len(cycles)])
        if network.model == RESNET and macs:
            rows += [[network.name, where, multipliers, cycles, cycles, round(macs / multipliers / cycles, 2), ""]
                     for where, multipliers, cycles in RESNET_ELSEWHERE]
    return Section(
        "networks", "Networks",
        "Cycles from doorbell to interrupt, everything included: commands, weights and inputs come over the bus. The "
        "least and the most over all inputs; every output equals TFLite Micro's bit for bit. Of dense: all "
        "multiply-accumulates / (most cycles x multipliers); above 1, what is skipped outweighs all losses.",
        ["network", "device", "multipliers", "cycles, least", "cycles, most", "of dense", "inputs"], rows)


def simulation_speed(preset: str, progress: Callable[[str], None]) -> Section:
    """Simulated cycles per second of a network under cocotb and under a bare Verilator main, same netlist."""
    from sim.session import netlist, run_bare
    from sw_driver.links.recorder import RecordingLink
    from sw_driver.links.rtl import open_rtl

    network = real_networks()[0]
    verilog = netlist(preset, progress)
    requests: list = []
    cocotb, bare = 0.0, 0.0
    link = RecordingLink(open_rtl(PRESETS[preset], progress=progress))
    with Device(link, PRESETS[preset]) as device:
        bench = Bench(device, progress)
        for number in range(ROUNDS):
            label = f"speed, round {number}: {network.name}"
            runs = [bench.run(network.model, network.inputs(file), f"{label}, {file.name}") for file in network.files]
            cycles = sum(run.cycles for run in runs)
            cocotb = max(cocotb, cycles / sum(run.wall_s for run in runs))
            progress(f"{label} under a bare main")
            if not requests:
                requests = list(link.requests)
            alone = run_bare(verilog, requests, progress=progress)
            if abs(alone.run_cycles - cycles) > 0.01 * cycles:
                raise RuntimeError(f"The bare simulation took {alone.run_cycles} cycles, cocotb's {cycles}: they did "
                                   "not run the same")
            bare = max(bare, alone.cycles_per_second)
    return Section(
        "simulation_speed", "Simulation speed",
        f"{network.name} on {preset}, {len(network.files)} inputs: simulated cycles / wall clock from doorbell to "
        f"interrupt, as the driver sees it; the best of {ROUNDS} rounds, all in one run. Bare: the same netlist, "
        "external memory and requests under a C++ main without cocotb. On the machine that wrote this page.",
        ["simulation", "cycles/s", "of bare"],
        [["cocotb on Verilator", round(cocotb), round(cocotb / bare, 3)], ["bare Verilator", round(bare), 1.0]])
