"""The weight store: filled by the load engine, read by the conv engine and, now and then, by the vector engine."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.local_memory import LocalMemory
from hw.ports import MemoryRead, MemoryWrite


class WeightMemory(wiring.Component):
    """A LocalMemory whose one read port two engines share: a second port would cost a copy of the largest memory but
    the feature memory, for an engine that fills buffers of its own with what it reads.

    Members
    -------
    write : of the load engine, never delayed.
    vector, vector_reads : data two cycles after the address, in whose cycle `vector_reads` is high.
    conv, conv_waits : data two cycles after the address, but for addresses of cycles in which `conv_waits` is high.
    """

    def __init__(self, config: Config):
        size = config.weight_words, 8 * config.weight_word_bytes
        self.words = LocalMemory(*size)
        super().__init__({
            "write": In(MemoryWrite(*size)),
            "vector": In(MemoryRead(*size)), "vector_reads": In(1),
            "conv": In(MemoryRead(*size)), "conv_waits": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.words = words = self.words
        # From registers, as the memory lies all over the device.
        m.d.sync += [getattr(words.write, name).eq(getattr(self.write, name)) for name in ("enable", "address", "data")]
        word = Signal(words.data_bits, reset_less=True)
        m.d.sync += word.eq(words.read_0.data)
        m.d.comb += [
            self.conv_waits.eq(self.vector_reads),
            words.read_0.address.eq(Mux(self.vector_reads, self.vector.address, self.conv.address)),
            self.vector.data.eq(word),
            self.conv.data.eq(word),
        ]
        return m
