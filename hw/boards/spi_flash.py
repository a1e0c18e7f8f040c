"""Reads an SPI NOR flash: fast read (0Bh), 24-bit addresses, mode 0. A read that goes on from the last one streams.

    start --> 8 clocks, release from power-down --> idle --> command, address, dummy --> words ... idle --> words ...

The clock rests between words that nobody takes; the flash waits for it.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

WORD_BYTES = 8
ADDRESS_BITS = 24

#: Commands.
FAST_READ = 0x0B
RELEASE_POWER_DOWN = 0xAB

#: Bits of a command with address and dummy byte.
_READ_BITS = 8 + ADDRESS_BITS + 8

#: Nanoseconds that the flash is deselected between commands, and that it takes to wake up (the slowest of those on
#: boards: tSHSL 100 ns, tRES1 30 us).
DESELECT_NS = 100
WAKE_NS = 30_000

#: Clocks before the first command: an ECP5's USRMCLK swallows some.
_FIRST_CLOCKS = 8


class SpiFlash(wiring.Component):
    """Words of 8 bytes from the flash.

    Parameters
    ----------
    clock_hz : of this clock. half_period : its cycles in half a period of the flash's clock.

    Members
    -------
    cs : the flash is selected (the pin is low then). clk, copi, cipo : its other pins.
    request : byte address of the first word, and how many words; 0 is none. Taken when all words before it
        are handed on.
    words : in order, the first byte in the low bits.
    """

    def __init__(self, *, clock_hz: int, half_period: int = 1):
        if half_period < 1:
            raise ValueError(f"SpiFlash: half_period must be at least 1, not {half_period}")
        self.half_period = half_period
        self.deselect_cycles = max(2, -(-clock_hz * DESELECT_NS // 10**9))
        self.wake_cycles = max(2, -(-clock_hz * WAKE_NS // 10**9))
        super().__init__({
            "cs": Out(1),
            "clk": Out(1),
            "copi": Out(1),
            "cipo": In(1),
            "request": In(stream.Signature(data.StructLayout({"address": ADDRESS_BITS, "words": 9}))),
            "words": Out(stream.Signature(unsigned(8 * WORD_BYTES))),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        request, words = self.request, self.words

        # ---- a bit: clock low, then high; what the flash gives is taken at the end, when the clock falls ---------
        shifting, bit_end = Signal(), Signal()
        phase = Signal(range(2 * self.half_period))
        m.d.comb += bit_end.eq(shifting & (phase == 2 * self.half_period - 1))
        with m.If(shifting):
            m.d.sync += [phase.eq(phase + 1), self.clk.eq(phase >= self.half_period - 1)]
            with m.If(bit_end):
                m.d.sync += [phase.eq(0), self.clk.eq(0)]
        out = Signal(_READ_BITS)
        bits_left = Signal(range(8 * WORD_BYTES + 1))
        byte = Signal(7)  # the bits of a byte so far, the first in front
        word = Signal(8 * WORD_BYTES)
        m.d.comb += self.copi.eq(out[-1])
        with m.If(bit_end):
            m.d.sync += [out.eq(out << 1), bits_left.eq(bits_left - 1), byte.eq(Cat(self.cipo, byte))]

        # ---- words ------------------------------------------------------------------------------------------------
        position = Signal(ADDRESS_BITS)  # of the next byte that the flash gives
        asked = Signal.like(request.payload)
        streaming = Signal()  # selected, and in the middle of a read
        pause = Signal(range(max(self.wake_cycles, self.deselect_cycles) + 1))
        with m.If(words.ready):
            m.d.sync += words.valid.eq(0)
        with m.FSM():
            with m.State("START"):
                m.d.sync += bits_left.eq(_FIRST_CLOCKS)
                m.next = "FIRST_CLOCKS"
            with m.State("FIRST_CLOCKS"):
                m.d.comb += shifting.eq(1)
                with m.If(bit_end & (bits_left == 1)):
                    m.d.sync += pause.eq(self.deselect_cycles)
                    m.next = "WAKE"
            with m.State("WAKE"):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += [self.cs.eq(1), bits_left.eq(8), out.eq(Cat(Const(0, _READ_BITS - 8),
                                                                            Const(RELEASE_POWER_DOWN, 8)))]
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.d.comb += shifting.eq(1)
                with m.If(bit_end & (bits_left == 1)):
                    m.d.sync += pause.eq(self.wake_cycles)
                    m.next = "AWAKE"
            with m.State("AWAKE"):
                m.d.sync += [pause.eq(pause - 1), self.cs.eq(0)]
                with m.If(pause == 0):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.comb += request.ready.eq(~words.valid)
                m.d.sync += [asked.eq(request.payload), bits_left.eq(8 * WORD_BYTES)]
                with m.If(request.valid & request.ready & (request.payload.words != 0)):
                    with m.If(streaming & (request.payload.address == position)):
                        m.next = "READ"
                    with m.Else():
                        m.d.sync += [self.cs.eq(0), streaming.eq(0), pause.eq(self.deselect_cycles)]
                        m.next = "DESELECTED"
            with m.State("DESELECTED"):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += [
                        self.cs.eq(1), bits_left.eq(_READ_BITS),
                        out.eq(Cat(Const(0, 8), asked.address, Const(FAST_READ, 8))),
                        position.eq(asked.address),
                    ]
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += shifting.eq(1)
                with m.If(bit_end & (bits_left == 1)):
                    m.d.sync += [streaming.eq(1), bits_left.eq(8 * WORD_BYTES)]
                    m.next = "READ"
            with m.State("READ"):
                # The last bit waits for room. A word that is taken in this cycle is too late: much hangs on it.
                m.d.comb += shifting.eq((bits_left != 1) | ~words.valid)
                with m.If(bit_end & (bits_left[:3] == 1)):
                    m.d.sync += word.eq(Cat(word[8:], self.cipo, byte))
                    with m.If(bits_left == 1):
                        m.d.sync += [
                            words.valid.eq(1), words.payload.eq(Cat(word[8:], self.cipo, byte)),
                            position.eq(position + WORD_BYTES), asked.words.eq(asked.words - 1),
                            bits_left.eq(8 * WORD_BYTES),
                        ]
                        with m.If(asked.words == 1):
                            m.next = "IDLE"
        return m
