"""The bridge: UART, frames, requests, and that no fault on the line ends in a wrong result."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib.wiring import connect

import lacuna
from hw.bridge.uart import UartReceiver, UartTransmitter, checked_divisor, divisor_of
from hw.bridge.uart_bridge import ByteBridge, UartBridge
from hw.bridge.uart_framing import FrameReceiver, FrameTransmitter
from hw.contract.bridge import FLAG, PAYLOAD_MAX, Answer, Ask
from hw.contract.config import PRESETS
from hw.contract.registers import ID, REGISTERS
from sw_driver.device import Device
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.uart import TRIES, UartLink
from sw_driver.links.uart_protocol import frame, reply_of, request_frame
from sw_driver.tflite.builder import TfliteBuilder
from testbench.bridge_simulation import CLOCK_HZ, SimulatedPort
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
BASE, SIZE = 0x100, 0x4000
WATCHDOG = REGISTERS["WATCHDOG"].address


@pytest.fixture
def rng() -> np.random.Generator:
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng(SEED)


class PlainDevice:
    """A few registers, and memory that can be compared; notes register writes."""

    name, memory_base, memory_bytes = "plain", BASE, SIZE
    flash_base = flash_bytes = 0
    simulator: dict[str, Any] = {}  # noqa: RUF012 (as in Link)

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.registers = dict.fromkeys(range(0, 0x40, 4), 0)
        self.written: list[tuple[int, int]] = []
        self.interrupt = False

    def read_register(self, address: int) -> int:
        if address not in self.registers:
            raise LinkError("no such register")
        return self.registers[address]

    def write_register(self, address: int, value: int) -> None:
        self.read_register(address)
        self.written.append((address, value))
        self.registers[address] = value

    def read_memory(self, address: int, length: int) -> bytes:
        if address >= BASE + SIZE - 64:  # the last bytes are broken
            raise LinkError("no memory")
        return bytes(self.memory[address - BASE : address - BASE + length])

    def write_memory(self, address: int, data: bytes) -> None:
        self.read_memory(address, 8)
        self.memory[address - BASE : address - BASE + len(data)] = data

    def wait_interrupt(self, cycles: int) -> None:
        if not self.interrupt:
            raise InterruptTimeout("not yet")

    def close(self) -> None:
        pass


def byte_bridge() -> ByteBridge:
    return ByteBridge(clock_hz=CLOCK_HZ, memory_base=BASE, memory_bytes=SIZE)


# ---- UART ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", [4, 5, 16])
def test_uart_loop(divisor, rng):
    """Back-to-back bytes through transmitter and receiver."""
    m = Module()
    m.submodules.transmitter = transmitter = UartTransmitter(divisor)
    m.submodules.receiver = receiver = UartReceiver(divisor)
    m.d.comb += receiver.rx.eq(transmitter.tx)
    content = [0, 255, 0x55, 0xAA, *map(int, rng.integers(0, 256, 40))]
    got = []

    async def send(ctx):
        for byte in content:
            ctx.set(transmitter.i.payload, byte)
            ctx.set(transmitter.i.valid, 1)
            await ctx.tick().until(transmitter.i.ready)
            ctx.set(transmitter.i.valid, 0)
            for _ in range(int(rng.integers(3))):
                await ctx.tick()

    async def receive(ctx):
        while len(got) < len(content):
            (byte,) = await ctx.tick().sample(receiver.o.payload).until(receiver.o.valid)
            got.append(byte)

    simulate(m, send, receive)
    assert got == content


@pytest.mark.parametrize("error", [-0.03, 0.03])
def test_uart_receiver_with_another_clock(error, rng):
    """A sender that is 3% slow or fast; then a byte without stop bit, which is dropped."""
    receiver = UartReceiver(32)
    content = list(map(int, rng.integers(0, 256, 20)))
    got = []
    line = []
    for byte in content:
        line += [0, *(byte >> i & 1 for i in range(8)), 1]
    line += [0] * 10 + [1] * 4

    async def send(ctx):
        sent = 0
        for number, bit in enumerate(line):
            ctx.set(receiver.rx, bit)
            while sent < (number + 1) * 32 * (1 + error):
                await ctx.tick()
                sent += 1
        await ctx.tick().repeat(40)

    async def receive(ctx):
        async for _clock, _reset, valid, byte in ctx.tick().sample(receiver.o.valid, receiver.o.payload):
            if valid:
                got.append(byte)

    simulate(receiver, send, background=[receive])
    assert got == content


def test_divisor():
    assert divisor_of(25_000_000, 115_200) == 217
    with pytest.raises(ValueError, match="can't make 1,000,000 baud"):
        divisor_of(3_000_000, 1_000_000)
    with pytest.raises(ValueError, match="within 2%"):
        divisor_of(4_500_000, 1_000_000)
    with pytest.raises(ValueError, match="at least 4 clock cycles"):
        checked_divisor(3)


# ---- frames ----------------------------------------------------------------------------------------


def test_frames_are_those_of_the_driver(rng):
    """Contents full of flags and escapes, out of the transmitter and into the receiver, with back-pressure."""
    m = Module()
    m.submodules.transmitter = transmitter = FrameTransmitter()
    m.submodules.receiver = receiver = FrameReceiver()
    connect(m, transmitter.o, receiver.i)
    contents = [bytes(rng.choice([0x7D, 0x7E, 0x5D, 0x5E, 0, 255], int(rng.integers(1, 20))).astype(np.uint8))
                for _ in range(20)]
    line, symbols = bytearray(), []

    async def send(ctx):
        for content in contents:
            for symbol in [(0, 1), *((byte, 0) for byte in content), (0, 1)]:
                ctx.set(transmitter.i.payload, {"byte": symbol[0], "flag": symbol[1]})
                ctx.set(transmitter.i.valid, 1)
                _clock, _reset, byte = await ctx.tick().sample(transmitter.o.payload)
                line.append(byte)
                while not (byte == FLAG or len(line) < 2 or line[-1] != 0x7D):
                    _clock, _reset, byte = await ctx.tick().sample(transmitter.o.payload)
                    line.append(byte)
            ctx.set(transmitter.i.valid, 0)
            await ctx.tick()

    async def watch(ctx):
        async for _clock, _reset, valid, symbol in ctx.tick().sample(receiver.o.valid, receiver.o.payload):
            if valid:
                symbols.append(None if symbol.flag else symbol.byte)

    simulate(m, send, background=[watch])
    expected = b"".join(frame(content)[:1] + escaped(content) + frame(content)[-1:] for content in contents)
    assert bytes(line) == expected
    assert symbols == [symbol for content in contents for symbol in (None, *content, None)]


def escaped(content: bytes) -> bytes:
    return b"".join(bytes([0x7D, byte ^ 0x20]) if byte in (0x7D, 0x7E) else bytes([byte]) for byte in content)


# ---- requests --------------------------------------------------------------------------------------


def random_access(link: UartLink, device: PlainDevice, rng: np.random.Generator, words: int = 10) -> None:
    """One access, of memory of up to `words`, compared with the device."""
    kind = int(rng.integers(5))
    address, length = 8 * int(rng.integers(BASE // 8, (BASE + SIZE) // 8 - 150)), 8 * int(rng.integers(1, words + 1))
    register = 4 * int(rng.integers(16))
    if kind == 0:
        data = rng.integers(0, 256, length, np.uint8).tobytes()
        link.write_memory(address, data)
        assert device.memory[address - BASE : address - BASE + length] == data
    elif kind == 1:
        device.memory[address - BASE : address - BASE + length] = rng.integers(0, 256, length, np.uint8).tobytes()
        assert link.read_memory(address, length) == device.read_memory(address, length)
    elif kind == 2:
        value, before = int(rng.integers(1 << 32)), len(device.written)
        link.write_register(register, value)
        assert device.written[before:] == [(register, value)], "once, whatever happened on the line"
    elif kind == 3:
        device.registers[register] = int(rng.integers(1 << 32))
        assert link.read_register(register) == device.registers[register]
    else:
        device.interrupt = bool(rng.integers(2))
        if device.interrupt:
            link.wait_interrupt(10_000)
        else:
            with pytest.raises(InterruptTimeout):
                link.wait_interrupt(1)


def test_accesses(rng):
    device = PlainDevice()
    port = SimulatedPort(byte_bridge(), device, rng)
    with UartLink(port) as link:
        assert (link.memory_base, link.memory_bytes, link.clock_hz) == (BASE, SIZE, CLOCK_HZ)
        for _ in range(60):
            random_access(link, device, rng)
        data = rng.integers(0, 256, 2 * PAYLOAD_MAX + 8, np.uint8).tobytes()
        link.write_memory(BASE, data)
        assert link.read_memory(BASE, len(data)) == data
        assert link.read_memory(BASE, 0) == b""
        assert link.retries == 0
    assert port.closed
    with pytest.raises(LinkError, match="closed; open the device again"):
        link.read_register(0)


def test_accesses_that_the_device_refuses(rng):
    link = UartLink(SimulatedPort(byte_bridge(), PlainDevice(), rng), "/dev/board")
    for access in (lambda: link.read_register(0x40), lambda: link.write_register(0x40, 1),
                   lambda: link.read_register(0x1_0000), lambda: link.write_register(0x1_0000, 1)):
        with pytest.raises(LinkError, match=r"REGISTER of address 0x\w+ over /dev/board: the device answered"):
            access()
    for access in (lambda: link.read_memory(BASE + SIZE - 16, 16),
                   lambda: link.write_memory(BASE + SIZE - 16, bytes(8))):
        with pytest.raises(LinkError, match="MEMORY of address 0x40f0 over /dev/board: external memory answered"):
            access()
    for access in (lambda: link.read_memory(BASE - 8, 8), lambda: link.read_memory(BASE + 4, 8),
                   lambda: link.write_memory(BASE, bytes(7)), lambda: link.write_memory(BASE + SIZE, bytes(8))):
        with pytest.raises(LinkError, match="External memory has bytes 0x100 to 0x40ff in units of 8"):
            access()
    link.write_register(0, 5)
    assert link.read_register(0) == 5


def exchange(port: SimulatedPort, line: bytes) -> list[tuple[int, Answer, bytes]]:
    """All replies to bytes on the line."""
    port.write(line)
    got = port.read(10_000)
    replies = [reply_of(content.replace(b"\x7D\x5E", b"\x7E").replace(b"\x7D\x5D", b"\x7D"))
               for content in got.split(b"\x7E") if content]
    return [(reply.sequence, reply.status, reply.payload) for reply in replies if reply]


def test_requests_that_are_not_right(rng):
    device = PlainDevice()
    port = SimulatedPort(byte_bridge(), device, rng)
    damaged = [(0, Answer.DAMAGED, b"")]
    good = request_frame(7, Ask.READ_REGISTER, 0)
    assert exchange(port, good) == [(7, Answer.OK, bytes(4))]
    assert exchange(port, bytes([FLAG]) * 5) == []
    assert exchange(port, frame(b"")) == damaged
    assert exchange(port, frame(b"short")) == damaged
    assert exchange(port, frame(bytes(400))) == damaged
    assert exchange(port, good[:-2] + good[-1:]) == damaged
    for code, address, length, payload in (
            (99, 0, 0, 0), (Ask.POLL, 0, 8, 0), (Ask.READ_MEMORY, BASE, 0, 0), (Ask.READ_MEMORY, BASE, 12, 0),
            (Ask.READ_MEMORY, BASE, PAYLOAD_MAX + 8, 0), (Ask.READ_MEMORY, BASE + 4, 8, 0),
            (Ask.WRITE_MEMORY, BASE, 16, 8), (Ask.WRITE_REGISTER, 0, 4, 8)):
        request = request_frame(9, code, address, length, bytes(payload))
        assert exchange(port, request) == [(9, Answer.BAD_REQUEST, b"")]
    assert exchange(port, request_frame(9, Ask.WRITE_REGISTER, 4, 4, b"abcd")) == [(9, Answer.OK, b"")]
    assert exchange(port, request_frame(9, Ask.WRITE_REGISTER, 4, 4, b"efgh")) == [(9, Answer.OK, b"")]
    assert len(device.written) == 1
    assert exchange(port, request_frame(10, Ask.HELLO))[0][1] is Answer.OK
    assert exchange(port, request_frame(9, Ask.WRITE_REGISTER, 4, 4, b"efgh")) == [(9, Answer.OK, b"")]
    assert len(device.written) == 2
    assert exchange(port, good) == [(7, Answer.OK, bytes(4))]


def test_requests_that_come_while_one_is_carried_out(rng):
    """Two frames with one flag between them: the second comes too early and is ignored, whole; the third is taken."""
    port = SimulatedPort(byte_bridge(), PlainDevice(), rng)
    first, second = (request_frame(i, Ask.READ_REGISTER, 0) for i in (1, 2))
    assert exchange(port, first + second) == [(1, Answer.OK, bytes(4))]
    assert exchange(port, second) == [(2, Answer.OK, bytes(4))]


# ---- faults ----------------------------------------------------------------------------------------


class Faults:
    """Damages what passes: drops, repeats, or flips a bit of a byte now and then; counts the faults."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.chance, self.count = rng, 0.0, 0

    def __call__(self, data: bytes) -> bytes:
        result = bytearray()
        for byte in data:
            if self.rng.random() >= self.chance:
                result.append(byte)
                continue
            self.count += 1
            kind = int(self.rng.integers(3))
            result += bytes(([], [byte, byte], [byte ^ 1 << int(self.rng.integers(8))])[kind])
        return bytes(result)


