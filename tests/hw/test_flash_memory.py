"""The SPI flash as memory, against a flash chip behind its pins: bursts and bridge words at random, streams, errors."""

from __future__ import annotations

import os

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from hw.boards.block_memory import BlockMemory
from hw.boards.flash_memory import FlashMemory
from hw.boards.memory_map import MemoryMap
from hw.boards.spi_flash import SpiFlash
from hw.bridge.memory_port import MemoryPort
from hw.bus.axi import AXI4, Response
from hw.contract.config import PRESETS
from testbench.component_simulation import simulate
from testbench.flash_chip import FlashChip

SEED = int(os.environ.get("LACUNA_SEED", "1"))
NANO = PRESETS["nano"]
MEMORY, FLASH, SIZE, OFFSET = 0x1000_0000, 0x2000_0000, 0x2000, 0x1000
CLOCK_HZ = 1_000_000


class Bench(wiring.Component):
    """Block RAM and a flash behind a MemoryMap."""

    def __init__(self, content: bytes, half_period: int = 1):
        self.flash = FlashMemory(NANO, base=FLASH, size=SIZE, offset=OFFSET, clock_hz=CLOCK_HZ, half_period=half_period)
        self.chip = FlashChip(content, self.flash.flash.wake_cycles // 2)
        self.memory = BlockMemory(NANO, base=MEMORY, size=0x1000)
        super().__init__({"bus": In(AXI4(NANO)), "port": In(MemoryPort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.map = memory_map = MemoryMap(NANO, flash_base=FLASH, flash_size=SIZE)
        m.submodules.flash, m.submodules.chip, m.submodules.memory = self.flash, self.chip, self.memory
        connect(m, flipped(self.bus), memory_map.bus)
        connect(m, flipped(self.port), memory_map.port)
        connect(m, memory_map.memory, self.memory.bus)
        connect(m, memory_map.memory_port, self.memory.port)
        connect(m, memory_map.flash, self.flash.bus)
        connect(m, memory_map.flash_port, self.flash.port)
        m.d.comb += [self.chip.cs.eq(self.flash.cs), self.chip.clk.eq(self.flash.clk),
                     self.chip.copi.eq(self.flash.copi), self.flash.cipo.eq(self.chip.cipo)]
        return m


@pytest.mark.parametrize(("base", "size", "offset"), [(0x100, 0x1000, 0), (0, 0x1800, 0), (0, 0, 0), (0, 0x1000, 8),
                                                      (0, 0x2000, 0xFF_F000), (0xFFFF_F000, 0x2000, 0)])
def test_flash_that_can_not_be(base, size, offset):
    with pytest.raises(ValueError, match="Flash of"):
        FlashMemory(NANO, base=base, size=size, offset=offset, clock_hz=CLOCK_HZ)
    with pytest.raises(ValueError, match="half_period"):
        SpiFlash(clock_hz=CLOCK_HZ, half_period=0)


async def _read(ctx, bus, address: int, beats: int) -> None:
    """Offer a burst."""
    ctx.set(bus.araddr, address)
    ctx.set(bus.arlen, beats - 1)
    ctx.set(bus.arvalid, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)


@pytest.mark.parametrize("half_period", [1, 3])
def test_device_and_bridge_at_random(half_period):
    """Bursts from both memories, several at once, and the bridge in between; every beat is right, and in order."""
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    content = rng.integers(0, 256, OFFSET + SIZE, np.uint8).tobytes()
    words = np.frombuffer(content[OFFSET:], np.uint64)
    bench = Bench(content, half_period)
    bus, port = bench.bus, bench.port
    count = 40 if half_period == 1 else 12
    expected: list[tuple[int | None, bool]] = []
    done = {"bursts": 0, "beats": 0}

    async def addresses(ctx):
        follow = 0
        for _ in range(count):
            beats = int(rng.integers(1, 9))
            kind = int(rng.integers(5))
            if kind == 0:
                address, found = MEMORY + 8 * int(rng.integers(500)), [(0, False)] * beats
            elif kind == 1:
                address, found = FLASH + SIZE + 8 * int(rng.integers(100)), [(None, True)] * beats
            else:
                start = follow if kind == 2 and follow + beats <= len(words) else int(rng.integers(len(words) - beats))
                follow = start + beats
                address = FLASH + 8 * start
                found = [(int(word), False) for word in words[start : start + beats]]
            expected.extend(found)
            await _read(ctx, bus, address, beats)
            for _ in range(int(rng.integers(200)) if rng.integers(2) else 0):
                await ctx.tick()
        done["bursts"] = count

    async def beats(ctx):
        held = 0  # cycles: now and then for longer than all the words last that may wait on the way
        while done["bursts"] < count or done["beats"] < len(expected):
            held = held - 1 if held else 1000 * half_period * int(rng.random() < 0.0015 / half_period)
            ctx.set(bus.rready, int(not held and rng.random() < 0.7))
            _clk, _rst, valid, ready, value, response = await ctx.tick().sample(
                bus.rvalid, bus.rready, bus.rdata, bus.rresp)
            if valid and ready:
                want, failed = expected[done["beats"]]
                assert response == (Response.DECERR if failed else Response.OKAY)
                assert want is None or value == want
                done["beats"] += 1

    async def bridge(ctx):
        while done["bursts"] < count:
            at, writes = int(rng.integers(len(words) + 20)), rng.integers(4) == 0
            ctx.set(port.request.payload, {"address": FLASH + 8 * at, "write": int(writes), "data": 5})
            ctx.set(port.request.valid, 1)
            await ctx.tick().until(port.request.ready)
            ctx.set(port.request.valid, 0)
            (got,) = await ctx.tick().sample(port.response.payload).until(port.response.valid)
            assert got.error == (writes or at >= len(words))
            if not got.error:
                assert got.data == words[at]
            for _ in range(int(rng.integers(300))):
                await ctx.tick()

    async def judge(ctx):
        while done["bursts"] < count or done["beats"] < len(expected):
            await ctx.tick()
        assert not ctx.get(bench.chip.wrong)

    simulate(bench, addresses, beats, bridge, judge)
    assert done["beats"] > count


def test_bursts_that_go_on_are_one_read():
    """Eight bursts of four beats one after the other: one command, and a word every 128 cycles."""
    content = bytes(range(256)) * ((OFFSET + SIZE) // 256)
    bench = Bench(content)
    bus = bench.bus
    arrivals = []

    async def addresses(ctx):
        for burst in range(8):
            await _read(ctx, bus, FLASH + 0x100 + 32 * burst, 4)

    async def beats(ctx):
        ctx.set(bus.rready, 1)
        cycle = 0
        while len(arrivals) < 32:
            _clk, _rst, valid = await ctx.tick().sample(bus.rvalid)
            cycle += 1
            if valid:
                arrivals.append(cycle)
        assert ctx.get(bench.chip.reads) == 1
        assert not ctx.get(bench.chip.wrong)

    simulate(bench, addresses, beats)
    steps = np.diff(arrivals)
    assert steps.min() == 128
    assert steps.max() <= 140


def test_a_write_is_refused():
    bench = Bench(bytes(OFFSET + SIZE))
    bus = bench.bus

    async def write(ctx):
        ctx.set(bus.awaddr, FLASH)
        ctx.set(bus.awvalid, 1)
        await ctx.tick().until(bus.awready)
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 1)
        ctx.set(bus.wlast, 1)
        ctx.set(bus.wstrb, 0xFF)
        await ctx.tick().until(bus.wready)
        ctx.set(bus.wvalid, 0)
        ctx.set(bus.bready, 1)
        (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
        assert response == Response.DECERR

    simulate(bench, write)
