"""A command in the engine's own terms: one layout for all opcodes, and whether its fields keep their limits."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data

from hw.contract.commands import LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN, Flag, Opcode
from hw.contract.config import KERNEL_MAX, Config
from hw.contract.layouts import DEPTHWISE_KEPT_LINES, DEPTHWISE_TAPS, depthwise_lines
from hw.ports import command_layout, word_address_bits
from hw.requantise import ADD_CONSTANTS, MULTIPLIER_BITS

#: Bits of a pixel's row or column: the sum of two 16-bit fields.
POSITION_BITS = 17

#: Bits of a window's corner, which may lie before the input: a position times a stride, less the padding.
CORNER_BITS = POSITION_BITS + 8 + 2


class Settings(data.StructLayout):
    """What the steps of the engine need to know of a command. Addresses and strides in words, modulo the memory.

    add, maximum, depthwise, gated : ADD, MAX_POOL (else sums), DEPTHWISE, Flag.GATED.
    multiply, mean : MUL, MEAN. two_operands : operand b is read too. table : Flag.TABLE, its words at table_base.
    bias : of MEAN. decide, bound, invert, any_lane : DECIDE. dilate, target_base : DILATE. combine, other_base,
    inverted, spread : COMBINE; target_base too. whole : Flag.WHOLE.
    a_, b_, output_ : base, row_stride and pixel_stride of both operands and of the result.
    kernel_, stride_, pad_, input_ : the window of operand a; ADD has one of 1x1 in an unbounded input.
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
            "input_height": unsigned(POSITION_BITS + 1),
            "input_width": unsigned(POSITION_BITS + 1),
            "output_y": unsigned(16),
            "output_rows": unsigned(16),
            "output_width": unsigned(16),
            "output_blocks": unsigned(16),
            "mask_base": unsigned((config.mask_words - 1).bit_length()),
            "constants": ADD_CONSTANTS,
        })


_OUTPUT_FIELDS = ("output_base", "output_row_stride", "output_pixel_stride", "output_y", "output_rows",
                  "output_width", "output_blocks", "mask_base")
_WINDOW_FIELDS = ("kernel_height", "kernel_width", "stride_y", "stride_x", "pad_top", "pad_left")


def decode(m: Module, config: Config, payload: Value) -> tuple[data.View, Signal]:
    """Settings of the command in `payload`, and a bit that is set where a field is outside its limits.

    The product of the kernel's sides against Config.pool_area is not part of it; see `window_area`.
    """
    add = data.View(command_layout(Opcode.ADD), payload)
    pool = data.View(command_layout(Opcode.MAX_POOL), payload)
    depthwise = data.View(command_layout(Opcode.DEPTHWISE), payload)
    settings = Signal(Settings(config))
    mean = data.View(command_layout(Opcode.MEAN), payload)
    decide = data.View(command_layout(Opcode.DECIDE), payload)
    dilate = data.View(command_layout(Opcode.DILATE), payload)
    combine = data.View(command_layout(Opcode.COMBINE), payload)
    is_add, is_depthwise, is_mean = Signal(), Signal(), Signal()  # MUL has the fields of ADD
    is_decide, is_dilate, is_combine = Signal(), Signal(), Signal()
    windowless = Signal()  # the fields of the output come first
    m.d.comb += [
        is_combine.eq(add.opcode == Opcode.COMBINE),
        windowless.eq(is_add | is_combine),
        is_decide.eq(add.opcode == Opcode.DECIDE),
        is_dilate.eq(add.opcode == Opcode.DILATE),
        is_add.eq((add.opcode == Opcode.ADD) | (add.opcode == Opcode.MUL)),
        is_mean.eq(add.opcode == Opcode.MEAN),
        settings.multiply.eq(add.opcode == Opcode.MUL),
        settings.mean.eq(is_mean),
        settings.bias.eq(mean.bias),
        settings.table.eq((add.flags & Flag.TABLE) != 0),
        settings.table_base.eq(Mux(is_add, add.table_base, Mux(is_depthwise, depthwise.table_base, pool.table_base))),
        is_depthwise.eq(add.opcode == Opcode.DEPTHWISE),
        settings.two_operands.eq(is_add),
        settings.depthwise.eq(is_depthwise),
        settings.add.eq(add.opcode == Opcode.ADD),
        settings.maximum.eq((add.opcode == Opcode.MAX_POOL) | is_decide),
        settings.decide.eq(is_decide),
        settings.bound.eq(decide.bound),
        settings.invert.eq(decide.invert),
        settings.any_lane.eq(decide.any_lane),
        settings.dilate.eq(is_dilate),
        settings.target_base.eq(Mux(is_combine, combine.target_base, dilate.target_base)),
        settings.combine.eq(is_combine),
        settings.other_base.eq(combine.other_base),
        settings.inverted.eq(combine.inverted),
        settings.spread.eq(combine.spread),
        settings.gated.eq((add.flags & Flag.GATED) != 0),
        settings.whole.eq((add.flags & Flag.WHOLE) != 0),
        settings.b_base.eq(add.b_base),
        settings.b_row_stride.eq(add.b_row_stride),
        settings.b_pixel_stride.eq(add.b_pixel_stride),
    ]
    for name in _OUTPUT_FIELDS:
        m.d.comb += settings[name].eq(Mux(windowless, add[name], pool[name]))
    for name in ("base", "row_stride", "pixel_stride"):
        m.d.comb += settings[f"a_{name}"].eq(Mux(is_add, add[f"a_{name}"], pool[f"input_{name}"]))
    for name in _WINDOW_FIELDS:
        m.d.comb += settings[name].eq(Mux(windowless, name.startswith(("kernel", "stride")), pool[name]))
    for name in ("input_height", "input_width"):
        m.d.comb += settings[name].eq(Mux(windowless, 1 << POSITION_BITS, pool[name]))
    for name in ADD_CONSTANTS.members:
        m.d.comb += settings.constants[name].eq(add[name])
    with m.If(~is_add):
        m.d.comb += [
            settings.constants.sum_zero_point.eq(0),
            settings.constants.sum_min.eq(pool.output_min),
            settings.constants.sum_max.eq(pool.output_max),
        ]

    with m.If(is_mean):
        m.d.comb += [
            settings.constants.sum_zero_point.eq(mean.output_zero_point),
            settings.constants.sum_multiplier.eq(mean.multiplier),
            settings.constants.sum_shift.eq(mean.shift),
        ]
    _decode_depthwise(m, settings, is_depthwise, depthwise)

    is_pool = (add.opcode == Opcode.AVERAGE_POOL) | (add.opcode == Opcode.MAX_POOL) | is_mean | is_decide
    bad_mean = (mean.shift > LEFT_SHIFT_MAX) | (mean.shift < -31) | mean.multiplier[MULTIPLIER_BITS]
    at_least_one = ("output_rows", "output_width", "output_blocks", "kernel_height", "kernel_width", "stride_y",
                    "stride_x", "input_height", "input_width")
    shifts = [settings.constants[f"{name}_shift"] for name in ("a", "b", "sum")]
    multipliers = [settings.constants[f"{name}_multiplier"] for name in ("a", "b", "sum")]
    bad_add = Cat(
        *((shift > 0) | (shift < OPERAND_SHIFT_MIN) for shift in shifts[:2]),
        (shifts[2] > LEFT_SHIFT_MAX) | (shifts[2] < -31),
        *(multiplier[MULTIPLIER_BITS] for multiplier in multipliers),
    ).any()
    bad_pool = (pool.dilation_y != 1) | (pool.dilation_x != 1)
    bad_depthwise = ((depthwise.kernel_height > KERNEL_MAX) | (depthwise.kernel_width > KERNEL_MAX)
                     | (depthwise.dilation_y == 0) | (depthwise.dilation_x == 0))
    bad = Signal()
    m.d.comb += bad.eq(
        Cat(*(settings[name] == 0 for name in at_least_one)).any()
        | (add.flags & ~(Flag.GATED | Flag.TABLE | Flag.WHOLE).value & 0xFF).any()
        | (settings.whole & ~settings.gated)
        | (is_mean & bad_mean)
        | ~(windowless | is_pool | is_depthwise | is_dilate)
        | ((is_depthwise | is_dilate) & bad_depthwise)
        | ((is_decide | is_dilate | is_combine) & (add.flags != 0))
        | (is_decide & ((pool.output_blocks != 1) | (decide.invert > 1) | (decide.any_lane > 1)))
        | (is_combine & ((add.output_blocks != 1) | (combine.inverted > 7) | (combine.spread > 3)))
        | (is_dilate & ((pool.stride_y > 2) | (pool.stride_x > 2)))
        | (is_add & bad_add)
        | (is_pool & bad_pool)
    )
    return settings, bad


