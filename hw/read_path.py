"""The way of reads through the feature memory: a request waits in a register for its banks, then takes their words.

    request --> (spare) --> wants, entries --> banks --> words --> select --> data                    of words
                                                               --> select, rotate --> rotate --> data  of bytes

The banks' words are in registers that all paths share. A path keeps the number of the bank that it asked.
"""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import READ_LATENCY, ByteReadPort, word_address_bits
from hw.requantise import delayed


def bank_select(m: Module, word: Value, banks: int) -> Signal:
    """`layouts.feature_bank` in hardware, one bit for each bank; as logic, since carry chains are slower."""
    bank = Signal(range(banks))
    if banks == 2:
        m.d.comb += bank.eq(word[0])
    else:
        uneven = Signal()  # the lower digits' sum is 2 or -1
        m.d.comb += [
            uneven.eq((word[0] == word[2]) & (word[2] != word[4])),
            bank.eq(Cat(word[0] ^ word[2] ^ word[4], word[1] ^ word[3] ^ word[5] ^ uneven)),
        ]
    select = Signal(banks, name="bank_select")
    m.d.comb += [select[i].eq(bank == i) for i in range(banks)]
    return select


def _number(select: Value) -> Value:
    """Which bit of `select` is set."""
    return Cat(Cat(bit for at, bit in enumerate(select) if at >> digit & 1).any()
               for digit in range((len(select) - 1).bit_length()))


class _Path(wiring.Component):
    """What paths have in common.

    Members
    -------
    wants : banks that the request in the register reads, one bit for each. entries : where in each of them.
    taken : banks that go to paths before this one. words : what the banks read two cycles before.
    """

    def __init__(self, config: Config, request, **members):
        self.config = config
        self.banks = config.feature_banks
        self.bank_bits = (self.banks - 1).bit_length()
        entry_bits = word_address_bits(config) - self.bank_bits
        super().__init__({
            "request": In(stream.Signature(request)),
            "data_valid": Out(1),
            "data": Out(8 * config.lanes),
            **members,
            "wants": Out(self.banks),
            "entries": Out(entry_bits).array(self.banks),
            "taken": In(self.banks),
            "words": In(8 * config.lanes).array(self.banks),
        })

    def _next(self, m: Module, move: Value) -> tuple[Signal, Signal]:
        """The next request, valid and payload, taken with `move`; `ready` is a register, hence the spare place."""
        request = self.request
        spare_valid, spare = Signal(), Signal(request.payload.shape(), reset_less=True)
        valid, payload = Signal(name="next_valid"), Signal(request.payload.shape(), name="next_request")
        m.d.comb += [
            request.ready.eq(~spare_valid),
            valid.eq(spare_valid | request.valid),
            Value.cast(payload).eq(Mux(spare_valid, Value.cast(spare), Value.cast(request.payload))),
        ]
        m.d.sync += spare_valid.eq(valid & ~move)
        with m.If(~spare_valid):
            m.d.sync += spare.eq(request.payload)
        return valid, payload


class WordPath(_Path):
    """One word per request, READ_LATENCY cycles after it where its bank is not taken.

    Members
    -------
    request : word address, and a tag that comes back with the data. data_valid, data, tag : no back-pressure.
    """

    def __init__(self, config: Config, tag_bits: int):
        super().__init__(config, data.StructLayout({"address": word_address_bits(config), "tag": tag_bits}),
                         tag=Out(tag_bits))

    def elaborate(self, platform) -> Module:
        m = Module()
        # Cycle 0: accepted.
        valid, blocked, move = Signal(), Signal(), Signal()
        next_valid, request = self._next(m, move)
        m.d.comb += [blocked.eq((self.wants & self.taken).any()), move.eq(~blocked)]
        select = bank_select(m, request.address, self.banks)
        entry, tag = Signal(self.entries[0].shape(), reset_less=True), Signal(self.tag.shape(), reset_less=True)
        with m.If(move):
            m.d.sync += [
                valid.eq(next_valid),
                self.wants.eq(Mux(next_valid, select, 0)),
                entry.eq(request.address[self.bank_bits:]),
                tag.eq(request.tag),
            ]
        m.d.comb += [place.eq(entry) for place in self.entries]
        # Cycle 1: the bank is granted. Cycle 2: it is asked. Cycle 3: its word comes. Cycle 4: it is in a register.
        assert READ_LATENCY == 4
        granted = delayed(m, valid & ~blocked, 3, reset_less=False)
        m.d.comb += [
            self.data_valid.eq(granted),
            self.tag.eq(delayed(m, tag, 3)),
            self.data.eq(Array(self.words)[delayed(m, _number(self.wants), 3)]),
        ]
        return m


