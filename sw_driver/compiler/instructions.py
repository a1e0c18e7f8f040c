"""Commands before they have an order, tokens or final addresses: what each one does and which memory it touches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hw.contract.commands import ENGINE_OF, Engine, Flag, Opcode, Space
from hw.contract.config import Config
from hw.contract.layouts import mask_row_words
from hw.contract.registers import Window
from sw_driver.compiler.feature_maps import Buffer, FeatureMap, Operand
from sw_driver.compiler.layers import (
    AddLayer,
    CombineLayer,
    ConvLayer,
    CopyLayer,
    DecideLayer,
    DepthwiseLayer,
    GateLayer,
    Geometry,
    Layer,
    MaskLayer,
    MulLayer,
    Piece,
    PoolLayer,
)
from sw_driver.compiler.masks import Grain, Mask
from sw_driver.compiler.unrolling import Chunk

#: A memory: one on chip, or a window of external memory.
Memory = Space | tuple[str, Window]


@dataclasses.dataclass(frozen=True)
class Region:
    """Entries first .. first + count - 1 of a memory on chip of `size` entries, around its end; or window bytes."""

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

    def meets(self, other: Region) -> bool:
        """Whether they have an entry in common."""
        return self.memory == other.memory and any(a < d and c < b for a, b in self.intervals()
                                                   for c, d in other.intervals())


@dataclasses.dataclass(eq=False)
class Instruction:
    """A command in the making.

    Parameters
    ----------
    opcode, values : the command; `signal` and `wait_*` are set by the scheduler.
    reads, writes : the memory it touches. fetches : what a convolution reads before it is drained; one of `reads`.
    layer : of a compute command; with what its record stands for: pixels, multiply-accumulates of a pixel, valid
        output channels in the last block.
    cycles : expected, where that is known better than from the fields; else 0. resident : of a LOAD: it is not part of
        every run, what it brings stays.
    """

    opcode: Opcode
    values: dict[str, int]
    reads: list[Region]
    writes: list[Region]
    layer: Layer | None = None
    pixels: int = 0
    pixel_macs: int = 0
    last_lanes: int = 0
    fetches: Region | None = None
    cycles: int = 0
    resident: bool = False

    @property
    def engine(self) -> Engine:
        """The engine that it is for."""
        return ENGINE_OF[self.opcode]

    def set_table(self, table: Region) -> None:
        """Let every result go through the table that lies there."""
        self.values["flags"] |= Flag.TABLE
        self.values["table_base"] = table.first
        self.reads.append(table)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a command's weights lie in their rings; those of DEPTHWISE have no maps."""

    weight: Region
    parameters: Region | None = None
    maps: Region | None = None


@dataclasses.dataclass(frozen=True)
class Stripe:
    """Output rows first .. end - 1 of a layer.

    bases : for buffers of which only a part is on chip: the word where word 0 of the buffer would lie; it may
        be negative.
    """

    first: int
    end: int
    bases: dict[Buffer, int] = dataclasses.field(default_factory=dict)

    def base(self, feature_map: FeatureMap) -> int:
        """The feature memory word of word 0 of a map."""
        return self.bases.get(feature_map.buffer, feature_map.buffer.address)


