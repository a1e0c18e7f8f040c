"""A table of 256 bytes that replaces results: unary activations."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.layouts import TABLE_BYTES


def table_words(config: Config) -> int:
    """Weight store words that the table takes."""
    return TABLE_BYTES // config.weight_word_bytes


def table_index_bits(config: Config) -> int:
    """Bits of the index of one of them."""
    return (table_words(config) - 1).bit_length()


class Table(wiring.Component):
    """Looks up Q values per cycle, LATENCY cycles later; or hands them on where it is not in use.

    Members
    -------
    use : stable while values come. write, write_index, write_data : one word of the table.
    i_valid, i_value, o_valid, o_value : int8 per lane.
    """

    LATENCY = 1

    def __init__(self, config: Config):
        self.config = config
        values = data.ArrayLayout(signed(8), config.requantise_lanes)
        super().__init__({
            "use": In(1),
            "write": In(1),
            "write_index": In(table_index_bits(config)),
            "write_data": In(8 * config.weight_word_bytes),
            "i_valid": In(1),
            "i_value": In(values),
            "o_valid": Out(1),
            "o_value": Out(values),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        word_bytes = self.config.weight_word_bytes
        low = (word_bytes - 1).bit_length()
        m.submodules.words = words = Memory(shape=unsigned(8 * word_bytes), depth=table_words(self.config), init=[])
        write = words.write_port()
        m.d.comb += [write.en.eq(self.write), write.addr.eq(self.write_index), write.data.eq(self.write_data)]
        m.d.sync += self.o_valid.eq(self.i_valid)
        for i in range(self.config.requantise_lanes):
            value = Signal(8, name=f"value_{i}")
            read = words.read_port(domain="comb")
            entry = Signal(8, name=f"entry_{i}")
            m.d.comb += [
                value.eq(self.i_value[i]),
                read.addr.eq(value[low:]),
                entry.eq(read.data.word_select(value[:low], 8)),
            ]
            m.d.sync += self.o_value[i].eq(Mux(self.use, entry, value))
        return m