def _decode_depthwise(m: Module, settings: data.View, is_depthwise: Value, command: data.View) -> None:
    """What only DEPTHWISE has. Its windows start with the taps that the first line of a kernel row leaves unused."""
    m.d.comb += [
        settings.passes.eq(1),
        settings.weight_base.eq(command.weight_base),
        settings.parameter_base.eq(command.parameter_base),
        settings.input_zero_point.eq(command.input_zero_point),
        settings.dilation_y.eq(command.dilation_y),
        settings.dilation_x.eq(command.dilation_x),
        settings.tap_row_step.eq(command.dilation_y * settings.a_row_stride),
        settings.tap_column_step.eq(command.dilation_x * settings.a_pixel_stride),
    ]
    with m.Switch(command.kernel_width[:5]):
        for width in range(1, KERNEL_MAX + 1):
            with m.Case(width):
                lines = depthwise_lines(width)
                kernel_lines = Signal(12, name=f"kernel_lines_{width}")
                m.d.comb += [
                    kernel_lines.eq(sum((command.kernel_height << i for i in range(3) if lines >> i & 1), start=0)),
                    settings.lines.eq(lines),
                    settings.kernel_lines.eq(kernel_lines),
                    settings.unused_taps.eq(lines * DEPTHWISE_TAPS - width),
                    settings.kept.eq((kernel_lines <= DEPTHWISE_KEPT_LINES) & (command.dilation_x == 1)),
                ]
    with m.If(is_depthwise):
        m.d.comb += [
            settings.passes.eq(command.output_blocks),
            settings.pad_left.eq(command.pad_left + (Mux(settings.unused_taps[0], command.dilation_x, 0)
                                                     + Mux(settings.unused_taps[1], command.dilation_x << 1, 0))),
            settings.constants.sum_zero_point.eq(command.output_zero_point),
            settings.constants.sum_min.eq(command.output_min),
            settings.constants.sum_max.eq(command.output_max),
        ]


def window_area(m: Module, height: Value, width: Value) -> Value:
    """height * width (8 bits each) two cycles later, from adders: multiplier blocks are worth more elsewhere."""
    halves = []
    for name, part in (("low", height[:4]), ("high", height[4:])):
        half = Signal(12, name=f"area_{name}", reset_less=True)
        m.d.sync += half.eq(sum((Mux(part[i], width << i, 0) for i in range(4)), start=0))
        halves.append(half)
    area = Signal(16, reset_less=True)
    m.d.sync += area.eq(halves[0] + (halves[1] << 4))
    return area
