"""An SPI NOR flash as hardware, for simulations: mode 0, fast read and plain read, asleep until it is woken up."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportIndexIssue=false
# Hardware, judged as that in hw is.

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.boards.board_top import BoardTop
from hw.boards.spi_flash import ADDRESS_BITS
from hw.contract.config import Config

#: Where the simulated boards' part for programs begins in the flash.
FLASH_OFFSET = 0x3000

_READ, _FAST_READ, _WAKE, _SLEEP = 0x03, 0x0B, 0xAB, 0xB9


class FlashChip(wiring.Component):
    """Looks at its pins in every cycle of the simulation; gives a bit in the cycle after its clock has fallen.

    A command other than those that it knows, a clock that is high when it is selected, and a read before it has been
    woken up set `wrong` for good.

    Parameters
    ----------
    content : from byte 0 on; behind it the flash is erased. wake_cycles : it takes so long to wake up.

    Members
    -------
    cs, clk, copi, cipo : as in SpiFlash. reads : read commands so far. wrong : it was misused.
    """

    def __init__(self, content: bytes, wake_cycles: int = 0):
        self.content = content
        self.wake_cycles = wake_cycles
        super().__init__({"cs": In(1), "clk": In(1), "copi": In(1), "cipo": Out(1), "reads": Out(16), "wrong": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth = 1 << (len(self.content) - 1).bit_length()
        m.submodules.memory = memory = Memory(shape=unsigned(8), depth=depth,
                                              init=self.content.ljust(depth, b"\xff"))
        read = memory.read_port(domain="comb")
        clk_before, cs_before = Signal(), Signal()
        m.d.sync += [clk_before.eq(self.clk), cs_before.eq(self.cs)]
        rising, falling = Signal(), Signal()
        m.d.comb += [rising.eq(self.cs & self.clk & ~clk_before), falling.eq(self.cs & ~self.clk & clk_before)]

        # The head of a command: its code, an address, a dummy byte of a fast read.
        head, count = Signal(8 + ADDRESS_BITS), Signal(range(8 + ADDRESS_BITS + 9))
        code, address, bit = Signal(8), Signal(ADDRESS_BITS), Signal(3)
        awake, left = Signal(), Signal(range(self.wake_cycles + 1))
        giving = Signal()
        shifted = Signal.like(head)
        m.d.comb += [shifted.eq(Cat(self.copi, head)), read.addr.eq(address)]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(~self.cs):
            m.d.sync += [count.eq(0), giving.eq(0), self.cipo.eq(0)]
            with m.If(cs_before & (count == 8)):
                with m.Switch(code):
                    with m.Case(_WAKE):
                        m.d.sync += [awake.eq(1), left.eq(self.wake_cycles)]
                    with m.Case(_SLEEP):
                        m.d.sync += awake.eq(0)
        with m.Elif(~cs_before & self.clk):
            m.d.sync += self.wrong.eq(1)
        with m.If(rising & ~giving):
            m.d.sync += [head.eq(shifted), count.eq(count + 1)]
            with m.If(count == 7):
                m.d.sync += code.eq(shifted[:8])
                with m.If(~shifted[:8].matches(_READ, _FAST_READ, _WAKE, _SLEEP)
                          | (shifted[:8].matches(_READ, _FAST_READ) & (~awake | (left != 0)))):
                    m.d.sync += self.wrong.eq(1)
            with m.If(count == 8 + ADDRESS_BITS - 1):
                m.d.sync += [address.eq(shifted[:ADDRESS_BITS]), bit.eq(0), self.reads.eq(self.reads + 1)]
                with m.If(code == _READ):
                    m.d.sync += giving.eq(1)
            with m.If(count == 8 + ADDRESS_BITS + 7):
                m.d.sync += giving.eq(1)
        with m.If(falling & giving & awake):
            m.d.sync += [self.cipo.eq(Cat(reversed(list(read.data))).bit_select(bit, 1)), bit.eq(bit + 1)]
            with m.If(bit == 7):
                m.d.sync += address.eq(address + 1)
        return m


class BoardWithFlash(wiring.Component):
    """A board top with a flash on its pins. Parameters as of BoardTop; the flash holds `flash` from FLASH_OFFSET on."""

    def __init__(self, config: Config, flash: bytes, **parameters: int):
        size = -(-len(flash) // 4096) * 4096
        self.board = BoardTop(config, flash_offset=FLASH_OFFSET, flash_bytes=size, **parameters)
        before = bytes(range(256)) * (FLASH_OFFSET // 256)
        self.chip = FlashChip(before + flash, self.board.flash.flash.wake_cycles // 2 if self.board.flash else 0)
        self.bridge = self.board.bridge
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1), "error": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.board = board = self.board
        m.submodules.chip = chip = self.chip
        m.d.comb += [
            board.rx.eq(self.rx), self.tx.eq(board.tx), self.busy.eq(board.busy), self.error.eq(board.error),
            chip.cs.eq(board.flash_cs), chip.clk.eq(board.flash_clk), chip.copi.eq(board.flash_copi),
            board.flash_cipo.eq(chip.cipo),
        ]
        return m
