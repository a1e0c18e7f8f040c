"""Which memory answers: reads of the device and the bridge's words go to the flash or to block RAM, by address.

    device AR --> same memory as the reads under way? --+--> flash
              <-- R -------------------------------------+--> block RAM <-- AW, W (all)
    bridge ---------------------------------------------+
"""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.bridge.memory_port import MemoryPort
from hw.bus.axi import AXI4, PAGE_BYTES, AXI4Read
from hw.contract.config import Config
from hw.register_slice import RegisterSlice

#: Of an address channel, all but its handshake.
_ADDRESS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos")

#: Reads under way at once that are counted; more of the device's wait.
_READS = 15


class MemoryMap(wiring.Component):
    """Decodes addresses. Reads are answered in order: one of the other memory waits until those under way are done.

    Whatever is not in the flash goes to block RAM, which answers with an error where it has nothing, and so does every
    write: to the flash, a write is one to nowhere.

    Parameters
    ----------
    flash_base, flash_size : multiples of PAGE_BYTES.

    Members
    -------
    bus, port : the device and the bridge. memory, memory_port : block RAM. flash, flash_port : the flash.
    """

    def __init__(self, config: Config, *, flash_base: int, flash_size: int):
        self.flash_base = flash_base
        self.flash_size = flash_size
        super().__init__({
            "bus": In(AXI4(config)),
            "port": In(MemoryPort()),
            "memory": Out(AXI4(config)),
            "memory_port": Out(MemoryPort()),
            "flash": Out(AXI4Read(config)),
            "flash_port": Out(MemoryPort()),
        })

    def _in_flash(self, m: Module, address, name: str) -> Signal:
        page = (PAGE_BYTES - 1).bit_length()
        relative, inside = Signal(len(address) - page, name=f"{name}_page"), Signal(name=f"{name}_in_flash")
        m.d.comb += [relative.eq(address[page:] - (self.flash_base >> page)),
                     inside.eq(relative < self.flash_size >> page)]
        return inside

    def _address_slice(self, m: Module) -> RegisterSlice:
        """Of AR, and whose it is: its output, less `valid` and `ready`, goes to both memories."""
        bus = self.bus
        m.submodules.address = slice_ = RegisterSlice(data.StructLayout(
            {"in_flash": 1, **{name: len(getattr(bus, f"ar{name}")) for name in _ADDRESS}}))
        m.d.comb += [slice_.i.valid.eq(bus.arvalid), bus.arready.eq(slice_.i.ready),
                     slice_.i.payload.in_flash.eq(self._in_flash(m, bus.araddr, "read"))]
        for name in _ADDRESS:
            m.d.comb += slice_.i.payload[name].eq(getattr(bus, f"ar{name}"))
            for target in (self.memory, self.flash):
                m.d.comb += getattr(target, f"ar{name}").eq(slice_.o.payload[name])
        return slice_

    def _beat_slice(self, m: Module) -> RegisterSlice:
        """Of R: its output goes to the device."""
        bus = self.bus
        names = ("id", "data", "resp", "last")
        m.submodules.beat = slice_ = RegisterSlice(data.StructLayout(
            {name: len(getattr(bus, f"r{name}")) for name in names}))
        m.d.comb += [bus.rvalid.eq(slice_.o.valid), slice_.o.ready.eq(bus.rready)]
        for name in names:
            m.d.comb += getattr(bus, f"r{name}").eq(slice_.o.payload[name])
        return slice_

    def elaborate(self, platform) -> Module:
        m = Module()
        bus, memory, flash = self.bus, self.memory, self.flash

        # ---- writes -------------------------------------------------------------------------------------------------
        for name in (*_ADDRESS, "valid"):
            m.d.comb += getattr(memory, f"aw{name}").eq(getattr(bus, f"aw{name}"))
        for name in ("data", "strb", "last", "valid"):
            m.d.comb += getattr(memory, f"w{name}").eq(getattr(bus, f"w{name}"))
        for name in ("bid", "bresp", "bvalid", "awready", "wready"):
            m.d.comb += getattr(bus, name).eq(getattr(memory, name))
        m.d.comb += memory.bready.eq(bus.bready)

        # ---- reads --------------------------------------------------------------------------------------------------
        # Both channels through registers: on the way there are an address decoder and both memories.
        address, beat = self._address_slice(m), self._beat_slice(m)
        asked = address.o
        wanted = asked.payload.in_flash
        from_flash = Signal()  # the reads under way
        count = Signal(range(_READS + 1))
        allowed, begun, ended = Signal(), Signal(), Signal()
        m.d.comb += [
            allowed.eq((count == 0) | ((wanted == from_flash) & (count != _READS))),
            memory.arvalid.eq(asked.valid & allowed & ~wanted),
            flash.arvalid.eq(asked.valid & allowed & wanted),
            asked.ready.eq(allowed & Mux(wanted, flash.arready, memory.arready)),
            begun.eq(asked.valid & asked.ready),
            beat.i.valid.eq(Mux(from_flash, flash.rvalid, memory.rvalid)),
            ended.eq(beat.i.valid & beat.i.ready & beat.i.payload.last),
            memory.rready.eq(beat.i.ready & ~from_flash),
            flash.rready.eq(beat.i.ready & from_flash),
        ]
        for name in beat.i.payload.shape().members:
            m.d.comb += beat.i.payload[name].eq(
                Mux(from_flash, getattr(flash, f"r{name}"), getattr(memory, f"r{name}")))
        m.d.sync += count.eq(count + begun - ended)
        with m.If(begun):
            m.d.sync += from_flash.eq(wanted)

        # ---- the bridge: it waits for each response ----------------------------------------------------------------
        request, response = self.port.request, self.port.response
        at_flash = self._in_flash(m, request.payload.address, "bridge")
        near, far = self.memory_port, self.flash_port
        m.d.comb += [
            near.request.valid.eq(request.valid & ~at_flash),
            far.request.valid.eq(request.valid & at_flash),
            near.request.payload.eq(request.payload),
            far.request.payload.eq(request.payload),
            request.ready.eq(Mux(at_flash, far.request.ready, near.request.ready)),
            response.valid.eq(near.response.valid | far.response.valid),
            response.payload.eq(Mux(far.response.valid, far.response.payload.as_value(),
                                    near.response.payload.as_value())),
        ]
        return m
