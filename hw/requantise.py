"""From 32-bit accumulators to int8, exactly as TFLite Micro's reference kernels compute it.

The formulas are `MultiplyByQuantizedMultiplier` (two roundings), `SaturatingRoundingDoublingHighMul` and
`RoundingDivideByPOT` of TensorFlow Lite (tensorflow/lite/kernels/internal/common.h, gemmlowp/fixedpoint) and
`Add` of reference/integer_ops/add.h. All int32 sums wrap.

Everything here is a pipeline that always flows: what enters with `i_valid` leaves with `o_valid` exactly
LATENCY cycles later, and there is no back-pressure, so a user starts only what it has room for. Between two
registers lies one adder, one shifter or one 18x18 product: each is what an ECP5 does in a cycle above 80 MHz.
"""

from __future__ import annotations

from amaranth import Cat, Const, EnableInserter, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

#: Multipliers are Q31 and not negative; bit 31 of their 32-bit fields is zero.
MULTIPLIER_BITS = 31

#: Bits of the low part of a split factor: 17 unsigned bits fill an 18-bit signed input of a multiplier block.
_PART = 17

#: Constants of a residual addition, named as the fields of the ADD command.
ADD_CONSTANTS = data.StructLayout({
    **{f"{name}_multiplier": unsigned(32) for name in ("a", "b", "sum")},
    **{f"{name}_shift": signed(8) for name in ("a", "b", "sum")},
    **{f"{name}_zero_point": signed(8) for name in ("a", "b", "sum")},
    "sum_min": signed(8),
    "sum_max": signed(8),
})


