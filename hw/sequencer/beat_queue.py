"""A queue of beats in block RAM."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.bus.transfer import BEAT_BYTES
from hw.ports import MemoryRead, MemoryWrite


class BeatMemory(wiring.Component):
    """Beats in block RAM, none of which is ever read in the cycle in which it is written.

    To say so (`no_rw_check`) spares the logic that would settle what such a read gives; synthesis only believes it of
    a register behind the memory, not of a port with a clock.

    Members
    -------
    write, read : the ports. read_enable : `read.data` follows the address; else it stays.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({
            "write": In(MemoryWrite(depth, 8 * BEAT_BYTES)),
            "read": In(MemoryRead(depth, 8 * BEAT_BYTES)),
            "read_enable": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.beats = beats = Memory(
            shape=unsigned(8 * BEAT_BYTES), depth=self.depth, init=[], attrs={"no_rw_check": 1})
        write_port, read_port = beats.write_port(), beats.read_port(domain="comb")
        m.d.comb += [
            write_port.en.eq(self.write.enable),
            write_port.addr.eq(self.write.address),
            write_port.data.eq(self.write.data),
            read_port.addr.eq(self.read.address),
        ]
        data = Signal(8 * BEAT_BYTES, reset_less=True)
        m.d.comb += self.read.data.eq(data)
        with m.If(self.read_enable):
            m.d.sync += data.eq(read_port.data)
        return m


class BeatQueue(wiring.Component):
    """Holds `depth` beats and one more, which stands at the memory's output: no entry is read in the cycle in which
    it is written, so that nothing but the memory is needed. One beat per cycle, latency 2.

    Parameters
    ----------
    depth : a power of two, at least 2.

    Members
    -------
    i, o : the beats. stored : those in the queue, less the one at the output.
    """

    def __init__(self, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"BeatQueue: depth must be a power of two and at least 2, not {depth}")
        self.depth = depth
        beat = unsigned(8 * BEAT_BYTES)
        super().__init__({
            "i": In(stream.Signature(beat)),
            "o": Out(stream.Signature(beat)),
            "stored": Out(range(depth + 1)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = memory = BeatMemory(self.depth)
        write_at, read_at = Signal(range(self.depth)), Signal(range(self.depth))
        written = Signal()
        read = Signal()
        m.d.comb += [
            self.i.ready.eq(~self.stored[-1]),  # the bit of `depth`
            written.eq(self.i.valid & self.i.ready),
            read.eq((self.stored != 0) & (~self.o.valid | self.o.ready)),
            memory.write.enable.eq(written),
            memory.write.address.eq(write_at),
            memory.write.data.eq(self.i.payload),
            memory.read_enable.eq(read),
            memory.read.address.eq(read_at),
            self.o.payload.eq(memory.read.data),
        ]
        m.d.sync += [
            write_at.eq(write_at + written),
            read_at.eq(read_at + read),
            self.stored.eq(self.stored + written - read),
        ]
        with m.If(read):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
