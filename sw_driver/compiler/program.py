"""The compiler's passes, one after the other, and the program image at their end."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hw.contract import commands
from hw.contract.commands import COMMAND_BYTES, MAGIC, Flag, Opcode, transfer_beats
from hw.contract.config import FORMAT_VERSION, PRESETS, Config, ConfigError, preset as preset_named
from hw.contract.image import Layer as ReportedLayer, LayerCommand, Loading, Port, Program
from hw.contract.layouts import align
from hw.contract.registers import Window
from sw_driver.compiler.assembly import Assembly
from sw_driver.compiler.bounds import layer_bounds
from sw_driver.compiler.channel_folding import Folding, fold_channels
from sw_driver.compiler.channel_gates import drop_idle, open_gates
from sw_driver.compiler.compression import MODES as WEIGHT_MODES
from sw_driver.compiler.decisions import decisions_first
from sw_driver.compiler.demand import gate
from sw_driver.compiler.errors import CapacityError, CompileError
from sw_driver.compiler.feature_maps import FeatureMap
from sw_driver.compiler.fusing import drop_unused, fuse_additions, fuse_tables, share_in_place
from sw_driver.compiler.instructions import Instruction
from sw_driver.compiler.layers import ConvLayer, Layer
from sw_driver.compiler.lowering import Lowering
from sw_driver.compiler.overlap import Schedule, best_schedule
from sw_driver.compiler.residency import NOTHING, RING_SHARES, Residency, keep
from sw_driver.graph import Graph
from sw_driver.tflite.reader import load_graph
from sw_driver.tflite.support import require_supported

#: Bytes that the bus moves in a cycle.
BUS_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compile. folding, weights, stripes, bandwidth : see `compile_model`."""

    folding: bool = True
    weights: str = WEIGHT_MODES[0]
    stripes: int | None = None
    bandwidth: float = BUS_BYTES

    def __post_init__(self) -> None:
        if self.weights not in WEIGHT_MODES:
            raise ValueError(f"weights must be one of {', '.join(WEIGHT_MODES)}, not {self.weights!r}")
        if not 0 < self.bandwidth <= BUS_BYTES or BUS_BYTES % self.bandwidth:
            raise ValueError(f"bandwidth must be {BUS_BYTES} / n for a whole number n, not {self.bandwidth!r}")

    @property
    def pace(self) -> int:
        """Cycles that memory takes for a beat."""
        return int(BUS_BYTES / self.bandwidth)


def compile_model(model: str | Path | bytes, preset: str | Config = "large", *, folding: bool = True,
                  weights: str = WEIGHT_MODES[0], stripes: int | None = None, bandwidth: float = BUS_BYTES,
                  also: Sequence[str] = ()) -> Program:
    """Compile a TFLite model, given by its path or its bytes, for a preset or a configuration.

    Parameters
    ----------
    folding : without it, channels that are constant or that nobody reads are computed, too: the same results with
        more work.
    weights : "compressed", where that takes fewer bytes, or "raw"; both are loaded again for every run. "resident":
        compressed, and loaded once; a run moves none, or those of the layers that do not fit beside the others.
    stripes : cut every layer into so many; by default what the cycle model expects to be fastest.
    bandwidth : bytes per cycle of external memory, which the cycle model reckons with: 8, or less for a slow one. The
        program runs with any.
    also : names of tensors within the graph that a run brings back besides the graph's outputs. A mask can't be: its
        bits stay in the mask memory; bring back the map that they are decided on.

    Raises KeyError for a name that no computed tensor has or that several have, ModelError for a bad file,
    UnsupportedError (a ModelError) with everything that can't run, ConfigError for an unknown preset, and CompileError
    when the model does not fit, which names what, its size and the limit.
    """
    config = preset if isinstance(preset, Config) else preset_named(preset)
    graph = load_graph(model)
    graph.outputs += [_computed(graph, tensor) for tensor in also]
    name = graph.name if isinstance(model, bytes) else str(Path(model).name)
    return compile_graph(graph, config, name=name, options=Options(folding, weights, stripes, bandwidth))


def _computed(graph: Graph, name: str) -> int:
    """The tensor of this name that an operator computes. Raises KeyError."""
    found = [index for operator in graph.operators for index in operator.outputs if graph.tensors[index].name == name]
    if len(found) != 1:
        raise KeyError(f"{len(found)} computed tensors of the model are called {name!r}; one must be")
    return found[0]