def delayed(m: Module, value: Value, cycles: int, *, reset_less: bool = True) -> Value:
    """`value` as it was `cycles` cycles ago. Valid bits need `reset_less=False`."""
    value = Value.cast(value)
    for _ in range(cycles):
        register = Signal(value.shape(), reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def under_way(m: Module, valid: Value, latency: int) -> tuple[Signal, Value]:
    """Whether anything valid is in a pipeline of `latency`, and the valid bit at its end.

    A pipeline that is enabled only then takes no power while idle, nor time in simulation.
    """
    stages = [valid]
    for _ in range(latency):
        stages.append(delayed(m, stages[-1], 1, reset_less=False))
    active = Signal()
    m.d.comb += active.eq(Cat(stages[:-1]).any())
    return active, stages[-1]


def _register(m: Module, value: Value, shape: Shape | None = None, *, name: str) -> Signal:
    """`value` of the cycle before."""
    register = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


class HighMultiply(wiring.Component):
    """o = floor((i * multiplier + 2^(fraction - 1)) / 2^fraction).

    With a fraction of 31 this is SaturatingRoundingDoublingHighMul. That adds 2^30 to a product ab >= 0, and
    1 - 2^30 to a negative one, and divides by 2^31 towards zero. For ab < 0 the sum is negative, and
    ceil((ab + 1 - 2^30) / 2^31) = floor((ab + 1 - 2^30 + 2^31 - 1) / 2^31) = floor((ab + 2^30) / 2^31):
    the same formula as for ab >= 0. It saturates only for -2^31 times itself, and a multiplier is not negative.

    Parameters
    ----------
    bits : bits of `i`, at most 32; up to 18 take two multiplier blocks, more take four.
    fraction : bits that the product loses, at least 1.

    Members
    -------
    i : signed(bits). multiplier : unsigned(31), together with `i`. o : signed(32), LATENCY cycles later.
    """

    LATENCY = 3

    def __init__(self, bits: int, fraction: int):
        self.bits = bits
        self.fraction = fraction
        super().__init__({
            "i": In(signed(bits)),
            "multiplier": In(unsigned(MULTIPLIER_BITS)),
            "o": Out(signed(32)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m_low, m_high = self.multiplier[:_PART], self.multiplier[_PART:]
        if self.bits <= _PART + 1:
            outer = _register(m, self.i * m_low, name="low")
            middle = _register(m, self.i * m_high, name="high")
            middle_sum = _register(m, middle, name="middle_sum")
        else:
            i_low, i_high = self.i[:_PART], self.i[_PART:].as_signed()
            low_low = _register(m, i_low * m_low, unsigned(2 * _PART), name="low_low")
            low_high = _register(m, i_low * m_high, name="low_high")
            high_low = _register(m, i_high * m_low, name="high_low")
            high_high = _register(m, i_high * m_high, name="high_high")
            outer = Cat(low_low, high_high).as_signed()
            middle_sum = _register(m, low_high + high_low, name="middle_sum")
        outer_sum = _register(m, outer + (1 << (self.fraction - 1)), name="outer_sum")
        product = Signal(signed(32 + self.fraction))
        m.d.comb += product.eq(outer_sum + (middle_sum << _PART))
        m.d.sync += self.o.eq(product >> self.fraction)
        return m


class RoundingDivide(wiring.Component):
    """o = RoundingDivideByPOT(i, exponent) + offset: i / 2^exponent, halves away from zero; the sum wraps.

    Written here as floor((i - negative + half) / 2^exponent), half = 2^(exponent - 1), where `negative` is 1
    for i < 0 and exponent > 0: then -half - 1 + half is below zero and rounds down, away from zero, as it must,
    and 1 - half - 1 + half = 0 (that is i = 1 - half) rounds to zero.

    Members
    -------
    i : signed(32). exponent : unsigned(5), together with `i`. offset : signed(8), stable.
    o : signed(32), LATENCY cycles later.
    """

    LATENCY = 3

    def __init__(self):
        super().__init__({
            "i": In(signed(32)),
            "exponent": In(unsigned(5)),
            "offset": In(signed(8)),
            "o": Out(signed(32)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        negative = (self.i < 0) & self.exponent.any()
        lowered = _register(m, self.i - negative, signed(33), name="lowered")
        exponent = _register(m, self.exponent, name="exponent_shift")
        # In halves, so that the last bit shifted out is kept: adding one half, then dropping it, rounds.
        halves = _register(m, Cat(Const(0, 1), lowered).as_signed() >> exponent, signed(34), name="halves")
        m.d.sync += self.o.eq((halves + Cat(Const(1, 1), self.offset).as_signed()) >> 1)
        return m


def _split_shift(m: Module, shift: Value) -> tuple[Value, Value]:
    """Left shift and right shift, both 0 to 31 (registered), of a shift from -31 to 31."""
    left = _register(m, Mux(shift[-1], 0, shift[:5]), name="left")
    right = _register(m, Mux(shift[-1], (-shift)[:5], 0), name="right")
    return left, right


class _RequantiseLane(wiring.Component):
    """One lane of Requantise."""

    LATENCY = 3 + HighMultiply.LATENCY + RoundingDivide.LATENCY

    def __init__(self):
        super().__init__({
            "accumulator": In(signed(32)),
            "bias": In(signed(32)),
            "multiplier": In(unsigned(MULTIPLIER_BITS)),
            "shift": In(signed(8)),
            "zero_point": In(signed(8)),
            "minimum": In(signed(8)),
            "maximum": In(signed(8)),
            "o": Out(signed(8)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.multiply = multiply = HighMultiply(32, 31)
        m.submodules.divide = divide = RoundingDivide()

        biased = _register(m, self.accumulator + self.bias, signed(32), name="biased")
        left, right = _split_shift(m, self.shift)
        shifted = _register(m, biased << left, signed(32), name="shifted")
        m.d.comb += [
            multiply.i.eq(shifted),
            multiply.multiplier.eq(delayed(m, self.multiplier, 2)),
            divide.i.eq(multiply.o),
            divide.exponent.eq(delayed(m, right, 1 + multiply.LATENCY)),
            divide.offset.eq(self.zero_point),
        ]
        with m.If(divide.o < self.minimum):
            m.d.sync += self.o.eq(self.minimum)
        with m.Elif(divide.o > self.maximum):
            m.d.sync += self.o.eq(self.maximum)
        with m.Else():
            m.d.sync += self.o.eq(divide.o)
        return m


class Requantise(wiring.Component):
    """clamp(MultiplyByQuantizedMultiplier(accumulator + bias, multiplier, shift) + zero_point).

    Parameters
    ----------
    lanes : values per cycle.

    Members
    -------
    i_valid, i_accumulator, i_bias (int32), i_multiplier (0 to 2^31 - 1), i_shift (-31 to 31, positive is left) :
        per lane, new ones in every cycle.
    zero_point, minimum, maximum : int8, shared by the lanes, stable while anything is under way.
    o_valid, o_value (int8) : LATENCY cycles later.
    """

    LATENCY = _RequantiseLane.LATENCY

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "i_valid": In(1),
            "i_accumulator": In(data.ArrayLayout(signed(32), lanes)),
            "i_bias": In(data.ArrayLayout(signed(32), lanes)),
            "i_multiplier": In(data.ArrayLayout(unsigned(32), lanes)),
            "i_shift": In(data.ArrayLayout(signed(8), lanes)),
            "zero_point": In(signed(8)),
            "minimum": In(signed(8)),
            "maximum": In(signed(8)),
            "o_valid": Out(1),
            "o_value": Out(data.ArrayLayout(signed(8), lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        active, o_valid = under_way(m, self.i_valid, self.LATENCY)
        m.d.comb += self.o_valid.eq(o_valid)
        for i in range(self.lanes):
            lane = _RequantiseLane()
            m.submodules[f"lane{i}"] = EnableInserter(active)(lane)
            m.d.comb += [
                lane.accumulator.eq(self.i_accumulator[i]),
                lane.bias.eq(self.i_bias[i]),
                lane.multiplier.eq(self.i_multiplier[i]),
                lane.shift.eq(self.i_shift[i]),
                lane.zero_point.eq(self.zero_point),
                lane.minimum.eq(self.minimum),
                lane.maximum.eq(self.maximum),
                self.o_value[i].eq(lane.o),
            ]
        return m


class _ScaleLane(wiring.Component):
    """One lane of ScaleOperand.

    The product is that of (i - zero_point) << (20 + left), wrapped to 32 bits. Its low 20 bits are zeros, so only
    the 12 bits above them are multiplied, and the product loses 11 bits instead of 31: two multiplier blocks, not
    four, and the same result to the bit.
    """

    LATENCY = 2 + HighMultiply.LATENCY + RoundingDivide.LATENCY

    def __init__(self):
        super().__init__({
            "i": In(signed(8)),
            "zero_point": In(signed(8)),
            "multiplier": In(unsigned(MULTIPLIER_BITS)),
            "shift": In(signed(8)),
            "o": Out(signed(32)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.multiply = multiply = HighMultiply(32 - 20, 31 - 20)
        m.submodules.divide = divide = RoundingDivide()
        difference = _register(m, self.i - self.zero_point, name="difference")
        left, right = _split_shift(m, self.shift)
        m.d.comb += [
            multiply.i.eq(_register(m, difference << left, signed(multiply.bits), name="shifted")),
            multiply.multiplier.eq(self.multiplier),
            divide.i.eq(multiply.o),
            divide.exponent.eq(right),
            self.o.eq(divide.o),
        ]
        return m


class ScaleOperand(wiring.Component):
    """MultiplyByQuantizedMultiplier((i - zero_point) << 20, multiplier, shift): an operand of ADD before the sum.

    Members
    -------
    i : int8 per lane. zero_point, multiplier, shift : stable (shift -31 to 31, positive is left).
    o : int32 per lane, LATENCY cycles later. There is no valid bit: the user has one.
    """

    LATENCY = _ScaleLane.LATENCY

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "i": In(data.ArrayLayout(signed(8), lanes)),
            "zero_point": In(signed(8)),
            "multiplier": In(unsigned(32)),
            "shift": In(signed(8)),
            "o": Out(data.ArrayLayout(signed(32), lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        for i in range(self.lanes):
            m.submodules[f"lane{i}"] = lane = _ScaleLane()
            m.d.comb += [
                lane.i.eq(self.i[i]),
                lane.zero_point.eq(self.zero_point),
                lane.multiplier.eq(self.multiplier),
                lane.shift.eq(self.shift),
                self.o[i].eq(lane.o),
            ]
        return m


class ResidualAdd(wiring.Component):
    """TFLite's int8 ADD: both operands scaled, summed, the sum requantised and clamped.

    Parameters
    ----------
    lanes : values per cycle.

    Members
    -------
    i_valid, i_a, i_b : int8 per lane, new ones in every cycle.
    constants : ADD_CONSTANTS, stable while anything is under way.
    o_valid, o_value : int8 per lane, LATENCY cycles later.
    """

    LATENCY = ScaleOperand.LATENCY + Requantise.LATENCY

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "i_valid": In(1),
            "i_a": In(data.ArrayLayout(signed(8), lanes)),
            "i_b": In(data.ArrayLayout(signed(8), lanes)),
            "constants": In(ADD_CONSTANTS),
            "o_valid": Out(1),
            "o_value": Out(data.ArrayLayout(signed(8), lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        scale_a, scale_b = ScaleOperand(self.lanes), ScaleOperand(self.lanes)
        active, scaled_valid = under_way(m, self.i_valid, ScaleOperand.LATENCY)
        m.submodules.scale_a = EnableInserter(active)(scale_a)
        m.submodules.scale_b = EnableInserter(active)(scale_b)
        m.submodules.requantise = requantise = Requantise(self.lanes)
        constants = self.constants
        m.d.comb += [
            scale_a.i.eq(self.i_a),
            scale_a.zero_point.eq(constants.a_zero_point),
            scale_a.multiplier.eq(constants.a_multiplier),
            scale_a.shift.eq(constants.a_shift),
            scale_b.i.eq(self.i_b),
            scale_b.zero_point.eq(constants.b_zero_point),
            scale_b.multiplier.eq(constants.b_multiplier),
            scale_b.shift.eq(constants.b_shift),
            requantise.i_valid.eq(scaled_valid),
            requantise.i_accumulator.eq(scale_a.o),
            requantise.i_bias.eq(scale_b.o),
            requantise.zero_point.eq(constants.sum_zero_point),
            requantise.minimum.eq(constants.sum_min),
            requantise.maximum.eq(constants.sum_max),
            self.o_valid.eq(requantise.o_valid),
            self.o_value.eq(requantise.o_value),
        ]
        for i in range(self.lanes):
            m.d.comb += [
                requantise.i_multiplier[i].eq(constants.sum_multiplier),
                requantise.i_shift[i].eq(constants.sum_shift),
            ]
        return m
