"""From gated, fused layers to instructions and the data they load: addresses, loads, stores, weights."""

from __future__ import annotations

import dataclasses

from hw.contract.commands import Opcode, Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.image import Feed, Result
from hw.contract.layouts import align
from hw.contract.registers import Window
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.instructions import Instruction, InstructionWriter, Placement, Region, mask_entries
from sw_driver.compiler.layers import AddLayer, Buffer, ConvLayer, FeatureMap, Layer, Mask, PoolLayer
from sw_driver.compiler.memory import Lifetime, Ring, peak_use, plan
from sw_driver.compiler.unrolling import Chunk, choose_chunks
from sw_driver.compiler.weights import WeightTiles
from sw_driver.graph import Graph

#: Regions of the windows start at multiples of this many bytes.
WINDOW_ALIGNMENT = 64


@dataclasses.dataclass
class WeightReport:
    """What one layer's weights take, and how it is unrolled: for people."""

    layer: str
    weight_bytes: int = 0
    map_bytes: int = 0
    parameter_bytes: int = 0
    chunks: list[Chunk] = dataclasses.field(default_factory=list)


class Assembly:
    """The instructions of a program, in an order in which they could run one after the other.

    Parameters
    ----------
    graph, config : the model and the device. layers : gated and fused.
    wanted : maps to store after the run, with the tensors of each: one map may be several tensors' view.

    Members, after construction
    ---------------------------
    instructions : LOAD offsets in window IMAGE count from the start of `data`.
    data : weights, row maps, parameters, constants.
    feeds, input_bytes : window INPUT. results, output_bytes : window OUTPUT.
    report : memory plan and weights. Raises CapacityError when something does not fit.
    """

    def __init__(self, graph: Graph, config: Config, layers: list[Layer], wanted: dict[FeatureMap, list[int]]):
        self.graph = graph
        self.config = config
        self.layers = layers
        self.wanted = wanted
        self.instructions: list[Instruction] = []
        self.data = bytearray()
        self.feeds: list[Feed] = []
        self.results: list[Result] = []
        self.input_bytes = self.output_bytes = 0
        self.weights: list[WeightReport] = []
        self._writer = InstructionWriter(config)
        self._rings = {Space.WEIGHT: Ring(config.weight_words), Space.MAP: Ring(config.map_entries),
                       Space.PARAMETER: Ring(config.parameter_entries)}
        self._sizes = {Space.FEATURE: config.feature_words, Space.WEIGHT: config.weight_words,
                       Space.MAP: config.map_entries, Space.PARAMETER: config.parameter_entries,
                       Space.MASK: config.mask_words}
        self._entry_bytes = {Space.FEATURE: config.lanes, Space.WEIGHT: config.weight_word_bytes, Space.MAP: 8,
                             Space.MASK: MASK_WORD_BITS // 8, Space.PARAMETER: config.parameter_entry_bytes}
        self._mask_addresses = self._plan_masks()
        self._feature_peak = self._plan_features()
        self._loaded: set[FeatureMap | Mask] = set()
        for layer in layers:
            self._layer(layer)

    # ---- memory plans -------------------------------------------------------------------------

    def _plan_features(self) -> int:
        """Set the address of every buffer; returns the words in use at the busiest time."""
        uses: dict[Buffer, list[int]] = {}
        loaded: set[Buffer] = set()
        for position, layer in enumerate(self.layers):
            for feature_map in layer.maps:
                uses.setdefault(feature_map.buffer, []).append(position)
                if feature_map.loaded:
                    loaded.add(feature_map.buffer)
        for early in (True, False):
            lifetimes = [
                Lifetime(buffer, buffer.words, 0 if early and buffer in loaded else min(positions), max(positions))
                for buffer, positions in uses.items()
            ]
            addresses = plan(lifetimes, self.config.feature_words)
            if addresses is not None:
                for buffer in uses:
                    buffer.address = addresses[buffer]
                return peak_use(lifetimes)[0]
        words, alive = peak_use(lifetimes)
        lanes = self.config.lanes
        names = ", ".join(f"{item.key.name!r} ({item.size * lanes} bytes)" for item in
                          sorted(alive, key=lambda item: -item.size))
        at = next(layer for position, layer in enumerate(self.layers)
                  if all(item.start <= position <= item.end for item in alive))
        raise CapacityError(f"{at} needs the feature maps {names} at once: {words * lanes} bytes"
                            + (", which leaves gaps in" if words <= self.config.feature_words else "; ")
                            + f" the feature memory has {self.config.feature_bytes}")

    def _plan_masks(self) -> dict[Mask, int]:
        uses: dict[Mask, list[int]] = {}
        for position, layer in enumerate(self.layers):
            if layer.mask is not None:
                uses.setdefault(layer.mask, []).append(position)
        for early in (True, False):
            lifetimes = [Lifetime(mask, mask_entries(*mask.size), 0 if early else min(positions), max(positions))
                         for mask, positions in uses.items()]
            addresses = plan(lifetimes, self.config.mask_words)
            if addresses is not None:
                return {mask: addresses[mask] for mask in uses}
        words, alive = peak_use(lifetimes)
        names = ", ".join(f"{item.key.size[0]}x{item.key.size[1]} of {self._tensor_name(item.key.tensor)!r}"
                          for item in alive)
        raise CapacityError(f"The masks {names} take {words} words of {MASK_WORD_BITS} pixels at once; the mask "
                            f"memory has {self.config.mask_words}")

    def _tensor_name(self, tensor: int) -> str:
        return self.graph.input_names[self.graph.inputs.index(tensor)]

    # ---- transfers ----------------------------------------------------------------------------

    def _load(self, window: Window, offset: int, length: int, space: Space, address: int) -> Region:
        """Add a LOAD of `length` bytes; returns what it writes."""
        target = Region(space, address, length // self._entry_bytes[space], self._sizes[space])
        values = {"window": window, "space": space, "offset": offset, "length": length, "address": address}
        self.instructions.append(Instruction(Opcode.LOAD, values, [Region(("window", window), offset, length)],
                                             [target]))
        return target

    def _append_data(self, data: bytes) -> int:
        """Put bytes into the image; returns their offset in `data`."""
        self.data += bytes(align(len(self.data), 8) - len(self.data))
        offset = len(self.data)
        self.data += data
        return offset

    def _feed(self, feed: Feed, length: int) -> int:
        """Give a feed its place in window INPUT; returns its offset."""
        feed.offset = align(self.input_bytes, WINDOW_ALIGNMENT)
        feed.length = length
        self.input_bytes = feed.offset + length
        self.feeds.append(feed)
        return feed.offset

    def _stream(self, data: bytes, space: Space) -> Region:
        """Load bytes of the image into the next region of a ring; an empty region where there are none."""
        count = len(data) // self._entry_bytes[space]
        address = self._rings[space].take(count)
        if not count:
            return Region(space, address, 0, self._sizes[space])
        return self._load(Window.IMAGE, self._append_data(data), len(data), space, address)

    def _load_map(self, feature_map: FeatureMap) -> None:
        if feature_map in self._loaded or not feature_map.loaded:
            return
        self._loaded.add(feature_map)
        length = feature_map.words * self.config.lanes
        if feature_map.feed is not None:
            window, offset = Window.INPUT, self._feed(feature_map.feed, length)
        else:
            assert feature_map.constant is not None
            window, offset = Window.IMAGE, self._append_data(feature_map.constant)
        self._load(window, offset, length, Space.FEATURE, feature_map.buffer.address)

    def _load_mask(self, mask: Mask) -> Region:
        words = mask_entries(*mask.size)
        address = self._mask_addresses[mask]
        if mask not in self._loaded:
            self._loaded.add(mask)
            steps = [{"kernel": list(step.kernel), "stride": list(step.stride), "dilation": list(step.dilation),
                      "pad": list(step.pad), "size": list(step.size)} for step in mask.steps]
            feed = Feed(self._tensor_name(mask.tensor), "mask", 0, 0, mask.height, mask.width, invert=mask.invert,
                        demand=steps)
            offset = self._feed(feed, words * 8)
            self._load(Window.INPUT, offset, words * 8, Space.MASK, address)
        return Region(Space.MASK, address, words, self._sizes[Space.MASK])

    def _store(self, feature_map: FeatureMap, tensors: list[int]) -> None:
        length = feature_map.words * self.config.lanes
        offset = align(self.output_bytes, WINDOW_ALIGNMENT)
        self.output_bytes = offset + length
        values = {"window": Window.OUTPUT, "space": Space.FEATURE, "offset": offset, "length": length,
                  "address": feature_map.buffer.address}
        self.instructions.append(Instruction(Opcode.STORE, values, [self._writer.map_region(feature_map)],
                                             [Region(("window", Window.OUTPUT), offset, length)]))
        for tensor in tensors:
            self.results.append(Result(tensor, list(self.graph.tensors[tensor].shape), offset, length,
                                       feature_map.height, feature_map.width, feature_map.channels))

    # ---- layers -------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> None:
        for feature_map in layer.maps:
            self._load_map(feature_map)
        mask = self._load_mask(layer.mask) if layer.mask is not None else None
        if isinstance(layer, ConvLayer):
            self._convolution(layer, mask)
        elif isinstance(layer, AddLayer):
            self.instructions.append(self._writer.addition(layer, mask))
        elif isinstance(layer, PoolLayer):
            self.instructions.append(self._writer.pooling(layer, mask))
        else:
            raise TypeError(f"no engine runs {layer}")
        writers = [other for other in self.layers if other.output is layer.output]
        if layer.output in self.wanted and layer is writers[-1]:
            self._store(layer.output, self.wanted[layer.output])

    def _convolution(self, layer: ConvLayer, mask: Region | None) -> None:
        tiles = WeightTiles(layer.weights, layer.bias, layer.multipliers, layer.shifts, self.config)
        report = WeightReport(layer.name, chunks=choose_chunks(layer, tiles, self.config))
        for chunk in report.chunks:
            packed = tiles.pack(chunk.first_block, chunk.blocks, 1 << chunk.unrolling)
            placement = Placement(self._stream(packed.tiles, Space.WEIGHT), self._stream(packed.maps, Space.MAP),
                                  self._stream(packed.parameters, Space.PARAMETER))
            self.instructions.append(self._writer.convolution(layer, chunk, placement, mask))
            report.weight_bytes += len(packed.tiles)
            report.map_bytes += len(packed.maps)
            report.parameter_bytes += len(packed.parameters)
        self.weights.append(report)

    @property
    def report(self) -> dict:
        """Memory plan and weights, for people and tools."""
        buffers = {}
        for layer in self.layers:
            for feature_map in layer.maps:
                buffers[feature_map] = {
                    "tensor": feature_map.tensor, "name": feature_map.name, "address": feature_map.buffer.address,
                    "words": feature_map.words, "layout": "packed" if feature_map.packed else "blocked",
                }
        return {
            "feature_bytes_used": self._feature_peak * self.config.lanes,
            "feature_bytes": self.config.feature_bytes,
            "feature_maps": list(buffers.values()),
            "weights": [{
                "layer": report.layer, "weight_bytes": report.weight_bytes, "map_bytes": report.map_bytes,
                "parameter_bytes": report.parameter_bytes, "commands": len(report.chunks),
                "output_blocks_at_once": [1 << chunk.unrolling for chunk in report.chunks],
            } for report in self.weights],
            "gated_layers": {layer.name: self._tensor_name(layer.mask.tensor) for layer in self.layers if layer.mask},
        }
