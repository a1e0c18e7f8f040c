"""The mask memory: filled by the load engine and by decisions, read by the engines that masks gate."""

from __future__ import annotations

from amaranth import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from hw.contract.config import MASK_WORD_BITS, Config
from hw.local_memory import LocalMemory
from hw.ports import MaskWrite, MemoryRead, MemoryWrite


class MaskMemory(wiring.Component):
    """A LocalMemory with a second, patient writer.

    Members
    -------
    write : of the load engine, never delayed. decisions : written when the load engine does not.
    read_0, read_1 : data in the cycle after the address.
    """

    def __init__(self, config: Config):
        self.config = config
        size = config.mask_words, MASK_WORD_BITS
        super().__init__({"write": In(MemoryWrite(*size)), "decisions": In(MaskWrite(config)),
                          "read_0": In(MemoryRead(*size)), "read_1": In(MemoryRead(*size))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.words = words = LocalMemory(self.config.mask_words, MASK_WORD_BITS, readers=2)
        connect(m, flipped(self.read_0), words.read_0)
        connect(m, flipped(self.read_1), words.read_1)
        decision = self.decisions.request
        m.d.comb += decision.ready.eq(~self.write.enable)
        m.d.sync += [
            words.write.enable.eq(self.write.enable | decision.valid),
            words.write.address.eq(Mux(self.write.enable, self.write.address, decision.payload.address)),
            words.write.data.eq(Mux(self.write.enable, self.write.data, decision.payload.data)),
        ]
        return m
