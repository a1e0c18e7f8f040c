"""Commands in the engine's own terms, and whether their fields keep their limits."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import COMMAND_BYTES, LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN, Flag, Opcode
from hw.contract.config import KERNEL_MAX, Config
from hw.contract.layouts import DEPTHWISE_KEPT_LINES, DEPTHWISE_TAPS, depthwise_lines
from hw.ports import command_layout, word_address_bits
from hw.requantise import MULTIPLIER_BITS
from hw.vector_engine.settings import Settings

_WINDOWED = (Opcode.AVERAGE_POOL, Opcode.MAX_POOL, Opcode.MEAN, Opcode.DEPTHWISE, Opcode.DECIDE, Opcode.DILATE)
_POOLS = (Opcode.AVERAGE_POOL, Opcode.MAX_POOL, Opcode.MEAN, Opcode.DECIDE)
_PAIRS = (Opcode.ADD, Opcode.MUL)


class CommandDecoder(wiring.Component):
    """Settings in the cycle after a command's payload; what must be computed for them, and `bad`, when `done`.

    Most fields are copied: vector commands have them at the same places.

    Members
    -------
    payload : the command. begin : high for a cycle, one cycle after the payload has come.
    settings : Settings. done : from the cycle after `begin` on, all settings are there in the next cycle.
    bad : then, too: a field is outside its limits.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "payload": In(8 * COMMAND_BYTES),
            "begin": In(1),
            "settings": Out(Settings(config)),
            "done": Out(1),
            "bad": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings = self.config, Signal(Settings(self.config), reset_less=True)
        m.d.comb += self.settings.eq(settings)
        view = {opcode: data.View(command_layout(opcode), self.payload) for opcode in (
            Opcode.ADD, Opcode.MAX_POOL, Opcode.MEAN, Opcode.DEPTHWISE, Opcode.DECIDE, Opcode.DILATE, Opcode.COMBINE)}
        add, pool, mean, depthwise, decide, dilate, combine = view.values()

        # ---- a step: copies, and what the opcode says -------------------------------------------------------------
        kind = {opcode: Signal(name=f"is_{opcode.name.lower()}") for opcode in (*_WINDOWED, *_PAIRS, Opcode.COMBINE)}
        m.d.sync += [is_this.eq(add.opcode == opcode) for opcode, is_this in kind.items()]
        flags = Signal(8)
        m.d.sync += flags.eq(add.flags)

        def one_of(*opcodes: Opcode) -> Value:
            return Cat(kind[opcode] for opcode in opcodes).any()

        pair, windowless = Signal(), Signal()
        m.d.comb += [
            pair.eq(one_of(*_PAIRS)),
            windowless.eq(pair | kind[Opcode.COMBINE]),
            settings.windowless.eq(windowless),
            settings.two_operands.eq(pair),
            settings.add.eq(kind[Opcode.ADD]),
            settings.multiply.eq(kind[Opcode.MUL]),
            settings.mean.eq(kind[Opcode.MEAN]),
            settings.depthwise.eq(kind[Opcode.DEPTHWISE]),
            settings.decide.eq(kind[Opcode.DECIDE]),
            settings.maximum.eq(one_of(Opcode.MAX_POOL, Opcode.DECIDE)),
            settings.dilate.eq(kind[Opcode.DILATE]),
            settings.combine.eq(kind[Opcode.COMBINE]),
            settings.table.eq((flags & Flag.TABLE) != 0),
            settings.gated.eq((flags & Flag.GATED) != 0),
            settings.whole.eq((flags & Flag.WHOLE) != 0),
        ]
        for source, names in (
            (add, ("output_base", "output_row_stride", "output_pixel_stride", "output_y", "output_rows",
                   "output_width", "output_blocks", "mask_base", "a_base", "a_row_stride", "a_pixel_stride",
                   "b_base", "b_row_stride", "b_pixel_stride", "table_base")),
            (pool, ("input_height", "input_width", "kernel_height", "kernel_width", "stride_y", "stride_x",
                    "dilation_y", "dilation_x", "pad_top")),
            (depthwise, ("weight_base", "parameter_base", "input_zero_point")),
            (mean, ("bias",)),
            (decide, ("bound", "invert", "any_lane")),
            (dilate, ("target_base",)),
            (combine, ("other_base", "inverted", "spread")),
        ):
            m.d.sync += [settings[name].eq(source[name]) for name in names]
        constants = settings.constants
        zero_point = Signal.like(add.sum_zero_point)
        m.d.sync += [constants[name].eq(add[name]) for name in constants.shape().members if name != "sum_zero_point"]
        m.d.sync += zero_point.eq(add.sum_zero_point)
        # Pools have none.
        m.d.comb += constants.sum_zero_point.eq(
            Mux(one_of(*_PAIRS, Opcode.MEAN, Opcode.DEPTHWISE), zero_point, 0))
        pad_left = Signal(8)
        m.d.sync += pad_left.eq(pool.pad_left)

        # ---- two steps: DEPTHWISE's lines of taps; their first ones start with taps that are not used ------------
        with m.Switch(settings.kernel_width[:5]):
            for width in range(1, KERNEL_MAX + 1):
                with m.Case(width):
                    lines = depthwise_lines(width)
                    m.d.sync += [settings.lines.eq(lines), settings.unused_taps.eq(lines * DEPTHWISE_TAPS - width)]
        unused = Mux(kind[Opcode.DEPTHWISE], settings.unused_taps, 0)
        kernel_lines = Signal(8)
        m.d.comb += kernel_lines.eq(sum(
            (Mux(settings.lines[i], settings.kernel_height[:5] << i, 0) for i in range(3)), start=0))
        m.d.sync += [
            settings.kernel_lines.eq(kernel_lines),
            settings.kept.eq((kernel_lines <= DEPTHWISE_KEPT_LINES) & (settings.dilation_x == 1)),
            settings.pad_left.eq(pad_left + Mux(unused[0], settings.dilation_x, 0)
                                 + Mux(unused[1], settings.dilation_x << 1, 0)),
            settings.passes.eq(Mux(kind[Opcode.DEPTHWISE], settings.output_blocks, 1)),
            settings.last_pixel.eq(settings.output_width - 1),
            settings.last_column.eq(settings.input_width - 1),
        ]

        # ---- a step per bit: products ---------------------------------------------------------------------------
        row_step, row_last = _serial_product(
            m, "row", self.begin, max(16, word_address_bits(config)),
            Mux(kind[Opcode.DEPTHWISE], settings.a_row_stride, settings.kernel_height),
            Mux(kind[Opcode.DEPTHWISE], settings.dilation_y, Mux(one_of(*_POOLS), settings.kernel_width, 0)))
        column_step, column_last = _serial_product(
            m, "column", self.begin, word_address_bits(config), settings.a_pixel_stride,
            Mux(kind[Opcode.DEPTHWISE], settings.dilation_x, 0))
        area = row_step[:16]
        m.d.comb += [
            settings.tap_row_step.eq(row_step),
            settings.tap_column_step.eq(column_step),
            self.done.eq(row_last & column_last),
        ]

        # ---- limits ---------------------------------------------------------------------------------------------
        outside = [(constants[f"{name}_shift"] > most) | (constants[f"{name}_shift"] < least)
                   | constants[f"{name}_multiplier"][MULTIPLIER_BITS]
                   for name, least, most in (("sum", -31, LEFT_SHIFT_MAX), ("a", OPERAND_SHIFT_MIN, 0),
                                             ("b", OPERAND_SHIFT_MIN, 0))]
        faults = [
            *(settings[name] == 0 for name in ("output_rows", "output_width", "output_blocks")),
            *((settings[name] == 0) & ~windowless for name in ("kernel_height", "kernel_width", "stride_y", "stride_x",
                                                               "input_height", "input_width")),
            (flags & ~(Flag.GATED | Flag.TABLE | Flag.WHOLE).value & 0xFF) != 0,
            settings.whole & ~settings.gated,
            ~one_of(*kind),
            one_of(*_POOLS) & (settings.dilation_y != 1),
            one_of(*_POOLS) & (settings.dilation_x != 1),
            one_of(Opcode.ADD, Opcode.MUL, Opcode.MEAN) & outside[0],
            pair & (outside[1] | outside[2]),
            one_of(Opcode.DECIDE, Opcode.DILATE, Opcode.COMBINE) & (flags != 0),
            one_of(Opcode.DECIDE, Opcode.COMBINE) & (settings.output_blocks != 1),
            *(one_of(Opcode.DEPTHWISE, Opcode.DILATE) & fault for fault in (
                settings.kernel_height > KERNEL_MAX, settings.kernel_width > KERNEL_MAX,
                settings.dilation_y == 0, settings.dilation_x == 0)),
            *(kind[Opcode.DILATE] & (settings[name] > 2) for name in ("stride_y", "stride_x")),
        ]
        # Fields of which the settings keep only some bits.
        surplus = Signal(2)
        m.d.sync += surplus.eq(Cat((decide.invert | decide.any_lane) > 1,
                                   (combine.inverted > 7) | (combine.spread > 3)))
        faults += [kind[Opcode.DECIDE] & surplus[0], kind[Opcode.COMBINE] & surplus[1]]
        found = Signal(len(faults))
        refused = Signal()
        m.d.sync += [found.eq(Cat(faults)), refused.eq(found.any())]
        m.d.comb += self.bad.eq(refused | (one_of(*_POOLS) & (area > config.pool_area)))
        return m


def _serial_product(m: Module, name: str, begin: Value, bits: int, factor: Value, multiplier: Value):
    """factor * multiplier (8 bits) modulo 2^bits, one bit of the multiplier per cycle; and whether it is there in the
    next cycle."""
    shifted = Signal(bits, name=f"{name}_shifted", reset_less=True)
    rest = Signal(8, name=f"{name}_rest")
    product = Signal(bits, name=f"{name}_product", reset_less=True)
    with m.If(begin):
        m.d.sync += [shifted.eq(factor), rest.eq(multiplier), product.eq(0)]
    with m.Else():
        m.d.sync += [shifted.eq(shifted << 1), rest.eq(rest >> 1), product.eq(product + Mux(rest[0], shifted, 0))]
    last = Signal(name=f"{name}_last")
    m.d.comb += last.eq(rest[1:] == 0)
    return product, last
