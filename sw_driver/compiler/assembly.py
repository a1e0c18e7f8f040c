"""From gated, fused layers to instructions and the data they load: addresses, loads, stores, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hw.contract.commands import Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.image import Feed
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.feature_maps import FeatureMap
from sw_driver.compiler.instructions import Instruction, InstructionWriter, Region, Stripe, mask_entries
from sw_driver.compiler.layers import (
    AddLayer,
    CombineLayer,
    ConvLayer,
    CopyLayer,
    DecideLayer,
    DepthwiseLayer,
    GateLayer,
    Layer,
    MaskLayer,
    MulLayer,
    PoolLayer,
)
from sw_driver.compiler.masks import Mask
from sw_driver.compiler.memory import Lifetime, peak_use, plan
from sw_driver.compiler.residency import NOTHING, Residency
from sw_driver.compiler.stripes import FeaturePlanner
from sw_driver.compiler.transfers import Transfers
from sw_driver.compiler.weight_stream import ConvStream, DepthwiseStream, WeightReport, weights_total
from sw_driver.compiler.weights import packed_table
from sw_driver.graph import Graph


class Assembly:
    """The instructions of a program, in an order in which they could run one after the other.

    Parameters
    ----------
    graph, config : the model and the device. layers : gated and fused.
    compressed : whether weights are compressed where that takes fewer bytes. residency : those that stay on chip:
        the instructions that load them are `resident`, and no part of a run. pace : cycles that memory takes for a
        beat.
    wanted : maps to store after the run, with the tensors of each: one map may be several tensors' view.
    rows : output rows of a stripe, for layers that are cut though their maps are on chip.

    Members, after construction
    ---------------------------
    transfers : has the instructions, and what lies in the windows.
    needs : entries that each resident layer takes. report : memory plan and weights.

    Raises CapacityError when something does not fit.
    """

    def __init__(self, graph: Graph, config: Config, layers: list[Layer], wanted: dict[FeatureMap, list[int]],
                 rows: Mapping[Layer, int], *, compressed: bool = True,
                 residency: Residency = NOTHING, pace: int = 1):
        self.config = config
        self.layers = layers
        self.wanted = wanted
        self.compressed = compressed
        self.transfers = Transfers(graph, config, residency, pace=pace)
        self.weights: list[WeightReport] = []
        self._mask_names = {layer.mask_tensor: layer.name for layer in layers if isinstance(layer, MaskLayer)}
        self._mask_names |= dict(zip(graph.inputs, graph.input_names, strict=True))
        self._writer = InstructionWriter(config)
        self._mask_addresses = self._plan_masks()
        self._rows = rows
        self._planner = FeaturePlanner(layers, config)
        self._plan = self._planner.plan()
        self._loaded: set[Mask] = set()
        self._words_loaded: dict[FeatureMap, int] = {}
        self._tables: dict[Layer, Region] = {}
        self.needs: dict[Layer, dict[Space, int]] = {}
        for layer in layers:
            self.transfers.begin_layer(layer)
            before = self.transfers.kept
            self._layer(layer)
            self.needs[layer] = {space: count - before[space] for space, count in self.transfers.kept.items()}

    # ---- masks --------------------------------------------------------------------------------

    def _plan_masks(self) -> dict[Mask, int]:
        uses: dict[Mask, list[int]] = {}
        for position, layer in enumerate(self.layers):
            if layer.mask is not None:
                uses.setdefault(layer.mask, []).append(position)
        for position, layer in reversed(list(enumerate(self.layers))):
            if not isinstance(layer, MaskLayer):
                continue
            own = [mask for mask in uses if mask.tensor == layer.mask_tensor]
            for part in [part for mask in own for part in mask.chain]:  # all are made where the decision is
                uses.setdefault(part, []).append(position)
            if own and isinstance(layer, CombineLayer):
                for source in (layer.first, layer.second):
                    uses.setdefault(source, []).append(position)
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

    def _decided(self, layer: MaskLayer) -> list[Mask]:
        """The masks that come from a decision, each after the one that it is made of."""
        own = [mask for mask in self._mask_addresses if mask.tensor == layer.mask_tensor]
        return sorted(own, key=lambda mask: len(mask.steps))

    def _dilations(self, layer: MaskLayer) -> None:
        for mask in self._decided(layer):
            if mask.steps:
                self.transfers.instructions.append(self._writer.dilation(
                    layer, mask, self._load_mask(mask.chain[-2]), self._load_mask(mask)))

    # ---- layers -------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> None:
        inputs = [item for item in layer.maps if item.loaded and item.buffer not in self._plan.spilled]
        read = {operand.map for operand in layer.operands}
        for feature_map in inputs:
            if feature_map not in read:
                self._load_until(feature_map, feature_map.words)
        mask = self._load_mask(layer.mask) if layer.mask is not None else None
        stream: ConvStream | DepthwiseStream | None = None
        weighted = [other for other in self.layers if isinstance(other, (ConvLayer, DepthwiseLayer))]
        if isinstance(layer, ConvLayer):
            stream = ConvStream(self.transfers, layer, self.compressed, last=layer is weighted[-1])
        elif isinstance(layer, DepthwiseLayer):
            stream = DepthwiseStream(self.transfers, layer, self.compressed)
        if stream is not None:
            self.weights.append(stream.report)
        writers = [other for other in self.layers if other.output is layer.output]
        last = layer is writers[-1] and layer.output in self.wanted
        if last and layer.output.buffer in self._plan.spilled:
            self.transfers.result(layer.output, self.wanted[layer.output])
        rows = self._stripe_rows(layer, stream)
        for index, first in enumerate(range(0, layer.output.height, rows)):
            stripe = self._stripe(layer, index, first, min(first + rows, layer.output.height))
            for operand in layer.operands:
                if operand.map in inputs:
                    self._load_until(operand.map, operand.words(*layer.rows(operand, first, stripe.end),
                                                                self.config.lanes)[1])
            self._compute(layer, stripe, mask, stream)
            self._store_stripe(layer, stripe)
        for feature_map in inputs:
            self._load_until(feature_map, feature_map.words)
        if isinstance(layer, MaskLayer):
            self._dilations(layer)
        if last and layer.output.buffer not in self._plan.spilled:
            self.transfers.store(self.transfers.result(layer.output, self.wanted[layer.output]),
                                 layer.output.words * self.config.lanes, layer.output.buffer.address)

    def _load_until(self, feature_map: FeatureMap, word: int) -> None:
        """Load the words of an input before this one, but for those that are there: a layer's first stripe does not
        wait for the rows of its last."""
        unit = self._planner.unit
        first, end = self._words_loaded.get(feature_map, 0), min(-(-word // unit) * unit, feature_map.words)
        if first < end:
            self._words_loaded[feature_map] = end
            window, offset = self.transfers.source(feature_map)
            lanes = self.config.lanes
            self.transfers.load(window, offset + first * lanes, (end - first) * lanes, Space.FEATURE,
                                feature_map.buffer.address + first)

    def _add(self, instruction: Instruction, stream: ConvStream | DepthwiseStream | None = None) -> None:
        """Append a command, with its layer's table: that is loaded once, or with weights that do not stay either."""
        layer = instruction.layer
        if layer is not None and layer.table is not None:
            if layer not in self._tables or (stream is not None and not stream.keeps):
                self._tables[layer] = self._load_table(layer, layer.table)
            instruction.set_table(self._tables[layer])
        self.transfers.instructions.append(instruction)

    def _load_table(self, layer: Layer, table: np.ndarray) -> Region:
        if isinstance(layer, ConvLayer):
            return self.transfers.stream(packed_table(table, self.config), Space.PARAMETER)
        return self.transfers.stream(table.tobytes(), Space.WEIGHT)

    def _compute(self, layer: Layer, stripe: Stripe, mask: Region | None,
                 stream: ConvStream | DepthwiseStream | None) -> None:
        if isinstance(layer, ConvLayer) and isinstance(stream, ConvStream):
            for chunk in stream.chunks:
                placement = stream.place(chunk)
                self._add(self._writer.convolution(layer, stripe, chunk, placement, mask), stream)
        elif isinstance(layer, DepthwiseLayer) and isinstance(stream, DepthwiseStream):
            for first, count in stream.chunks:
                placement = stream.place(first, count)
                self._add(self._writer.depthwise(layer, stripe, first, count, placement, mask), stream)
        elif isinstance(layer, DecideLayer):
            for decided in self._decided(layer):
                if not decided.steps:
                    self._add(self._writer.decision(layer, stripe, decided, self._load_mask(decided)))
        elif isinstance(layer, GateLayer):
            for opened in self._decided(layer):
                self._add(self._writer.opening(layer, self._load_mask(opened)))
        elif isinstance(layer, CombineLayer):
            for combined in self._decided(layer):
                if not combined.steps:
                    sources = [self._load_mask(source) for source in (layer.first, layer.second)]
                    self._add(self._writer.combination(layer, combined, sources, self._load_mask(combined)))
        elif isinstance(layer, CopyLayer):
            for piece in layer.pieces:
                command = self._writer.copy(layer, stripe, piece, mask)
                if command is not None:
                    self._add(command)
        elif isinstance(layer, MulLayer):
            self._add(self._writer.product(layer, stripe, mask))
        elif isinstance(layer, AddLayer):
            self._add(self._writer.addition(layer, stripe, mask))
        elif isinstance(layer, PoolLayer):
            self._add(self._writer.pooling(layer, stripe, mask))
        else:
            raise TypeError(f"no engine runs {layer}")

    # ---- stripes ------------------------------------------------------------------------------

    def _stripe_rows(self, layer: Layer, stream: ConvStream | DepthwiseStream | None) -> int:
        """Output rows of a stripe. Maps on chip are cut only where that does not load the weights again."""
        if layer in self._plan.stripes:
            return self._plan.stripes[layer].rows
        if stream is not None and not stream.keeps:
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
    def _residency(self) -> dict | None:
        kept = self.transfers.residency.layers
        if not kept:
            return None
        weighted = {report.layer: report for report in self.weights}
        streamed = [report for name, report in weighted.items() if name not in {layer.name for layer in kept}]
        return {**self.transfers.require_room(), "layers": len(weighted) - len(streamed),
                "streamed_layers": len(streamed),
                "streamed_bytes": sum(report.weight_bytes + report.parameter_bytes for report in streamed)}

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
            "weights": [dataclasses.asdict(report) for report in self.weights],
            "weights_total": weights_total(self.weights),
            "residency": self._residency,
            "gated_layers": {layer.name: self._mask_names[layer.mask.tensor] for layer in self.layers if layer.mask},
        }