class BytePath(_Path):
    """L bytes from any address: both words at once, READ_LATENCY + 1 cycles after the request where no bank is taken.

    Members
    -------
    request, data_valid, data, tag : as of ByteReadPort.
    """

    def __init__(self, config: Config, tag_bits: int):
        port = ByteReadPort(config, tag_bits)
        self.port = port
        super().__init__(config, port.members["request"].signature.members["payload"].shape, tag=Out(tag_bits))

    def elaborate(self, platform) -> Module:
        m = Module()
        banks, lanes = self.banks, self.config.lanes
        shift_bits = (lanes - 1).bit_length()
        # Cycle 0: accepted.
        valid, blocked, move = Signal(), Signal(), Signal()
        next_valid, request = self._next(m, move)
        m.d.comb += [blocked.eq((self.wants & self.taken).any()), move.eq(~blocked)]
        word, next_word = Signal(word_address_bits(self.config)), Signal(word_address_bits(self.config))
        reads, straddles = Signal(), Signal()
        m.d.comb += [
            word.eq(request.address[shift_bits:]),
            next_word.eq(word + 1),
            reads.eq(next_valid & request.read),
            straddles.eq(reads & request.address[:shift_bits].any()),
        ]
        first = bank_select(m, word, banks)
        second = Signal(banks)
        far = Signal()  # the next digit's carry moves the next word on by a bank more
        if banks == 4:
            m.d.comb += far.eq((word[:2] == 3) & (word[2:4] != 3))
        m.d.comb += second.eq(Mux(far, first.rotate_left(2), first.rotate_left(1)))
        first_bank, second_bank = Signal(banks), Signal(banks)
        shift, tag = Signal(shift_bits, reset_less=True), Signal(self.tag.shape(), reset_less=True)
        with m.If(move):
            m.d.sync += [
                valid.eq(next_valid),
                first_bank.eq(Mux(reads, first, 0)),
                second_bank.eq(Mux(straddles, second, 0)),
                shift.eq(request.address[:shift_bits]),
                tag.eq(request.tag),
            ]
            for i, entry in enumerate(self.entries):
                m.d.sync += entry.eq(Mux(first[i], word, next_word)[self.bank_bits:])
        m.d.comb += self.wants.eq(first_bank | second_bank)
        # Cycle 1: the banks are granted. Cycle 2: they are asked. Cycle 3: their words come. Cycle 4: they are in
        # registers; a lane below the shift is the second word's. The first byte goes near lane 0, by four digits of
        # its place. Cycle 5: the rest of the way.
        granted = delayed(m, valid & ~blocked, 4, reset_less=False)
        first_asked, second_asked = (delayed(m, _number(bank), 2) for bank in (first_bank, second_bank))
        shift_3 = delayed(m, shift, 2)
        near, shift_5 = delayed(m, shift_3, 1), delayed(m, shift_3, 2)
        lanes_together = []
        for j in range(lanes):
            bank = Signal(self.bank_bits, name=f"bank_of_{j}", reset_less=True)
            below = shift_3 > j if j < lanes - 1 else 0  # the last lane is never below the shift
            m.d.sync += bank.eq(Mux(below, second_asked, first_asked))
            lanes_together.append(Array(word.word_select(j, 8) for word in self.words)[bank])
        fine_bits = shift_bits - 2
        word, rotated = Cat(lanes_together), Signal(len(self.data), name="near_lane_0", reset_less=True)
        m.d.sync += rotated.eq(
            Array(word.rotate_right(8 * digit << fine_bits) for digit in range(4))[near[fine_bits:]])
        for bit in range(fine_bits):
            before, rotated = rotated, Signal(len(self.data), name=f"rotated_{bit}")
            m.d.comb += rotated.eq(Mux(shift_5[bit], before.rotate_right(8 << bit), before))
        m.d.comb += [self.data_valid.eq(granted), self.data.eq(rotated), self.tag.eq(delayed(m, tag, 4))]
        return m