def access_until(link: UartLink, device: PlainDevice, faults: Faults, count: int, words: int) -> tuple[int, int]:
    """Random accesses until there were `count` faults; retries, and links that were given up and opened again.

    Every access is right or a LinkError that says that there was no answer.
    """
    retries = given_up = 0
    assert link._port is not None
    port = link._port
    while faults.count < count:
        try:
            random_access(link, device, faults.rng, words)
        except LinkError as error:
            if "No answer to" not in str(error):
                raise
            retries, given_up = retries + link.retries, given_up + 1
            chance, faults.chance = faults.chance, 0.0
            link = UartLink(port)
            faults.chance = chance
    return retries + link.retries, given_up


@pytest.mark.slow
def test_two_hundred_faults(rng):
    """Every access is right, or says that it can't be made; nothing happens twice."""
    device = PlainDevice()
    faults = Faults(rng)
    link = UartLink(SimulatedPort(byte_bridge(), device, rng, damage_in=faults, damage_out=faults))
    faults.chance = 0.015
    retries, given_up = access_until(link, device, faults, 200, words=5)
    assert retries > 70
    assert given_up < 10


def test_line_of_noise_ends_in_an_error(rng):
    """Half of all bytes are damaged: sooner or later no try gets through, and the error says so."""
    device = PlainDevice()
    faults = Faults(rng)
    link = UartLink(SimulatedPort(byte_bridge(), device, rng, damage_in=faults, damage_out=faults), "/dev/board")
    faults.chance = 0.5
    with pytest.raises(LinkError, match=rf"No answer to \w+ over /dev/board in {TRIES} tries; check the cable"):
        list(map(link.read_register, range(0, 0x40, 4)))


