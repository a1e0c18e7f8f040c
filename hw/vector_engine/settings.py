"""A command in the engine's own terms: one layout for all opcodes."""

from __future__ import annotations

from amaranth import signed, unsigned
from amaranth.lib import data

from hw.contract.config import Config
from hw.ports import word_address_bits
from hw.requantise import ADD_CONSTANTS

#: Bits of a pixel's row or column: the sum of two 16-bit fields.
POSITION_BITS = 17

#: Bits of a window's corner, which may lie before the input. What lies further behind it is cut off.
CORNER_BITS = POSITION_BITS + 3


class Settings(data.StructLayout):
    """What the steps of the engine need to know of a command. Addresses and strides in words, modulo the memory.

    add, maximum, depthwise, gated : ADD, MAX_POOL (else sums), DEPTHWISE, Flag.GATED.
    multiply, mean : MUL, MEAN. two_operands : operand b is read too. table : Flag.TABLE, its words at table_base.
    bias : of MEAN. decide, bound, invert, any_lane : DECIDE. dilate, target_base : DILATE. combine, other_base,
    inverted, spread : COMBINE; target_base too. whole : Flag.WHOLE.
    a_, b_, output_ : base, row_stride and pixel_stride of both operands and of the result.
    kernel_, stride_, pad_, input_ : the window of operand a; where `windowless` one of 1x1 in an unbounded input takes
    its place, and these fields mean nothing. last_pixel, last_column : output_width, input_width less one.
    constants : of ADD; of the others only those of the sum matter.
    passes : walks over the pixels. Of DEPTHWISE: lines of a kernel row, kernel_lines of them all, unused_taps of the
    first line, tap_row_step and tap_column_step in words, kept : words of a line stay for the next pixel.
    """

    def __init__(self, config: Config):
        address_bits = word_address_bits(config)
        strides = {
            f"{name}_{part}": unsigned(address_bits)
            for name in ("a", "b", "output") for part in ("base", "row_stride", "pixel_stride")
        }
        super().__init__({
            "add": 1,
            "windowless": 1,
            "two_operands": 1,
            "maximum": 1,
            "depthwise": 1,
            "multiply": 1,
            "mean": 1,
            "table": 1,
            "decide": 1,
            "dilate": 1,
            "bound": signed(16),
            "invert": 1,
            "any_lane": 1,
            "combine": 1,
            "other_base": unsigned((config.mask_words - 1).bit_length()),
            "inverted": 3,
            "spread": 2,
            "target_base": unsigned((config.mask_words - 1).bit_length()),
            "kept": 1,
            "gated": 1,
            "whole": 1,
            **strides,
            "kernel_height": unsigned(8),
            "kernel_width": unsigned(8),
            "stride_y": unsigned(8),
            "stride_x": unsigned(8),
            "pad_top": unsigned(8),
            "pad_left": unsigned(10),
            "dilation_y": unsigned(8),
            "dilation_x": unsigned(8),
            "tap_row_step": unsigned(address_bits),
            "tap_column_step": unsigned(address_bits),
            "lines": unsigned(3),
            "kernel_lines": unsigned(7),
            "unused_taps": unsigned(2),
            "table_base": unsigned((config.weight_words - 1).bit_length()),
            "bias": signed(32),
            "weight_base": unsigned((config.weight_words - 1).bit_length()),
            "parameter_base": unsigned(max(1, (config.parameter_entries - 1).bit_length())),
            "input_zero_point": signed(8),
            "passes": unsigned(16),
            "input_height": unsigned(16),
            "input_width": unsigned(16),
            "last_pixel": unsigned(16),
            "last_column": unsigned(16),
            "output_y": unsigned(16),
            "output_rows": unsigned(16),
            "output_width": unsigned(16),
            "output_blocks": unsigned(16),
            "mask_base": unsigned((config.mask_words - 1).bit_length()),
            "constants": ADD_CONSTANTS,
        })
