"""From 32-bit accumulators to int8, exactly as TFLite Micro's reference kernels compute it.

The formulas are `MultiplyByQuantizedMultiplier` (two roundings), `SaturatingRoundingDoublingHighMul` and
`RoundingDivideByPOT` of TensorFlow Lite (tensorflow/lite/kernels/internal/common.h, gemmlowp/fixedpoint) and
`Add` of reference/integer_ops/add.h. The int32 sum of accumulator and bias wraps.

Everything here is a pipeline that always flows: what enters with `i_valid` leaves with `o_valid` exactly
LATENCY cycles later, and there is no back-pressure, so a user starts only what it has room for. Between two
registers lies one adder, one 18x18 product or three levels of a shifter: each is what an ECP5 does in a cycle
above 110 MHz.

Both roundings in one step
--------------------------
Let P = x * m be the product of value and multiplier, r the right shift, s = 1 where P < 0, else 0, and
v = floor(P / 2^30) for s = 0, v = -1 - floor(P / 2^30) for s = 1: the bits of P from 30 on, inverted where P is
negative. v is not negative. Then

    RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(x, m), r) = (-1)^s * (floor(V / 2) + c),

V = floor(v / 2^r), c = 1 where V is odd, or where r > 0 and the r lowest bits of v are all ones.

SaturatingRoundingDoublingHighMul adds 2^30 to P >= 0, and 1 - 2^30 to P < 0, and divides by 2^31 towards zero. For
P < 0 the sum is negative, and ceil((P + 1 - 2^30) / 2^31) = floor((P + 1 - 2^30 + 2^31 - 1) / 2^31): it is
h = floor((P + 2^30) / 2^31) in both cases. (It saturates only for -2^31 times itself, and a multiplier is not
negative.) RoundingDivideByPOT rounds h / 2^r to nearest, halves away from zero: for r > 0 it is
floor((h - n + 2^(r-1)) / 2^r), n = 1 for h < 0, else 0. With g = floor(P / 2^30), h = floor((g + 1) / 2), so for
r > 0 the result is floor((g + 1 - 2 n + 2^r) / 2^(r+1)) (floors of sums with integers nest). Here s may stand for n:
they differ only for P < 0 with h = 0, that is g = -1, where both numerators, 2^r and 2^r - 2, give 0 for r > 0.
- s = 0: g = v, and the result is floor((v + 1 + 2^r) / 2^(r+1)) = floor((floor((v + 1) / 2^r) + 1) / 2). v + 1
  carries into V exactly where the r lowest bits are ones, and floor((V + 2) / 2) = floor(V / 2) + 1,
  floor((V + 1) / 2) = floor(V / 2) + (V odd).
- s = 1: g = -1 - v, and the result is floor((-2 - v + 2^r) / 2^(r+1)) = -ceil((v + 2 - 2^r) / 2^(r+1)) =
  -floor((v + 1 + 2^r) / 2^(r+1)): the same number as above, negated.
- r = 0: floor((g + 1) / 2): for s = 0 floor(v / 2) + (v odd); for s = 1 floor(-v / 2) = -(floor(v / 2) + (v odd)).

A left shift l comes before the product, so v are the bits of P from 30 - l on.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from amaranth import Cat, Const, EnableInserter, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.commands import LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN

#: Multipliers are Q31 and not negative; bit 31 of their 32-bit fields is zero.
MULTIPLIER_BITS = 31

#: Bits that a product of ADD's operand loses: 31, less the 20 by which TFLite shifts the operand left before.
_OPERAND_FRACTION = 31 - 20

#: Constants of a residual addition, named as the fields of the ADD command.
ADD_CONSTANTS = data.StructLayout({
    **{f"{name}_multiplier": unsigned(32) for name in ("a", "b", "sum")},
    **{f"{name}_shift": signed(8) for name in ("a", "b", "sum")},
    **{f"{name}_zero_point": signed(8) for name in ("a", "b", "sum")},
    "sum_min": signed(8),
    "sum_max": signed(8),
})

#: What a requantised value is brought to.
OUTPUT_RANGE = data.StructLayout({"zero_point": signed(8), "minimum": signed(8), "maximum": signed(8)})

#: Bits of a right shift of ADD's operands.
_OPERAND_SHIFT_BITS = (-OPERAND_SHIFT_MIN).bit_length()


def delayed(m: Module, value: Value, cycles: int, *, reset_less: bool = True) -> Value:
    """`value` as it was `cycles` cycles ago. Valid bits need `reset_less=False`."""
    value = Value.cast(value)
    for _ in range(cycles):
        register = Signal(value.shape(), reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def selected(m: Module, parts: Sequence[Value], index: Value, name: str) -> Signal:
    """parts[index], of the cycle before: a register for each part, zero for all but the chosen one, and their OR. That
    takes a third of a multiplexer's LUTs, as registers have resets."""
    gated = []
    for i, part in enumerate(parts):
        register = Signal(len(part), name=f"{name}_{i}", reset_less=True)
        m.d.sync += register.eq(part)
        if len(parts) > 1:
            with m.If(index != i):
                m.d.sync += register.eq(0)
        gated.append(register)
    chosen = Signal(len(parts[0]), name=name)
    m.d.comb += chosen.eq(functools.reduce(operator.or_, gated))
    return chosen


