"""`lacuna prune`: a model without its smallest weights, and what that saves and changes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from hw.contract.config import Config, preset
from hw.contract.image import Program
from sw_driver.command_line.failure import Failure
from sw_driver.command_line.output import require_writable, wide_console, write_file, write_json
from sw_driver.command_line.run import input_label
from sw_driver.compiler.program import compile_graph
from sw_driver.inputs import load_runs
from sw_driver.opening import open_device
from sw_driver.pruning import PrunedLayer, prune_model
from sw_driver.tflite.reader import load_graph, read_model

_Outputs = list[dict[str, np.ndarray]]


def handle(options: argparse.Namespace) -> int:
    """Prune, compile and run both models, write, print."""
    require_writable(options.output)
    require_writable(options.json)
    if options.output.exists() and options.model.exists() and options.output.samefile(options.model):
        raise Failure(f"{options.output} is the model itself: give the pruned model another name")
    config = preset(options.preset)
    load_graph(options.model)  # errors of the file come with its name
    data = read_model(options.model)
    graph = load_graph(data)
    program = compile_graph(graph, config, options.model.name)
    kept = {entry["tensor"]: entry["kept"] for entry in program.report["folding"]["tensors"]}
    pruned, layers = prune_model(data, graph, options.share, config.lanes if options.rows else None, kept)
    if not any(layer.pruned for layer in layers):
        raise Failure(f"{options.model} has nothing to prune: " + (
            "only weights of depthwise convolutions, which have no rows; prune without --rows" if layers
            else "no convolution or fully connected layer with int8 weights"))
    pruned_graph = load_graph(pruned)
    pruned_program = compile_graph(pruned_graph, config, options.output.name)
    runs = load_runs(graph, options.inputs) if options.inputs else []
    console = wide_console()
    with console.status("Running both models on the golden model"):
        before, outputs_before = _measure(program, config, layers, runs)
        after, outputs_after = _measure(pruned_program, config, layers, runs)
    before["zero_weights"] = sum(layer.zeros_before for layer in layers)
    after["zero_weights"] = sum(layer.zeros_after for layer in layers)
    changes = [{"input": input_label(options.inputs, index, len(runs)), **_change(old, new)}
               for index, (old, new) in enumerate(zip(outputs_before, outputs_after, strict=True))]
    write_file(options.output, pruned)
    if options.json is not None:
        write_json(options.json, {
            "model": str(options.model), "pruned": str(options.output), "preset": options.preset,
            "granule": "row" if options.rows else "weight", "share": options.share,
            "weights": sum(layer.weights for layer in layers),
            "cycles_from": "golden model" if runs else "compiler", "before": before, "after": after,
            "layers": [dataclasses.asdict(layer) for layer in layers], "runs": changes,
        })
    console.print(_table(before, after, bool(runs)))
    _print_changes(changes)
    what = f"weight rows of {config.lanes} output channels" if options.rows else "weights"
    count = sum(layer.pruned for layer in layers)
    print(f"{options.output}: {options.share:.4g} of the {what} of {_layers(count)} pruned"
          + (f"; {_layers(len(layers) - count)} without rows (depthwise) left as they were" if count < len(layers)
             else ""))
    return 0


def _measure(program: Program, config: Config, layers: Sequence[PrunedLayer],
             runs: Sequence[Mapping[str, np.ndarray]]) -> tuple[dict[str, Any], _Outputs]:
    """Bytes and cycles of a program, and its outputs for each run. Cycles are the mean of the runs."""
    total = program.report["weights_total"]
    cycles, outputs = float(program.report["expected_cycles"]), []
    if runs:
        with open_device("golden", config) as device:
            results = [device.run(program, inputs) for inputs in runs]
        cycles = sum(result.cycles for result in results) / len(results)
        outputs = [result.outputs for result in results]
    return {
        "weight_bytes": total["weight_bytes"],
        "bits_per_weight": 8 * total["weight_bytes"] / sum(layer.weights for layer in layers),
        "rows": total["rows"], "rows_skipped": total["rows_skipped"], "cycles": round(cycles),
    }, outputs


def _change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The largest and the mean difference over all outputs, in steps of the integers that they are, and whether the
    largest element of each stays where it is (the first of equals)."""
    steps = np.concatenate([np.abs(after[name].astype(np.float64) - before[name]).ravel() for name in before])
    return {
        "max": float(steps.max()), "mean": float(steps.mean()),
        "largest_stays": all(int(np.argmax(after[name])) == int(np.argmax(before[name])) for name in before),
    }


def _table(before: Mapping[str, Any], after: Mapping[str, Any], ran: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    for title, key, form, compared in (
        ("weights that are zero", "zero_weights", ",", False),
        ("compressed weights, bytes", "weight_bytes", ",", True),
        ("bits per weight", "bits_per_weight", ".3f", True),
        ("weight rows", "rows", ",", False),
        ("weight rows skipped", "rows_skipped", ",", False),
        ("cycles (golden model)" if ran else "cycles (compiler: zeros not counted)", "cycles", ",", True),
    ):
        old, new = before[key], after[key]
        table.add_row(title, format(old, form), format(new, form), f"{new / old - 1:+.1%}" if compared else "")
    return table


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _print_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    if not changes:
        print("Outputs were not compared: give inputs as --input FILE")
        return
    runs = "1 run" if len(changes) == 1 else f"{len(changes)} runs"
    print(f"Outputs in {runs}: off by {max(change['max'] for change in changes):g} steps at most, "
          f"{sum(change['mean'] for change in changes) / len(changes):.3f} on average; the largest element stays in "
          f"{sum(change['largest_stays'] for change in changes)} of {len(changes)}")
