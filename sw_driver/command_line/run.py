"""`lacuna run`: a model on a device, layer by layer, compared with TFLite Micro."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hw.contract.config import Config, preset
from hw.contract.image import FILE_MAGIC, Program
from sw_driver.command_line.failure import Failure
from sw_driver.command_line.grammar import WEIGHTS
from sw_driver.command_line.layer_table import layer_json, layer_table
from sw_driver.command_line.output import require_writable, wide_console, write_json
from sw_driver.compiler import compile_model
from sw_driver.compiler.channel_folding import folding_summary
from sw_driver.device import Device
from sw_driver.graph import Graph, Tensor
from sw_driver.inputs import load_runs
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.result import LoadingResult, RunResult
from sw_driver.tflite.reader import load_graph, read_model


class _Log:
    """Progress where there is no terminal: a line for each step, and one now and then within a step."""

    SECONDS = 15.0

    def __init__(self) -> None:
        self._step, self._printed = "", 0.0

    def __call__(self, text: str) -> None:
        step, now = text.partition(":")[0], time.monotonic()
        if step != self._step or now - self._printed > self.SECONDS:
            print(text, flush=True)
            self._step, self._printed = step, now


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is to be run: a program, the interface of its inputs, and the model to compare it with, if there is one."""

    program: Program
    interface: Graph
    reference: bytes | None


def handle(options: argparse.Namespace) -> int:
    """Run all inputs, print, write the JSON."""
    _check_options(options)
    config = preset(options.preset)
    job = _load(options, config)
    runs = load_runs(job.interface, options.inputs)
    console = wide_console()
    entries: list[dict[str, Any]] = []
    result: RunResult | None = None
    with console.status(f"Opening device {options.device}") as status:
        tell = status.update if console.is_terminal else _Log()
        with _open(options, config, tell) as device:
            device.from_flash = options.flash
            for index, inputs in enumerate(runs):
                label = input_label(options.inputs, index, len(runs))
                status.update(f"Running {label if isinstance(label, str) else ', '.join(label)}")
                result = device.run(job.program, inputs)
                difference = _difference(job, inputs, result)
                entries.append({
                    "input": label,
                    "outputs": [array.ravel().tolist() for array in result.outputs.values()],
                    "cycles": result.cycles,
                    "wall_s": result.wall_s,
                    "exact": None if job.reference is None else difference is None,
                    "loading": None if result.loading is None else loading_json(result.loading),
                })
                _print_run(console, entries[-1], difference, " (predicted)" if options.device == "golden" else "")
            simulator = _simulator(device, entries)
    assert result is not None
    console.print()
    console.print(layer_table(result.layers, result.cycles))
    console.print()
    summary = folding_summary(job.program.report.get("folding"))
    if summary:
        print(summary)
    _print_summary(entries, options, simulator)
    if options.json is not None:
        write_json(options.json, {
            "model": str(options.model), "preset": options.preset, "device": options.device, "runs": entries,
            "layers": [layer_json(layer) for layer in result.layers], "simulator": simulator,
            "timeline": _timeline(job.program, result),
        })
    return int(any(entry["exact"] is False for entry in entries))


def _timeline(program: Program, result: RunResult) -> list[dict[str, Any]]:
    """The commands of a run as they completed, each with the layer that it is for; transfers have none."""
    layers = {command.index: layer.name for layer in program.layers for command in layer.commands}
    return [{**dataclasses.asdict(span), "layer": layers.get(span.command)} for span in result.timeline]


def _check_options(options: argparse.Namespace) -> None:
    """Everything that can be refused before work is spent."""
    require_writable(options.json)
    require_writable(options.waves)
    if options.waves_commands is not None and options.waves is None:
        raise Failure("--waves-commands says which commands to record: it needs --waves FILE")
    if options.flash_latency is not None and options.flash_bandwidth is None:
        raise Failure("--flash-latency is that of a second memory: it needs --flash-bandwidth BYTES")
    if options.flash and not options.device.startswith("uart:"):
        raise Failure("--flash is for a board with a flash: it needs --device uart:PORT")
    if options.device != "rtl" and options.flash_bandwidth is not None:
        raise Failure("--flash-bandwidth is for the simulated external memory: it needs --device rtl")
    if options.device != "rtl" and options.waves is not None:
        raise Failure("--waves records signals of the RTL: it needs --device rtl")


