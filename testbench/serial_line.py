"""The far end of a simulated serial line: what a component on `rx` and `tx` looks like as a serial port.

Simulated time passes only while the host reads, so that time-outs are in cycles, and a run repeats exactly.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from amaranth.sim import Simulator


class SerialLine:
    """Implements `sw_driver.links.uart.SerialPort`. Processes of the simulation are added by those who derive from it.

    Parameters
    ----------
    dut : is simulated. silence : cycles without a byte after which a read gives up.

    Attributes
    ----------
    to_device : bytes that are still to be sent. from_device : those that can be read. cycles : simulated so far.
    closed : by the host.
    """

    def __init__(self, dut: Any, silence: int) -> None:
        self.silence = silence
        self.to_device: deque[int] = deque()
        self.from_device = bytearray()
        self.cycles = 0
        self.closed = False
        self._quiet = 0
        self._simulator = Simulator(dut)
        self._simulator.add_clock(1e-6)

    # ---- serial port -----------------------------------------------------------------------------

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        return len(self.from_device)

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes, fewer when there is silence."""
        self._quiet = 0
        while len(self.from_device) < size and self._quiet < self.silence:
            self._simulator.advance()
        data = bytes(self.from_device[:size])
        del self.from_device[:size]
        return data

    def write(self, data: bytes) -> int:
        """Send bytes."""
        self.to_device.extend(data)
        return len(data)

    def reset_input_buffer(self) -> None:
        """Throw away what came."""
        self.from_device.clear()

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    # ---- processes -------------------------------------------------------------------------------

    def _passed(self) -> None:
        """A cycle has passed."""
        self.cycles += 1
        self._quiet = 0 if self.to_device else self._quiet + 1

    def _arrived(self, byte: int) -> None:
        """A byte came from the device."""
        self.from_device.append(byte)
        self._quiet = 0

    async def _line_in(self, ctx, rx, divisor: int) -> None:
        """Bytes bit by bit to `rx`, `divisor` cycles each."""
        while True:
            if not self.to_device:
                await ctx.tick()
                continue
            bits = 0x200 | self.to_device.popleft() << 1
            for i in range(10):
                ctx.set(rx, bits >> i & 1)
                await ctx.tick().repeat(divisor)

    async def _line_out(self, ctx, tx, divisor: int) -> None:
        """Bytes bit by bit from `tx`, sampled in the middle."""
        while True:
            await ctx.tick()
            if ctx.get(tx):
                continue
            await ctx.tick().repeat(divisor + divisor // 2 - 1)
            byte = 0
            for i in range(8):
                byte |= ctx.get(tx) << i
                await ctx.tick().repeat(divisor)
            assert ctx.get(tx), "a byte without its stop bit"
            self._arrived(byte)