def compile_graph(graph: Graph, config: Config, name: str = "", options: Options | None = None) -> Program:
    """Compile a graph. `name` is what the program calls the model. Raises as `compile_model`."""
    options = options or Options()
    require_supported(graph, config)
    try:
        return _compile(graph, config, name, options)
    except CapacityError as error:
        raise CapacityError(f"{error}. {_remedy(graph, config, options)}") from None


def _remedy(graph: Graph, config: Config, options: Options) -> str:
    """Which preset has room."""
    for larger in PRESETS.values():
        if larger.feature_bytes > config.feature_bytes or larger.weight_bytes > config.weight_bytes:
            try:
                _compile(graph, larger, "", options)
            except CapacityError:
                continue
            return f"Preset {larger.name!r} has room for this model"
    if options.weights == "resident":
        return "No preset has room for more"
    return "No preset has room for this model: make its feature maps or layers smaller"


def _compile(graph: Graph, config: Config, name: str, options: Options) -> Program:
    folded = fold_channels(graph, config.lanes) if options.folding else None
    try:
        return _passes(graph, folded, config, name, options, branches=True)
    except CapacityError as error:
        if not any(operator.op == "SELECT_V2" for operator in graph.operators):
            raise
        try:
            # Demand masks of the layers within a branch cost mask memory, which may be what is missing.
            return _passes(graph, folded, config, name, options, branches=False)
        except CapacityError:
            raise error from None


def _passes(graph: Graph, folded: Folding | None, config: Config, name: str, options: Options, *,
            branches: bool) -> Program:
    if folded is not None:
        graph = folded.graph
    lowering = Lowering(graph, config)
    wanted: dict[FeatureMap, list[int]] = {}
    for tensor in lowering.wanted:
        wanted.setdefault(lowering.views.maps[lowering.views.root(tensor)], []).append(tensor)
    layers = drop_unused(lowering.layers, set(wanted))
    layers = fuse_additions(layers, set(wanted))
    layers = fuse_tables(layers, set(wanted), config)
    layers = decisions_first(open_gates(layers, set(wanted)))
    layers = drop_idle(gate(layers, set(wanted), branches=branches))
    share_in_place(layers, set(wanted))

    def assemble(rows: Mapping[Layer, int], residency: Residency) -> Assembly:
        return Assembly(graph, config, layers, wanted, rows, compressed=options.weights != "raw", residency=residency,
                        pace=options.pace)

    def scheduled(residency: Residency) -> Schedule:
        return best_schedule(lambda rows: assemble(rows, residency), layers, config, options.stripes,
                             pace=options.pace)

    if options.weights == "resident":
        schedule = _resident(lambda residency: assemble({}, residency), scheduled, layers)
    else:
        schedule = scheduled(NOTHING)
    assembly, ordered = schedule.assembly, schedule.instructions
    transfers = assembly.transfers
    image, loading = _image(schedule, config)
    return Program(
        model=name, preset=config.name, config_hash=config.hash, image=image, command_count=len(ordered) + 2,
        input_bytes=align(transfers.input_bytes, 8), output_bytes=align(transfers.output_bytes, 8),
        inputs=[_port(graph, tensor, input_name) for tensor, input_name in
                zip(graph.inputs, graph.input_names, strict=True)],
        outputs=[_port(graph, tensor, output_name) for tensor, output_name in
                 zip(graph.outputs, graph.output_names, strict=True)],
        feeds=transfers.feeds, results=transfers.results, host_steps=lowering.host_steps,
        layers=_reported(layers, ordered) + _host_layers(graph, lowering), loading=loading,
        report=_report(schedule) | {"bandwidth": options.bandwidth,
                                    "folding": None if folded is None else folded.report},
    )


def _resident(assemble: Callable[[Residency], Assembly], scheduled: Callable[[Residency], Schedule],
              layers: list[Layer]) -> Schedule:
    """The schedule in which as many weights stay on chip as fit. Raises CapacityError where none do."""
    everything = Residency(frozenset(layers), 0)
    whole = assemble(everything)
    try:
        whole.transfers.require_room()
    except CapacityError as error:
        for share in RING_SHARES:
            residency = keep(whole.needs, whole.transfers.sizes, share)
            try:
                if residency.layers:
                    return scheduled(residency)
            except (CapacityError, ConfigError):
                continue
        raise error from None
    return scheduled(everything)


