"""Weights from external memory: cycles by its bandwidth, compressed and raw, beside the bound that the bytes set."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT, SHARED_MODELS, Network, NotExact
from benchmarks.tables import Section
from hw.contract.commands import COMMAND_BYTES, RECORD_BYTES, Engine, transfer_beats
from hw.contract.config import PRESETS, Config
from hw.contract.image import Program
from sim.timeline import Span
from sim.tokens import read_program
from sw_driver.compiler import CapacityError, compile_model
from sw_driver.compiler.bounds import command_bounds
from sw_driver.device import Device
from sw_driver.links.rtl import open_rtl
from sw_driver.oracle import run_oracle
from sw_driver.result import RunResult

#: Seconds that the decoder's simulation may take.
DECODER_TIMEOUT = 1200

#: Bytes per cycle.
BANDWIDTHS = (8.0, 4.0, 2.0, 1.0, 0.5)


def networks() -> list[Network]:
    """The MLPerf Tiny models that lie beside the project."""
    return [Network(path.parent.name, path, sorted((path.parent / "inputs").iterdir()))
            for path in sorted(SHARED_MODELS.glob("*/*.tflite"))]


def bytes_moved(program: Program) -> int:
    """All that a run moves on the bus: commands, transfers, records."""
    commands = read_program(program.image)
    beats = sum(transfer_beats(command.values) for command in commands if command.engine in (Engine.LOAD, Engine.STORE))
    return 8 * beats + COMMAND_BYTES * program.command_count + RECORD_BYTES * len(commands)


def waited(program: Program, result: RunResult) -> int:
    """Cycles in which an engine waited while weights were transferred, of a run."""
    commands = read_program(program.image)
    records = {record["command"]: record for record in result.records}
    spans = [Span(records[command.index]["start"], records[command.index]["end"]) for command in commands]
    return sum(bound.weights for command, bound in zip(commands, command_bounds(commands, spans), strict=True)
               if command.engine in (Engine.CONV, Engine.VECTOR))


def _run(device: Device, program: Program, inputs: dict[str, np.ndarray], wanted: list[np.ndarray], label: str,
         progress: Callable[[str], None]) -> RunResult:
    progress(label)
    result = device.run(program, inputs)
    if not all(map(np.array_equal, result.outputs.values(), wanted)):
        raise NotExact(f"{label}: the outputs differ from TFLite Micro's")
    return result


def weights(preset: str, progress: Callable[[str], None]) -> Section:
    """Cycles of every network at every bandwidth, on the RTL."""
    rows: list[list[Any]] = []
    config = PRESETS[preset]
    link = open_rtl(config, progress=progress)
    with Device(link, config) as device:
        for network in networks():
            inputs = network.inputs(network.files[0])
            wanted = run_oracle(network.model, inputs)
            for bandwidth in BANDWIDTHS:
                programs = {mode: compile_model(network.model, config, weights=mode, bandwidth=bandwidth)
                            for mode in ("compressed", "raw")}
                fast = compile_model(network.model, config)
                resident = _resident(network, config, bandwidth)

                def label(mode: str, place: str, name: str = network.name, bandwidth: float = bandwidth) -> str:
                    return f"{name}, {mode} weights, {place} of {bandwidth:g} bytes per cycle"

                link.configure(bandwidth=bandwidth, flash_bandwidth=None)
                compressed, raw = (_run(device, program, inputs, wanted, label(mode, "memory"), progress)
                                   for mode, program in programs.items())
                stays = ["-"] * 4 if resident is None else _resident_row(
                    resident, _run(device, resident, inputs, wanted, label("resident", "memory"), progress))
                link.configure(bandwidth=max(BANDWIDTHS), flash_bandwidth=bandwidth)
                flash = _run(device, fast, inputs, wanted, label("compressed", "flash"), progress)
                moved = bytes_moved(programs["compressed"])
                rows.append([network.name, f"{bandwidth:g}", compressed.cycles, raw.cycles,
                             programs["compressed"].report["weights_total"]["weight_bytes"], moved,
                             round(moved / bandwidth), round(compressed.cycles * bandwidth / moved, 3),
                             _share(waited(programs["compressed"], compressed), compressed.cycles), flash.cycles,
                             _share(waited(fast, flash), flash.cycles), *stays])
    return Section(
        "weights", f"Weights and memory bandwidth ({preset})",
        "Cycles from doorbell to interrupt by the bytes per cycle of external memory, which has 20 cycles of latency; "
        "reads and writes share it; the network is compiled for it. Bytes moved: weights and parameters, inputs, "
        "outputs, commands, records; the bound is bytes / bandwidth. Waited: share of the cycles in which an engine "
        "stood still while weights were transferred. Flash: the program with its weights in a second memory of that "
        "bandwidth, all else in one of 8 bytes per cycle. Resident: weights were loaded before, in the cycles given, "
        "and stay: all of them, or those of the largest layers that fit beside rings for the others.",
        ["network", "bytes per cycle", "cycles", "cycles, raw weights", "weight bytes", "bytes moved", "bound",
         "cycles / bound", "waited", "cycles, flash", "waited, flash", "cycles, resident", "waited, resident",
         "bytes moved, resident", "cycles to load"], rows)


def _resident(network: Network, config: Config, bandwidth: float) -> Program | None:
    """The network with resident weights; None where they don't fit."""
    try:
        return compile_model(network.model, config, weights="resident", bandwidth=bandwidth)
    except CapacityError:
        return None


def _resident_row(program: Program, result: RunResult) -> list[Any]:
    """Cycles, share waited and bytes of a run, and the cycles of loading before it."""
    assert result.loading is not None, "the runs before required other weights"
    return [result.cycles, _share(waited(program, result), result.cycles), bytes_moved(program), result.loading.cycles]


def _share(cycles: int, of: int) -> str:
    return f"{cycles / of:.1%}"


def decoder(progress: Callable[[str], None]) -> Section:
    """The decoder's throughput. Its simulation is a process of its own: no Amaranth in this one."""
    progress("the weight decoder, preset by preset")
    done = subprocess.run([sys.executable, "-m", "testbench.decoder_throughput"], cwd=ROOT, capture_output=True,
                          text=True, check=False, timeout=DECODER_TIMEOUT)
    if done.returncode:
        raise NotExact(f"the weight decoder: {done.stderr.strip().splitlines()[-1]}")
    return Section(
        "decoder", "Throughput of the weight decoder",
        "Weights per cycle of the decoder itself, in simulation, header, states and check value included; dense, "
        "normally distributed weights; every word compared. With the table of the block before it, as most blocks of a "
        "layer have it: as fast as beats are taken, and with one beat of 8 bytes per cycle, which is what memory "
        "delivers; and with a table of its own, which has to be built first. xlarge has the decoder of large.",
        ["preset", "states", "weights", "bits per weight", "weights per cycle", "at 8 bytes per cycle",
         "at 8 bytes per cycle, own table"], json.loads(done.stdout))
