"""A table of 256 bytes that replaces results: unary activations."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.layouts import TABLE_BYTES
from hw.requantise import delayed

#: Bytes of the table that are written at once, and read for a value: what a block RAM gives at once.
WORD_BYTES = 4

#: Words that the table takes.
TABLE_WORDS = TABLE_BYTES // WORD_BYTES


class Table(wiring.Component):
    """Looks up Q values per cycle, LATENCY cycles later; or hands them on where it is not in use.

    Each lane has the table in a block RAM of its own.

    Members
    -------
    use : stable while values come. write, write_index, write_data : one word of the table, while no values come.
    i_valid, i_value, o_valid, o_value : int8 per lane.
    """

    LATENCY = 3

    def __init__(self, config: Config):
        self.config = config
        values = data.ArrayLayout(signed(8), config.requantise_lanes)
        super().__init__({
            "use": In(1),
            "write": In(1),
            "write_index": In(range(TABLE_WORDS)),
            "write_data": In(8 * WORD_BYTES),
            "i_valid": In(1),
            "i_value": In(values),
            "o_valid": Out(1),
            "o_value": Out(values),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        low = (WORD_BYTES - 1).bit_length()
        m.submodules.words = words = Memory(shape=unsigned(8 * WORD_BYTES), depth=TABLE_WORDS, init=[])
        write = words.write_port()
        m.d.comb += [write.en.eq(self.write), write.addr.eq(self.write_index), write.data.eq(self.write_data)]
        m.d.sync += self.o_valid.eq(delayed(m, self.i_valid, self.LATENCY - 1, reset_less=False))
        for i in range(self.config.requantise_lanes):
            index = Signal(8, name=f"index_{i}")
            read = words.read_port()
            m.d.comb += [index.eq(self.i_value[i]), read.addr.eq(index[low:]), read.en.eq(~self.write)]
            value, word = delayed(m, index, 2), delayed(m, read.data, 1)
            m.d.comb += self.o_value[i].eq(delayed(m, Mux(self.use, word.word_select(value[:low], 8), value), 1))
        return m