def _report(schedule: Schedule) -> dict[str, Any]:
    """What the compiler did, for people and tools: memory, weights, and what bounds each layer."""
    report: dict[str, Any] = {**schedule.assembly.report, "expected_cycles": schedule.cycles}
    if report["residency"] is not None:
        report["residency"] |= {
            "loading_commands": len(schedule.loading) + 2, "loading_expected_cycles": schedule.loading_cycles,
            "loading_bytes": sum(8 * transfer_beats({"parameter_length": 0, **instruction.values})
                                 for instruction in schedule.loading)}
    bounds = {layer.name: bound for layer, bound in layer_bounds(
        schedule.instructions, schedule.commands, schedule.spans).items()}
    report["bounds"] = [{"layer": name, "bound_by": bound.bound_by, **dataclasses.asdict(bound)}
                        for name, bound in bounds.items()]
    for entry in report["weights"]:
        entry["bound_by"] = bounds[entry["layer"]].bound_by
    return report


def _port(graph: Graph, index: int, name: str) -> Port:
    tensor = graph.tensors[index]
    scale, zero_point = (tensor.scale, tensor.zero_point) if tensor.quantised else (1.0, 0)
    return Port(name, index, list(tensor.shape), tensor.dtype, scale, zero_point)


def _image(schedule: Schedule, config: Config) -> tuple[bytes, Loading | None]:
    """Commands first, those that load resident weights behind those of every run; then the data that they load,
    compressed weights last."""
    transfers = schedule.assembly.transfers
    data, blocks = bytes(transfers.data), bytes(transfers.blocks)
    first, second = len(schedule.instructions) + 2, len(schedule.loading) + 2 if schedule.loading else 0
    data_offset = (first + second) * COMMAND_BYTES
    block_offset = align(data_offset + len(data), 8)
    data = data.ljust(block_offset - data_offset, b"\0") + blocks

    def begin(count: int, **tags: int) -> bytes:
        return commands.encode(Opcode.BEGIN, {"magic": MAGIC, "format_version": FORMAT_VERSION,
                                              "config_hash": config.hash, "command_count": count, **tags})

    body = _code(schedule.instructions, data_offset, block_offset)
    if not second:
        return _padded(begin(first) + body + data), None
    load = _code(schedule.loading, data_offset, block_offset)
    tag = zlib.crc32(data, zlib.crc32(load, config.hash)) or 1  # of what will lie on chip, and where
    code = begin(first, requires=tag) + body + begin(second, establishes=tag) + load
    return _padded(code + data), Loading(first * COMMAND_BYTES, second, tag)


def _padded(image: bytes) -> bytes:
    return image.ljust(align(len(image), 8), b"\0")


def _code(instructions: list[Instruction], data_offset: int, block_offset: int) -> bytes:
    """The commands between BEGIN and END, with their places in the image, and END."""
    code = bytearray()
    for instruction in instructions:
        values = instruction.values
        if instruction.opcode is Opcode.LOAD and values["window"] == Window.IMAGE:
            if values["flags"] & Flag.COMPRESSED:
                values = {**values, "offset": values["offset"] + block_offset,
                          "parameter_offset": values["parameter_offset"] + data_offset}
            else:
                values = {**values, "offset": values["offset"] + data_offset}
        try:
            code += commands.encode(instruction.opcode, values)
        except commands.CommandError as error:
            raise CompileError(f"{instruction.layer or 'a transfer'} is too large for a command: {error}") from None
    return bytes(code + commands.encode(Opcode.END, {}))


def _reported(layers: list[Layer], ordered: list[Instruction]) -> list[ReportedLayer]:
    own: dict[Layer, list[LayerCommand]] = {layer: [] for layer in layers}
    for index, instruction in enumerate(ordered, start=1):
        if instruction.layer is not None:
            own[instruction.layer].append(LayerCommand(index, instruction.pixels, instruction.pixel_macs,
                                                       instruction.last_lanes))
    return [
        ReportedLayer(layer.name, layer.op, list(layer.shape), "conv" if isinstance(layer, ConvLayer) else "vector",
                      sum(command.pixels * command.pixel_macs for command in own[layer]), own[layer],
                      layer.output.tensor)
        for layer in layers
    ]


def _host_layers(graph: Graph, lowering: Lowering) -> list[ReportedLayer]:
    return [ReportedLayer(step.name, step.op, list(graph.tensors[step.outputs[0]].shape), "host", 0, [],
                          step.outputs[0])
            for step in lowering.host_steps if step.op != "RESHAPE"]
