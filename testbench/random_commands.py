"""Random memories and commands for the compute engines: the same for Amaranth's simulator, cocotb and golden model.

Inputs lie in the lower half of the feature memory, outputs in its third quarter, second operands in its last.
"""

from __future__ import annotations

import itertools

import numpy as np

from hw.contract import layouts
from hw.contract.commands import ENGINE_OF, Engine, Flag, Opcode, Space
from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_TAPS
from sim.golden.addressing import all_pixels, input_words, output_words
from sim.golden.memory import OnChip


def random_memory(rng: np.random.Generator, config: Config, zero_point: int | None = None) -> OnChip:
    """On-chip memories full of random entries.

    zero_point : four of five activations have this value; None: all of them are random.
    Row maps have one of several densities, each decision mask word as well; requantisation scales by 2^-12 to 2^-5.
    """
    memory = OnChip(config)
    for space in Space:
        memory.entries[space][:] = rng.integers(0, 256, memory.entries[space].shape, dtype=np.uint8)
    bits = rng.random(memory.entries[Space.MAP].size * 8) < float(rng.choice([0.3, 0.8, 1.0]))
    memory.entries[Space.MAP][:] = np.packbits(bits, bitorder="little").reshape(-1, 8)
    q = config.requantise_lanes
    parameters = memory.entries[Space.PARAMETER]
    entries = len(parameters)
    bias = rng.integers(-20000, 20000, (entries, q)).astype("<i4")
    multiplier = rng.integers(1 << 30, 1 << 31, (entries, q)).astype("<i4")
    shift = rng.integers(-12, -5, (entries, q)).astype(np.int8)
    parameters[:, : 4 * q] = bias.view(np.uint8).reshape(entries, -1)
    parameters[:, 4 * q : 8 * q] = multiplier.view(np.uint8).reshape(entries, -1)
    parameters[:, 8 * q : 9 * q] = shift.view(np.uint8).reshape(entries, -1)
    if zero_point is not None:
        feature = memory.entries[Space.FEATURE]
        feature[rng.random(feature.shape) < 0.8] = zero_point & 255
    for entry in memory.entries[Space.MASK]:
        entry[:] = np.packbits(rng.random(64) < rng.choice([0, 0.02, 0.5, 1.0]))
    return memory


