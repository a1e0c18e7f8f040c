"""LOAD and STORE: windows, rings, and what has a place in them."""

from __future__ import annotations

from collections.abc import Sequence

from hw.contract.commands import Opcode, Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.image import Feed, Result
from hw.contract.layouts import align
from hw.contract.registers import Window
from sim import cycle_model
from sw_driver.compiler.compression import Block, Lead, Part, Table, compress
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.feature_maps import Buffer, FeatureMap
from sw_driver.compiler.instructions import Instruction, Region
from sw_driver.compiler.layers import Layer
from sw_driver.compiler.memory import Ring
from sw_driver.compiler.residency import MEMORIES, NOTHING, Residency
from sw_driver.graph import Graph

#: Regions of the windows start at multiples of this many bytes.
WINDOW_ALIGNMENT = 64

#: What is streamed, and where to, for messages.
_KINDS = {Space.WEIGHT: "weights and tables", Space.MAP: "row maps", Space.PARAMETER: "parameters and tables"}
_MEMORIES = {Space.WEIGHT: "weight store", Space.MAP: "map memory", Space.PARAMETER: "parameter memory"}


class Transfers:
    """Makes LOAD and STORE instructions, and lays out the windows that they use.

    Members
    -------
    data : weights, row maps, parameters; offsets in window IMAGE count from its start.
    blocks : compressed weights, one after the other; offsets of LOAD commands with COMPRESSED count from its start.
    feeds, input_bytes : window INPUT. results, output_bytes : window OUTPUT, spilled maps included.
    spill_bytes : of these, what is not a result. reads_output : whether window OUTPUT is read as well.

    residency : what stays on chip. resident : what is streamed now does, see `begin_layer`. streaming : the
    configuration that a layer's weights are cut for, whose memories have the size of the rings where it is streamed.
    pace : cycles that memory takes for a beat.
    """

    def __init__(self, graph: Graph, config: Config, residency: Residency = NOTHING, *, pace: int = 1):
        self.graph = graph
        self.config = config
        self.residency = residency
        self.resident = False
        self.streaming = config
        self._pace = pace
        self.instructions: list[Instruction] = []
        self.data = bytearray()
        self.blocks = bytearray()
        self.feeds: list[Feed] = []
        self.results: list[Result] = []
        self.input_bytes = self.output_bytes = self.spill_bytes = 0
        self.reads_output = False
        self.sizes = {Space.FEATURE: config.feature_words, Space.WEIGHT: config.weight_words,
                      Space.MAP: config.map_entries, Space.PARAMETER: config.parameter_entries,
                      Space.MASK: config.mask_words}
        self._entry_bytes = {Space.FEATURE: config.lanes, Space.WEIGHT: config.weight_word_bytes, Space.MAP: 8,
                             Space.MASK: MASK_WORD_BITS // 8, Space.PARAMETER: config.parameter_entry_bytes}
        self._sources: dict[FeatureMap, tuple[Window, int]] = {}
        self._homes: dict[Buffer, int] = {}
        self._offsets: dict[bytes, int] = {}
        self._kept = {space: Ring(self.sizes[space]) for space in MEMORIES}
        starts = {space: residency.room(self.sizes[space]) % self.sizes[space] for space in MEMORIES}
        self._streamed = {space: Ring(self.sizes[space] - start, start) for space, start in starts.items()}
        self._tables: dict[bool, Table] = {}  # of the last compressed layer that stays, and of the last that doesn't
        self._lead = Lead(config, pace)

    def begin_layer(self, layer: Layer) -> None:
        """What is streamed from here on is the layer's."""
        self.resident = layer in self.residency.layers
        self.streaming = self.config if self.resident else self.residency.streaming(self.config)

    @property
    def _rings(self) -> dict[Space, Ring]:
        return self._kept if self.resident else self._streamed

    @property
    def kept(self) -> dict[Space, int]:
        """Entries of each memory that what stays takes so far."""
        return {space: ring.taken for space, ring in self._kept.items()}

    # ---- instructions -------------------------------------------------------------------------

    def load(self, window: Window, offset: int, length: int, space: Space, address: int) -> Region:
        """Add a LOAD of `length` bytes; returns what it writes."""
        target = Region(space, address, length // self._entry_bytes[space], self.sizes[space])
        values = {"flags": 0, "window": window, "space": space, "offset": offset, "length": length,
                  "address": address}
        self.reads_output |= window is Window.OUTPUT
        self.instructions.append(Instruction(Opcode.LOAD, values, [Region(("window", window), offset, length)],
                                             [target]))
        return target

    def store(self, offset: int, length: int, address: int) -> None:
        """Add a STORE of `length` bytes of feature memory to window OUTPUT."""
        source = Region(Space.FEATURE, address, length // self.config.lanes, self.config.feature_words)
        values = {"flags": 0, "window": Window.OUTPUT, "space": Space.FEATURE, "offset": offset, "length": length,
                  "address": address}
        self.instructions.append(Instruction(Opcode.STORE, values, [source],
                                             [Region(("window", Window.OUTPUT), offset, length)]))

    def stream(self, data: bytes, space: Space) -> Region:
        """Load bytes of the image into the next region of a ring; an empty region where there are none."""
        count = len(data) // self._entry_bytes[space]
        address = self._rings[space].take(count)
        if not count:
            return Region(space, address, 0, self.sizes[space])
        if data not in self._offsets:
            self._offsets[data] = self.append(data)
        target = self.load(Window.IMAGE, self._offsets[data], len(data), space, address)
        self.instructions[-1].resident = self.resident
        return target

    def compress(self, parts: Sequence[Part], computing: float, *, with_maps: bool = True) -> list[Block | None]:
        """The blocks of the next layer to be loaded; see `compression.compress`."""
        blocks = compress(parts, self._tables.get(self.resident), self._lead, computing, with_maps=with_maps)
        for block in blocks:
            if block is not None:
                self._tables[self.resident] = block.table
        return blocks

    def block(self, block: Block, parameters: bytes) -> tuple[Region, Region, Region]:
        """Load a compressed block and parameters into the next regions of weight store, map and parameter memory."""
        counts = {Space.WEIGHT: block.words, Space.MAP: block.entries,
                  Space.PARAMETER: len(parameters) // self._entry_bytes[Space.PARAMETER]}
        weight, maps, own = (Region(space, self._rings[space].take(count), count, self.sizes[space])
                             for space, count in counts.items())
        if block.data not in self._offsets:
            self._offsets[block.data] = len(self.blocks)
            self.blocks += block.data
        if parameters not in self._offsets:
            self._offsets[parameters] = self.append(parameters)
        values = {**block.fields, "window": Window.IMAGE, "space": Space.WEIGHT, "offset": self._offsets[block.data],
                  "length": len(block.data), "address": weight.first, "map_address": maps.first,
                  "parameter_offset": self._offsets[parameters], "parameter_length": len(parameters),
                  "parameter_address": own.first}
        self.instructions.append(Instruction(
            Opcode.LOAD, values, [], [region for region in (weight, maps, own) if region.count],
            cycles=cycle_model.block(values, self.config, block.maps, block.header, pace=self._pace),
            resident=self.resident))
        return weight, maps, own

    def require_room(self) -> dict[str, int]:
        """Bytes of each memory that what stays takes, and the limit. Raises CapacityError where that is less."""
        report = {}
        for name, space in (("store", Space.WEIGHT), ("map", Space.MAP), ("parameter", Space.PARAMETER)):
            entry = self._entry_bytes[space]
            taken, limit = self._kept[space].taken * entry, self.residency.room(self.sizes[space]) * entry
            report |= {f"{name}_bytes": taken, f"{name}_bytes_limit": limit}
            if taken > limit:
                raise CapacityError(
                    f"No layer's weights can stay on chip beside room for those of the others: the model's "
                    f"{_KINDS[space]} take {taken:,} bytes, the {_MEMORIES[space]} has {limit:,}. Weights "
                    "\"compressed\" are loaded again for every run, and need not fit")
        return report

    def load_feed(self, feed: Feed, length: int, space: Space, address: int) -> None:
        """Give a feed its place in window INPUT and load it."""
        self.load(Window.INPUT, self.feed(feed, length), length, space, address)

    # ---- windows ------------------------------------------------------------------------------

    def append(self, data: bytes) -> int:
        """Put bytes into the image; returns their offset in `data`."""
        self.data += bytes(align(len(self.data), 8) - len(self.data))
        offset = len(self.data)
        self.data += data
        return offset

    def feed(self, feed: Feed, length: int) -> int:
        """Give a feed its place in window INPUT; returns its offset."""
        feed.offset = align(self.input_bytes, WINDOW_ALIGNMENT)
        feed.length = length
        self.input_bytes = feed.offset + length
        self.feeds.append(feed)
        return feed.offset

    def source(self, feature_map: FeatureMap) -> tuple[Window, int]:
        """Window and offset where a map lies in external memory: an input, or a spilled map."""
        if not feature_map.loaded:
            return Window.OUTPUT, self.home(feature_map)
        if feature_map not in self._sources:
            assert feature_map.feed is not None
            offset = self.feed(feature_map.feed, feature_map.words * self.config.lanes)
            self._sources[feature_map] = Window.INPUT, offset
        return self._sources[feature_map]

    def home(self, feature_map: FeatureMap) -> int:
        """Offset in window OUTPUT of what layers wrote to a map's buffer."""
        if feature_map.buffer not in self._homes:
            length = feature_map.buffer.words * self.config.lanes
            self._homes[feature_map.buffer] = align(self.output_bytes, WINDOW_ALIGNMENT)
            self.output_bytes = self._homes[feature_map.buffer] + length
            self.spill_bytes += length
        return self._homes[feature_map.buffer]

    def result(self, feature_map: FeatureMap, tensors: list[int]) -> int:
        """Make a map the result for these tensors; returns its offset in window OUTPUT."""
        length = feature_map.words * self.config.lanes
        if feature_map.buffer not in self._homes:
            self.spill_bytes -= length
        offset = self.home(feature_map)
        for tensor in tensors:
            self.results.append(Result(tensor, list(self.graph.tensors[tensor].shape), offset, length,
                                       feature_map.height, feature_map.width, feature_map.channels))
        return offset
