"""Block RAM that stands for external memory: AXI4 for the device, words for the bridge.

    AR --> beats --+                          +--> R
                   +--> block RAM --> queue --+
    bridge --------+                          +--> bridge
    AW, W --> beats --> block RAM
"""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.bridge.memory_port import WORD_BYTES, MemoryPort
from hw.bus.axi import AXI4, PAGE_BYTES, Response
from hw.contract.config import Config


class BlockMemory(wiring.Component):
    """A memory with one read and one write port, shared by the device's AXI4 master and the bridge.

    A read burst gives one beat per cycle, the first four cycles after its address was taken; so does the next one,
    without a gap. The bridge goes first and takes one cycle per word. A read sees every write that was answered
    before its address was taken. Addresses outside are answered with DECERR, those of the bridge with `error`, and
    nothing is written. Bursts are incrementing ones of whole beats, as the device makes them.

    Parameters
    ----------
    base : address of the first byte, a multiple of PAGE_BYTES. size : bytes, a multiple of PAGE_BYTES.

    Members
    -------
    bus : the device's AXI4 master. port : the bridge.

    Raises ValueError for a base or size that does not fit.
    """

    def __init__(self, config: Config, *, base: int, size: int):
        if base % PAGE_BYTES or size % PAGE_BYTES or size <= 0 or base + size > 1 << min(32, config.axi_address_bits):
            raise ValueError(f"Memory of {size:#x} bytes at {base:#x}: both must be multiples of {PAGE_BYTES:#x}, and "
                             f"the memory must lie in {min(32, config.axi_address_bits)} address bits")
        if config.axi_data_bits != 8 * WORD_BYTES:
            raise ValueError(f"The bus has {config.axi_data_bits} data bits, the memory words of {WORD_BYTES} bytes")
        self.config = config
        self.base = base
        self.size = size
        self.memory = Memory(shape=unsigned(8 * WORD_BYTES), depth=size // WORD_BYTES, init=[])
        super().__init__({"bus": In(AXI4(config)), "port": In(MemoryPort())})

    def _place(self, m: Module, address, name: str) -> tuple[Signal, Signal]:
        """Entry of the memory for a byte address, and whether there is one."""
        shift = (PAGE_BYTES - 1).bit_length()
        entry = Signal(range(self.memory.depth), name=f"{name}_entry")
        inside = Signal(name=f"{name}_inside")
        page = Signal(len(address) - shift, name=f"{name}_page")
        m.d.comb += [
            page.eq(address[shift:] - (self.base >> shift)),
            inside.eq(page < self.size >> shift),
            entry.eq((address - self.base)[(WORD_BYTES - 1).bit_length():]),
        ]
        return entry, inside

    def elaborate(self, platform) -> Module:
        m = Module()
        bus, request, response = self.bus, self.port.request, self.port.response
        m.submodules.memory = self.memory
        read = self.memory.read_port()
        write = self.memory.write_port(granularity=8)

        # The bridge's request, held for a cycle or more: its address comes from an adder.
        entry, inside = self._place(m, request.payload.address, "bridge")
        asked = Signal()
        ask = Signal(data.StructLayout({"entry": entry.shape(), "inside": 1, "write": 1, "data": 8 * WORD_BYTES}))
        bridge_writes = Signal()
        m.d.comb += request.ready.eq(~asked)
        with m.If(request.valid & request.ready):
            m.d.sync += [
                asked.eq(1), ask.entry.eq(entry), ask.inside.eq(inside), ask.write.eq(request.payload.write),
                ask.data.eq(request.payload.data),
            ]

        # ---- reads: a burst is a place in the memory and the beats that are left; the next one waits ---------
        read_entry, read_inside = self._place(m, bus.araddr, "read")
        burst = data.StructLayout({"entry": read_entry.shape(), "inside": 1, "left": 8, "id": len(bus.arid)})
        reading, burst_read = Signal(), Signal(burst)
        waiting, burst_next = Signal(), Signal(burst)
        take_beat, begin = Signal(), Signal()
        m.d.comb += [
            bus.arready.eq(~waiting),
            begin.eq(~reading | (take_beat & (burst_read.left == 0))),
        ]
        with m.If(~waiting):
            m.d.sync += [
                waiting.eq(bus.arvalid), burst_next.entry.eq(read_entry), burst_next.inside.eq(read_inside),
                burst_next.left.eq(bus.arlen), burst_next.id.eq(bus.arid),
            ]
        with m.If(take_beat):
            m.d.sync += [burst_read.entry.eq(burst_read.entry + 1), burst_read.left.eq(burst_read.left - 1)]
        with m.If(begin):
            m.d.sync += [reading.eq(waiting), burst_read.eq(burst_next)]
            with m.If(waiting):
                m.d.sync += waiting.eq(0)

        # Two steps behind the address: in the memory, and in a register of its own, for the sake of the clock.
        answer = data.StructLayout({"bridge": 1, "failed": 1, "last": 1, "id": len(bus.rid)})
        looked_up, out = Signal(answer), Signal(answer)
        looked_up_valid, out_valid = Signal(), Signal()
        out_data = Signal(8 * WORD_BYTES)
        advance_out, advance = Signal(), Signal()
        m.d.comb += [
            advance_out.eq(~out_valid | out.bridge | bus.rready),
            advance.eq(~looked_up_valid | advance_out),
            take_beat.eq(reading & advance & ~asked),
            read.en.eq(advance),
            read.addr.eq(burst_read.entry),
            bus.rvalid.eq(out_valid & ~out.bridge),
            bus.rdata.eq(out_data),
            bus.rlast.eq(out.last),
            bus.rid.eq(out.id),
            response.valid.eq(out_valid & out.bridge),
            response.payload.data.eq(out_data),
            response.payload.error.eq(out.failed),
        ]
        with m.If(out.failed):
            m.d.comb += bus.rresp.eq(Response.DECERR)
        with m.If(asked):
            m.d.comb += read.addr.eq(ask.entry)
        with m.If(advance):
            m.d.sync += looked_up_valid.eq(reading | asked)
            with m.If(asked):
                m.d.sync += [asked.eq(0), looked_up.bridge.eq(1), looked_up.failed.eq(~ask.inside)]
            with m.Else():
                m.d.sync += [
                    looked_up.bridge.eq(0), looked_up.failed.eq(~burst_read.inside),
                    looked_up.last.eq(burst_read.left == 0), looked_up.id.eq(burst_read.id),
                ]
        with m.If(advance_out):
            m.d.sync += [out_valid.eq(looked_up_valid), out.eq(looked_up), out_data.eq(read.data)]

        # ---- writes: one burst at a time --------------------------------------------------------------------
        write_entry, write_inside = self._place(m, bus.awaddr, "write")
        writing = Signal()
        burst_write = Signal(burst)
        m.d.comb += [
            bus.awready.eq(~writing & ~bus.bvalid),
            bridge_writes.eq(asked & ask.write & ask.inside),  # as long as the request waits: the same each time
            bus.wready.eq(writing & ~bridge_writes),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [
                writing.eq(1), burst_write.entry.eq(write_entry), burst_write.inside.eq(write_inside),
                burst_write.id.eq(bus.awid),
            ]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(bridge_writes):
            m.d.comb += [write.addr.eq(ask.entry), write.data.eq(ask.data), write.en.eq(~0)]
        with m.Else():
            m.d.comb += [write.addr.eq(burst_write.entry), write.data.eq(bus.wdata)]
            with m.If(bus.wvalid & writing & burst_write.inside):
                m.d.comb += write.en.eq(bus.wstrb)
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += burst_write.entry.eq(burst_write.entry + 1)
            with m.If(bus.wlast):
                m.d.sync += [writing.eq(0), bus.bvalid.eq(1), bus.bid.eq(burst_write.id), bus.bresp.eq(Response.OKAY)]
                with m.If(~burst_write.inside):
                    m.d.sync += bus.bresp.eq(Response.DECERR)
        return m
