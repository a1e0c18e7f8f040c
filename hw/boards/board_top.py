"""A device that a host reaches over a serial line, complete but for clock and pins: the same on boards and simulated.

    rx, tx -- UART bridge --+-- registers -- device -- AXI4 --+
                            |                                 |
                            +---------- words ----------------+-- block RAM
                                                              +-- SPI flash, where there is one: to read from
"""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hw.boards.block_memory import BlockMemory
from hw.boards.flash_memory import FlashMemory
from hw.boards.memory_map import MemoryMap
from hw.bridge.uart_bridge import UartBridge
from hw.contract.config import Config
from hw.top import Lacuna

#: Where memory begins. Not at zero: an address that nobody set is answered with an error.
MEMORY_BASE = 0x1000_0000

#: Where flash begins.
FLASH_BASE = 0x2000_0000


class BoardTop(wiring.Component):
    """Device, bridge and memory, in one clock domain.

    Parameters
    ----------
    config : of the device. clock_hz : of the clock. baud : of the line, 8 data bits, no parity, one stop bit.
    memory_bytes : block RAM that stands for external memory, from MEMORY_BASE on; a multiple of 4096.
    flash_offset, flash_bytes : the part of an SPI flash that can be read from FLASH_BASE on; 0 bytes: no flash.

    Members
    -------
    rx, tx : the line, high when idle. busy : a program runs. error : the last program ended with an error.
    flash_cs, flash_clk, flash_copi, flash_cipo : the flash, where there is one, as in SpiFlash.

    Raises ValueError for a memory size or a baud rate that can't be made.
    """

    def __init__(self, config: Config, *, clock_hz: int, baud: int, memory_bytes: int, flash_offset: int = 0,
                 flash_bytes: int = 0):
        self.config = config
        self.device = Lacuna(config)
        self.bridge = UartBridge(clock_hz=clock_hz, baud=baud, memory_base=MEMORY_BASE, memory_bytes=memory_bytes,
                                 flash_base=FLASH_BASE if flash_bytes else 0, flash_bytes=flash_bytes)
        self.memory = BlockMemory(config, base=MEMORY_BASE, size=memory_bytes)
        self.flash = None
        if flash_bytes:
            self.flash = FlashMemory(config, base=FLASH_BASE, size=flash_bytes, offset=flash_offset, clock_hz=clock_hz)
        pins = {"flash_cs": Out(1), "flash_clk": Out(1), "flash_copi": Out(1), "flash_cipo": In(1)}
        super().__init__({
            "rx": In(1, init=1),
            "tx": Out(1, init=1),
            "busy": Out(1),
            "error": Out(1),
            **(pins if flash_bytes else {}),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.device = device = self.device
        m.submodules.bridge = bridge = self.bridge
        m.submodules.memory = memory = self.memory
        connect(m, bridge.registers, device.s_axil)
        if self.flash is None:
            connect(m, bridge.memory, memory.port)
            connect(m, device.m_axi, memory.bus)
        else:
            m.submodules.flash = flash = self.flash
            m.submodules.memory_map = memory_map = MemoryMap(self.config, flash_base=flash.base, flash_size=flash.size)
            connect(m, bridge.memory, memory_map.port)
            connect(m, device.m_axi, memory_map.bus)
            connect(m, memory_map.memory, memory.bus)
            connect(m, memory_map.memory_port, memory.port)
            connect(m, memory_map.flash, flash.bus)
            connect(m, memory_map.flash_port, flash.port)
            m.d.comb += [
                self.flash_cs.eq(flash.cs), self.flash_clk.eq(flash.clk), self.flash_copi.eq(flash.copi),
                flash.cipo.eq(self.flash_cipo),
            ]
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx), bridge.irq.eq(device.irq)]
        m.d.sync += [self.busy.eq(device.status.busy), self.error.eq(device.status.error)]
        return m
