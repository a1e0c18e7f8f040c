"""What a run brings back: outputs, cycles, and the counters of every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hw.contract.commands import COUNTERS, ENGINE_OF, Engine, Opcode
from hw.contract.config import Config
from hw.contract.image import Layer, Program
from hw.contract.layouts import DEPTHWISE_TAPS


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """One layer of a run.

    Parameters
    ----------
    name, op, shape, engine : as in `Program.layers`.
    cycles : while an engine worked on the layer and on none before it, all its commands together. start, end : of
        the first and the last of them, in cycles since the doorbell.
    macs : multiply-accumulates of the layer, padding included, folded channels not. Each of them was issued, or
        skipped for one reason: macs = macs_issued + skipped_activation + skipped_weight + gated.
    macs_issued : multiplied. skipped_weight : a row of zero weights met an activation that is not zero.
    gated : of a pixel that no mask demands. skipped_activation : the rest, zero activations and padding.
        The vector engine issues all of a depthwise layer's that are not gated.
    utilisation : macs_issued / (cycles x multipliers of the engine); 0 for layers without multiplications.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    engine: str
    cycles: int
    macs: int
    macs_issued: int
    skipped_activation: int
    skipped_weight: int
    gated: int
    utilisation: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class TimelineSpan:
    """One command on its engine.

    Parameters
    ----------
    command : its index in the program. opcode, engine : names in lower case.
    start, end : cycles since the doorbell: the engine was given it, its last write was done.
    cycles : from the later of its start and the end of the command before it on this engine, to its end: commands of
        the conv engine overlap, so that these add up to the cycles in which the engine was busy.
    stalls : cycles by cause; of the conv engine, row-cycles.
    """

    command: int
    opcode: str
    engine: str
    start: int
    end: int
    cycles: int
    stalls: dict[str, int]


def timeline(records: Sequence[Mapping[str, int]]) -> list[TimelineSpan]:
    """The spans of a run's records, in order of completion."""
    ended = dict.fromkeys(Engine, 0)
    spans = []
    for record in records:
        opcode = Opcode(record["opcode"])
        engine = ENGINE_OF[opcode]
        spans.append(TimelineSpan(
            record["command"], opcode.name.lower(), engine.name.lower(), record["start"], record["end"],
            record["end"] - max(record["start"], ended[engine]),
            {name.removeprefix("stalled_"): record[name] for name, _doc in COUNTERS[engine]
             if name.startswith("stalled")}))
        ended[engine] = record["end"]
    return spans


@dataclasses.dataclass(frozen=True)
class LoadingResult:
    """What it took to load resident weights: cycles from doorbell to interrupt, seconds that the host waited for it,
    and a record per LOAD, in order."""

    cycles: int
    wall_s: float
    records: list[dict[str, int]]

    @property
    def bytes_read(self) -> int:
        """Weights, row maps and parameters, without commands."""
        return sum(8 * record["beats"] for record in self.records)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run.

    Parameters
    ----------
    outputs : int8 arrays by name of the graph output, in the model's shapes.
    cycles : from doorbell to interrupt. wall_s : seconds that the host waited for it.
    layers : in order of execution. records : one dictionary per command, in order of completion (`commands`).
    timeline : the same as spans, see `TimelineSpan`.
    loading : resident weights were loaded before; not in the cycles, records and layers of the run itself.
    """

    outputs: dict[str, np.ndarray]
    cycles: int
    wall_s: float
    layers: list[LayerResult]
    records: list[dict[str, int]]
    loading: LoadingResult | None = None

    @property
    def timeline(self) -> list[TimelineSpan]:
        """When each engine worked on which command, in order of completion."""
        return timeline(self.records)

    @property
    def output(self) -> np.ndarray:
        """The only output. Raises ValueError when there are several."""
        if len(self.outputs) != 1:
            raise ValueError(f"The model has {len(self.outputs)} outputs: {', '.join(map(repr, self.outputs))}")
        return next(iter(self.outputs.values()))


def layer_results(program: Program, records: Sequence[Mapping[str, int]], config: Config) -> list[LayerResult]:
    """The counters of every layer from the records of a run. Raises KeyError when a record is missing."""
    by_command = {record["command"]: record for record in records}
    cycles = {span.command: span.cycles for span in timeline(records)}
    return [_layer_result(layer, by_command, cycles, config) for layer in program.layers]


def _layer_result(layer: Layer, records: Mapping[int, Mapping[str, int]], own_cycles: Mapping[int, int],
                  config: Config) -> LayerResult:
    own = [records[command.index] for command in layer.commands]
    cycles = sum(own_cycles[command.index] for command in layer.commands)
    issued = skipped_weight = gated = 0
    if layer.engine == "conv" and layer.macs:  # some only move data
        for command, record in zip(layer.commands, own, strict=True):
            issued += record["issued"] * config.lanes + record["issued_last"] * command.last_lanes
            skipped_weight += (record["skipped_weight"] * config.lanes
                               + record["skipped_weight_last"] * command.last_lanes)
            gated += (command.pixels - record["active_pixels"]) * command.pixel_macs
        # Spare channels behind a table are not zero points; they meet zero weights.
        skipped_weight = min(skipped_weight, layer.macs - issued - gated)
    elif layer.macs:  # a depthwise layer skips no activation
        gated = sum((command.pixels - record["active_pixels"]) * command.pixel_macs
                    for command, record in zip(layer.commands, own, strict=True))
        issued = layer.macs - gated
    multipliers = config.macs_per_cycle if layer.engine == "conv" else DEPTHWISE_TAPS * config.lanes
    return LayerResult(
        layer.name, layer.op, tuple(layer.shape), layer.engine, cycles, layer.macs, issued,
        layer.macs - issued - skipped_weight - gated, skipped_weight, gated,
        issued / (cycles * multipliers) if cycles else 0.0,
        min((record["start"] for record in own), default=0), max((record["end"] for record in own), default=0))
