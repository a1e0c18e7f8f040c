"""Setup of a command: its limits, and the products that walk, fetch and drain need, through one multiplier."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN, Flag, Opcode
from hw.contract.config import KERNEL_MAX, Config
from hw.conv_engine.pixel_walker import byte_address_bits
from hw.ports import command_layout, word_address_bits
from hw.requantise import ADD_CONSTANTS


class WalkSettings(data.StructLayout):
    """What the pixel walker needs besides the command's own fields; see there."""

    def __init__(self, config: Config):
        address = byte_address_bits(config)
        super().__init__({
            "first_y": signed(18), "first_address": address, "row_step": address, "pixel_step": address,
            "width_last": 16,
        })


class ComputeSettings(data.StructLayout):
    """What activation fetch, tile loader and rows need of a command; named as there."""

    def __init__(self, config: Config):
        address = byte_address_bits(config)
        super().__init__({
            "packed": 1, "kernel_height": range(KERNEL_MAX + 1), "kernel_width": range(KERNEL_MAX + 1),
            "input_blocks": 16, "last_lanes": 8,
            "input_height": 16, "input_width": 16, "dilation_y": 8, "dilation_x": 8,
            "unrolling": range(len(config.unrollings)), "step_y": address, "step_x": address, "step_block": address,
            "zero_point": signed(8), "weight_base": range(config.weight_words), "map_base": range(config.weight_maps),
            "steps": 24,
        })


class DrainSettings(data.StructLayout):
    """What the drain needs of a command; named as there."""

    def __init__(self, config: Config):
        super().__init__({
            "add": 1, "output_base": word_address_bits(config), "b_base": word_address_bits(config),
            "parameter_base": range(config.parameter_entries), "unrolling": range(len(config.unrollings)),
            "minimum": 8, "maximum": 8, "constants": ADD_CONSTANTS, "table": 1,
            "table_base": range(config.parameter_entries),
        })


