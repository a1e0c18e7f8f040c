"""The bus masters alone: data, order, pages, windows, errors, stop; with random latency and back-pressure."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from amaranth.back import verilog

from hw.bus.axi import verilog_ports
from hw.bus.master import BusMaster
from hw.contract.config import preset
from hw.contract.registers import Error
from hw.register_slice import RegisterSlice
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
BASE = 0x8000_0000
SMALL = preset("small")


def random_bytes(count: int, seed: int = SEED) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).tobytes()


def set_window(ctx, master, index, base, size, read=1, write=1):
    window = master.windows[index]
    ctx.set(window.base, base)
    ctx.set(window.size, size)
    ctx.set(window.read, read)
    ctx.set(window.write, write)


async def request(ctx, client, window, offset, length):
    ctx.set(client.request.payload, {"window": window, "offset": offset, "length": length})
    ctx.set(client.request.valid, 1)
    await ctx.tick().until(client.request.ready)
    ctx.set(client.request.valid, 0)


async def collect(ctx, client, beats, random=None, chance=1.0):
    """`beats` beats of a read client as bytes, taken with probability `chance` in a cycle."""
    got = bytearray()
    while len(got) < 8 * beats:
        take = random is None or random.random() < chance
        ctx.set(client.data.ready, take)
        _clk, _rst, valid, payload = await ctx.tick().sample(client.data.valid, client.data.payload)
        if take and valid:
            got += payload.to_bytes(8, "little")
    ctx.set(client.data.ready, 0)
    return bytes(got)


async def supply(ctx, client, content, random=None, chance=1.0):
    """Offer bytes as beats to a write client."""
    for at in range(0, len(content), 8):
        while random is not None and random.random() >= chance:
            await ctx.tick()
        ctx.set(client.data.payload, int.from_bytes(content[at : at + 8], "little"))
        ctx.set(client.data.valid, 1)
        await ctx.tick().until(client.data.ready)
        ctx.set(client.data.valid, 0)


async def wait_error(ctx, client):
    return (await ctx.tick().sample(client.error.code, client.error.address).until(client.error.valid))


def random_transfers(random, count, size):
    transfers = []
    for _ in range(count):
        length = 8 * int(random.integers(1, 100))
        transfers.append((8 * int(random.integers(0, (size - length) // 8 + 1)), length))
    return transfers


@pytest.mark.parametrize(("burst_beats", "outstanding"), [(32, 4), (4, 1), (256, 16)])
def test_random_reads_and_writes(burst_beats, outstanding):
    """Four clients at once; every beat arrives where it belongs, whatever the bus does."""
    print(f"LACUNA_SEED={SEED}")
    config = dataclasses.replace(SMALL, burst_beats=burst_beats, reads_outstanding=outstanding)
    dut = BusMaster(config)
    content = random_bytes(16384)
    memory = AxiMemoryModel(dut.bus, content, BASE, SEED, (0, 30), 0.6, 0.7)
    half = 8192 - 24  # windows that start and end off page boundaries
    expected = bytearray(content)

    def reader(client, seed):
        async def run(ctx):
            random = np.random.default_rng([SEED, seed])
            for offset, length in random_transfers(random, 8, half):
                await request(ctx, client, 0, offset, length)
                got = await collect(ctx, client, length // 8, random, 0.8)
                assert got == content[16 + offset : 16 + offset + length]
        return run

    def writer(client, window, base, seed):
        async def run(ctx):
            random = np.random.default_rng([SEED, seed])
            for offset, length in random_transfers(random, 8, half // 2 - 8):
                new = random.bytes(length)
                expected[base + offset : base + offset + length] = new
                await request(ctx, client, window, offset, length)
                await supply(ctx, client, new, random, 0.8)
                while not ctx.get(client.done):
                    await ctx.tick()
        return run

    async def windows(ctx):
        set_window(ctx, dut, 0, BASE + 16, half)
        set_window(ctx, dut, 1, BASE + 8200, half // 2 - 8)
        set_window(ctx, dut, 3, BASE + 12304, half // 2 - 8)

    simulate(dut, windows, reader(dut.program, 1), reader(dut.load, 2), writer(dut.store, 1, 8200, 3),
             writer(dut.record, 3, 12304, 4), background=[memory.run])
    assert memory.data.tobytes() == bytes(expected)
    assert max(burst.beats for burst in memory.reads) <= burst_beats


def test_throughput():
    """With 20 cycles of latency, reads and writes move a beat in every cycle once under way."""
    dut = BusMaster(SMALL)
    content = random_bytes(8192)
    memory = AxiMemoryModel(dut.bus, content, BASE)
    beats = 400

    async def read(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        await request(ctx, dut.load, 0, 0, 8 * beats)
        assert await collect(ctx, dut.load, beats) == content[: 8 * beats]

    async def write(ctx):
        await request(ctx, dut.store, 0, 4096, 8 * beats)
        await supply(ctx, dut.store, content[: 8 * beats])
        await ctx.tick().until(dut.store.done)

    simulate(dut, read, write, background=[memory.run])
    assert memory.data[4096 : 4096 + 8 * beats].tobytes() == content[: 8 * beats]
    for cycles in (memory.beats_read, memory.beats_written):
        assert len(cycles) == beats
        assert cycles[-1] - cycles[0] == beats - 1


def test_program_goes_first():
    """A program fetch overtakes the bursts of a long load that are not on the bus yet."""
    dut = BusMaster(SMALL)
    memory = AxiMemoryModel(dut.bus, random_bytes(8192), BASE)
    finished = []

    async def load(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        await request(ctx, dut.load, 0, 0, 8192)
        await collect(ctx, dut.load, 1024)
        finished.append("load")

    async def program(ctx):
        await ctx.tick().repeat(30)
        await request(ctx, dut.program, 0, 256, 64)
        await collect(ctx, dut.program, 8)
        finished.append("program")
        assert memory.cycle < 400

    simulate(dut, load, program, background=[memory.run])
    assert finished == ["program", "load"]


WINDOW = (BASE + 64, 4096)
HIGH = 0xFFFF_F000
ACCESSES = [  # window, offset, length, allowed
    (0, 0, 8, True),
    (0, 0, 4096, True),
    (0, 4088, 8, True),
    (0, 4088, 16, False),
    (0, 4096, 8, False),
    (0, 0, 4104, False),
    (0, 8, 0xFFFF_FFF8, False),
    (0, 0xFFFF_FFF8, 8, False),
    (0, 0xFFFF_FFF8, 16, False),
    (0, 0, 0, False),
    (0, 4, 8, False),
    (0, 8, 12, False),
    (1, 0, 8, False),   # permits nothing
    (2, 0, 0x1000, True),   # ends with the address space
    (2, 0x1000, 8, False),  # inside the window, beyond the address space
    (2, 0xFF8, 16, False),
    (3, 0, 8, False),   # size 0
    (4, 0, 8, False),
    (255, 0, 8, False),
]


@pytest.mark.parametrize("client_name", ["load", "program", "store", "record"])
def test_window_edges(client_name):
    """Exactly at the limit is allowed; one beat more, a carry, a missing permission or window is denied."""
    dut = BusMaster(SMALL)
    client = getattr(dut, client_name)
    reads = client_name in ("load", "program")
    code = Error.WINDOW_READ if reads else Error.WINDOW_WRITE
    seen = []

    async def test(ctx):
        set_window(ctx, dut, 0, *WINDOW, read=reads, write=not reads)
        set_window(ctx, dut, 1, *WINDOW, read=not reads, write=reads)
        set_window(ctx, dut, 2, HIGH, 0x2000)
        set_window(ctx, dut, 3, BASE, 0)
        channel = dut.bus.arvalid if reads else dut.bus.awvalid
        for window, offset, length, allowed in ACCESSES:
            await request(ctx, client, window, offset, length)
            for _ in range(8):
                if ctx.get(channel) or ctx.get(client.error.valid):
                    break
                await ctx.tick()
            seen.append((window, offset, length, ctx.get(channel) == 1))
            if allowed:
                address = ctx.get(dut.bus.araddr if reads else dut.bus.awaddr)
                assert address == (WINDOW[0] if window == 0 else HIGH) + offset
            else:
                assert ctx.get(client.error.valid)
                assert ctx.get(client.error.code) == code
                assert ctx.get(client.error.address) == offset
            # Forget the transfer: nothing has been taken on the bus.
            ctx.set(dut.stop, 1)
            ctx.set(dut.bus.arready, 1)
            ctx.set(dut.bus.awready, 1)
            ctx.set(dut.bus.wready, 1)
            for _ in range(3):
                await ctx.tick()
            ctx.set(dut.bus.arready, 0)
            ctx.set(dut.bus.awready, 0)
            ctx.set(dut.bus.rlast, 1)
            ctx.set(dut.bus.rvalid, allowed and reads)
            ctx.set(dut.bus.bvalid, allowed and not reads)
            await ctx.tick()
            ctx.set(dut.bus.rvalid, 0)
            ctx.set(dut.bus.bvalid, 0)
            await ctx.tick().repeat(40)
            ctx.set(dut.stop, 0)
            assert ctx.get(dut.idle)

    simulate(dut, test)
    assert seen == ACCESSES


@pytest.mark.parametrize(("bits", "base", "denied"), [(32, 0, True), (40, 1 << 36, False)])
def test_address_width(bits, base, denied):
    """A window may lie anywhere in the address space of the configuration."""
    dut = BusMaster(dataclasses.replace(SMALL, axi_address_bits=bits))

    async def test(ctx):
        set_window(ctx, dut, 0, base + 0xFFFF_FFF8, 0x1000)
        await request(ctx, dut.load, 0, 8, 8)
        while not ctx.get(dut.load.error.valid | dut.bus.arvalid):
            await ctx.tick()
        assert ctx.get(dut.load.error.valid) == denied
        if not denied:
            assert ctx.get(dut.bus.araddr) == base + (1 << 32)

    simulate(dut, test)


@pytest.mark.parametrize("name", ["program", "load"])
def test_read_error(name):
    dut = BusMaster(SMALL)
    memory = AxiMemoryModel(dut.bus, bytes(8192), BASE)
    memory.read_errors = [range(BASE + 4096 + 80, BASE + 4096 + 88)]
    client = getattr(dut, name)

    async def test(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        await request(ctx, client, 0, 4000, 400)
        ctx.set(client.data.ready, 1)
        code, address = await wait_error(ctx, client)
        assert (code, address) == (Error.BUS_READ, BASE + 4096 + 80)

    simulate(dut, test, background=[memory.run])


@pytest.mark.parametrize("name", ["program", "load"])
def test_a_failure_is_told_after_the_beats_before_it(name):
    """A slow client: the first beat that fails is told, once all before it were taken; after a stop the next one is."""
    dut = BusMaster(SMALL)
    content = random_bytes(8192)
    memory = AxiMemoryModel(dut.bus, content, BASE)
    memory.read_errors = [range(BASE + 4176, BASE + 4200), range(BASE + 1024, BASE + 1032)]
    client = getattr(dut, name)
    random = np.random.default_rng(SEED)

    async def test(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        for offset, failing in ((4000, 4176), (800, 1024), (4000, 4176)):
            await request(ctx, client, 0, offset, 400)
            got = bytearray()
            while not ctx.get(client.error.valid):
                take = bool(random.integers(4) == 0)
                ctx.set(client.data.ready, take)
                _clk, _rst, valid, payload = await ctx.tick().sample(client.data.valid, client.data.payload)
                if take and valid:
                    got += payload.to_bytes(8, "little")
            assert got == content[offset:failing]
            assert (ctx.get(client.error.code), ctx.get(client.error.address)) == (Error.BUS_READ, BASE + failing)
            ctx.set(dut.stop, 1)
            await ctx.tick()
            await ctx.tick().until(dut.idle)
            ctx.set(dut.stop, 0)

    simulate(dut, test, background=[memory.run])


@pytest.mark.parametrize("name", ["record", "store"])
def test_write_error(name):
    dut = BusMaster(SMALL)
    memory = AxiMemoryModel(dut.bus, bytes(8192), BASE)
    memory.write_errors = [range(BASE + 4096 + 80, BASE + 4096 + 88)]
    client = getattr(dut, name)

    async def feed(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        await request(ctx, client, 0, 4000, 400)
        await supply(ctx, client, bytes(400))

    async def test(ctx):
        code, address = await wait_error(ctx, client)
        assert (code, address) == (Error.BUS_WRITE, BASE + 4096)

    simulate(dut, feed, test, background=[memory.run])


def test_stop_ends_what_is_under_way():
    """After `stop` bursts end in good order, writes write nothing, and the next transfers work."""
    dut = BusMaster(SMALL)
    content = random_bytes(8192)
    memory = AxiMemoryModel(dut.bus, content, BASE, SEED, (5, 25), 0.7, 0.7)

    async def test(ctx):
        set_window(ctx, dut, 0, BASE, 8192)
        for pause in (3, 5, 30, 60, 61, 62):
            await request(ctx, dut.load, 0, 0, 4096)
            await request(ctx, dut.store, 0, 4096, 4096)
            ctx.set(dut.load.data.ready, 1)
            await ctx.tick().repeat(pause)  # the store gives no data at all
            ctx.set(dut.stop, 1)
            await ctx.tick()
            await ctx.tick().until(dut.idle)
            ctx.set(dut.stop, 0)
            ctx.set(dut.load.data.ready, 0)
            assert memory.data.tobytes() == content
            await request(ctx, dut.load, 0, 256, 800)
            assert await collect(ctx, dut.load, 100) == content[256 : 256 + 800]
        await request(ctx, dut.store, 0, 0, 80)
        await supply(ctx, dut.store, b"\xa5" * 80)
        await ctx.tick().until(dut.store.done)
        assert memory.data.tobytes() == b"\xa5" * 80 + content[80:]

    simulate(dut, test, background=[memory.run])


def test_register_slice():
    """Everything comes out once, in order; without stalls one payload per cycle."""
    dut = RegisterSlice(8)
    random = np.random.default_rng(SEED)
    sent, got, cycles = list(range(100)), [], []

    async def send(ctx):
        for i, value in enumerate(sent):
            while i < 50 and random.random() < 0.4:
                await ctx.tick()
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def receive(ctx):
        cycle = 0
        while len(got) < len(sent):
            ctx.set(dut.o.ready, len(got) >= 50 or random.random() < 0.6)
            ready = ctx.get(dut.o.ready)
            _clk, _rst, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            cycle += 1
            if ready and valid:
                got.append(payload)
                cycles.append(cycle)

    simulate(dut, send, receive)
    assert got == sent
    assert cycles[-1] - cycles[-40] == 39


def test_verilog_names():
    dut = BusMaster(SMALL)
    text = verilog.convert(dut, name="bus_master", ports=verilog_ports(dut))
    for name in ("bus_wstrb", "bus_bready", "bus_arcache", "bus_rdata", "load_request_payload"):
        assert name in text
    assert "output bus_awaddr;" in text.replace("[31:0] ", "")