def test_cable_that_is_unplugged(rng):
    device = PlainDevice()
    port = SimulatedPort(byte_bridge(), device, rng)
    link = UartLink(port, "/dev/board")
    port.damage_out = lambda data: b""
    with pytest.raises(LinkError, match="No answer to READ_REGISTER over /dev/board"):
        link.read_register(0)

    def fail(data):
        raise OSError("device disconnected")

    link = UartLink(SimulatedPort(byte_bridge(), device, rng), "/dev/board")
    assert link._port is not None
    link._port.write = fail
    with pytest.raises(LinkError, match=r"/dev/board failed: device disconnected; is its cable plugged in\?"):
        link.read_register(0)


def test_bridge_of_another_version(rng):
    bridge = byte_bridge()
    bridge.server.hello = (99, *bridge.server.hello[1:])
    port = SimulatedPort(bridge, PlainDevice(), rng)
    with pytest.raises(LinkError, match="speaks version 99 of the protocol, this driver 2"):
        UartLink(port)
    assert port.closed


# ---- all together ----------------------------------------------------------------------------------


def test_whole_bridge_with_faults(rng):
    """The UART too: bytes as bits on the line."""
    device = PlainDevice()
    bridge = UartBridge(clock_hz=CLOCK_HZ, baud=CLOCK_HZ // 4, memory_base=BASE, memory_bytes=SIZE)
    faults = Faults(rng)
    link = UartLink(SimulatedPort(bridge, device, rng, damage_in=faults, damage_out=faults, silence=1000))
    faults.chance = 0.02
    access_until(link, device, faults, 5, words=2)


def test_network_over_a_line_with_faults(rng):
    """The unchanged driver, on the golden model behind the bridge: exact, whatever happens on the line."""
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 6, 7, 3), scale=0.05, zero_point=3)
    weights = rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    builder.add_output(builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3))
    program = lacuna.compile(builder.to_bytes(), preset="small")
    array = rng.integers(-128, 128, (1, 6, 7, 3)).astype(np.int8)
    with lacuna.open("golden", preset="small") as device:
        expected = device.run(program, array).outputs
    golden = GoldenLink(PRESETS["small"])
    bridge = ByteBridge(clock_hz=CLOCK_HZ, memory_base=0, memory_bytes=golden.memory_bytes)
    faults = Faults(rng)
    link = UartLink(SimulatedPort(bridge, golden, rng, damage_in=faults, damage_out=faults))
    assert link.read_register(REGISTERS["ID"].address) == ID
    faults.chance = 0.001
    with Device(link, PRESETS["small"]) as device:
        while faults.count < 5:
            outputs = device.run(program, array).outputs
            assert [outputs[name].tobytes() for name in expected] == [value.tobytes() for value in expected.values()]
