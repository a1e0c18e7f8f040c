"""Block RAM as external memory, and the whole board top over its serial line."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.boards.block_memory import BlockMemory
from hw.boards.board_top import MEMORY_BASE, BoardTop
from hw.bus.axi import Response
from hw.contract.config import PRESETS
from hw.contract.registers import ID, REGISTERS, Control, Error
from sw_driver.links.link import LinkError
from sw_driver.links.uart import UartLink
from testbench.board_simulation import BoardPort
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
NANO = PRESETS["nano"]
BASE, SIZE = 0x3000, 0x3000

#: Addresses that are so far apart differ only in bits that entries of the memory do not have.
ALIAS = 0x4000


@pytest.fixture
def rng() -> np.random.Generator:
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng(SEED)


@pytest.mark.parametrize(("base", "size"), [(0x100, 0x1000), (0, 0x1800), (0, 0), (0xFFFF_F000, 0x2000)])
def test_memory_that_can_not_be(base, size):
    with pytest.raises(ValueError, match="must be multiples of 0x1000"):
        BlockMemory(NANO, base=base, size=size)


async def _pause(ctx, rng) -> None:
    for _ in range(int(rng.integers(3)) if rng.integers(2) else 0):
        await ctx.tick()


def test_three_masters_at_once(rng):
    """Device reads, device writes and the bridge at once, each in a part of its own; then each other's parts."""
    memory = BlockMemory(NANO, base=BASE, size=SIZE)
    bus, port = memory.bus, memory.port
    content = np.zeros(SIZE // 8, np.uint64)
    parts = {"bus": range(400), "bridge": range(400, 800), "quiet": range(800, SIZE // 8)}
    phases = [("bus", "bridge"), ("quiet", "bus"), ("bridge", "quiet")]
    done = {"write": 0, "read": 0, "bridge": 0}
    waited = {"bursts": 0, "denied": 0}

    def all_in(phase: int) -> bool:
        return all(count > phase for count in done.values())

    async def write(ctx):
        for phase, (mine, _other) in enumerate(phases):
            for _ in range(12):
                beats = int(rng.integers(1, 20))
                start = int(rng.integers(parts[mine].start, parts[mine].stop - beats))
                outside = rng.integers(6) == 0
                ctx.set(bus.awaddr, (BASE + ALIAS if outside else BASE) + 8 * start)
                ctx.set(bus.awlen, beats - 1)
                ctx.set(bus.awvalid, 1)
                await ctx.tick().until(bus.awready)
                ctx.set(bus.awvalid, 0)
                for beat in range(beats):
                    await _pause(ctx, rng)
                    value, strobe = int(rng.integers(1 << 63)), int(rng.choice([0xFF, 0xFF, 0x0F, 0]))
                    ctx.set(bus.wdata, value)
                    ctx.set(bus.wstrb, strobe)
                    ctx.set(bus.wlast, beat == beats - 1)
                    ctx.set(bus.wvalid, 1)
                    await ctx.tick().until(bus.wready)
                    ctx.set(bus.wvalid, 0)
                    if not outside:
                        bits = sum(0xFF << 8 * i for i in range(8) if strobe >> i & 1)
                        content[start + beat] = value & bits | int(content[start + beat]) & ~bits
                await _pause(ctx, rng)
                ctx.set(bus.bready, 1)
                (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
                ctx.set(bus.bready, 0)
                assert response == (Response.DECERR if outside else Response.OKAY)
                waited["denied"] += int(outside)
            done["write"] += 1
            while not all_in(phase):
                await ctx.tick()

    async def read(ctx):
        for phase, (written, bridged) in enumerate(phases):
            where = next(part for name, part in parts.items() if name not in (written, bridged))
            for _ in range(12):
                beats = int(rng.integers(1, 20))
                start = int(rng.integers(where.start, where.stop - beats))
                outside = rng.integers(6) == 0
                ctx.set(bus.araddr, (BASE - 0x1000 if outside else BASE + 8 * start))
                ctx.set(bus.arlen, beats - 1)
                ctx.set(bus.arvalid, 1)
                await ctx.tick().until(bus.arready)
                ctx.set(bus.arvalid, 0)
                for beat in range(beats):
                    await _pause(ctx, rng)
                    ctx.set(bus.rready, 1)
                    value, response, last = await ctx.tick().sample(bus.rdata, bus.rresp, bus.rlast).until(bus.rvalid)
                    ctx.set(bus.rready, 0)
                    assert last == (beat == beats - 1)
                    assert response == (Response.DECERR if outside else Response.OKAY)
                    if not outside:
                        assert value == content[start + beat]
                waited["bursts"] += 1
            done["read"] += 1
            while not all_in(phase):
                await ctx.tick()

    async def bridge(ctx):
        for phase, (_mine, other) in enumerate(phases):
            for _ in range(60):
                entry = int(rng.choice(parts[other]))
                outside, writes = rng.integers(6) == 0, bool(rng.integers(2))
                value = int(rng.integers(1 << 63))
                ctx.set(port.request.payload, {"address": (BASE + ALIAS if outside else BASE) + 8 * entry,
                                               "write": writes, "data": value})
                ctx.set(port.request.valid, 1)
                await ctx.tick().until(port.request.ready)
                ctx.set(port.request.valid, 0)
                (got,) = await ctx.tick().sample(port.response.payload).until(port.response.valid)
                assert got.error == outside
                if not outside and not writes:
                    assert got.data == content[entry]
                elif not outside:
                    content[entry] = value
                await _pause(ctx, rng)
            done["bridge"] += 1
            while not all_in(phase):
                await ctx.tick()

    async def look(ctx):
        while not all_in(len(phases) - 1):
            await ctx.tick()
        kept = [ctx.get(memory.memory.data[entry]) for entry in range(len(content))]
        np.testing.assert_array_equal(np.array(kept, np.uint64), content)

    simulate(memory, write, read, bridge, look)
    assert waited["bursts"] == 36
    assert waited["denied"]


def test_bursts_follow_without_a_gap():
    """Three bursts of four beats, addresses offered at once: twelve beats in twelve cycles."""
    memory = BlockMemory(NANO, base=BASE, size=SIZE)
    bus = memory.bus
    valid = []

    async def addresses(ctx):
        for burst in range(3):
            ctx.set(bus.araddr, BASE + 32 * burst)
            ctx.set(bus.arlen, 3)
            ctx.set(bus.arvalid, 1)
            await ctx.tick().until(bus.arready)
        ctx.set(bus.arvalid, 0)
        await ctx.tick().repeat(10)

    async def beats(ctx):
        ctx.set(bus.rready, 1)
        async for _clock, _reset, is_valid in ctx.tick().sample(bus.rvalid):
            valid.append(is_valid)

    simulate(memory, addresses, background=[beats])
    first = valid.index(1)
    assert first == 4
    assert valid[first : first + 13] == [1] * 12 + [0]


@pytest.mark.slow
def test_over_the_serial_line():
    """The driver's own link, through the pins: registers, memory, and both lights."""
    port = BoardPort(BoardTop(NANO, clock_hz=1_000_000, baud=250_000, memory_bytes=0x2000))
    link = UartLink(port)
    assert (link.memory_base, link.memory_bytes, link.clock_hz) == (MEMORY_BASE, 0x2000, 1_000_000)
    register = {name: register.address for name, register in REGISTERS.items()}
    assert link.read_register(register["ID"]) == ID
    assert link.read_register(register["CONFIG"]) == NANO.hash
    data = bytes(range(32))
    link.write_memory(MEMORY_BASE + 0x1FE0, data)
    assert link.read_memory(MEMORY_BASE + 0x1FE0, 32) == data
    with pytest.raises(LinkError):
        link.read_memory(MEMORY_BASE - 8, 8)
    assert not port.error
    assert not port.busy_seen
    # A window that lies behind the memory: the device's own access is what fails.
    link.write_register(register["WINDOW0_BASE"], MEMORY_BASE + 0x2000)
    link.write_register(register["WINDOW0_SIZE"], 0x1000)
    link.write_register(register["WINDOW0_PERMISSION"], 1)
    link.write_register(register["CONTROL"], Control.START)
    assert link.read_register(register["ERROR_CODE"]) == Error.BUS_READ
    assert link.read_register(register["ERROR_ADDRESS"]) == MEMORY_BASE + 0x2000
    assert port.error
    assert port.busy_seen
    assert link.retries == 0
