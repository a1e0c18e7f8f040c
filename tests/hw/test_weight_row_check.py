"""The check value in hardware is zlib's CRC-32."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from hw.weight_decoder.row_check import RowCheck
from testbench.component_simulation import simulate


@pytest.mark.parametrize(("lanes", "width"), [(4, 1), (8, 2), (16, 4), (16, 8), (16, 16)])
def test_check_is_zlibs(lanes, width):
    """Rows part by part, and heads of rows; then digits are dropped. What waits for `go` does nothing, not even while
    the rest of a head follows."""
    dut = RowCheck(lanes, width)
    random = np.random.default_rng(lanes)

    async def go(ctx, signal):
        """Whatever `signal` asks for waits for some cycles, then it is done."""
        ctx.set(signal, 1)
        await ctx.tick().repeat(1 + int(random.integers(3)))
        ctx.set(dut.go, 1)
        await ctx.tick()
        ctx.set(dut.go, 0)
        ctx.set(signal, 0)

    async def test(ctx):
        for count in (0, 1, 7):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            rows = [random.bytes(lanes) for _ in range(count)]
            for number, row in enumerate(rows):
                if number % 3 == 1:
                    rows[number] = row[:2] + bytes(lanes - 2)
                    ctx.set(dut.head, int.from_bytes(row[:2], "little"))
                    await go(ctx, dut.begin)
                    ctx.set(dut.part, 0x5A)  # the next part waits meanwhile
                    ctx.set(dut.valid, 1)
                    while ctx.get(dut.busy):
                        await ctx.tick()
                    ctx.set(dut.valid, 0)
                    continue
                for at in range(0, lanes, width):
                    ctx.set(dut.part, int.from_bytes(row[at : at + width], "little"))
                    await go(ctx, dut.valid)
            wanted = zlib.crc32(b"".join(rows))
            assert ctx.get(dut.digits) == wanted
            for log in range(width.bit_length()):
                ctx.set(dut.drop_log, log)
                await go(ctx, dut.drop)
                wanted >>= 4 << log
                assert ctx.get(dut.digits) == wanted

    simulate(dut, test)
