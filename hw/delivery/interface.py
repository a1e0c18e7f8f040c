"""The ports and memories of a generated device, as plain data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class VerilogPort:
    """One port of module `lacuna`. `direction` is "input" or "output", seen from the module."""

    name: str
    direction: str
    width: int

    @property
    def group(self) -> str:
        """"m_axi", "s_axil", or the name itself for a port that stands alone."""
        return next((group for group in ("m_axi", "s_axil") if self.name.startswith(group + "_")), self.name)


@dataclasses.dataclass(frozen=True)
class MemoryShape:
    """A memory of the device: `count` equal ones made by source `path`, `depth` words of `width` bits each.

    reads, writes : ports; synchronous ones, but `asynchronous_reads`, which suit distributed RAM or registers.
    """

    path: str
    count: int
    depth: int
    width: int
    reads: int
    writes: int
    asynchronous_reads: int


#: Clock and reset, as hw.verilog names them.
CLOCK, RESET = "clk", "rst"
