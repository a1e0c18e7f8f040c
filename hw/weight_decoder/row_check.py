"""The check value of a block: CRC-32 of rows, a whole row per cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import CHECK_BITS

#: The polynomial of zlib's CRC-32, its lowest bit the coefficient of x ** 31.
POLYNOMIAL = 0xEDB88320


def shifted(value: int, bits: int) -> int:
    """A CRC register after `bits` bits of zeros."""
    for _ in range(bits):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


class RowCheck(wiring.Component):
    """The CRC is linear: each of its next bits is the parity of some bits of register and row. `amaranth.lib.crc`
    says the same as chains of gates, which synthesis takes minutes to untangle at 128 bits.

    Members
    -------
    start : pulse; begin anew. valid, row : append a row, its first byte lowest.
    check : of all rows before this cycle, as zlib has it.
    """

    def __init__(self, row_bits: int):
        self.row_bits = row_bits
        super().__init__({"start": In(1), "valid": In(1), "row": In(row_bits), "check": Out(CHECK_BITS)})

    def elaborate(self, platform) -> Module:
        m = Module()
        ones = (1 << CHECK_BITS) - 1
        register = Signal(CHECK_BITS, init=ones)
        mixed = Signal(max(self.row_bits, CHECK_BITS))  # a row's first bits meet the register's
        m.d.comb += [mixed.eq(register ^ self.row), self.check.eq(~register)]
        # What each bit of `mixed` leaves in the register when the whole row has passed.
        left = [shifted(1 << i, self.row_bits) if i < CHECK_BITS else shifted(1, self.row_bits - i)
                for i in range(self.row_bits)]
        following = Signal(CHECK_BITS)
        for bit in range(CHECK_BITS):
            m.d.comb += following[bit].eq(Cat(mixed[i] for i, value in enumerate(left) if value >> bit & 1).xor())
        m.d.sync += register.eq(Mux(self.start, ones, Mux(self.valid, following, register)))
        return m
