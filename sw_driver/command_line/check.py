"""`lacuna check`: what in a model runs where, what doesn't and why. Nothing is built and no device is opened."""

from __future__ import annotations

import argparse
import dataclasses

from rich.markup import escape
from rich.table import Table

from hw.contract.config import preset
from hw.contract.image import Layer, Program
from sw_driver.command_line.layer_table import NAME_LIMIT, shortened
from sw_driver.command_line.output import require_writable, wide_console, write_json
from sw_driver.compiler import CompileError, compile_graph
from sw_driver.compiler.channel_folding import folding_summary
from sw_driver.graph import Graph, Operator
from sw_driver.tflite.reader import load_graph
from sw_driver.tflite.support import COMPARISONS, TABLE_OPERATORS, check

#: Engines of layers, for people.
ENGINES = {"conv": "conv engine", "vector": "vector engine", "host": "host"}

#: Where operators run that are not fused with another.
USUAL_PLACES = {
    "CONV_2D": ENGINES["conv"], "FULLY_CONNECTED": ENGINES["conv"], "DEPTHWISE_CONV_2D": ENGINES["vector"],
    "ADD": ENGINES["vector"],
    **dict.fromkeys(("MUL", "MEAN", "PAD", "CONCATENATION", "RESIZE_NEAREST_NEIGHBOR", *COMPARISONS, *TABLE_OPERATORS,
                     "LOGICAL_AND", "LOGICAL_OR"),
                    ENGINES["vector"]),
    "AVERAGE_POOL_2D": ENGINES["vector"], "MAX_POOL_2D": ENGINES["vector"], "SOFTMAX": ENGINES["host"],
    "LOGICAL_NOT": "no work: whoever makes or reads the mask inverts it",
    "SELECT_V2": "no work: its mask gates the layers before it", "RESHAPE": "no work: another view of its input",
}


def handle(options: argparse.Namespace) -> int:
    """Print the operators and the problems."""
    require_writable(options.json)
    config = preset(options.preset)
    graph = load_graph(options.model)
    problems = check(graph, config)
    program, misfit = None, None
    if not problems:
        try:
            program = compile_graph(graph, config, name=options.model.name)
        except CompileError as error:
            misfit = str(error)
    refused = {problem.index for problem in problems}

    places = {operator.index: "can't run" if operator.index in refused else _place(graph, operator, program)
              for operator in graph.operators}
    if options.json is not None:
        write_json(options.json, {
            "model": str(options.model),
            "preset": options.preset,
            "runs": program is not None,
            "operators": [{"index": operator.index, "op": operator.op, "name": operator.name,
                           "place": places[operator.index]} for operator in graph.operators],
            "folding": None if program is None else program.report["folding"],
            "problems": [dataclasses.asdict(problem) for problem in problems],
            "misfit": misfit,
        })
    folded = _folded(program)
    columns = ["#", "operator", "name", "output", *(["folded"] if folded else []), "where"]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for operator in graph.operators:
        shape = "x".join(str(size) for size in graph.tensors[operator.outputs[0]].shape)
        place = f"[red]{places[operator.index]}[/]" if operator.index in refused else places[operator.index]
        table.add_row(str(operator.index), operator.op, escape(shortened(operator.name, NAME_LIMIT)), shape,
                      *([folded.get(operator.index, "")] if folded else []), place)
    wide_console().print(table)

    for problem in problems:
        print(problem)
    if misfit is not None:
        print(misfit)
    if program is None:
        print(f"{options.model} can't run on preset {options.preset}: {len(problems) or 1} to mend, listed above")
        return 1
    print(f"{options.model} runs on preset {options.preset}: {len(program.layers)} layers, "
          f"{sum(layer.macs for layer in program.layers):,} multiply-accumulates, program image of "
          f"{len(program.image):,} bytes")
    summary = folding_summary(program.report["folding"])
    if summary:
        print(summary)
    return 0


def _folded(program: Program | None) -> dict[int, str]:
    """The channels that each operator lost, in words."""
    layers = [] if program is None else program.report["folding"]["layers"]
    return {layer["operator"]: f"{layer['removed']} of {layer['channels']}" for layer in layers if layer["removed"]}


def _place(graph: Graph, operator: Operator, program: Program | None) -> str:
    """Where an operator runs: its engine, or the layer that it is part of."""
    usual = USUAL_PLACES[operator.op]
    layer = None if program is None else _layer_of(graph, operator, {layer.output: layer for layer in program.layers})
    if layer is None:
        return usual
    where = ENGINES[layer.engine]
    if operator.op == layer.op:
        return where
    return f"{where}, as part of {layer.op} {shortened(layer.name, NAME_LIMIT)}"


def _layer_of(graph: Graph, operator: Operator, layers: dict[int, Layer]) -> Layer | None:
    """The layer that makes the operator's output, or into which it is fused: the next one downstream with its op."""
    index = operator.outputs[0]
    while index not in layers:
        consumers = graph.consumers(index)
        if len(consumers) != 1:
            return None
        index = consumers[0].outputs[0]
    layer = layers[index]
    return layer if operator.op in layer.op.split("+") else None
