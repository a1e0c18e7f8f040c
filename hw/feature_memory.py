"""The feature memory: banked SRAM of L-byte words, one read per bank and cycle, one write per cycle.

    readers --> paths --wants--> banks --> registers --words--> paths --> data
    writers --> register ------> banks

Paths earlier in the list win a bank over later ones. The first reader and the first writer are never delayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.contract.config import Config
from hw.ports import ByteReadPort, ReadPort, WritePort
from hw.read_path import BytePath, WordPath, bank_select


class FeatureMemory(wiring.Component):
    """Banked feature memory.

    Parameters
    ----------
    word_readers : names of the ReadPort members, most urgent first. They share a path: one word per cycle for all.
    byte_readers : names of the ByteReadPort members, with the bits of their tags; less urgent than the word readers
        before `late_word_readers`. Their data comes one cycle later than a ReadPort's. A path each.
    late_word_readers : names of the least urgent ReadPort members. A path each.
    writers : names of the WritePort members, most urgent first. One word per cycle for all.
    """

    def __init__(self, config: Config, *, word_readers: Sequence[str], byte_readers: Mapping[str, int],
                 late_word_readers: Sequence[str], writers: Sequence[str]):
        self.config = config
        self.word_readers = tuple(word_readers)
        self.byte_readers = dict(byte_readers)
        self.late_word_readers = tuple(late_word_readers)
        self.writers = tuple(writers)
        word = {name: In(ReadPort(config)) for name in (*self.word_readers, *self.late_word_readers)}
        byte = {name: In(ByteReadPort(config, tag_bits)) for name, tag_bits in self.byte_readers.items()}
        write = {name: In(WritePort(config)) for name in self.writers}
        # Who reads an entry in the very cycle in which it is written has no use for it: no bypass is to be built.
        self.memories = [
            Memory(shape=unsigned(8 * config.lanes), depth=config.feature_words // config.feature_banks, init=[],
                   attrs={"no_rw_check": 1})
            for _ in range(config.feature_banks)
        ]
        super().__init__({**word, **byte, **write})

    def elaborate(self, platform) -> Module:
        m = Module()
        banks = [memory.read_port() for memory in self.memories]
        for i, memory in enumerate(self.memories):
            m.submodules[f"bank_{i}"] = memory
        paths = self._paths(m)

        # A path that waits for one of two banks takes the other one all the same, so that no path waits for an
        # arbiter's verdict on another; what is read for one that waits is of no use, and does no harm.
        words = [Signal(8 * self.config.lanes, name=f"bank_{i}_word", reset_less=True) for i in range(len(banks))]
        m.d.sync += [word.eq(bank.data) for word, bank in zip(words, banks, strict=True)]
        for earlier, path in enumerate(paths):
            for i in range(len(banks)):
                m.d.comb += [
                    path.taken[i].eq(Cat(before.wants[i] for before in paths[:earlier]).any()),
                    path.words[i].eq(words[i]),
                ]
        for i, bank in enumerate(banks):
            # The register is for the way to a bank's block RAMs, which lie far apart.
            _wanted, entry = _first([(path.wants[i], path.entries[i]) for path in paths])
            asked = Signal.like(bank.addr, name=f"bank_{i}_entry", reset_less=True)
            m.d.sync += asked.eq(entry)
            m.d.comb += [bank.addr.eq(asked), bank.en.eq(1)]

        self._write(m)
        return m

    def _paths(self, m: Module) -> list[WordPath | BytePath]:
        """The paths, most urgent first, connected to the readers."""
        config, paths = self.config, []
        if self.word_readers:
            m.submodules.shared = shared = WordPath(config, len(self.word_readers))
            paths.append(shared)
            requests = [getattr(self, name).request for name in self.word_readers]
            _valid, address = _first([(request.valid, request.payload) for request in requests])
            m.d.comb += [
                shared.request.valid.eq(Cat(request.valid for request in requests).any()),
                shared.request.payload.address.eq(address),
            ]
            for i, name in enumerate(self.word_readers):
                reader, free = getattr(self, name), Signal(name=f"{name}_free")
                m.d.comb += [
                    free.eq(~Cat(request.valid for request in requests[:i]).any()),
                    shared.request.payload.tag[i].eq(reader.request.valid & free),
                    reader.request.ready.eq(shared.request.ready & free),
                    reader.data_valid.eq(shared.data_valid & shared.tag[i]),
                    reader.data.eq(shared.data),
                ]
        for name, tag_bits in self.byte_readers.items():
            m.submodules[name] = path = BytePath(config, tag_bits)
            paths.append(path)
            reader = getattr(self, name)
            m.d.comb += [
                path.request.valid.eq(reader.request.valid), path.request.payload.eq(reader.request.payload),
                reader.request.ready.eq(path.request.ready),
                reader.data_valid.eq(path.data_valid), reader.data.eq(path.data), reader.tag.eq(path.tag),
            ]
        for name in self.late_word_readers:
            m.submodules[name] = path = WordPath(config, 0)
            paths.append(path)
            reader = getattr(self, name)
            m.d.comb += [
                path.request.valid.eq(reader.request.valid), path.request.payload.address.eq(reader.request.payload),
                reader.request.ready.eq(path.request.ready),
                reader.data_valid.eq(path.data_valid), reader.data.eq(path.data),
            ]
        return paths

    def _write(self, m: Module) -> None:
        """Registers of the most urgent write, which nothing delays: it is there when a later read comes to its bank."""
        banks = len(self.memories)
        requests = [getattr(self, name).request for name in self.writers]
        for i, request in enumerate(requests):
            m.d.comb += request.ready.eq(~Cat(before.valid for before in requests[:i]).any())
        valid, payload = _first([(request.valid, Value.cast(request.payload)) for request in requests])
        chosen = Signal(requests[0].payload.shape(), name="chosen_write")
        m.d.comb += Value.cast(chosen).eq(payload)
        select = bank_select(m, chosen.address, banks)
        enables = Signal(banks, name="write_enables")
        word = Signal.like(chosen, name="write", reset_less=True)
        m.d.sync += [enables.eq(Mux(valid, select, 0)), word.eq(chosen)]
        for i, memory in enumerate(self.memories):
            # A register for each bank: their block RAMs lie far apart.
            write = memory.write_port()
            enable = Signal(name=f"bank_{i}_write")
            entry = Signal.like(write.addr, name=f"bank_{i}_write_entry", reset_less=True)
            content = Signal.like(write.data, name=f"bank_{i}_write_data", reset_less=True)
            m.d.sync += enable.eq(enables[i])
            with m.If(enables[i]):
                m.d.sync += [entry.eq(word.address[(banks - 1).bit_length():]), content.eq(word.data)]
            m.d.comb += [write.en.eq(enable), write.addr.eq(entry), write.data.eq(content)]


def _first(choices: Sequence[tuple[Value, Value]]) -> tuple[Value, Value]:
    """Whether there is a choice, and the first one's value, as a tree; anything where there is none."""
    if len(choices) == 1:
        return choices[0]
    half = (len(choices) + 1) // 2
    (first_valid, first), (second_valid, second) = _first(choices[:half]), _first(choices[half:])
    return first_valid | second_valid, Mux(first_valid, first, second)