def random_convolution(rng: np.random.Generator, config: Config, zero_point: int | None = None) -> dict[str, int]:
    """Fields of a CONV command: any kernel, stride, dilation, padding, unrolling; gated, packed, with a residual ADD.

    zero_point : of the input; None: random.
    """
    lanes = config.lanes
    flags = int(rng.choice([0, Flag.GATED, Flag.ADD, Flag.GATED | Flag.ADD])) | int(rng.choice([0, 0, Flag.TABLE]))
    if flags & Flag.GATED and rng.random() < 0.25:
        flags |= Flag.WHOLE
    height, width = int(rng.integers(1, 8)), int(rng.integers(1, 12))
    kernel = [int(rng.integers(1, min(5, 2 + side))) for side in (height, width)]
    stride = [int(rng.integers(1, 4)) for _ in range(2)]
    dilation = [int(rng.integers(1, 3)) for _ in range(2)]
    pad = [int(rng.integers(0, k)) for k in kernel]
    blocks, out_blocks = int(rng.integers(1, 4)), int(rng.integers(1, 2 * config.rows + 2))
    out_h = max(1, (height + 2 * pad[0] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1)
    out_w = max(1, (width + 2 * pad[1] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1)
    if rng.random() < 0.15:  # wider than a mask word
        out_w, width, height, out_h = 70, 70 * stride[1], 1, 1
    output_y = int(rng.integers(0, out_h))
    values = {
        "flags": flags, "input_base": 0, "input_row_stride": width * blocks, "input_pixel_stride": blocks,
        "input_height": height, "input_width": width, "kernel_height": kernel[0], "kernel_width": kernel[1],
        "stride_y": stride[0], "stride_x": stride[1], "dilation_y": dilation[0], "dilation_x": dilation[1],
        "pad_top": pad[0], "pad_left": pad[1], "input_blocks": blocks, "last_lanes": lanes,
        "unrolling": int(rng.integers(0, len(config.unrollings))),
        "output_base": config.feature_words // 2, "output_row_stride": out_w * out_blocks,
        "output_pixel_stride": out_blocks, "output_y": output_y, "output_rows": out_h - output_y,
        "output_width": out_w, "output_blocks": out_blocks, "mask_base": int(rng.integers(0, config.mask_words // 2)),
        "weight_base": int(rng.integers(0, config.weight_words)), "map_base": int(rng.integers(0, config.weight_maps)),
        "parameter_base": int(rng.integers(0, config.parameter_entries)),
        "input_zero_point": int(rng.integers(-128, 128)), "output_zero_point": int(rng.integers(-128, 128)),
        "output_min": -128, "output_max": 127, "b_base": config.feature_words * 3 // 4, **_addition(rng),
        "table_base": int(rng.integers(0, config.parameter_entries)),
    }
    if rng.random() < 0.3:
        channels = int(rng.integers(1, 5))
        bytes_in_row = kernel[1] * channels
        values |= {
            "flags": flags | Flag.PACKED, "input_base": int(rng.integers(0, 100)), "kernel_width": 1,
            "input_pixel_stride": channels, "input_row_stride": (out_w * stride[1] + kernel[1]) * channels + 3,
            "input_blocks": layouts.blocks(bytes_in_row, lanes), "pad_top": 0, "pad_left": 0, "dilation_x": 1,
            "last_lanes": bytes_in_row - (layouts.blocks(bytes_in_row, lanes) - 1) * lanes,
        }
    if zero_point is not None:
        values["input_zero_point"] = zero_point
    return values


def order(convolutions: list[dict[str, int]], config: Config, rng: np.random.Generator) -> None:
    """Set ORDERED where a convolution reads what the one before it writes, and here and there elsewhere."""
    for before, values in itertools.pairwise(convolutions):
        written = output_words(before, *all_pixels(before), config.feature_words)
        read = input_words(values, values["input_blocks"], config.feature_words, config.lanes)
        if np.intersect1d(written, read).size or rng.random() < 0.2:
            values["flags"] |= Flag.ORDERED


def _addition(rng: np.random.Generator) -> dict[str, int]:
    """The constants of an ADD but for operand a's zero point."""
    multipliers = {f"{name}_multiplier": int(rng.integers(1 << 30, 1 << 31)) for name in ("a", "b", "sum")}
    return {
        **multipliers, "a_shift": -1, "b_shift": -2, "sum_shift": -18, "b_zero_point": int(rng.integers(-128, 128)),
        "sum_zero_point": int(rng.integers(-128, 128)), "sum_min": -128, "sum_max": 127,
    }


def random_vector_command(rng: np.random.Generator, config: Config) -> tuple[Opcode, dict[str, int]]:
    """Any command of the vector engine; two of three gated, one of four with a table, where it may be."""
    opcode = Opcode(int(rng.choice([opcode for opcode, engine in ENGINE_OF.items() if engine is Engine.VECTOR])))
    makes_mask = opcode in (Opcode.DECIDE, Opcode.DILATE, Opcode.COMBINE)
    blocks = 1 if makes_mask else int(rng.integers(1, 4))
    height, width = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    if rng.random() < 0.2:  # wider than a mask word
        height, width, blocks = 1, int(rng.integers(65, 140)), 1
    first = int(rng.integers(0, 3))
    place = {"row_stride": (width + 2) * blocks, "pixel_stride": blocks}
    values = {
        "flags": 0, "output_y": first, "output_rows": height, "output_width": width, "output_blocks": blocks,
        "mask_base": int(rng.integers(0, config.mask_words)), "output_base": config.feature_words // 2,
        **{f"output_{name}": value for name, value in place.items()},
    }
    if opcode is Opcode.COMBINE:
        bases = {name: int(rng.integers(0, config.mask_words)) for name in ("other_base", "target_base")}
        if rng.random() < 0.3:  # in place
            bases["target_base"] = values["mask_base"]
        return opcode, values | bases | {"inverted": int(rng.integers(8)), "spread": int(rng.choice([0, 0, 1, 2, 3]))}
    if not makes_mask:
        values["flags"] = int(Flag.GATED) * int(rng.random() < 0.66) | int(Flag.TABLE) * int(rng.random() < 0.25)
        values["flags"] |= int(Flag.WHOLE) * int(values["flags"] & Flag.GATED != 0 and rng.random() < 0.2)
        values["table_base"] = int(rng.integers(0, config.weight_words))
    if opcode in (Opcode.ADD, Opcode.MUL):
        values |= {f"{operand}_{name}": value for operand in ("a", "b") for name, value in place.items()}
        values |= {"a_base": int(rng.integers(0, 40)), "b_base": config.feature_words * 3 // 4, **_addition(rng),
                   "a_zero_point": int(rng.integers(-128, 128))}
        if opcode is Opcode.MUL:
            values["sum_shift"] = -int(rng.integers(3, 9))
        if rng.random() < 0.3:  # in place
            values["a_base"] = values["output_base"]
        return opcode, values
    return opcode, values | _window(rng, config, opcode, values)


def _window(rng: np.random.Generator, config: Config, opcode: Opcode, output: dict[str, int]) -> dict[str, int]:
    """The rest of a command whose output pixels have windows. Every window of a pool holds a pixel."""
    blocks = output["output_blocks"]
    kernel = [int(rng.integers(1, 5)) for _ in range(2)]
    if opcode is Opcode.DEPTHWISE:
        kernel[1] = DEPTHWISE_TAPS  # a whole line: what lies in a part of one must be zeros
    stride = [int(rng.integers(1, 3 if opcode is Opcode.DILATE else 4)) for _ in range(2)]
    pad = [int(rng.integers(0, k)) for k in kernel]
    dilation = [int(rng.integers(1, 3)) if opcode in (Opcode.DEPTHWISE, Opcode.DILATE) else 1 for _ in range(2)]
    # The input ends anywhere after the first pixel of the last window.
    last = [(output["output_y"] + output["output_rows"] - 1) * stride[0] - pad[0],
            (output["output_width"] - 1) * stride[1] - pad[1]]
    size = [max(1, start + 1 + int(rng.integers(0, k + 1))) for start, k in zip(last, kernel, strict=True)]
    values = {
        "input_base": int(rng.integers(0, 40)), "input_row_stride": size[1] * blocks, "input_pixel_stride": blocks,
        "input_height": size[0], "input_width": size[1], "kernel_height": kernel[0], "kernel_width": kernel[1],
        "stride_y": stride[0], "stride_x": stride[1], "dilation_y": dilation[0], "dilation_x": dilation[1],
        "pad_top": pad[0], "pad_left": pad[1],
    }
    if opcode is Opcode.DECIDE:
        any_lane = int(rng.random() < 0.3)
        return values | {"bound": int(rng.integers(-129, 129)), "invert": int(rng.integers(2)), "any_lane": any_lane}
    if opcode is Opcode.DILATE:
        words = output["output_rows"] * layouts.mask_row_words(output["output_width"])
        return values | {"target_base": (output["mask_base"] + words) % config.mask_words}
    low, high = sorted(int(value) for value in rng.integers(-128, 128, 2)) if rng.random() < 0.5 else (-128, 127)
    values |= {"output_min": low, "output_max": high}
    if opcode in (Opcode.MEAN, Opcode.DEPTHWISE):
        values["output_zero_point"] = int(rng.integers(-128, 128))
    if opcode is Opcode.MEAN:
        values |= {"multiplier": int(rng.integers(1 << 30, 1 << 31)), "shift": -int(rng.integers(1, 6)),
                   "bias": int(rng.integers(-2000, 2000))}
    if opcode is Opcode.DEPTHWISE:
        values |= {"weight_base": int(rng.integers(0, config.weight_words)),
                   "parameter_base": int(rng.integers(0, config.parameter_entries)),
                   "input_zero_point": int(rng.integers(-128, 128))}
    return values
