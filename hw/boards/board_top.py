"""A device that a host reaches over a serial line, complete but for clock and pins: the same on boards and simulated.

    rx, tx -- UART bridge --+-- registers -- device -- AXI4 --+
                            |                                 |
                            +---------- words ----------------+-- block RAM
"""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hw.boards.block_memory import BlockMemory
from hw.bridge.uart_bridge import UartBridge
from hw.contract.config import Config
from hw.top import Lacuna

#: Where memory begins. Not at zero: an address that nobody set is answered with an error.
MEMORY_BASE = 0x1000_0000


class BoardTop(wiring.Component):
    """Device, bridge and memory, in one clock domain.

    Parameters
    ----------
    config : of the device. clock_hz : of the clock. baud : of the line, 8 data bits, no parity, one stop bit.
    memory_bytes : block RAM that stands for external memory, from MEMORY_BASE on; a multiple of 4096.

    Members
    -------
    rx, tx : the line, high when idle. busy : a program runs. error : the last program ended with an error.

    Raises ValueError for a memory size or a baud rate that can't be made.
    """

    def __init__(self, config: Config, *, clock_hz: int, baud: int, memory_bytes: int):
        self.config = config
        self.device = Lacuna(config)
        self.bridge = UartBridge(clock_hz=clock_hz, baud=baud, memory_base=MEMORY_BASE, memory_bytes=memory_bytes)
        self.memory = BlockMemory(config, base=MEMORY_BASE, size=memory_bytes)
        super().__init__({
            "rx": In(1, init=1),
            "tx": Out(1, init=1),
            "busy": Out(1),
            "error": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.device = device = self.device
        m.submodules.bridge = bridge = self.bridge
        m.submodules.memory = memory = self.memory
        connect(m, bridge.registers, device.s_axil)
        connect(m, bridge.memory, memory.port)
        connect(m, device.m_axi, memory.bus)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx), bridge.irq.eq(device.irq)]
        m.d.sync += [self.busy.eq(device.status.busy), self.error.eq(device.status.error)]
        return m
