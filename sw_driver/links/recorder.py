"""A link that remembers what was asked of it, so that the same program can be run again elsewhere."""

from __future__ import annotations

from sw_driver.links.link import Link


class RecordingLink:
    """A `Link` that passes everything on to `link` and notes what changes the device, in order.

    Attributes
    ----------
    requests : ("memory", address, bytes), ("register", address, value), ("wait", cycles, 0), as
        `sim.session.run_bare` takes them.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name = link.name
        self.memory_base = link.memory_base
        self.memory_bytes = link.memory_bytes
        self.flash_base, self.flash_bytes = link.flash_base, link.flash_bytes
        self.simulator = link.simulator
        self.requests: list[tuple[str, int, int | bytes]] = []

    def read_register(self, address: int) -> int:
        """As Link; not recorded."""
        return self.link.read_register(address)

    def write_register(self, address: int, value: int) -> None:
        """As Link."""
        self.requests.append(("register", address, value))
        self.link.write_register(address, value)

    def read_memory(self, address: int, length: int) -> bytes:
        """As Link; not recorded."""
        return self.link.read_memory(address, length)

    def write_memory(self, address: int, data: bytes) -> None:
        """As Link."""
        if data:
            self.requests.append(("memory", address, bytes(data)))
        self.link.write_memory(address, data)

    def wait_interrupt(self, cycles: int) -> None:
        """As Link."""
        self.requests.append(("wait", cycles, 0))
        self.link.wait_interrupt(cycles)

    def close(self) -> None:
        """As Link."""
        self.link.close()
