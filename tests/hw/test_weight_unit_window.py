"""The unit window: any number of units in a cycle, any begin, zeros behind the end."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.weight_decoder.unit_window import UnitWindow
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))


@pytest.mark.parametrize(("most", "beat_units"), [(1, 4), (2, 4), (4, 4), (4, 8), (8, 8)])
def test_units_in_order(most, beat_units):
    print(f"LACUNA_SEED={SEED}")
    random = np.random.default_rng([SEED, most])
    dut = UnitWindow(most, beat_units)
    size = 2 * beat_units

    async def test(ctx):
        for _block in range(6):
            skip, total = int(random.integers(4)), int(random.integers(1, 60))
            data = random.bytes(2 * (skip + total))
            data += random.bytes(-len(data) % size)
            beats = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
            units = [int.from_bytes(data[at : at + 2], "little") for at in range(2 * skip, 2 * (skip + total), 2)]
            ctx.set(dut.skip, skip)
            ctx.set(dut.total, total)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            got = []
            while len(got) < total + 20:
                count = int(random.integers(most + 1)) if random.random() < 0.8 else 0
                ctx.set(dut.count, count)
                ctx.set(dut.beats.valid, int(bool(beats) and random.random() < 0.7))
                ctx.set(dut.beats.payload, beats[0] if beats else 0)
                take = ctx.get(dut.enough)
                if take:
                    assert ctx.get(dut.exhausted) == (len(got) >= total)
                offered = ctx.get(dut.units)
                valid, accepted = ctx.get(dut.beats.valid), ctx.get(dut.beats.ready)
                await ctx.tick()
                if take:
                    got += [offered >> 16 * i & 0xFFFF for i in range(count)]
                if valid and accepted:
                    beats.pop(0)
            assert got[:total] == units
            assert not any(got[total:])
            assert not beats

    simulate(dut, test)
