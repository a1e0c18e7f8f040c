"""A UART: 8 data bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

#: Fewest clock cycles per bit: the receiver samples in the middle, and needs one cycle on either side.
DIVISOR_MIN = 4


def checked_divisor(divisor: int) -> int:
    """`divisor`. Raises ValueError where it is too small."""
    if divisor < DIVISOR_MIN:
        raise ValueError(f"A UART needs at least {DIVISOR_MIN} clock cycles per bit, not {divisor}")
    return divisor


def divisor_of(clock_hz: float, baud: int) -> int:
    """Clock cycles per bit. Raises ValueError where the clock can't make the baud rate within 2%."""
    divisor = round(clock_hz / baud)
    if divisor < DIVISOR_MIN or abs(clock_hz / divisor / baud - 1) > 0.02:
        raise ValueError(f"A clock of {clock_hz:,.0f} Hz can't make {baud:,} baud within 2%: choose at most "
                         f"{clock_hz / DIVISOR_MIN:,.0f}, and a divisor of the clock")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from the line. A byte whose stop bit is low is dropped.

    Parameters
    ----------
    divisor : clock cycles per bit.

    Members
    -------
    rx : the line, high when idle; synchronised here. o : the bytes; a byte that is not taken at once is lost.
    """

    def __init__(self, divisor: int):
        self.divisor = checked_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = cdc.FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        bits_left = Signal(range(10))
        shift = Signal(9)
        m.d.sync += self.o.valid.eq(0)
        with m.If(bits_left == 0):
            with m.If(~line):  # the start bit: look at the middle of the first data bit
                m.d.sync += [bits_left.eq(9), timer.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [shift.eq(Cat(shift[1:], line)), bits_left.eq(bits_left - 1), timer.eq(self.divisor - 1)]
            with m.If(bits_left == 1):
                m.d.sync += [self.o.valid.eq(line), self.o.payload.eq(shift[1:])]
        return m


class UartTransmitter(wiring.Component):
    """Bytes to the line.

    Parameters
    ----------
    divisor : clock cycles per bit.

    Members
    -------
    i : the bytes. tx : the line, high when idle.
    """

    def __init__(self, divisor: int):
        self.divisor = checked_divisor(divisor)
        super().__init__({"i": In(stream.Signature(unsigned(8))), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        bits_left = Signal(range(11))
        shift = Signal(9, init=0x1FF)
        m.d.comb += self.i.ready.eq(bits_left == 0)
        with m.If(bits_left == 0):
            m.d.sync += self.tx.eq(1)
            with m.If(self.i.valid):
                m.d.sync += [self.tx.eq(0), shift.eq(Cat(self.i.payload, 1)), bits_left.eq(10),
                             timer.eq(self.divisor - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [self.tx.eq(shift[0]), shift.eq(Cat(shift[1:], 1)), bits_left.eq(bits_left - 1),
                         timer.eq(self.divisor - 1)]
        return m
