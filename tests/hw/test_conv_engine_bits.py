"""Sets of bits in hardware against Python: counts, prefixes, two or more, the number of the only one."""

from __future__ import annotations

import random

import pytest
from amaranth import Module, Signal
from amaranth.sim import Simulator

from hw.conv_engine.bits import count_ones, encode, two_or_more, up_to


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 15, 16])
def test_sets_of_bits(width: int) -> None:
    m = Module()
    bits = Signal(width)
    count, prefix = count_ones(m, bits, "count"), up_to(m, bits, "prefix")
    several, index = Signal(), encode(m, bits, "index")
    m.d.comb += several.eq(two_or_more(m, bits, "several"))
    values = range(1 << width) if width <= 8 else [
        0, (1 << width) - 1, *(1 << i for i in range(width)), *random.Random(1).sample(range(1 << width), 300)]

    async def bench(ctx):
        for value in values:
            ctx.set(bits, value)
            ones = value.bit_count()
            assert ctx.get(count) == ones
            assert ctx.get(several) == (ones >= 2)
            lowest = value & -value
            assert ctx.get(prefix) == ((-lowest) & ((1 << width) - 1) if value else 0)
            if ones == 1:
                assert ctx.get(index) == value.bit_length() - 1

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
