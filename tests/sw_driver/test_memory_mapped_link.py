"""The memory-mapped link on a plain file, in which a thread plays the device with the golden model."""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lacuna
from hw.contract.config import PRESETS
from hw.contract.registers import ADDRESS_BYTES, ID, REGISTERS, Access, Control, Status
from sw_driver.device import Device, DeviceTimeout
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.memory_mapped import MemoryMappedLink, open_uio
from sw_driver.tflite.builder import TfliteBuilder

CONFIG = PRESETS["small"]
MEMORY_AT, MEMORY_BYTES = mmap.PAGESIZE, 1 << 20
CONTROL = REGISTERS["CONTROL"].address
IDLE = 0x8000_0000  #: in CONTROL of the file: nothing was written


class Played:
    """A file with registers and memory, and the thread that acts on what is written to CONTROL."""

    def __init__(self, path: Path, raised: Callable[[], object] = lambda: None, hangs: bool = False):
        self.path, self.raised, self.hangs = path, raised, hangs
        path.write_bytes(bytes(MEMORY_AT + MEMORY_BYTES))
        with path.open("r+b") as file:
            self.content = mmap.mmap(file.fileno(), 0)
        self.golden = GoldenLink(CONFIG, memory_bytes=MEMORY_AT + MEMORY_BYTES)  # memory at its offset in the file
        self.registers = memoryview(self.content)[:ADDRESS_BYTES].cast("I")
        for register in REGISTERS.values():
            self.registers[register.address // 4] = (
                IDLE if register.name == "CONTROL" else self.golden.read_register(register.address))
        self.stop = False
        self.thread = threading.Thread(target=self.play)
        self.thread.start()

    def play(self) -> None:
        while not self.stop:
            control = self.registers[CONTROL // 4]
            if control == IDLE:
                time.sleep(0.0005)
                continue
            if not (self.hangs and control & Control.START):
                self.act(control)
            self.registers[CONTROL // 4] = IDLE
            if control & Control.START:
                self.raised()

    def act(self, control: int) -> None:
        for register in REGISTERS.values():
            if register.access is Access.READ_WRITE:
                self.golden.write_register(register.address, self.registers[register.address // 4])
        self.golden.write_memory(MEMORY_AT, self.content[MEMORY_AT:])
        self.golden.write_register(CONTROL, control)
        self.content[MEMORY_AT:] = self.golden.read_memory(MEMORY_AT, MEMORY_BYTES)
        for register in REGISTERS.values():
            if register.access is Access.READ:
                self.registers[register.address // 4] = self.golden.read_register(register.address)

    def end(self) -> None:
        self.stop = True
        self.thread.join()


class WaitingLink(MemoryMappedLink):
    """Waits until the thread has seen what was written to CONTROL: a file can't be as quick as registers."""

    def write_register(self, address: int, value: int) -> None:
        super().write_register(address, value)
        end = time.monotonic() + 10
        while address == CONTROL and self.read_register(CONTROL) != IDLE:
            assert time.monotonic() < end, "the thread has ended"
            time.sleep(0.0005)


def waiting(link: MemoryMappedLink) -> MemoryMappedLink:
    link.__class__ = WaitingLink
    return link


@pytest.fixture
def program():
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 6, 7, 3), scale=0.05, zero_point=3)
    weights = np.random.default_rng(1).integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    builder.add_output(builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3))
    return lacuna.compile(builder.to_bytes(), preset="small")


def place(path: Path) -> str:
    return f"{path},0,{MEMORY_AT:#x},{MEMORY_BYTES}"


def runs_exactly(link: MemoryMappedLink, program) -> None:
    x = np.random.default_rng(2).integers(-128, 128, (1, 6, 7, 3)).astype(np.int8)
    with lacuna.open("golden", preset="small") as device:
        expected = device.run(program, x)
    with Device(link, CONFIG) as device:
        for _run in range(2):
            result = device.run(program, x)
            assert [value.tobytes() for value in result.outputs.values()] == [
                value.tobytes() for value in expected.outputs.values()]
            assert result.cycles == expected.cycles


def test_program_runs_on_a_file(tmp_path, program):
    played = Played(tmp_path / "mem")
    try:
        runs_exactly(waiting(open_uio(place(played.path))), program)
    finally:
        played.end()


def uio(tmp_path: Path, *sizes: int) -> Path:
    """What the kernel says of a UIO device whose maps have these sizes."""
    for i, size in enumerate(sizes):
        folder = tmp_path / "sysfs" / "uio7" / "maps" / f"map{i}"
        folder.mkdir(parents=True)
        (folder / "addr").write_text(f"{i * MEMORY_AT:#018x}\n")
        (folder / "size").write_text(f"{size:#018x}\n")
    return tmp_path / "sysfs"


def test_program_runs_on_uio_with_its_interrupt(tmp_path, program):
    """The interrupt's file is a socket here: a read returns when it came."""
    host, kernel = socket.socketpair()
    one = (1).to_bytes(4, "little")
    played = Played(tmp_path / "uio7", lambda: kernel.send(one))
    link = waiting(open_uio(str(played.path), uio(tmp_path, 4096, MEMORY_BYTES)))
    assert (link.memory_base, link.memory_bytes) == (MEMORY_AT, MEMORY_BYTES)
    link._interrupt_file = host.fileno()
    try:
        runs_exactly(link, program)
    finally:
        played.end()
        host.close()
        kernel.close()


def test_interrupt_wakes(tmp_path):
    """The interrupt is allowed, awaited and taken, long before STATUS would be looked at again."""
    host, kernel = socket.socketpair()
    played = Played(tmp_path / "uio7")
    played.end()
    link = open_uio(str(played.path), uio(tmp_path, 4096, MEMORY_BYTES))
    link._interrupt_file = host.fileno()
    link.write_register(REGISTERS["INTERRUPT_ENABLE"].address, 1)

    def kernel_side() -> None:
        assert kernel.recv(4) == (1).to_bytes(4, "little")
        played.registers[REGISTERS["STATUS"].address // 4] = Status.INTERRUPT
        kernel.send((1).to_bytes(4, "little"))

    thread = threading.Thread(target=kernel_side, daemon=True)
    thread.start()
    link.wait_interrupt(1_000_000)
    thread.join(5)
    assert not thread.is_alive()
    link.close()
    host.close()
    kernel.close()


def test_interrupt_that_does_not_come(tmp_path, program):
    played = Played(tmp_path / "mem", hangs=True)
    try:
        with Device(waiting(open_uio(place(played.path))), CONFIG) as device:
            with pytest.raises(DeviceTimeout, match="did not finish within 50000 cycles"):
                device.run(program, np.zeros((1, 6, 7, 3), np.int8), timeout_cycles=50_000)
            played.registers[REGISTERS["CYCLES"].address // 4] = 1_000_000
            started = time.monotonic()
            with pytest.raises(InterruptTimeout):
                device.link.wait_interrupt(1_000_000)
            assert time.monotonic() - started < 0.5
    finally:
        played.end()


def test_accesses(tmp_path):
    played = Played(tmp_path / "mem")
    played.end()
    link = open_uio(place(played.path))
    assert link.read_register(REGISTERS["ID"].address) == ID
    data = np.random.default_rng(3).integers(0, 256, 4096, np.uint8).tobytes()
    link.write_memory(MEMORY_AT + 8, data)
    assert played.content[MEMORY_AT + 8 : MEMORY_AT + 8 + 4096] == data
    assert link.read_memory(MEMORY_AT + 8, 4096) == data
    assert link.read_memory(MEMORY_AT, 0) == b""
    for address in (-4, 2, ADDRESS_BYTES):
        with pytest.raises(LinkError, match="There is no register at"):
            link.read_register(address)
    for address, length in ((MEMORY_AT - 8, 8), (MEMORY_AT + 4, 8), (MEMORY_AT, 12), (MEMORY_AT + MEMORY_BYTES, 8)):
        with pytest.raises(LinkError, match="External memory has bytes 0x1000 to 0x100fff in units of 8"):
            link.read_memory(address, length)
    link.close()
    link.close()
    with pytest.raises(LinkError, match=f"The link to {played.path} is closed"):
        link.read_register(0)
    with pytest.raises(LinkError, match="closed"):
        link.read_memory(MEMORY_AT, 8)


def test_places_that_are_no_device(tmp_path):
    file = tmp_path / "uio7"
    file.write_bytes(bytes(100))
    for where, text in (
            (f"{tmp_path}/none,0,4096,4096", "none can't be opened and mapped: .*No such file"),
            (f"{file},0,4096,4096", "can't be opened and mapped"),
            (f"{file},0", "A memory-mapped device is /dev/uioN"),
            (f"{file},zero,4096,8", "A memory-mapped device is /dev/uioN"),
            (f"{file},4,4096,8", "must be multiples of 4096"),
            (f"{file},0,4096,-8", "BYTES a positive multiple of 8"),
            (str(file), "UIO device 'uio7' has no map 0, which would be the registers")):
        with pytest.raises(LinkError, match=text):
            open_uio(where, tmp_path / "sysfs")
    with pytest.raises(LinkError, match="has no map 1, which would be memory that is reserved for the device"):
        open_uio(str(file), uio(tmp_path, 4096))


def test_registers_that_are_too_small(tmp_path):
    with pytest.raises(LinkError, match="Map 0 of UIO device 'uio7' has 256 bytes, the registers take 512"):
        open_uio("/dev/uio7", uio(tmp_path, 256, 4096))


def test_device_without_interrupt(tmp_path):
    """A read of such a file fails at once."""
    played = Played(tmp_path / "uio7")
    played.end()
    link = open_uio(str(played.path), uio(tmp_path, 4096, MEMORY_BYTES))
    unreadable = os.open(tmp_path / "unreadable", os.O_WRONLY | os.O_CREAT)
    link._interrupt_file = unreadable
    with pytest.raises(LinkError, match="open it with ,poll where the device has no interrupt"):
        link.wait_interrupt(1000)
    os.close(unreadable)
    link.close()
