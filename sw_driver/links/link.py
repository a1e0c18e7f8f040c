"""What a link can do: registers, external memory, wait for the interrupt. Nothing else knows where the device is."""

from __future__ import annotations

from typing import Any, Protocol


class LinkError(RuntimeError):
    """The device can't be reached, or is gone."""


class InterruptTimeout(LinkError):
    """The interrupt did not come within the cycles allowed."""


class Link(Protocol):
    """A way to one device. All addresses are byte addresses.

    Attributes
    ----------
    name : "golden", "rtl", ...
    memory_base, memory_bytes : the part of the device's external memory that the driver may use.
    flash_base, flash_bytes : memory of the device that can only be read, and holds a program; 0 bytes: none.
    simulator : {"name", "version"} of the simulator behind the link; empty for real hardware.
    """

    name: str
    memory_base: int
    memory_bytes: int
    flash_base: int
    flash_bytes: int
    simulator: dict[str, Any]

    def read_register(self, address: int) -> int:
        """The 32-bit register at byte address `address` of the register table."""
        ...

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register."""
        ...

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes of external memory; address and length are multiples of 8."""
        ...

    def write_memory(self, address: int, data: bytes) -> None:
        """Write external memory; address and length are multiples of 8."""
        ...

    def wait_interrupt(self, cycles: int) -> None:
        """Return when the interrupt line is high. Raises InterruptTimeout after `cycles` device cycles."""
        ...

    def close(self) -> None:
        """End the connection, and what was started for it."""
        ...
