"""The board's SPI flash as external memory to read from: AXI4 read channels for the device, words for the bridge.

    AR --> burst --+                         +--> R
                   +--> SPI flash --> word --+
    bridge --------+                         +--> bridge
"""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.boards.spi_flash import ADDRESS_BITS, SpiFlash
from hw.bridge.memory_port import MemoryPort
from hw.bus.axi import PAGE_BYTES, AXI4Read, Response
from hw.contract.config import Config


class FlashMemory(wiring.Component):
    """A read-only memory, shared by the device's reads and the bridge; one burst, or one word of the bridge, at a time.

    Bursts are incrementing ones of whole beats within a page, as the device makes them. Addresses outside are answered
    with DECERR, those of the bridge with `error`, and so is every write of the bridge.

    Parameters
    ----------
    base, size : addresses of the memory, multiples of PAGE_BYTES. offset : of its first byte in the flash, a multiple
        of PAGE_BYTES. clock_hz, half_period : as in SpiFlash.

    Members
    -------
    bus : reads of the device. port : the bridge. cs, clk, copi, cipo : the flash, as in SpiFlash.

    Raises ValueError for a base, size or offset that does not fit.
    """

    def __init__(self, config: Config, *, base: int, size: int, offset: int, clock_hz: int, half_period: int = 1):
        if base % PAGE_BYTES or offset % PAGE_BYTES or size % PAGE_BYTES or size <= 0 or offset < 0:
            raise ValueError(f"Flash of {size:#x} bytes at {base:#x}, from {offset:#x} on: all must be multiples of "
                             f"{PAGE_BYTES:#x}")
        if offset + size > 1 << ADDRESS_BITS or base + size > 1 << min(32, config.axi_address_bits):
            raise ValueError(f"Flash of {size:#x} bytes at {base:#x}, from {offset:#x} on: it must lie in "
                             f"{ADDRESS_BITS} address bits of the flash, {min(32, config.axi_address_bits)} of the bus")
        self.base = base
        self.size = size
        self.offset = offset
        self.flash = SpiFlash(clock_hz=clock_hz, half_period=half_period)
        super().__init__({
            "bus": In(AXI4Read(config)),
            "port": In(MemoryPort()),
            "cs": Out(1),
            "clk": Out(1),
            "copi": Out(1),
            "cipo": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus, request, response = self.bus, self.port.request, self.port.response
        m.submodules.flash = flash = self.flash
        m.d.comb += [self.cs.eq(flash.cs), self.clk.eq(flash.clk), self.copi.eq(flash.copi), flash.cipo.eq(self.cipo)]

        # ---- one access at a time, the bridge's first --------------------------------------------------------------
        access = Signal(data.StructLayout({"bridge": 1, "failed": 1, "left": 9, "id": len(bus.arid)}))
        asked, under_way = Signal(), Signal()  # `asked`: the flash has not been asked yet
        address = Signal(ADDRESS_BITS)
        chosen, failed = Signal(32), Signal()
        page = (PAGE_BYTES - 1).bit_length()
        with m.If(request.valid):
            m.d.comb += chosen.eq(request.payload.address)
        with m.Else():
            m.d.comb += chosen.eq(bus.araddr)
        relative = Signal(32 - page)
        m.d.comb += [
            relative.eq(chosen[page:] - (self.base >> page)),
            failed.eq((relative >= self.size >> page) | (request.valid & request.payload.write)),
            request.ready.eq(~under_way),
            bus.arready.eq(~under_way & ~request.valid),
        ]
        with m.If(~under_way):
            m.d.sync += [
                access.bridge.eq(request.valid), access.failed.eq(failed), access.id.eq(bus.arid), access.left.eq(1),
                address[:page].eq(chosen[:page]), address[page:].eq(relative + (self.offset >> page)),
            ]
            with m.If(~request.valid):
                m.d.sync += access.left.eq(bus.arlen + 1)
            with m.If(request.valid | bus.arvalid):
                m.d.sync += [under_way.eq(1), asked.eq(~failed)]
        with m.If(asked & flash.request.ready):
            m.d.sync += asked.eq(0)
        m.d.comb += [
            flash.request.valid.eq(asked),
            flash.request.payload.address.eq(address),
            flash.request.payload.words.eq(access.left),
        ]

        # ---- its words ---------------------------------------------------------------------------------------------
        there, taken = Signal(), Signal()
        m.d.comb += [
            there.eq(under_way & ~asked & (flash.words.valid | access.failed)),
            bus.rvalid.eq(there & ~access.bridge),
            bus.rdata.eq(flash.words.payload),
            bus.rlast.eq(access.left == 1),
            bus.rid.eq(access.id),
            response.valid.eq(there & access.bridge),
            response.payload.data.eq(flash.words.payload),
            response.payload.error.eq(access.failed),
            taken.eq(there & (access.bridge | bus.rready)),
            flash.words.ready.eq(taken & ~access.failed),
        ]
        with m.If(access.failed):
            m.d.comb += bus.rresp.eq(Response.DECERR)
        with m.If(taken):
            m.d.sync += access.left.eq(access.left - 1)
            with m.If(access.left == 1):
                m.d.sync += under_way.eq(0)
        return m