def _register(m: Module, value: Value, shape: Shape | None = None, *, name: str) -> Signal:
    """`value` of the cycle before."""
    register = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


class KaratsubaMultiply(wiring.Component):
    """o = floor(i * multiplier / 2^16), from three 18x18 products instead of four (Karatsuba).

    With i = ih * 2^16 + il and multiplier = mh * 2^16 + ml the product is
    ih mh * 2^32 + ((ih + il) (mh + ml) - ih mh - il ml) * 2^16 + il ml. ih + il fits 18 signed bits, mh + ml 17
    unsigned ones. What is shifted out is the low half of il ml alone, so that o is the sum of two differences:
    (ih mh, il ml / 2^16) - il ml, and (ih + il) (mh + ml) - ih mh.

    Members
    -------
    i : signed(32). multiplier : unsigned(31), together with `i`. o : signed(47), LATENCY cycles later.
    """

    LATENCY = 4

    def __init__(self):
        super().__init__({
            "i": In(signed(32)),
            "multiplier": In(unsigned(MULTIPLIER_BITS)),
            "o": Out(signed(47)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        i_high, i_low = self.i[16:].as_signed(), self.i[:16]
        m_high, m_low = self.multiplier[16:], self.multiplier[:16]
        i_sum = _register(m, i_high + i_low, signed(18), name="i_sum")
        m_sum = _register(m, m_high + m_low, unsigned(17), name="m_sum")
        i_high, i_low, m_high, m_low = (_register(m, value, name=name) for value, name in (
            (i_high, "i_high"), (i_low, "i_low"), (m_high, "m_high"), (m_low, "m_low")))
        high = _register(m, i_high * m_high, signed(31), name="high")
        low = _register(m, i_low * m_low, unsigned(32), name="low")
        product_of_sums = _register(m, i_sum * m_sum, signed(35), name="product_of_sums")
        less_high = _register(m, product_of_sums - high, signed(36), name="less_high")
        less_low = _register(m, Cat(low[16:], high).as_signed() - low, signed(48), name="less_low")
        m.d.comb += self.o.eq(_register(m, less_low + less_high, signed(47), name="sum"))
        return m


def _shift_right(m: Module, bits: Value, ones: Value, shift: Value, steps: tuple[int, ...], keep: int | None,
                 ) -> tuple[Signal, Signal, Signal]:
    """One power of two of `shift` after the other, largest first: what is left of `bits`, whether `ones` and all bits
    shifted out were ones, and whether a one lies beyond the bits that the remaining shifts can bring among the `keep`
    lowest (None: all bits are kept)."""
    beyond = Const(0, 1)
    for step in steps:
        shifting = shift[step.bit_length() - 1]
        width = len(bits) if keep is None else min(len(bits), step - 1 + keep)
        shifted, more, all_ones = (Signal(width, name=f"shifted_{step}"), Signal(name=f"beyond_{step}"),
                                   Signal(name=f"ones_{step}"))
        m.d.comb += [
            shifted.eq(Mux(shifting, bits[step:], bits)),
            more.eq(beyond | (~shifting & bits[width:].any())),
            all_ones.eq(ones & (~shifting | bits[:step].all())),
        ]
        bits, beyond, ones = shifted, more, all_ones
    return bits, ones, beyond


class _RequantiseLane(wiring.Component):
    """One lane of Requantise; `zero_point` comes with the last sum, minimum and maximum a cycle later.

    A value shifted left by l bits wraps: the product takes the bits that stay, bit 31 - l as their sign, and `v` are
    the product's bits from 30 - l on. So one shifter to the right, by LEFT_SHIFT_MAX - shift, serves both directions.
    Of V are kept nine bits, and whether there are more: a magnitude of 256 or more leaves int8 with any zero point.
    The magnitude is added to the zero point as it is or, where the product is negative, as its complement plus one;
    c and that one together are the carry into the sum.
    """

    LATENCY = 2 + KaratsubaMultiply.LATENCY + 4

    def __init__(self):
        super().__init__({
            "accumulator": In(signed(32)),
            "bias": In(signed(32)),
            "multiplier": In(unsigned(MULTIPLIER_BITS)),
            "shift": In(signed(8)),
            "once": In(1),
            "zero_point": In(signed(8)),
            "minimum": In(signed(8)),
            "maximum": In(signed(8)),
            "o": Out(signed(8)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.multiply = multiply = KaratsubaMultiply()

        biased = _register(m, self.accumulator + self.bias, signed(32), name="biased")
        left = Mux(self.shift[-1], 0, self.shift[:3])
        lost = _register(m, Cat(left > i for i in range(LEFT_SHIFT_MAX)), name="lost")  # bit i: of value bit 31 - i
        sign_at = _register(m, left, unsigned(3), name="sign_at")
        sign, value = Signal(), Signal(signed(32))
        m.d.comb += [
            sign.eq(biased[31 - LEFT_SHIFT_MAX:][::-1].bit_select(sign_at, 1)),
            value.eq(Cat(biased[:32 - LEFT_SHIFT_MAX],
                         *(Mux(lost[31 - i], sign, biased[i]) for i in range(32 - LEFT_SHIFT_MAX, 32)))),
        ]
        m.d.comb += [
            multiply.i.eq(_register(m, value, name="value")),
            multiply.multiplier.eq(delayed(m, self.multiplier, 2)),
        ]

        right = delayed(m, (LEFT_SHIFT_MAX - self.shift)[:6], 2 + multiply.LATENCY)
        twice = delayed(m, self.shift[-1] & ~self.once, 2 + multiply.LATENCY)
        product, negative = multiply.o[30 - LEFT_SHIFT_MAX - 16 : -1], multiply.o[-1]
        bits = Signal(len(product))
        # The bits before `v` don't count as shifted out of it.
        m.d.comb += bits.eq((product ^ negative.replicate(len(product)))
                            | Mux(twice, (1 << LEFT_SHIFT_MAX) - 1, 0))
        coarse, ones, beyond = _shift_right(m, bits, twice, right, (32, 16), 9)
        coarse, ones, beyond, right, negative = (_register(m, value, name=f"{name}_coarse") for value, name in (
            (coarse, "bits"), (ones, "ones"), (beyond, "beyond"), (right[:4], "right"), (negative, "negative")))
        fine, ones, more = _shift_right(m, coarse, ones, right, (8, 4, 2), 9)
        fine, ones, beyond, right, negative = (_register(m, value, name=f"{name}_fine") for value, name in (
            (fine, "bits"), (ones, "ones"), (beyond | more, "beyond"), (right[:1], "right"), (negative, "negative")))
        final, ones, more = _shift_right(m, fine, ones, right, (1,), 9)
        carry, addend = Signal(), Signal(9)
        m.d.comb += [
            carry.eq((final[0] | ones) ^ negative),
            addend.eq(Cat(final[1:] ^ negative.replicate(8), negative)),
        ]
        total = _register(m, self.zero_point + addend.as_signed() + carry, signed(10), name="total")
        too_low = _register(m, (beyond | more) & negative, name="too_low")
        too_high = _register(m, (beyond | more) & ~negative, name="too_high")
        clamped = Signal(signed(8), reset_less=True)
        m.d.comb += self.o.eq(clamped)
        with m.If(too_low | (~too_high & (total < self.minimum))):
            m.d.sync += clamped.eq(self.minimum)
        with m.Elif(too_high | (total > self.maximum)):
            m.d.sync += clamped.eq(self.maximum)
        with m.Else():
            m.d.sync += clamped.eq(total)
        return m


class Requantise(wiring.Component):
    """clamp(MultiplyByQuantizedMultiplier(accumulator + bias, multiplier, shift) + zero_point).

    Parameters
    ----------
    lanes : values per cycle.

    Members
    -------
    enable : something is under way, from its input's cycle to its output's; else no power is taken, nor time in
        simulation. From a register, as it goes to all lanes.
    i_valid, i_accumulator, i_bias (int32), i_multiplier (0 to 2^31 - 1), i_shift (-31 to LEFT_SHIFT_MAX, positive is
        left) : per lane, new ones in every cycle.
    i_range : which of the two ranges the values are brought to; new in every cycle, as `o_range` LATENCY cycles later.
    range_0, range_1 : OUTPUT_RANGE, shared by the lanes, stable while anything is under way.
    once : round products once, halves up, instead of twice; stable while anything is under way.
    o_valid, o_value (int8) : LATENCY cycles later. The sum with the zero point does not wrap: where the C++ would
        overflow, and be undefined, the result is the bound on that side.
    """

    LATENCY = _RequantiseLane.LATENCY

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__({
            "enable": In(1),
            "i_valid": In(1),
            "i_range": In(1),
            "i_accumulator": In(data.ArrayLayout(signed(32), lanes)),
            "i_bias": In(data.ArrayLayout(signed(32), lanes)),
            "i_multiplier": In(data.ArrayLayout(unsigned(32), lanes)),
            "i_shift": In(data.ArrayLayout(signed(8), lanes)),
            "once": In(1),
            "range_0": In(OUTPUT_RANGE),
            "range_1": In(OUTPUT_RANGE),
            "o_valid": Out(1),
            "o_range": Out(1),
            "o_value": Out(data.ArrayLayout(signed(8), lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        o_valid = delayed(m, self.i_valid, self.LATENCY, reset_less=False)
        # Selected a cycle before they are needed.
        range_2 = delayed(m, self.i_range, self.LATENCY - 3)
        range_1 = delayed(m, range_2, 1)
        zero_point = _register(m, Mux(range_2, self.range_1.zero_point, self.range_0.zero_point), signed(8),
                               name="zero_point_now")
        minimum, maximum = (_register(m, Mux(range_1, self.range_1[name], self.range_0[name]), signed(8),
                                      name=f"{name}_now") for name in ("minimum", "maximum"))
        m.d.comb += [self.o_valid.eq(o_valid), self.o_range.eq(delayed(m, range_1, 2))]
        for i in range(self.lanes):
            lane = _RequantiseLane()
            m.submodules[f"lane{i}"] = EnableInserter(self.enable)(lane)
            m.d.comb += [
                lane.accumulator.eq(self.i_accumulator[i]),
                lane.bias.eq(self.i_bias[i]),
                lane.multiplier.eq(self.i_multiplier[i]),
                lane.shift.eq(self.i_shift[i]),
                lane.once.eq(self.once),
                lane.zero_point.eq(zero_point),
                lane.minimum.eq(minimum),
                lane.maximum.eq(maximum),
                self.o_value[i].eq(lane.o),
            ]
        return m


class _OperandLane(wiring.Component):
    """One lane of AddOperands. Settings come with the operand that they belong to; see there.

    TFLite's operand is d = i - zero_point, times 2^20; the left shift is not done, the product loses 11 bits instead
    of 31. As for |d| <= 255 it fits 39 bits and a sign, two 18x18 products do.
    """

    LATENCY = 5

    def __init__(self, multiply: bool):
        self.multiply = multiply
        super().__init__({
            "i": In(signed(8)),
            "zero_point": In(signed(8)),
            "factor": In(unsigned(MULTIPLIER_BITS)),
            "by_first": In(1),  # instead of the factor: the difference before this one, times 2^_OPERAND_FRACTION
            "right": In(_OPERAND_SHIFT_BITS),  # three cycles after i
            "keep": In(1),  # five cycles after i: the sum goes on
            "o": Out(signed(32)),  # of this operand, and of the one before where the sum went on
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        difference = _register(m, self.i - self.zero_point, signed(9), name="difference")
        factor = Signal(signed(MULTIPLIER_BITS + 1), reset_less=True)
        m.d.sync += factor.eq(self.factor)
        if self.multiply:
            m.d.sync += factor.eq(self.factor | Mux(self.by_first, difference << _OPERAND_FRACTION, 0))
        low = _register(m, difference * factor[:17], signed(26), name="low")
        high = _register(m, difference * factor[17:].as_signed(), signed(23), name="high")
        product = _register(m, low + (high << 17), signed(40), name="product")

        bits, twice = Signal(40 - _OPERAND_FRACTION), Signal()
        negative = product[-1]
        m.d.comb += [
            bits.eq(product[_OPERAND_FRACTION - 1 : -1] ^ negative.replicate(len(bits))),
            twice.eq(self.right.any()),
        ]
        coarse, ones, _ = _shift_right(m, bits, twice, self.right, (8, 4), None)
        coarse, ones, right, negative = (_register(m, value, name=f"{name}_coarse") for value, name in (
            (coarse, "bits"), (ones, "ones"), (self.right[:2], "right"), (negative, "negative")))
        fine, ones, _ = _shift_right(m, coarse, ones, right, (2, 1), None)
        carry = _register(m, (fine[0] | ones) ^ negative, name="carry")
        addend = _register(m, Cat(fine[1:] ^ negative.replicate(len(fine) - 1), negative).as_signed(), name="addend")
        first = Signal(signed(32), reset_less=True)
        m.d.comb += self.o.eq(first + addend + carry)
        m.d.sync += first.eq(self.o)
        with m.If(~self.keep):
            m.d.sync += first.eq(0)
        return m


class AddOperands(wiring.Component):
    """Both operands of ADD, one after the other through the same multipliers: scaled, and summed (wrapping int32).

    o = MBQM((a - a_zero_point) << 20, a_multiplier, a_shift) + MBQM((b - b_zero_point) << 20, b_multiplier, b_shift),
    MBQM for MultiplyByQuantizedMultiplier; or, for MUL, o = (a - a_zero_point) * (b - b_zero_point). This product is
    scaled with b's difference as i and a's, times 2^11, as multiplier, without a shift: what loses 11 bits is exact.

    Parameters
    ----------
    lanes : values per pair of cycles. multiply : MUL is possible.

    Members
    -------
    enable : as of Requantise.
    i_valid : operand a is there, in the cycle after it operand b. Never in two cycles in a row.
    i_a, i_b : int8 per lane, each in its own cycle.
    multiply : MUL (where it is possible). constants : ADD_CONSTANTS; both stable while anything is under way.
    o_valid, o : int32 per lane, LATENCY cycles after i_valid; in other cycles `o` is 0.
    """

    LATENCY = 1 + _OperandLane.LATENCY + 1

    def __init__(self, lanes: int, *, multiply: bool):
        self.lanes = lanes
        self._multiply = multiply
        super().__init__({
            "enable": In(1),
            "i_valid": In(1),
            "i_a": In(data.ArrayLayout(signed(8), lanes)),
            "i_b": In(data.ArrayLayout(signed(8), lanes)),
            "multiply": In(1),
            "constants": In(ADD_CONSTANTS),
            "o_valid": Out(1),
            "o": Out(data.ArrayLayout(signed(32), lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        constants = self.constants
        summed = delayed(m, self.i_valid, self.LATENCY - 1, reset_less=False)
        m.d.sync += self.o_valid.eq(summed)
        second = delayed(m, self.i_valid, 1, reset_less=False)  # operand b is there
        multiply = self.multiply if self._multiply else Const(0, 1)
        factor = Signal(MULTIPLIER_BITS)
        m.d.comb += factor.eq(Mux(multiply, 0, Mux(second, constants.b_multiplier, constants.a_multiplier)))
        right = delayed(m, Mux(multiply, 0, -Mux(second, constants.b_shift, constants.a_shift))[:_OPERAND_SHIFT_BITS],
                        3)
        keep = delayed(m, self.i_valid & ~multiply, 5)
        zero_point = Signal(signed(8))
        m.d.comb += zero_point.eq(Mux(second, constants.b_zero_point, constants.a_zero_point))
        for i in range(self.lanes):
            lane = _OperandLane(self._multiply)
            m.submodules[f"lane{i}"] = EnableInserter(self.enable)(lane)
            m.d.comb += [
                lane.i.eq(Mux(second, self.i_b[i], self.i_a[i])),
                lane.zero_point.eq(zero_point),
                lane.factor.eq(factor),
                lane.by_first.eq(multiply),
                lane.right.eq(right),
                lane.keep.eq(keep),
            ]
            with m.If(summed):
                m.d.sync += self.o[i].eq(lane.o)
            with m.Else():
                m.d.sync += self.o[i].eq(0)
        return m
