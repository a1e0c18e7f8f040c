"""The ports and memories of a device, taken from the hardware itself."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape, Value
from amaranth.lib.wiring import In

from hw.delivery.interface import CLOCK, RESET, MemoryShape, VerilogPort
from hw.top import Lacuna


def device_ports(top: Lacuna) -> list[VerilogPort]:
    """Clock and reset, then the ports of the top in the order of its signature."""
    ports = [VerilogPort(CLOCK, "input", 1), VerilogPort(RESET, "input", 1)]
    for path, member, value in top.signature.flatten(top):
        direction = "input" if member.flow is In else "output"
        ports.append(VerilogPort("_".join(map(str, path)), direction, len(Value.cast(value))))
    return ports


class MemoryRecorder:
    """A platform that notes every memory it is asked for; `platform`, where given, is asked in turn."""

    def __init__(self, platform: Any = None):
        self._platform = platform
        self._found: list[tuple[str, int, int, int, int, int]] = []

    def get_memory(self, memory: Any) -> Any:
        """Amaranth's hook, see amaranth.lib.memory.Memory."""
        reads = memory.read_ports
        asynchronous = sum(port.domain == "comb" for port in reads)
        source = Path(memory.src_loc[0])
        self._found.append((f"{source.parent.name}/{source.stem}", memory.depth, Shape.cast(memory.shape).width,
                            len(reads) - asynchronous, len(memory.write_ports), asynchronous))
        if self._platform is not None and hasattr(self._platform, "get_memory"):
            return self._platform.get_memory(memory)
        return memory.elaborate(None)

    @property
    def memories(self) -> list[MemoryShape]:
        """What was found, equal ones counted, in the order in which they were met."""
        return [MemoryShape(key[0], count, *key[1:]) for key, count in collections.Counter(self._found).items()]
