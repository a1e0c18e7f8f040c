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
        # The load engine is far away from those that decide: they are told from a register.
        loaded = self.write.signature.create(path=("loaded",))
        decision = self.decisions.request
        m.d.sync += [getattr(loaded, name).eq(getattr(self.write, name)) for name in ("enable", "address", "data")]
        m.d.comb += decision.ready.eq(~loaded.enable)
        m.d.sync += [
            words.write.enable.eq(loaded.enable | decision.valid),
            words.write.address.eq(Mux(loaded.enable, loaded.address, decision.payload.address)),
            words.write.data.eq(Mux(loaded.enable, loaded.data, decision.payload.data)),
        ]
        return m
