"""A bridge in Amaranth's simulator that looks like a serial port, with a device behind it that is another link."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hw.bridge.uart_bridge import ByteBridge, UartBridge
from sw_driver.links.link import InterruptTimeout, Link, LinkError
from testbench.serial_line import SerialLine

#: What happens to bytes on the line: given those sent together, those that arrive.
Damage = Callable[[bytes], bytes]

CLOCK_HZ = 1_000_000


class SimulatedPort(SerialLine):
    """A serial port with a bridge behind it.

    Parameters
    ----------
    dut : the bridge. device : what answers its accesses. rng : for delays of these answers.
    damage_in, damage_out : of bytes to the bridge, and of those from it, one at a time.
    silence : as in SerialLine.
    """

    def __init__(self, dut: ByteBridge | UartBridge, device: Link, rng: np.random.Generator, *,
                 damage_in: Damage = bytes, damage_out: Damage = bytes, silence: int = 400) -> None:
        super().__init__(dut, silence)
        self.dut, self.device, self.rng = dut, device, rng
        self.damage_in, self.damage_out = damage_in, damage_out
        line = [self._send, self._receive] if isinstance(dut, UartBridge) else [self._bytes]
        for process in (*line, self._count, self._registers, self._memory):
            self._simulator.add_testbench(process, background=True)

    def write(self, data: bytes) -> int:
        """Send bytes, damaged as they may be."""
        super().write(self.damage_in(data))
        return len(data)

    # ---- processes -------------------------------------------------------------------------------

    async def _count(self, ctx) -> None:
        while True:
            await ctx.tick()
            self._passed()
            if self.cycles % 8 == 0:
                ctx.set(self.dut.irq, self._interrupt())

    def _interrupt(self) -> bool:
        try:
            self.device.wait_interrupt(0)
        except InterruptTimeout:
            return False
        return True

    def _arrived(self, byte: int) -> None:
        self._quiet = 0  # also where nothing of it is left
        for arriving in self.damage_out(bytes([byte])):
            super()._arrived(arriving)

    async def _bytes(self, ctx) -> None:
        """Bytes as streams; some cycles pass between those from the bridge."""
        dut = self.dut
        while True:
            ctx.set(dut.i.valid, bool(self.to_device))
            if self.to_device:
                ctx.set(dut.i.payload, self.to_device.popleft())
            take = bool(self.rng.integers(2))
            ctx.set(dut.o.ready, take)
            _clock, _reset, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid and take:
                self._arrived(byte)

    async def _send(self, ctx) -> None:
        await self._line_in(ctx, self.dut.rx, self.dut.divisor)

    async def _receive(self, ctx) -> None:
        await self._line_out(ctx, self.dut.tx, self.dut.divisor)

    async def _delay(self, ctx) -> None:
        for _ in range(int(self.rng.integers(3))):
            await ctx.tick()

    async def _registers(self, ctx) -> None:
        bus = self.dut.registers
        while True:
            await ctx.tick()
            if ctx.get(bus.arvalid):
                await self._delay(ctx)
                address = ctx.get(bus.araddr)
                await self._pulse(ctx, bus.arready)
                value, response = 0, 0
                try:
                    value = self.device.read_register(address)
                except LinkError:
                    response = 2
                ctx.set(bus.rdata, value)
                ctx.set(bus.rresp, response)
                ctx.set(bus.rvalid, 1)
                await ctx.tick().until(bus.rready)
                ctx.set(bus.rvalid, 0)
            elif ctx.get(bus.awvalid):
                address = ctx.get(bus.awaddr)
                await self._pulse(ctx, bus.awready)
                await self._delay(ctx)
                while not ctx.get(bus.wvalid):
                    await ctx.tick()
                value = ctx.get(bus.wdata)
                await self._pulse(ctx, bus.wready)
                response = 0
                try:
                    self.device.write_register(address, value)
                except LinkError:
                    response = 2
                ctx.set(bus.bresp, response)
                ctx.set(bus.bvalid, 1)
                await ctx.tick().until(bus.bready)
                ctx.set(bus.bvalid, 0)

    async def _memory(self, ctx) -> None:
        port = self.dut.memory
        while True:
            await ctx.tick()
            if not ctx.get(port.request.valid):
                continue
            await self._delay(ctx)
            request = ctx.get(port.request.payload)
            await self._pulse(ctx, port.request.ready)
            data, error = 0, 0
            try:
                if request.write:
                    self.device.write_memory(request.address, request.data.to_bytes(8, "little"))
                else:
                    data = int.from_bytes(self.device.read_memory(request.address, 8), "little")
            except LinkError:
                error = 1
            await self._delay(ctx)
            ctx.set(port.response.payload, {"data": data, "error": error})
            await self._pulse(ctx, port.response.valid)

    @staticmethod
    async def _pulse(ctx, signal) -> None:
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)