def _load(options: argparse.Namespace, config: Config) -> _Job:
    model, reference = options.model, options.reference
    data = read_model(model)
    if not data.startswith(FILE_MAGIC):
        if reference is not None:
            raise Failure(f"--reference is for a compiled program; {model} is a model, and is compared with itself")
        program = compile_model(model, config, folding=options.folding, weights=options.weights,
                                bandwidth=options.bandwidth)
        return _Job(program, load_graph(model), data)
    if not options.folding or options.weights != WEIGHTS[0]:
        option = "--no-folding" if not options.folding else f"--weights {options.weights}"
        raise Failure(f"{option} is for a model; {model} is compiled already: give it to `lacuna compile` instead")
    program = Program.from_bytes(data, str(model))
    program.check(config)
    if reference is None:
        return _Job(program, _interface(program), None)
    graph = load_graph(reference)
    wanted = [(port.shape, port.dtype) for port in (*program.inputs, *program.outputs)]
    tensors = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    found = [(list(tensor.shape), tensor.dtype) for tensor in tensors]
    if wanted != found:
        raise Failure(f"{model} was not compiled from {reference}: their inputs or outputs have other shapes or types")
    return _Job(program, graph, read_model(reference))


def _interface(program: Program) -> Graph:
    """The program's inputs as a graph without operators: all that reading input files needs."""
    tensors = [
        Tensor(index, port.name, tuple(port.shape), port.dtype, np.array([port.scale], np.float32),
               np.array([port.zero_point], np.int64))
        for index, port in enumerate(program.inputs)
    ]
    return Graph(program.model, tensors, [], list(range(len(tensors))), [])


def _open(options: argparse.Namespace, config: Config, progress: Callable[[str], None]) -> Device:
    if options.device != "rtl":
        return open_device(options.device, config)
    return open_device("rtl", config, simulator=options.simulator, latency=options.latency,
                       bandwidth=options.bandwidth, flash_latency=options.flash_latency,
                       flash_bandwidth=options.flash_bandwidth, waves=options.waves,
                       waves_commands=options.waves_commands, progress=progress)


def _simulator(device: Device, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Name, version and speed of what ran; a link that does not measure its speed gets that of the runs."""
    ran = entries + [entry["loading"] for entry in entries if entry["loading"] is not None]
    waited = sum(entry["wall_s"] for entry in ran)
    speed = sum(entry["cycles"] for entry in ran) / waited if waited else 0.0
    return {"cycles_per_second": speed, **device.link.simulator}


def loading_json(loading: LoadingResult) -> dict[str, Any]:
    """What loading resident weights took, as in the JSON."""
    return {"cycles": loading.cycles, "wall_s": loading.wall_s, "bytes": loading.bytes_read,
            "commands": len(loading.records)}


def input_label(given: Sequence[str], index: int, runs: int) -> str | dict[str, str]:
    """What the JSON calls the input of a run: its file, or the files by input name."""
    if runs == len(given) and (runs > 1 or "=" not in given[0] or Path(given[0]).exists()):
        return given[index]
    return dict(text.split("=", 1) for text in given)


def _difference(job: _Job, inputs: Mapping[str, np.ndarray], result: RunResult) -> str | None:
    """The first difference from TFLite Micro, in words; None if there is none, or nothing to compare with."""
    if job.reference is None:
        return None
    expected = run_oracle(job.reference, list(inputs.values()))
    for (name, found), wanted in zip(result.outputs.items(), expected, strict=True):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return f"output {name!r} is {found.dtype} {found.shape}, TFLite Micro's is {wanted.dtype} {wanted.shape}"
        wrong = np.argwhere(found != wanted)
        if len(wrong):
            place = tuple(int(i) for i in wrong[0])
            return (f"output {name!r}, element {list(place)}: {found[place]} instead of {wanted[place]}; "
                    f"{len(wrong)} of {found.size} elements differ")
    return None


def _print_run(console: Console, entry: dict[str, Any], difference: str | None, predicted: str) -> None:
    label = entry["input"] if isinstance(entry["input"], str) else ", ".join(entry["input"].values())
    verdict = {True: "exact", None: "not compared", False: f"DIFFERS: {difference}"}[entry["exact"]]
    best = ""
    if len(entry["outputs"]) == 1 and 1 < len(entry["outputs"][0]) <= 1000:
        best = f", largest output: element {int(np.argmax(entry['outputs'][0]))}"
    text = f"{label}: {entry['cycles']:,} cycles{predicted}, {verdict}{best}"
    if entry["loading"] is not None:
        console.print(f"weights loaded: {entry['loading']['bytes']:,} bytes, {entry['loading']['cycles']:,} "
                      f"cycles{predicted}; they stay for the runs that follow", highlight=False, soft_wrap=True)
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_summary(entries: list[dict[str, Any]], options: argparse.Namespace, simulator: Mapping[str, Any]) -> None:
    runs = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    behind = f"{simulator['name']} {simulator['version']}, " if "name" in simulator else ""
    print(f"{runs} on preset {options.preset}, device {options.device} ({behind}"
          f"{simulator['cycles_per_second']:,.0f} cycles/s)")
    wrong = sum(entry["exact"] is False for entry in entries)
    if wrong:
        print(f"{wrong} of {len(entries)} runs differ from TFLite Micro")
    elif entries[0]["exact"] is None:
        print("Outputs were not compared: a compiled program holds no model; give it as --reference MODEL.tflite")
    else:
        print("Every output equals TFLite Micro's, bit for bit")
