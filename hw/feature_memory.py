"""The feature memory: banked SRAM of L-byte words, one read and one write per bank and cycle.

    readers --requests--> bank arbiter --> banks --> word select --> (byte shift) --> data
    writers --requests--> bank arbiter --> banks

Ports earlier in a list win a bank over later ones. The first writer is therefore never delayed.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.contract.config import Config
from hw.ports import READ_LATENCY, ByteReadPort, ReadPort, WritePort, word_address_bits


def bank_of(m: Module, word, banks: int, name: str) -> Signal:
    """`layouts.feature_bank` in hardware."""
    bank = Signal(range(banks), name=name)
    if banks == 2:
        m.d.comb += bank.eq(word[0])
    else:
        m.d.comb += bank.eq(word[0:2] + word[2:4] - word[4:6])
    return bank


class FeatureMemory(wiring.Component):
    """Banked feature memory.

    Parameters
    ----------
    word_readers : names of the ReadPort members, most urgent first.
    byte_readers : names of the ByteReadPort members; less urgent than the word readers before
        `late_word_readers`. Their data comes one cycle later than a ReadPort's.
    late_word_readers : names of the least urgent ReadPort members.
    writers : names of the WritePort members, most urgent first.
    """

    def __init__(self, config: Config, *, word_readers, byte_readers, late_word_readers, writers):
        self.config = config
        self.word_readers = tuple(word_readers)
        self.byte_readers = tuple(byte_readers)
        self.late_word_readers = tuple(late_word_readers)
        self.writers = tuple(writers)
        word = {name: In(ReadPort(config)) for name in (*self.word_readers, *self.late_word_readers)}
        byte = {name: In(ByteReadPort(config)) for name in self.byte_readers}
        write = {name: In(WritePort(config)) for name in self.writers}
        self.memories = [
            Memory(shape=unsigned(8 * config.lanes), depth=config.feature_words // config.feature_banks, init=[])
            for _ in range(config.feature_banks)
        ]
        super().__init__({**word, **byte, **write})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        banks, lanes = config.feature_banks, config.lanes
        bank_bits = (banks - 1).bit_length()
        address_bits = word_address_bits(config)

        memories = []
        for i, memory in enumerate(self.memories):
            m.submodules[f"bank_{i}"] = memory
            memories.append((memory.read_port(), memory.write_port()))

        # ---- reads: each reader asks for one bank, or two when its bytes straddle a word ---------------
        taken = [0] * banks
        entry = [0] * banks
        for name in (*self.word_readers, *self.byte_readers, *self.late_word_readers):
            port = getattr(self, name)
            unaligned = name in self.byte_readers
            first = Signal(address_bits, name=f"{name}_word")
            straddles = Signal(name=f"{name}_straddles")
            request = port.request
            if unaligned:
                shift_bits = (lanes - 1).bit_length()
                m.d.comb += [first.eq(request.payload[shift_bits:]), straddles.eq(request.payload[:shift_bits].any())]
            else:
                m.d.comb += first.eq(request.payload)
            second = Signal(address_bits, name=f"{name}_next_word")
            m.d.comb += second.eq(first + 1)
            first_bank = bank_of(m, first, banks, f"{name}_bank")
            second_bank = bank_of(m, second, banks, f"{name}_next_bank")
            need_first = [Signal(name=f"{name}_needs_{i}") for i in range(banks)]
            need_second = [Signal(name=f"{name}_needs_next_{i}") for i in range(banks)]
            m.d.comb += [need_first[i].eq(first_bank == i) for i in range(banks)]
            if unaligned:
                m.d.comb += [need_second[i].eq(straddles & (second_bank == i)) for i in range(banks)]
            blocked = Signal(name=f"{name}_blocked")
            m.d.comb += [
                blocked.eq(Cat((need_first[i] | need_second[i]) & taken[i] for i in range(banks)).any()),
                request.ready.eq(~blocked),
            ]
            granted = Signal(name=f"{name}_granted")
            m.d.comb += granted.eq(request.valid & ~blocked)
            for i in range(banks):
                here = Signal(name=f"{name}_takes_{i}")
                m.d.comb += here.eq(request.valid & (need_first[i] | need_second[i]))
                now_taken = Signal(name=f"bank_{i}_taken_after_{name}")
                m.d.comb += now_taken.eq(taken[i] | (granted & here))
                now_entry = Signal(address_bits - bank_bits, name=f"bank_{i}_entry_after_{name}")
                wanted = Mux(need_first[i], first[bank_bits:], second[bank_bits:]) if unaligned else first[bank_bits:]
                m.d.comb += now_entry.eq(Mux(taken[i], entry[i], wanted))
                taken[i], entry[i] = now_taken, now_entry

            # The banks answer in the next cycle; word select, then for byte readers the shift.
            valid_1, valid_2 = Signal(name=f"{name}_valid_1"), Signal(name=f"{name}_valid_2")
            bank_1, next_bank_1 = (Signal(bank_bits, name=f"{name}_bank_1"),
                                   Signal(bank_bits, name=f"{name}_next_bank_1"))
            m.d.sync += [valid_1.eq(granted), bank_1.eq(first_bank), valid_2.eq(valid_1)]
            word_2 = Signal(8 * lanes, name=f"{name}_data_2")
            m.d.sync += word_2.eq(self._select(memories, bank_1))
            assert READ_LATENCY == 2
            if not unaligned:
                m.d.comb += [port.data_valid.eq(valid_2), port.data.eq(word_2)]
                continue
            shift_1 = Signal(shift_bits, name=f"{name}_shift_1")
            shift_2 = Signal(shift_bits, name=f"{name}_shift_2")
            next_2 = Signal(8 * lanes, name=f"{name}_next_data_2")
            m.d.sync += [
                next_bank_1.eq(second_bank),
                shift_1.eq(request.payload[:shift_bits]),
                shift_2.eq(shift_1),
                next_2.eq(self._select(memories, next_bank_1)),
                port.data_valid.eq(valid_2),
                port.data.eq(Cat(word_2, next_2) >> (shift_2 << 3)),
            ]

        for i, (read, _write) in enumerate(memories):
            m.d.comb += [read.addr.eq(entry[i]), read.en.eq(1)]

        # ---- writes ------------------------------------------------------------------------------------
        taken = [0] * banks
        for name in self.writers:
            request = getattr(self, name).request
            bank = bank_of(m, request.payload.address, banks, f"{name}_bank")
            blocked = Signal(name=f"{name}_blocked")
            m.d.comb += [
                blocked.eq(Cat((bank == i) & taken[i] for i in range(banks)).any()),
                request.ready.eq(~blocked),
            ]
            for i, (_read, write) in enumerate(memories):
                here = Signal(name=f"{name}_takes_{i}")
                m.d.comb += here.eq(request.valid & ~blocked & (bank == i))
                with m.If(here):
                    m.d.comb += [
                        write.en.eq(1),
                        write.addr.eq(request.payload.address[bank_bits:]),
                        write.data.eq(request.payload.data),
                    ]
                now_taken = Signal(name=f"bank_{i}_taken_after_{name}")
                m.d.comb += now_taken.eq(taken[i] | here)
                taken[i] = now_taken
        return m

    def _select(self, memories, bank):
        value = memories[0][0].data
        for i in range(1, len(memories)):
            value = Mux(bank == i, memories[i][0].data, value)
        return value
