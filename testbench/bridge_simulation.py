"""A bridge in Amaranth's simulator that looks like a serial port, with a device behind it that is another link.

Simulated time passes only while the host reads, so that time-outs are in cycles, and a run repeats exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from amaranth.sim import Simulator

from hw.bridge.uart_bridge import ByteBridge, UartBridge
from sw_driver.links.link import InterruptTimeout, Link, LinkError

#: What happens to bytes on the line: given those sent together, those that arrive.
Damage = Callable[[bytes], bytes]

CLOCK_HZ = 1_000_000


class SimulatedPort:
    """Implements `sw_driver.links.uart.SerialPort`.

    Parameters
    ----------
    dut : the bridge. device : what answers its accesses. rng : for delays of these answers.
    damage_in, damage_out : of bytes to the bridge, and of those from it, one at a time.
    silence : cycles without a byte after which a read gives up.
    """

    def __init__(self, dut: ByteBridge | UartBridge, device: Link, rng: np.random.Generator, *,
                 damage_in: Damage = bytes, damage_out: Damage = bytes, silence: int = 400) -> None:
        self.dut, self.device, self.rng = dut, device, rng
        self.damage_in, self.damage_out, self.silence = damage_in, damage_out, silence
        self.to_bridge: deque[int] = deque()
        self.from_bridge = bytearray()
        self.cycles = 0
        self.closed = False
        self._quiet = 0
        self._simulator = Simulator(dut)
        self._simulator.add_clock(1e-6)
        line = [self._line_in, self._line_out] if isinstance(dut, UartBridge) else [self._bytes]
        for process in (*line, self._count, self._registers, self._memory):
            self._simulator.add_testbench(process, background=True)

    # ---- serial port -----------------------------------------------------------------------------

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        return len(self.from_bridge)

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes, fewer when there is silence."""
        self._quiet = 0
        while len(self.from_bridge) < size and self._quiet < self.silence:
            self._simulator.advance()
        data = bytes(self.from_bridge[:size])
        del self.from_bridge[:size]
        return data

    def write(self, data: bytes) -> int:
        """Send bytes, damaged as they may be."""
        self.to_bridge.extend(self.damage_in(data))
        return len(data)

    def reset_input_buffer(self) -> None:
        """Throw away what came."""
        self.from_bridge.clear()

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    # ---- processes -------------------------------------------------------------------------------

    async def _count(self, ctx) -> None:
        while True:
            await ctx.tick()
            self.cycles += 1
            self._quiet = 0 if self.to_bridge else self._quiet + 1
            if self.cycles % 8 == 0:
                ctx.set(self.dut.irq, self._interrupt())

    def _interrupt(self) -> bool:
        try:
            self.device.wait_interrupt(0)
        except InterruptTimeout:
            return False
        return True

    def _arrived(self, byte: int) -> None:
        self.from_bridge += self.damage_out(bytes([byte]))
        self._quiet = 0

    async def _bytes(self, ctx) -> None:
        """Bytes as streams; some cycles pass between those from the bridge."""
        dut = self.dut
        while True:
            ctx.set(dut.i.valid, bool(self.to_bridge))
            if self.to_bridge:
                ctx.set(dut.i.payload, self.to_bridge.popleft())
            take = bool(self.rng.integers(2))
            ctx.set(dut.o.ready, take)
            _clock, _reset, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid and take:
                self._arrived(byte)

    async def _line_in(self, ctx) -> None:
        """Bytes bit by bit to `rx`."""
        dut = self.dut
        while True:
            if not self.to_bridge:
                await ctx.tick()
                continue
            bits = 0x200 | self.to_bridge.popleft() << 1
            for i in range(10):
                ctx.set(dut.rx, bits >> i & 1)
                await ctx.tick().repeat(dut.divisor)

    async def _line_out(self, ctx) -> None:
        """Bytes bit by bit from `tx`, sampled in the middle."""
        dut = self.dut
        while True:
            await ctx.tick()
            if ctx.get(dut.tx):
                continue
            await ctx.tick().repeat(dut.divisor + dut.divisor // 2 - 1)
            byte = 0
            for i in range(8):
                byte |= ctx.get(dut.tx) << i
                await ctx.tick().repeat(dut.divisor)
            assert ctx.get(dut.tx), "a byte without its stop bit"
            self._arrived(byte)

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
