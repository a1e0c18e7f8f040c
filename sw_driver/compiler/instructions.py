"""Commands before they have an order, tokens or final addresses: what each one does and which memory it touches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hw.contract.commands import ENGINE_OF, Engine, Flag, Opcode, Space
from hw.contract.config import Config
from hw.contract.layouts import mask_row_words
from hw.contract.registers import Window
from sw_driver.compiler.layers import AddLayer, ConvLayer, FeatureMap, Geometry, Layer, Operand, PoolLayer
from sw_driver.compiler.quantisation import AddParameters
from sw_driver.compiler.unrolling import Chunk

#: A memory: one on chip, or a window of external memory.
Memory = Space | tuple[str, Window]


@dataclasses.dataclass(frozen=True)
class Region:
    """Entries first .. first + count - 1 of a memory on chip of `size` entries, around its end; or bytes of a window."""

    memory: Memory
    first: int
    count: int
    size: int = 0

    def intervals(self) -> Iterator[tuple[int, int]]:
        """First entry and the one after the last; two pairs for a region that wraps around."""
        if not self.size:
            yield self.first, self.first + self.count
            return
        count, first = min(self.count, self.size), self.first % self.size
        yield first, min(first + count, self.size)
        if first + count > self.size:
            yield 0, first + count - self.size


@dataclasses.dataclass(eq=False)
class Instruction:
    """A command in the making.

    Parameters
    ----------
    opcode, values : the command; `signal` and `wait_*` are set by the scheduler.
    reads, writes : the memory it touches.
    layer : of a compute command; with what its record stands for: pixels, multiply-accumulates of a pixel, valid
        output channels in the last block.
    """

    opcode: Opcode
    values: dict[str, int]
    reads: list[Region]
    writes: list[Region]
    layer: Layer | None = None
    pixels: int = 0
    pixel_macs: int = 0
    last_lanes: int = 0

    @property
    def engine(self) -> Engine:
        """The engine that it is for."""
        return ENGINE_OF[self.opcode]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a CONV command's weights lie in their rings, and the mask of a gated command (-1: not gated)."""

    weight: Region
    maps: Region
    parameters: Region


class InstructionWriter:
    """Writes the compute commands of layers whose buffers have addresses."""

    def __init__(self, config: Config):
        self.config = config

    def feature(self, first: int, words: int) -> Region:
        """A region of feature memory."""
        return Region(Space.FEATURE, first, words, self.config.feature_words)

    def map_region(self, feature_map: FeatureMap) -> Region:
        """All of a feature map."""
        return self.feature(feature_map.buffer.address, feature_map.words)

    def convolution(self, layer: ConvLayer, chunk: Chunk, placement: Placement, mask: Region | None) -> Instruction:
        """The CONV command of some output blocks of a layer."""
        config, output = self.config, layer.output
        values = {
            **self._output(layer, chunk.first_block, chunk.blocks, mask),
            **self._input(layer.input, layer.geometry),
            "input_blocks": layer.input_blocks, "last_lanes": layer.last_lanes, "unrolling": chunk.unrolling,
            "weight_base": placement.weight.first,
            "map_base": placement.maps.first * config.maps_per_entry,
            "parameter_base": placement.parameters.first,
            "input_zero_point": layer.input_zero_point, "output_zero_point": layer.output_zero_point,
            "output_min": layer.output_min, "output_max": layer.output_max,
        }
        if layer.input.map.packed:
            values["flags"] |= Flag.PACKED
        if layer.residual is not None and layer.add is not None:
            values["flags"] |= Flag.ADD
            values["b_base"] = layer.residual.map.buffer.address + chunk.first_block
            values |= _addition(layer.add, ("a_zero_point",))
        reads = [self.map_region(operand.map) for operand in layer.operands]
        reads += [placement.weight, placement.maps, placement.parameters]
        channels = min(output.channels - chunk.first_block * config.lanes, chunk.blocks * config.lanes)
        return self._instruction(Opcode.CONV, layer, values, reads, mask, layer.taps_channels * channels,
                                 channels - (chunk.blocks - 1) * config.lanes)

    def addition(self, layer: AddLayer, mask: Region | None) -> Instruction:
        """The ADD command of a layer."""
        values = self._output(layer, 0, layer.output.blocks, mask) | _addition(layer.parameters, ())
        for name, operand in (("a", layer.a), ("b", layer.b)):
            values |= {f"{name}_base": operand.map.buffer.address, f"{name}_row_stride": operand.width * operand.blocks,
                       f"{name}_pixel_stride": operand.blocks}
        reads = [self.map_region(operand.map) for operand in layer.operands]
        return self._instruction(Opcode.ADD, layer, values, reads, mask)

    def pooling(self, layer: PoolLayer, mask: Region | None) -> Instruction:
        """The AVERAGE_POOL or MAX_POOL command of a layer."""
        values = self._output(layer, 0, layer.output.blocks, mask) | self._input(layer.input, layer.geometry)
        values |= {"output_min": layer.output_min, "output_max": layer.output_max}
        opcode = Opcode.AVERAGE_POOL if layer.average else Opcode.MAX_POOL
        return self._instruction(opcode, layer, values, [self.map_region(layer.input.map)], mask)

    def _instruction(self, opcode: Opcode, layer: Layer, values: dict[str, int], reads: list[Region],
                     mask: Region | None, pixel_macs: int = 0, last_lanes: int = 0) -> Instruction:
        reads = [region for region in reads if region.count] + ([mask] if mask is not None else [])
        return Instruction(opcode, values, reads, [self.map_region(layer.output)], layer,
                           values["output_rows"] * values["output_width"], pixel_macs, last_lanes)

    def _output(self, layer: Layer, first_block: int, count: int, mask: Region | None) -> dict[str, int]:
        output = layer.output
        values = {
            "flags": 0,
            "output_base": output.buffer.address + first_block, "output_row_stride": output.width * output.blocks,
            "output_pixel_stride": output.blocks, "output_y": 0, "output_rows": output.height,
            "output_width": output.width, "output_blocks": count,
        }
        if mask is not None:
            values["flags"] |= Flag.GATED
            values["mask_base"] = mask.first
        return values

    def _input(self, operand: Operand, geometry: Geometry) -> dict[str, int]:
        source = operand.map
        if source.packed:
            strides = {"input_base": source.buffer.address * self.config.lanes,
                       "input_row_stride": source.row_bytes, "input_pixel_stride": source.channels}
        else:
            strides = {"input_base": source.buffer.address, "input_row_stride": operand.width * operand.blocks,
                       "input_pixel_stride": operand.blocks}
        return strides | {
            "input_height": operand.height, "input_width": operand.width,
            "kernel_height": geometry.kernel[0], "kernel_width": geometry.kernel[1],
            "stride_y": geometry.stride[0], "stride_x": geometry.stride[1],
            "dilation_y": geometry.dilation[0], "dilation_x": geometry.dilation[1],
            "pad_top": geometry.pad[0], "pad_left": geometry.pad[1],
        }


def _addition(parameters: AddParameters, without: tuple[str, ...]) -> dict[str, int]:
    fields = dataclasses.asdict(parameters)
    return {name: value for name, value in fields.items() if name not in without}


def mask_entries(height: int, width: int) -> int:
    """Mask memory words of a mask."""
    return height * mask_row_words(width)