class CommandSetup(wiring.Component):
    """Looks at a command while `run` is high.

    Members
    -------
    command : the payload of a CONV command, stable.
    acceptable : it keeps the limits, from the cycle after it is there on.
    run : work; low: start over. Pulses, in this order: steps_known : the walker's pixel_step is there; walk_known : all
        of its settings are there from the next cycle on. done : so are all others.
    walk, compute, drain : the settings.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "command": In(command_layout(Opcode.CONV)),
            "acceptable": Out(1),
            "run": In(1),
            "steps_known": Out(1),
            "walk_known": Out(1),
            "done": Out(1),
            "walk": Out(WalkSettings(config)),
            "compute": Out(ComputeSettings(config)),
            "drain": Out(DrainSettings(config)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, command = self.config, self.command
        walk, compute, drain = self.walk, self.compute, self.drain
        flags = command.flags
        packed = Signal()
        m.d.comb += packed.eq(flags & Flag.PACKED != 0)

        # ---- products, one per cycle; each is there two steps after its factors ---------------------------
        address_bits = byte_address_bits(config)
        product = Signal(signed(36), reset_less=True)
        kernel_positions = Signal(16)
        left_offset, first_offset, output_offset = (Signal(address_bits, name=name) for name in
                                                    ("left_offset", "first_offset", "output_offset"))
        products = [  # (factors, what takes the product); those of the walk first
            (command.stride_x, command.input_pixel_stride, [walk.pixel_step.eq(product)]),
            (command.output_y, command.stride_y, [walk.first_y.eq(product - command.pad_top)]),
            (command.pad_left, command.input_pixel_stride, [left_offset.eq(product)]),
            (command.stride_y, command.input_row_stride, [walk.row_step.eq(product)]),
            (walk.first_y, command.input_row_stride, [first_offset.eq(product)]),
            (command.kernel_height, command.kernel_width, [kernel_positions.eq(product)]),
            (command.dilation_y, command.input_row_stride, [compute.step_y.eq(product)]),
            (command.dilation_x, command.input_pixel_stride, [compute.step_x.eq(product)]),
            (command.output_y, command.output_row_stride, [output_offset.eq(product)]),
            (kernel_positions, command.input_blocks, [compute.steps.eq(product)]),
        ]
        walk_products = 5
        step = Signal(range(len(products) + 3))
        factor_a, factor_b = Signal(signed(18)), Signal(signed(18))
        m.d.sync += product.eq(factor_a * factor_b)
        with m.Switch(step):
            for i in range(len(products) + 2):
                with m.Case(i):
                    if i < len(products):
                        m.d.sync += [factor_a.eq(products[i][0]), factor_b.eq(products[i][1])]
                    if i >= 2:
                        m.d.sync += products[i - 2][2]
        m.d.comb += [
            self.steps_known.eq(step == 3),
            # The last sum is registered when these end.
            self.walk_known.eq(step == walk_products + 2),
            self.done.eq(step == len(products) + 2),
        ]
        m.d.sync += step.eq(Mux(self.run & ~self.done, step + 1, 0))
        m.d.sync += [
            walk.first_address.eq(command.input_base + first_offset - left_offset),
            drain.output_base.eq(command.output_base + output_offset),
            drain.b_base.eq(command.b_base + output_offset),
            walk.width_last.eq(command.output_width - 1),
        ]

        # ---- fields as they are ---------------------------------------------------------------------------
        m.d.comb += [
            compute.packed.eq(packed),
            compute.step_block.eq(Mux(packed, config.lanes, 1)),
            compute.zero_point.eq(command.input_zero_point),
            *(compute[name].eq(command[name]) for name in (
                "kernel_height", "kernel_width", "input_blocks", "last_lanes", "input_height", "input_width",
                "dilation_y", "dilation_x", "unrolling", "weight_base", "map_base")),
            drain.add.eq(flags & Flag.ADD != 0),
            drain.parameter_base.eq(command.parameter_base),
            drain.table.eq(flags & Flag.TABLE != 0),
            drain.table_base.eq(command.table_base),
            drain.unrolling.eq(command.unrolling),
            drain.minimum.eq(command.output_min),
            drain.maximum.eq(command.output_max),
            drain.constants.a_zero_point.eq(command.output_zero_point),
            *(drain.constants[name].eq(command[name]) for name in (
                "a_multiplier", "b_multiplier", "sum_multiplier", "a_shift", "b_shift", "sum_shift", "b_zero_point",
                "sum_zero_point", "sum_min", "sum_max")),
        ]

        # ---- limits ---------------------------------------------------------------------------------------
        def one_to(value, power_of_two):
            return (value != 0) & ((value < power_of_two) | (value == power_of_two))

        def is_shift(value):  # -31 to LEFT_SHIFT_MAX
            return Mux(value[-1], value[5:].all() & value[:5].any(), ~value[LEFT_SHIFT_MAX.bit_length():].any())

        def is_operand_shift(value):  # OPERAND_SHIFT_MIN to 0
            low = (-OPERAND_SHIFT_MIN).bit_length()
            return Mux(value[-1], value[low:].all() & value[:low].any(), ~value.any())

        layout_fits, addition_fits = Signal(), Signal(6)
        with m.If(packed):
            m.d.comb += layout_fits.eq(Cat(
                command.kernel_width == 1, command.pad_top == 0, command.pad_left == 0,
                one_to(command.last_lanes, config.lanes),
            ).all())
        with m.Else():
            m.d.comb += layout_fits.eq(one_to(command.kernel_width, KERNEL_MAX)
                                       & (command.last_lanes == config.lanes))
        m.d.comb += [
            addition_fits.eq(Cat(
                Cat(command[f"{name}_multiplier"][31] == 0, fits(command[f"{name}_shift"]))
                for name, fits in (("a", is_operand_shift), ("b", is_operand_shift), ("sum", is_shift)))),
        ]
        # In a register each, as the fields come from far and wide.
        limits = [
            flags & ~(Flag.GATED | Flag.PACKED | Flag.ADD | Flag.TABLE | Flag.ORDERED | Flag.WHOLE).value == 0,
            (flags & Flag.GATED != 0) | (flags & Flag.WHOLE == 0),
            layout_fits, *(fits | (flags & Flag.ADD == 0) for fits in addition_fits),
            one_to(command.kernel_height, KERNEL_MAX), command.input_height != 0, command.input_width != 0,
            command.stride_y != 0, command.stride_x != 0, command.dilation_y != 0, command.dilation_x != 0,
            command.input_blocks != 0, command.unrolling < len(config.unrollings),
            command.output_rows != 0, command.output_width != 0, command.output_blocks != 0,
        ]
        kept = Signal(len(limits))
        m.d.sync += kept.eq(Cat(limits))
        m.d.comb += self.acceptable.eq(kept.all())
        return m
