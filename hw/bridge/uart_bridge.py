"""The whole bridge: a serial line on one side, registers, memory and interrupt of the device on the other."""

from __future__ import annotations

from amaranth import Module, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bridge.memory_port import MemoryPort
from hw.bridge.request_server import RequestServer
from hw.bridge.uart import UartReceiver, UartTransmitter, divisor_of
from hw.bridge.uart_framing import SYMBOL, FrameReceiver, FrameTransmitter
from hw.bus.axi import AXI4Lite
from hw.register_slice import RegisterSlice


class ByteBridge(wiring.Component):
    """Serves hw.contract.bridge over streams of bytes: a UART's, or those of another line.

    Parameters
    ----------
    clock_hz, memory_base, memory_bytes, flash_base, flash_bytes : as in RequestServer.

    Members
    -------
    i, o : bytes from and to the host; those from the host are always taken.
    registers : AXI4-Lite of the device. memory : external memory. irq : its interrupt line.
    """

    def __init__(self, *, clock_hz: int, memory_base: int, memory_bytes: int, flash_base: int = 0,
                 flash_bytes: int = 0):
        self.server = RequestServer(memory_base=memory_base, memory_bytes=memory_bytes, clock_hz=clock_hz,
                                    flash_base=flash_base, flash_bytes=flash_bytes)
        super().__init__({
            "i": In(stream.Signature(unsigned(8))),
            "o": Out(stream.Signature(unsigned(8))),
            "registers": Out(AXI4Lite()),
            "memory": Out(MemoryPort()),
            "irq": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.server = server = self.server
        m.submodules.transmitter = transmitter = FrameTransmitter()
        connect(m, flipped(self.i), receiver.i)
        connect(m, receiver.o, server.i)
        # What the server does next hangs on whether a symbol was taken, and that on its own value.
        m.submodules.symbols = symbols = RegisterSlice(SYMBOL)
        connect(m, server.o, symbols.i)
        connect(m, symbols.o, transmitter.i)
        connect(m, transmitter.o, flipped(self.o))
        connect(m, server.registers, flipped(self.registers))
        connect(m, server.memory, flipped(self.memory))
        m.d.comb += server.irq.eq(self.irq)
        return m


class UartBridge(wiring.Component):
    """A ByteBridge on a UART.

    Parameters
    ----------
    clock_hz : of the clock that it runs with. baud : of the line, 8 data bits, no parity, one stop bit.
    memory_base, memory_bytes, flash_base, flash_bytes : as in RequestServer.

    Members
    -------
    rx, tx : the line. registers, memory, irq : as in ByteBridge.
    """

    def __init__(self, *, clock_hz: int, baud: int, memory_base: int, memory_bytes: int, flash_base: int = 0,
                 flash_bytes: int = 0):
        self.divisor = divisor_of(clock_hz, baud)
        self.bridge = ByteBridge(clock_hz=clock_hz, memory_base=memory_base, memory_bytes=memory_bytes,
                                 flash_base=flash_base, flash_bytes=flash_bytes)
        super().__init__({
            "rx": In(1, init=1),
            "tx": Out(1, init=1),
            "registers": Out(AXI4Lite()),
            "memory": Out(MemoryPort()),
            "irq": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.bridge = bridge = self.bridge
        connect(m, receiver.o, bridge.i)
        connect(m, bridge.o, transmitter.i)
        connect(m, bridge.registers, flipped(self.registers))
        connect(m, bridge.memory, flipped(self.memory))
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), bridge.irq.eq(self.irq)]
        return m
