"""The check value in hardware is zlib's CRC-32."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from hw.weight_decoder.row_check import RowCheck
from testbench.component_simulation import simulate


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_check_is_zlibs(lanes):
    dut = RowCheck(8 * lanes)
    random = np.random.default_rng(lanes)

    async def test(ctx):
        for count in (0, 1, 7):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            rows = [random.bytes(lanes) for _ in range(count)]
            for row in rows:
                ctx.set(dut.row, int.from_bytes(row, "little"))
                ctx.set(dut.valid, 1)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                await ctx.tick()
            assert ctx.get(dut.check) == zlib.crc32(b"".join(rows))

    simulate(dut, test)
