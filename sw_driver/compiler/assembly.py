"""From gated, fused layers to instructions and the data they load: addresses, loads, stores, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hw.contract.commands import Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.image import Feed
from sw_driver.compiler.decisions import decided_at
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.instructions import InstructionWriter, Placement, Region, Stripe, mask_entries
from sw_driver.compiler.layers import (
    AddLayer,
    ConvLayer,
    CopyLayer,
    DecideLayer,
    DepthwiseLayer,
    FeatureMap,
    Layer,
    Mask,
    MulLayer,
    PoolLayer,
)
from sw_driver.compiler.memory import Lifetime, peak_use, plan
from sw_driver.compiler.stripes import FeaturePlanner
from sw_driver.compiler.transfers import Transfers
from sw_driver.compiler.unrolling import Chunk, choose_chunks
from sw_driver.compiler.weights import DepthwiseWeights, PackedWeights, WeightTiles, packed_table
from sw_driver.graph import Graph


@dataclasses.dataclass
class WeightReport:
    """What one layer's weights take, and how it is unrolled: for people."""

    layer: str
    weight_bytes: int
    map_bytes: int
    parameter_bytes: int
    chunks: list[Chunk]


class Assembly:
    """The instructions of a program, in an order in which they could run one after the other.

    Parameters
    ----------
    graph, config : the model and the device. layers : gated and fused.
    wanted : maps to store after the run, with the tensors of each: one map may be several tensors' view.
    rows : output rows of a stripe, for layers that are cut though their maps are on chip.

    Members, after construction
    ---------------------------
    transfers : has the instructions, and what lies in the windows.
    report : memory plan and weights.

    Raises CapacityError when something does not fit.
    """

    def __init__(self, graph: Graph, config: Config, layers: list[Layer], wanted: dict[FeatureMap, list[int]],
                 rows: Mapping[Layer, int]):
        self.config = config
        self.layers = layers
        self.wanted = wanted
        self.transfers = Transfers(graph, config)
        self.weights: list[WeightReport] = []
        self._mask_names = {layer.mask_tensor: layer.name for layer in layers if isinstance(layer, DecideLayer)}
        self._mask_names |= dict(zip(graph.inputs, graph.input_names, strict=True))
        self._writer = InstructionWriter(config)
        self._mask_addresses = self._plan_masks()
        self._rows = rows
        self._planner = FeaturePlanner(layers, config)
        self._plan = self._planner.plan()
        self._loaded: set[FeatureMap | Mask] = set()
        for layer in layers:
            self._layer(layer)

    # ---- masks --------------------------------------------------------------------------------

    def _plan_masks(self) -> dict[Mask, int]:
        uses: dict[Mask, list[int]] = {}
        for position, layer in enumerate(self.layers):
            if layer.mask is not None:
                uses.setdefault(layer.mask, []).append(position)
        decided = decided_at(self.layers)
        for mask in [mask for mask in uses if mask.decided]:
            for part in mask.chain:  # all are made where the decision is
                uses.setdefault(part, []).append(decided[mask.tensor])
        lifetimes: list[Lifetime] = []
        for early in (True, False):
            lifetimes = [Lifetime(mask, mask_entries(*mask.size), 0 if early and not mask.decided else min(positions),
                                  max(positions))
                         for mask, positions in uses.items()]
            addresses = plan(lifetimes, self.config.mask_words)
            if addresses is not None:
                return {mask: addresses[mask] for mask in uses}
        words, alive = peak_use(lifetimes)
        names = ", ".join(f"{item.key.size[0]}x{item.key.size[1]} of {self._mask_names[item.key.tensor]!r}"
                          for item in alive)
        raise CapacityError(f"The decision masks {names} take {words * MASK_WORD_BITS // 8} bytes at once; the mask "
                            f"memory has {self.config.mask_words * MASK_WORD_BITS // 8}")

    def _load_mask(self, mask: Mask) -> Region:
        words = mask_entries(*mask.size)
        address = self._mask_addresses[mask]
        if mask not in self._loaded and not mask.decided:
            self._loaded.add(mask)
            steps = [{"kernel": list(step.kernel), "stride": list(step.stride), "dilation": list(step.dilation),
                      "pad": list(step.pad), "size": list(step.size)} for step in mask.steps]
            feed = Feed(self._mask_names[mask.tensor], "mask", 0, 0, mask.height, mask.width, invert=mask.invert,
                        demand=steps)
            self.transfers.load_feed(feed, words * MASK_WORD_BITS // 8, Space.MASK, address)
        return Region(Space.MASK, address, words, self.config.mask_words)

    def _decided(self, layer: DecideLayer) -> list[Mask]:
        """The masks that come from a decision, each after the one that it is made of."""
        own = [mask for mask in self._mask_addresses if mask.tensor == layer.mask_tensor]
        return sorted(own, key=lambda mask: len(mask.steps))

    def _dilations(self, layer: DecideLayer) -> None:
        for mask in self._decided(layer):
            if mask.steps:
                self.transfers.instructions.append(self._writer.dilation(
                    layer, mask, self._load_mask(mask.chain[-2]), self._load_mask(mask)))

    # ---- layers -------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> None:
        for feature_map in layer.maps:
            if feature_map.loaded and feature_map.buffer not in self._plan.spilled and feature_map not in self._loaded:
                self._loaded.add(feature_map)
                window, offset = self.transfers.source(feature_map)
                self.transfers.load(window, offset, feature_map.words * self.config.lanes, Space.FEATURE,
                                    feature_map.buffer.address)
        mask = self._load_mask(layer.mask) if layer.mask is not None else None
        stream: _WeightStream | _DepthwiseStream | None = None
        if isinstance(layer, ConvLayer):
            stream = _WeightStream(self, layer)
        elif isinstance(layer, DepthwiseLayer):
            stream = _DepthwiseStream(self, layer)
        writers = [other for other in self.layers if other.output is layer.output]
        last = layer is writers[-1] and layer.output in self.wanted
        if last and layer.output.buffer in self._plan.spilled:
            self.transfers.result(layer.output, self.wanted[layer.output])
        rows = self._stripe_rows(layer, stream)
        table = None if layer.table is None else self._load_table(layer, layer.table)
        for index, first in enumerate(range(0, layer.output.height, rows)):
            stripe = self._stripe(layer, index, first, min(first + rows, layer.output.height))
            at = len(self.transfers.instructions)
            self._compute(layer, stripe, mask, stream)
            if table is not None:
                for instruction in self.transfers.instructions[at:]:
                    if instruction.layer is layer:
                        instruction.set_table(table)
            self._store_stripe(layer, stripe)
        if isinstance(layer, DecideLayer):
            self._dilations(layer)
        if last and layer.output.buffer not in self._plan.spilled:
            self.transfers.store(self.transfers.result(layer.output, self.wanted[layer.output]),
                                 layer.output.words * self.config.lanes, layer.output.buffer.address)

    def _load_table(self, layer: Layer, table: np.ndarray) -> Region:
        if isinstance(layer, ConvLayer):
            return self.transfers.stream(packed_table(table, self.config), Space.PARAMETER)
        return self.transfers.stream(table.tobytes(), Space.WEIGHT)

    def _compute(self, layer: Layer, stripe: Stripe, mask: Region | None,
                 stream: _WeightStream | _DepthwiseStream | None) -> None:
        instructions = self.transfers.instructions
        if isinstance(layer, ConvLayer) and isinstance(stream, _WeightStream):
            for chunk in stream.chunks:
                placement = stream.place(chunk)
                instructions.append(self._writer.convolution(layer, stripe, chunk, placement, mask))
        elif isinstance(layer, DepthwiseLayer) and isinstance(stream, _DepthwiseStream):
            for first, count in stream.chunks:
                placement = stream.place(first, count)
                instructions.append(self._writer.depthwise(layer, stripe, first, count, placement, mask))
        elif isinstance(layer, DecideLayer):
            instructions += [self._writer.decision(layer, stripe, decided, self._load_mask(decided))
                             for decided in self._decided(layer) if not decided.steps]
        elif isinstance(layer, CopyLayer):
            commands = [self._writer.copy(layer, stripe, piece) for piece in layer.pieces]
            instructions += [command for command in commands if command is not None]
        elif isinstance(layer, MulLayer):
            instructions.append(self._writer.product(layer, stripe, mask))
        elif isinstance(layer, AddLayer):
            instructions.append(self._writer.addition(layer, stripe, mask))
        elif isinstance(layer, PoolLayer):
            instructions.append(self._writer.pooling(layer, stripe, mask))
        else:
            raise TypeError(f"no engine runs {layer}")

    # ---- stripes ------------------------------------------------------------------------------

    def _stripe_rows(self, layer: Layer, stream: _WeightStream | _DepthwiseStream | None) -> int:
        """Output rows of a stripe. Maps on chip are cut only where that does not load the weights again."""
        if layer in self._plan.stripes:
            return self._plan.stripes[layer].rows
        if stream is not None and len(stream.chunks) > 1:
            return layer.output.height
        return self._rows.get(layer, layer.output.height)

    def _stripe(self, layer: Layer, index: int, first: int, end: int) -> Stripe:
        """Load what output rows first .. end - 1 need of spilled maps."""
        stripes = self._plan.stripes.get(layer)
        if stripes is None:
            return Stripe(first, end)
        bases: dict = {}
        ranges = self._planner.ranges(layer, stripes.sizes, first, end)
        for buffer, (low, high) in ranges.items():
            bases[buffer] = stripes.addresses[buffer][index % stripes.copies] - low
            source = self._source_of(layer, buffer)
            if source is not None:
                window, offset = self.transfers.source(source)
                lanes = self.config.lanes
                high = min(high, source.words)
                self.transfers.load(window, offset + low * lanes, (high - low) * lanes, Space.FEATURE,
                                    (bases[buffer] + low) % self.config.feature_words)
        return Stripe(first, end, bases)

    def _source_of(self, layer: Layer, buffer: object) -> FeatureMap | None:
        """The map whose rows must be in a stripe buffer before the layer starts; None where it only writes."""
        for operand in layer.operands:
            if operand.map.buffer is buffer:
                return operand.map
        if layer.mask is None:
            return None
        if layer.beneath is not None:
            return layer.beneath
        earlier = self.layers[: self.layers.index(layer)]
        return layer.output if any(other.output.buffer is buffer for other in earlier) else None

    def _store_stripe(self, layer: Layer, stripe: Stripe) -> None:
        if layer.output.buffer not in self._plan.spilled:
            return
        row = layer.output.width * layer.output.blocks
        unit = self._planner.unit
        low, high = stripe.first * row, -(-stripe.end * row // unit) * unit
        lanes = self.config.lanes
        self.transfers.store(self.transfers.home(layer.output) + low * lanes, (high - low) * lanes,
                             (stripe.base(layer.output) + low) % self.config.feature_words)

    # ---- report -------------------------------------------------------------------------------

    @property
    def report(self) -> dict:
        """Memory plan and weights, for people and tools."""
        lanes = self.config.lanes
        used: dict[FeatureMap, list[int]] = {}
        for position, layer in enumerate(self.layers):
            for feature_map in layer.maps:
                used.setdefault(feature_map, []).append(position)
        return {
            "feature_bytes_used": self._plan.peak * self.config.lanes,
            "feature_bytes": self.config.feature_bytes,
            "spill_bytes": self.transfers.spill_bytes,
            "reads_output": self.transfers.reads_output,
            "feature_maps": [{
                "tensor": feature_map.tensor, "name": feature_map.name,
                "address": None if feature_map.buffer in self._plan.spilled else feature_map.buffer.address,
                "words": feature_map.words, "layout": "packed" if feature_map.packed else "blocked",
                "bytes": feature_map.words * lanes,
                "byte_address": (None if feature_map.buffer in self._plan.spilled
                                 else feature_map.buffer.address * lanes),
                "first_layer": positions[0], "last_layer": positions[-1],
            } for feature_map, positions in used.items()],
            "stripe_rows": {layer.name: stripe.rows for layer, stripe in self._plan.stripes.items()},
            "weights": [{
                "layer": report.layer, "weight_bytes": report.weight_bytes, "map_bytes": report.map_bytes,
                "parameter_bytes": report.parameter_bytes, "commands": len(report.chunks),
                "output_blocks_at_once": [1 << chunk.unrolling for chunk in report.chunks],
            } for report in self.weights],
            "gated_layers": {layer.name: self._mask_names[layer.mask.tensor] for layer in self.layers if layer.mask},
        }


class _WeightStream:
    """The weights of one layer on their way through the rings: loaded once if one command holds them all,
    otherwise again for every stripe."""

    def __init__(self, assembly: Assembly, layer: ConvLayer):
        tiles = WeightTiles(layer.weights, layer.bias, layer.multipliers, layer.shifts, assembly.config)
        self._transfers = assembly.transfers
        self.chunks = choose_chunks(layer, tiles, assembly.config)
        self._packed = {chunk: tiles.pack(chunk.first_block, chunk.blocks, 1 << chunk.unrolling)
                        for chunk in self.chunks}
        self._placement: Placement | None = None
        parts = list(self._packed.values())
        assembly.weights.append(WeightReport(layer.name, sum(len(part.tiles) for part in parts),
                                             sum(len(part.maps) for part in parts),
                                             sum(len(part.parameters) for part in parts), self.chunks))

    def place(self, chunk: Chunk) -> Placement:
        """Load the weights of a command, unless they are there."""
        if self._placement is None or len(self.chunks) > 1:
            self._placement = self._load(self._packed[chunk])
        return self._placement

    def _load(self, packed: PackedWeights) -> Placement:
        return Placement(self._transfers.stream(packed.tiles, Space.WEIGHT),
                         self._transfers.stream(packed.parameters, Space.PARAMETER),
                         self._transfers.stream(packed.maps, Space.MAP))


class _DepthwiseStream:
    """The weights of a depthwise layer on their way through the rings, like those of a convolution."""

    def __init__(self, assembly: Assembly, layer: DepthwiseLayer):
        filters = layer.weights.transpose(1, 0, 2) if layer.transposed else layer.weights
        self._weights = DepthwiseWeights(filters, layer.bias, layer.multipliers, layer.shifts, assembly.config)
        self._transfers = assembly.transfers
        count = self._weights.blocks_at_once
        if not count:
            raise CapacityError(f"{layer}: the weights of {assembly.config.lanes} channels take "
                                f"{self._weights.block_words * assembly.config.weight_word_bytes} bytes, the weight "
                                f"store has {assembly.config.weight_bytes}")
        total = self._weights.output_blocks
        self.chunks = [(first, min(count, total - first)) for first in range(0, total, count)]
        self._placement: Placement | None = None
        parts = [self._weights.pack(first, count) for first, count in self.chunks]
        assembly.weights.append(WeightReport(layer.name, sum(len(weights) for weights, _parameters in parts), 0,
                                             sum(len(parameters) for _weights, parameters in parts),
                                             [Chunk(first, count, 0) for first, count in self.chunks]))

    def place(self, first: int, count: int) -> Placement:
        """Load the weights of a command, unless they are there."""
        if self._placement is None or len(self.chunks) > 1:
            weights, parameters = self._weights.pack(first, count)
            self._placement = Placement(self._transfers.stream(weights, Space.WEIGHT),
                                        self._transfers.stream(parameters, Space.PARAMETER))
        return self._placement
