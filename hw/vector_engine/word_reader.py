"""Reads words of the feature memory, one or two at a time, and hands them on in order with what is known of them."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import ReadPort, word_address_bits
from hw.register_slice import RegisterSlice

#: Fetches that wait for their words, or for the output register: one is back eight cycles after it was asked for, the
#: rest evens out delays. LUT RAM has 16 entries in any case.
_FETCHES = 16

#: Requests that wait for the memory. With two ports this lets one run ahead, onto another bank.
_REQUESTS = 6


class Fetch(data.StructLayout):
    """Words to read, at addresses `a` and `b`, where `read_a` and `read_b` say so. `tag` comes back with them."""

    def __init__(self, config: Config, tag_bits: int):
        super().__init__({
            "read_a": 1,
            "read_b": 1,
            "a": unsigned(word_address_bits(config)),
            "b": unsigned(word_address_bits(config)),
            "tag": unsigned(tag_bits),
        })


class Words(data.StructLayout):
    """What was read, where `read_a` and `read_b` say so; a word that was not asked for is anything."""

    def __init__(self, config: Config, tag_bits: int):
        super().__init__({
            "read_a": 1,
            "read_b": 1,
            "a": unsigned(8 * config.lanes),
            "b": unsigned(8 * config.lanes),
            "tag": unsigned(tag_bits),
        })


class WordReader(wiring.Component):
    """One fetch per cycle, as long as the memory gives both ports their banks.

    Members
    -------
    fetch : stream of Fetch. Whether there is room for one comes from a register.
    words : stream of Words, in the same order.
    read_a, read_b : feature memory. A word is only asked for when there is room for it.
    busy : a fetch is under way.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        super().__init__({
            "fetch": In(stream.Signature(Fetch(config, tag_bits))),
            "words": Out(stream.Signature(Words(config, tag_bits))),
            "read_a": Out(ReadPort(config)),
            "read_b": Out(ReadPort(config)),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, fetch = self.config, self.fetch
        m.submodules.slice = slice_ = RegisterSlice(Words(config, self.tag_bits))
        wiring.connect(m, slice_.o, wiring.flipped(self.words))
        output = slice_.i
        tag_layout = data.StructLayout({"read_a": 1, "read_b": 1, "tag": unsigned(self.tag_bits)})
        m.submodules.tags = tags = SyncFIFO(width=tag_layout.size, depth=_FETCHES)
        tag = data.View(tag_layout, tags.r_data)
        new_tag = Signal(tag_layout)
        accept, hand_on = Signal(), Signal()
        room, there = {}, {}
        for name, port in (("a", self.read_a), ("b", self.read_b)):
            m.submodules[f"requests_{name}"] = requests = SyncFIFOBuffered(
                width=word_address_bits(config), depth=_REQUESTS)
            m.submodules[f"words_{name}"] = words = SyncFIFO(width=8 * config.lanes, depth=_FETCHES)
            asked, came = fetch.payload[f"read_{name}"], tag[f"read_{name}"]
            room[name] = requests.w_level <= _REQUESTS - 2
            there[name] = words.r_rdy | ~came
            m.d.comb += [
                requests.w_en.eq(accept & asked),
                requests.w_data.eq(fetch.payload[name]),
                port.request.valid.eq(requests.r_rdy),
                port.request.payload.eq(requests.r_data),
                requests.r_en.eq(port.request.ready),
                words.w_en.eq(port.data_valid),
                words.w_data.eq(port.data),
                words.r_en.eq(hand_on & came),
                output.payload[name].eq(words.r_data),
                output.payload[f"read_{name}"].eq(came),
            ]
        # The tag queue holds every fetch from its acceptance until it is handed on: room in it is room for the words.
        # There is room if there is some now for two: one may be accepted before it is said.
        m.d.sync += fetch.ready.eq((tags.level <= _FETCHES - 2) & room["a"] & room["b"])
        m.d.comb += [
            new_tag.read_a.eq(fetch.payload.read_a),
            new_tag.read_b.eq(fetch.payload.read_b),
            new_tag.tag.eq(fetch.payload.tag),
            accept.eq(fetch.valid & fetch.ready),
            tags.w_en.eq(accept),
            tags.w_data.eq(new_tag),
            output.valid.eq(tags.r_rdy & there["a"] & there["b"]),
            output.payload.tag.eq(tag.tag),
            hand_on.eq(output.valid & output.ready),
            tags.r_en.eq(hand_on),
            self.busy.eq((tags.level != 0) | self.words.valid),
        ]
        return m
