"""The check value of a block: CRC-32 of rows, a part of a row per cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.weight_format import CHECK_BITS, CHECK_DIGIT, UNIT_BITS

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

    Parameters
    ----------
    lanes : bytes of a row. width : bytes of a part of it; divides `lanes`.

    Members
    -------
    start : pulse; begin anew. go : what `valid`, `begin` or `drop` say is done.
    valid, part : append a part of a row, its first byte lowest. begin, head : append a row that is zero but for its
        first bytes; busy : the rest of it follows, whether there is a `go` or not; no part may come meanwhile.
    digits : of the check value of all rows before this cycle, as zlib has it. drop : the lowest
        `1 << drop_log` digits of CHECK_DIGIT bits are gone, and zeros follow the others.
    """

    def __init__(self, lanes: int, width: int):
        self.lanes = lanes
        self.width = width
        super().__init__({
            "start": In(1),
            "go": In(1),
            "valid": In(1),
            "part": In(8 * width),
            "begin": In(1),
            "head": In(UNIT_BITS),
            "busy": Out(1),
            "drop": In(1),
            "drop_log": In(range(max(2, width.bit_length()))),
            "digits": Out(CHECK_BITS),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = 8 * self.width
        register = Signal(CHECK_BITS)  # inverted, so that the digits that are dropped leave zeros
        mixed = Signal(max(bits, CHECK_BITS))  # a part's first bits meet the register's
        m.d.comb += [
            # Whether it counts, `go` says: too late for what is mixed.
            mixed.eq(~register ^ Mux(self.valid & ~self.busy, self.part, 0)
                     ^ Mux(self.begin & ~self.busy, self.head, 0)),
            self.digits.eq(register),
        ]
        # What each bit of `mixed` leaves in the register when the whole part has passed.
        left = [shifted(1 << i, bits) if i < CHECK_BITS else shifted(1, bits - i) for i in range(len(mixed))]
        following = Signal(CHECK_BITS)
        for bit in range(CHECK_BITS):
            m.d.comb += following[bit].eq(Cat(mixed[i] for i, value in enumerate(left) if value >> bit & 1).xor())
        parts = self.lanes // self.width
        to_come = Signal(range(parts))
        m.d.comb += self.busy.eq(to_come != 0)
        with m.If((self.go & (self.valid | self.begin)) | self.busy):
            m.d.sync += register.eq(~following)
        with m.If(self.go & self.begin):
            m.d.sync += to_come.eq(parts - 1)
        with m.Elif(self.busy):
            m.d.sync += to_come.eq(to_come - 1)
        with m.If(self.go & self.drop):
            with m.Switch(self.drop_log):
                for log in range(self.width.bit_length()):
                    with m.Case(log):
                        m.d.sync += register.eq(register >> (CHECK_DIGIT << log))
        with m.If(self.start):
            m.d.sync += [register.eq(0), to_come.eq(0)]
        return m
