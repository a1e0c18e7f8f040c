"""A private memory of one engine: weight store, row maps, parameters, masks."""

from __future__ import annotations

from amaranth import Module, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.ports import MemoryRead, MemoryWrite


class LocalMemory(wiring.Component):
    """One write port, `readers` read ports; data in the cycle after the address. What a read gives of an entry that is
    written in the very cycle of its address is undefined.

    Members
    -------
    write : filled by the load engine. read_0, read_1, ... : the engines that use it.
    """

    def __init__(self, depth: int, data_bits: int, readers: int = 1):
        self.depth = depth
        self.data_bits = data_bits
        self.readers = readers
        self.memory = Memory(shape=unsigned(data_bits), depth=depth, init=[], attrs={"no_rw_check": 1})
        super().__init__({
            "write": In(MemoryWrite(depth, data_bits)),
            **{f"read_{i}": In(MemoryRead(depth, data_bits)) for i in range(readers)},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        write = self.memory.write_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.data),
        ]
        for i in range(self.readers):
            port, read = getattr(self, f"read_{i}"), self.memory.read_port()
            m.d.comb += [read.en.eq(1), read.addr.eq(port.address), port.data.eq(read.data)]
        return m
