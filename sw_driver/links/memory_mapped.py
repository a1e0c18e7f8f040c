"""The link to a device in this system's address space: Linux UIO, or physical memory through /dev/mem.

A UIO device has the registers as its map 0 and memory that is reserved for the device as its map 1 (Documentation of
the Linux kernel, driver-api/uio-howto). Registers are accessed 32 bits at a time and memory 64 bits at a time: copies
by the C library may use other sizes, or addresses that are not aligned, which such mappings do not bear.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from hw.contract.registers import ADDRESS_BYTES, REGISTERS, Status
from sw_driver.links.link import InterruptTimeout, LinkError

#: Where the kernel describes UIO devices.
SYSFS = Path("/sys/class/uio")

#: Seconds between looks at STATUS while an interrupt is awaited: it may be masked, or there may be none.
POLL_S = 0.001
INTERRUPT_POLL_S = 0.1

#: Slowest clock of a device, for the time-out of one whose CYCLES stand still.
SLOWEST_HZ = 1_000_000


class MemoryMappedLink:
    """A `Link` to mapped registers and memory.

    Parameters
    ----------
    registers, memory : the mappings; writable, in units of 8 bytes.
    memory_base : address of the memory as the device sees it.
    interrupt_file : of a UIO device: its reads return when the interrupt came, and 1 is written to it to allow the
        next. None: STATUS is polled.
    place : what is mapped, for messages. files : file descriptors to close with the link.

    Attributes
    ----------
    name, simulator, memory_base, memory_bytes : as in Link.
    """

    name = "uio"
    flash_base = flash_bytes = 0

    def __init__(self, registers: mmap.mmap, memory: mmap.mmap, memory_base: int, *,
                 interrupt_file: int | None = None, place: str = "", files: tuple[int, ...] = ()):
        if sys.byteorder != "little":
            raise LinkError("Memory-mapped devices need a little-endian host")
        self._maps = (registers, memory)
        self._registers = memoryview(registers)[:ADDRESS_BYTES].cast("I")
        self._memory = memoryview(memory).cast("Q")
        self._interrupt_file = interrupt_file
        self._place = place
        self._files = files
        self._open = True
        self.memory_base = memory_base
        self.memory_bytes = len(memory) // 8 * 8
        self.simulator: dict[str, Any] = {}

    # ---- Link ------------------------------------------------------------------------------------

    def read_register(self, address: int) -> int:
        """The 32-bit register at byte address `address`. Raises LinkError."""
        return self._registers[self._register(address)]

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register. Raises LinkError."""
        self._registers[self._register(address)] = value

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes of external memory. Raises LinkError."""
        first = self._word(address, length)
        memory = self._memory
        return array.array("Q", [memory[i] for i in range(first, first + length // 8)]).tobytes()

    def write_memory(self, address: int, data: bytes) -> None:
        """Write external memory. Raises LinkError."""
        first = self._word(address, len(data))
        memory = self._memory
        for i, word in enumerate(memoryview(bytes(data)).cast("Q"), start=first):
            memory[i] = word

    def wait_interrupt(self, cycles: int) -> None:
        """Return when the interrupt is raised.

        Raises InterruptTimeout when the register CYCLES has passed `cycles`, or after as many microseconds where it
        stands still; LinkError.
        """
        end = time.monotonic() + cycles / SLOWEST_HZ
        while not self._raised():
            if self.read_register(REGISTERS["CYCLES"].address) >= cycles or time.monotonic() > end:
                if self._raised():  # meanwhile
                    return
                raise InterruptTimeout(f"No interrupt within {cycles} cycles")
            self._sleep(end)

    def close(self) -> None:
        """Give the mappings back."""
        if not self._open:
            return
        self._open = False
        self._registers.release()
        self._memory.release()
        for mapping in self._maps:
            mapping.close()
        for file in self._files:
            os.close(file)

    def __enter__(self) -> MemoryMappedLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- parts -----------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._open:
            raise LinkError(f"The link to {self._place} is closed; open the device again")

    def _register(self, address: int) -> int:
        """The index of a register."""
        self._require_open()
        if address % 4 or not 0 <= address < ADDRESS_BYTES:
            raise LinkError(f"There is no register at {address:#x}")
        return address // 4

    def _word(self, address: int, length: int) -> int:
        """The index of the first word of a region."""
        self._require_open()
        offset = address - self.memory_base
        if address % 8 or length % 8 or offset < 0 or offset + length > self.memory_bytes:
            raise LinkError(f"External memory has bytes {self.memory_base:#x} to "
                            f"{self.memory_base + self.memory_bytes - 1:#x} in units of 8, not {length} bytes at "
                            f"{address:#x}")
        return offset // 8

    def _raised(self) -> bool:
        """Whether the interrupt line is high."""
        return bool(self.read_register(REGISTERS["STATUS"].address) & Status.INTERRUPT
                    and self.read_register(REGISTERS["INTERRUPT_ENABLE"].address) & 1)

    def _sleep(self, end: float) -> None:
        """Sleep until the interrupt comes, but not for long. Raises LinkError."""
        if self._interrupt_file is None:
            time.sleep(POLL_S)
            return
        try:
            os.write(self._interrupt_file, (1).to_bytes(4, sys.byteorder))
            limit = max(0.0, min(INTERRUPT_POLL_S, end - time.monotonic()))
            if select.select([self._interrupt_file], [], [], limit)[0]:
                os.read(self._interrupt_file, 4)
        except OSError as error:
            raise LinkError(f"Waiting for the interrupt of {self._place} failed: {error}; open it with ,poll where "
                            "the device has no interrupt") from None


def open_uio(place: str, sysfs: Path = SYSFS) -> MemoryMappedLink:
    """Open a device in this system's address space.

    Parameters
    ----------
    place : "/dev/uioN" or "/dev/uioN,poll" (without interrupt): maps 0 and 1 of the UIO device. Or
        "FILE,REGISTERS,MEMORY,BYTES" with FILE such as /dev/mem, and where in it the registers and BYTES of memory
        lie; these offsets are the device's addresses too. Numbers as in Python (0xA0000000).
    sysfs : where the kernel describes UIO devices.

    Raises LinkError when it can't be opened or mapped, and says why.
    """
    path, *rest = place.split(",")
    if rest in ([], ["poll"]):
        name = Path(path).name
        (_start, register_bytes), (memory_base, memory_bytes) = (_uio_map(sysfs, name, i) for i in range(2))
        return _open(path, 0, register_bytes, mmap.PAGESIZE, memory_base, memory_bytes, interrupt=not rest)
    try:
        registers, memory_base, memory_bytes = (int(number, 0) for number in rest)
    except ValueError:
        raise LinkError("A memory-mapped device is /dev/uioN, /dev/uioN,poll or FILE,REGISTERS,MEMORY,BYTES, not "
                        f"{place!r}") from None
    if registers % mmap.PAGESIZE or memory_base % mmap.PAGESIZE or memory_bytes % 8 or memory_bytes <= 0:
        raise LinkError(f"In {place!r}, REGISTERS and MEMORY must be multiples of {mmap.PAGESIZE}, BYTES a positive "
                        "multiple of 8")
    return _open(path, registers, ADDRESS_BYTES, memory_base, memory_base, memory_bytes, interrupt=False)


def _uio_map(sysfs: Path, name: str, index: int) -> tuple[int, int]:
    """Address and bytes of a map of a UIO device. Raises LinkError."""
    folder = sysfs / name / "maps" / f"map{index}"
    what = ("the registers", "memory that is reserved for the device")[index]
    try:
        address, size = (int((folder / part).read_text(), 0) for part in ("addr", "size"))
    except (OSError, ValueError):
        raise LinkError(f"UIO device {name!r} has no map {index}, which would be {what}: there is no {folder}; see its "
                        "node in the device tree") from None
    if index == 0 and size < ADDRESS_BYTES:
        raise LinkError(f"Map 0 of UIO device {name!r} has {size} bytes, the registers take {ADDRESS_BYTES}")
    return address, size


def _open(path: str, registers_at: int, register_bytes: int, memory_at: int, memory_base: int, memory_bytes: int, *,
          interrupt: bool) -> MemoryMappedLink:
    """Open and map. Raises LinkError."""
    with contextlib.ExitStack() as undo:
        try:
            file = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
            undo.callback(os.close, file)
            registers = undo.enter_context(mmap.mmap(file, register_bytes, offset=registers_at))
            memory = undo.enter_context(mmap.mmap(file, memory_bytes // 8 * 8, offset=memory_at))
        except (OSError, ValueError) as error:
            raise LinkError(f"{path} can't be opened and mapped: {error}") from None
        link = MemoryMappedLink(registers, memory, memory_base, interrupt_file=file if interrupt else None, place=path,
                                files=(file,))
        undo.pop_all()
        return link