class InstructionWriter:
    """Writes the compute commands of layers whose buffers have addresses."""

    def __init__(self, config: Config):
        self.config = config

    def feature(self, first: int, words: int) -> Region:
        """A region of feature memory."""
        return Region(Space.FEATURE, first % self.config.feature_words, words, self.config.feature_words)

    def convolution(self, layer: ConvLayer, stripe: Stripe, chunk: Chunk, placement: Placement,
                    mask: Region | None) -> Instruction:
        """The CONV command of some output blocks of a layer."""
        config, output = self.config, layer.output
        assert placement.maps is not None
        assert placement.parameters is not None
        values = {
            **self._output(layer, stripe, chunk.first_block, chunk.blocks, mask),
            **self._input(layer.input, layer.geometry, stripe),
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
            values["b_base"] = self._word(stripe.base(layer.residual.map) + chunk.first_block)
            fields = dataclasses.asdict(layer.add)
            values |= {name: value for name, value in fields.items() if name != "a_zero_point"}
        channels = min(output.channels - chunk.first_block * config.lanes, chunk.blocks * config.lanes)
        instruction = self._instruction(Opcode.CONV, layer, stripe, values, mask,
                                        [placement.weight, placement.maps, placement.parameters],
                                        layer.taps_channels * channels, channels - (chunk.blocks - 1) * config.lanes)
        instruction.fetches = self._read(layer, layer.input, stripe)
        return instruction

    def addition(self, layer: AddLayer, stripe: Stripe, mask: Region | None) -> Instruction:
        """The ADD command of a layer."""
        values = self._output(layer, stripe, 0, layer.output.blocks, mask) | dataclasses.asdict(layer.parameters)
        for name, operand in (("a", layer.a), ("b", layer.b)):
            values |= {f"{name}_base": self._word(stripe.base(operand.map)),
                       f"{name}_row_stride": operand.width * operand.blocks, f"{name}_pixel_stride": operand.blocks}
        return self._instruction(Opcode.ADD, layer, stripe, values, mask)

    def pooling(self, layer: PoolLayer, stripe: Stripe, mask: Region | None) -> Instruction:
        """The AVERAGE_POOL or MAX_POOL command of a layer."""
        values = (self._output(layer, stripe, 0, layer.output.blocks, mask)
                  | self._input(layer.input, layer.geometry, stripe)
                  | {"output_min": layer.output_min, "output_max": layer.output_max})
        opcode = Opcode.AVERAGE_POOL if layer.average else Opcode.MAX_POOL
        if layer.mean is not None:
            opcode = Opcode.MEAN
            values |= dataclasses.asdict(layer.mean)
        return self._instruction(opcode, layer, stripe, values, mask)

    def product(self, layer: MulLayer, stripe: Stripe, mask: Region | None) -> Instruction:
        """The MUL command of a layer."""
        values = self._output(layer, stripe, 0, layer.output.blocks, mask) | {
            "sum_multiplier": layer.multiplier, "sum_shift": layer.shift, "a_zero_point": layer.a_zero_point,
            "b_zero_point": layer.b_zero_point, "sum_zero_point": layer.output_zero_point,
            "sum_min": layer.output_min, "sum_max": layer.output_max}
        for name, operand, still in (("a", layer.a, False), ("b", layer.b, layer.broadcast)):
            values |= {f"{name}_base": self._word(stripe.base(operand.map)),
                       f"{name}_row_stride": 0 if still else operand.width * operand.blocks,
                       f"{name}_pixel_stride": 0 if still else operand.blocks}
        return self._instruction(Opcode.MUL, layer, stripe, values, mask)

    def decision(self, layer: DecideLayer, stripe: Stripe, mask: Mask, target: Region) -> Instruction:
        """The DECIDE command that makes a mask without demand steps."""
        one = Geometry((1, 1), (1, 1), (1, 1), (0, 0))
        values = {
            "flags": 0, "output_y": stripe.first, "output_rows": stripe.end - stripe.first,
            "output_width": layer.output.width, "output_blocks": 1,
            "mask_base": target.first + stripe.first * mask_row_words(layer.output.width),
            "bound": layer.bound, "invert": int(layer.invert != mask.invert),
            **self._input(layer.input, one, stripe),
        }
        instruction = self._instruction(Opcode.DECIDE, layer, stripe, values, None)
        instruction.writes = [target]
        return instruction

    def opening(self, layer: GateLayer, target: Region) -> Instruction:
        """The DECIDE command that tells, block by block, whether a gate is open: a row of one pixel for each."""
        stripe = Stripe(0, layer.output.height)
        values = {
            "flags": 0, "output_y": 0, "output_rows": layer.output.height, "output_width": 1, "output_blocks": 1,
            "mask_base": target.first, "bound": layer.closed, "any_lane": 1,
            **self._input(layer.input, Geometry((1, 1), (1, 1), (1, 1), (0, 0)), stripe),
            "input_height": layer.output.height, "input_row_stride": 1,
        }
        instruction = self._instruction(Opcode.DECIDE, layer, stripe, values, None)
        instruction.writes = [target]
        return instruction

    def combination(self, layer: CombineLayer, mask: Mask, sources: list[Region], target: Region) -> Instruction:
        """The COMBINE command that makes a mask without demand steps of the two sources."""
        inverted = (*layer.inverted[:2], layer.inverted[2] != mask.invert)
        operands = layer.first, layer.second
        values = {
            "flags": 0, "output_y": 0, "output_rows": mask.height, "output_width": mask.width, "output_blocks": 1,
            "mask_base": sources[0].first, "other_base": sources[1].first, "target_base": target.first,
            "inverted": sum(1 << i for i, bit in enumerate(inverted) if bit),
            "spread": sum(1 << i for i, operand in enumerate(operands) if operand.grain is Grain.LAYER),
        }
        return Instruction(Opcode.COMBINE, values, sources, [target], layer)

    def dilation(self, layer: MaskLayer, mask: Mask, source: Region, target: Region) -> Instruction:
        """The DILATE command that takes the last demand step of a mask."""
        *_steps, before, after = mask.chain
        step = after.steps[-1]
        values = {
            "flags": 0, "output_y": 0, "output_rows": before.size[0], "output_width": before.size[1],
            "output_blocks": 1, "mask_base": source.first, "target_base": target.first,
            "input_height": step.size[0], "input_width": step.size[1],
            "kernel_height": step.kernel[0], "kernel_width": step.kernel[1],
            "stride_y": step.stride[0], "stride_x": step.stride[1],
            "dilation_y": step.dilation[0], "dilation_x": step.dilation[1],
            "pad_top": step.pad[0], "pad_left": step.pad[1],
        }
        return Instruction(Opcode.DILATE, values, [source], [target], layer)

    def copy(self, layer: CopyLayer, stripe: Stripe, piece: Piece, mask: Region | None) -> Instruction | None:
        """The MAX_POOL command that copies, or fills, a piece of a layer; None where the stripe has nothing of it."""
        low, high = piece.rows(stripe.first, stripe.end)
        if low == high:
            return None
        output, source = layer.output, piece.input
        row = output.width * output.blocks
        first = (piece.origin[0] + low * piece.step[0]) * row + piece.origin[1] * output.blocks + piece.first_block
        filled = piece.fill is not None
        source_row = source.width * source.blocks
        values = {
            "flags": 0, "output_base": self._word(stripe.base(output) + first),
            "output_row_stride": piece.step[0] * row, "output_pixel_stride": piece.step[1] * output.blocks,
            "output_y": 0, "output_rows": high - low, "output_width": piece.count[1], "output_blocks": source.blocks,
            "input_base": self._word(stripe.base(source.map) + (0 if filled else (
                (piece.start[0] + low * piece.stride[0]) * source_row + piece.start[1] * source.blocks))),
            "input_row_stride": 0 if filled else piece.stride[0] * source_row,
            "input_pixel_stride": 0 if filled else piece.stride[1] * source.blocks,
            "input_height": high - low, "input_width": piece.count[1],
            "kernel_height": 1, "kernel_width": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
            "pad_top": 0, "pad_left": 0,
            "output_min": -128 if piece.fill is None else piece.fill,
            "output_max": 127 if piece.fill is None else piece.fill,
        }
        values |= self._gating(layer, stripe, 0, mask)
        return self._instruction(Opcode.MAX_POOL, layer, stripe, values, mask)

    def depthwise(self, layer: DepthwiseLayer, stripe: Stripe, first_block: int, count: int, placement: Placement,
                  mask: Region | None) -> Instruction:
        """The DEPTHWISE command of some channel blocks of a layer."""
        assert placement.parameters is not None
        values = (self._output(layer, stripe, first_block, count, mask)
                  | self._input(layer.input, layer.geometry, stripe)
                  | {"weight_base": placement.weight.first, "parameter_base": placement.parameters.first,
                     "input_zero_point": layer.input_zero_point, "output_zero_point": layer.output_zero_point,
                     "output_min": layer.output_min, "output_max": layer.output_max})
        values["input_base"] = self._word(values["input_base"] + first_block)
        if layer.transposed:
            self._transpose(values)
        channels = min(layer.output.channels - first_block * self.config.lanes, count * self.config.lanes)
        kernel = layer.geometry.kernel
        return self._instruction(Opcode.DEPTHWISE, layer, stripe, values, mask,
                                 [placement.weight, placement.parameters], kernel[0] * kernel[1] * channels)

    def _transpose(self, values: dict[str, int]) -> None:
        """Let the command walk along columns: rows become columns, the first output row is made row 0."""
        first = values["output_y"]
        before = first * values["stride_y"] - values["pad_top"]  # input rows that this stripe does not reach
        skipped = max(before, 0)
        values["input_base"] = self._word(values["input_base"] + skipped * values["input_row_stride"])
        values["output_base"] = self._word(values["output_base"] + first * values["output_row_stride"])
        values["input_height"] -= skipped
        values["pad_top"] = max(-before, 0)
        for one, other in (("input_height", "input_width"), ("input_row_stride", "input_pixel_stride"),
                           ("kernel_height", "kernel_width"), ("stride_y", "stride_x"), ("dilation_y", "dilation_x"),
                           ("pad_top", "pad_left"), ("output_rows", "output_width"),
                           ("output_row_stride", "output_pixel_stride")):
            values[one], values[other] = values[other], values[one]
        values["output_y"] = 0

    def _word(self, address: int) -> int:
        return address % self.config.feature_words

    def _instruction(self, opcode: Opcode, layer: Layer, stripe: Stripe, values: dict[str, int],
                     mask: Region | None, weights: list[Region] | None = None, pixel_macs: int = 0,
                     last_lanes: int = 0) -> Instruction:
        reads = [region for region in weights or [] if region.count]
        reads += [self._read(layer, operand, stripe) for operand in layer.operands]
        if mask is not None:
            reads.append(mask)
        row = layer.output.width * layer.output.blocks
        write = self.feature(stripe.base(layer.output) + stripe.first * row, (stripe.end - stripe.first) * row)
        return Instruction(opcode, values, reads, [write], layer, values["output_rows"] * values["output_width"],
                           pixel_macs, last_lanes)

    def _read(self, layer: Layer, operand: Operand, stripe: Stripe) -> Region:
        """What a stripe reads of an operand."""
        first, end = operand.words(*layer.rows(operand, stripe.first, stripe.end), self.config.lanes)
        return self.feature(stripe.base(operand.map) + first, end - first)

    def _output(self, layer: Layer, stripe: Stripe, first_block: int, count: int, mask: Region | None,
                ) -> dict[str, int]:
        output = layer.output
        return {
            "flags": 0,
            "output_base": self._word(stripe.base(output) + first_block),
            "output_row_stride": output.width * output.blocks, "output_pixel_stride": output.blocks,
            "output_y": stripe.first, "output_rows": stripe.end - stripe.first,
            "output_width": output.width, "output_blocks": count, **self._gating(layer, stripe, first_block, mask),
        }

    def _gating(self, layer: Layer, stripe: Stripe, first_block: int, mask: Region | None) -> dict[str, int]:
        """The fields that gate a command by the layer's mask, which lies in `mask`."""
        if mask is None or layer.mask is None:
            return {}
        if layer.mask.grain is Grain.PIXEL:
            return {"flags": Flag.GATED, "mask_base": mask.first + stripe.first * mask_row_words(layer.output.width)}
        return {"flags": Flag.GATED | Flag.WHOLE,
                "mask_base": mask.first + (first_block if layer.mask.grain is Grain.BLOCK else 0)}

    def _input(self, operand: Operand, geometry: Geometry, stripe: Stripe) -> dict[str, int]:
        source, base = operand.map, stripe.base(operand.map)
        if source.packed:
            strides = {"input_base": self._word(base) * self.config.lanes,
                       "input_row_stride": source.row_bytes, "input_pixel_stride": source.channels}
        else:
            strides = {"input_base": self._word(base), "input_row_stride": operand.width * operand.blocks,
                       "input_pixel_stride": operand.blocks}
        return strides | {
            "input_height": operand.height, "input_width": operand.width,
            "kernel_height": geometry.kernel[0], "kernel_width": geometry.kernel[1],
            "stride_y": geometry.stride[0], "stride_x": geometry.stride[1],
            "dilation_y": geometry.dilation[0], "dilation_x": geometry.dilation[1],
            "pad_top": geometry.pad[0], "pad_left": geometry.pad[1],
        }


def mask_entries(height: int, width: int) -> int:
    """Mask memory words of a mask."""
    return height * mask_row_words(width)
