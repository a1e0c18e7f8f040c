"""The active pixels of a command, in row-major order, found a mask word at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import MASK_WORD_BITS, Config
from hw.ports import MemoryRead
from hw.vector_engine.settings import POSITION_BITS, Settings

#: A row (`index` is y) comes before its pixels (`index` is x). Rows without active pixels don't come.
#: parity : changes from a pass to the next. first_pass : of several.
ITEM_LAYOUT = data.StructLayout({"is_row": 1, "index": unsigned(POSITION_BITS), "parity": 1, "first_pass": 1})

#: A mask word's place in a command.
_PLACE = data.StructLayout({
    "word": 16 - (MASK_WORD_BITS - 1).bit_length(), "row": POSITION_BITS, "parity": 1, "first_pass": 1,
})


class PixelGenerator(wiring.Component):
    """Walks over a command's pixels, as often as it has passes; a mask word without active pixels takes one cycle, an
    active pixel one. Where one bit gates the whole command and is clear, nothing is walked. Pixels are looked for in
    the bytes of a word that hold some.

    Members
    -------
    start : one cycle; the settings are stable from then until `busy` is low again.
    settings : Settings.
    mask : the mask memory, used when the settings say `gated`; otherwise every pixel is active.
    item : stream of ITEM_LAYOUT.
    busy : from the cycle after `start` until the last item was taken.
    moved : a mask word was passed in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1),
            "settings": In(Settings(config)),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "item": Out(stream.Signature(ITEM_LAYOUT)),
            "busy": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings, mask = self.settings, self.mask
        column_bits = (MASK_WORD_BITS - 1).bit_length()
        bytes_per_word = MASK_WORD_BITS // 8

        # ---- the next mask word: its row, its place in the row; its data is there when `fetched` -------------
        walking, fetched = Signal(), Signal()
        address, next_address = Signal.like(mask.address), Signal.like(mask.address)
        rows_left, passes_left = Signal(16), Signal(16)
        place = Signal(_PLACE)
        again, last_of_row = Signal(), Signal()
        # ---- a word that has come, and the bytes with active pixels of the one before it ----------------------
        word, word_there = Signal(MASK_WORD_BITS, reset_less=True), Signal()
        word_place, word_last, word_first = Signal(_PLACE, reset_less=True), Signal(), Signal()
        source, bytes_left = Signal(MASK_WORD_BITS, reset_less=True), Signal(bytes_per_word)
        source_place, source_last, new_row = Signal(_PLACE, reset_less=True), Signal(), Signal()

        take, find, nothing = Signal(), Signal(), Signal()
        every = Signal()  # every pixel of the rows is active
        some_left = Signal()  # bytes
        last_byte = Signal(bytes_per_word)  # one bit: of a row's last word, the byte of the last pixel
        m.d.comb += [
            last_byte.eq(1 << settings.last_pixel[3:column_bits]),
            find.eq(word_there & ~some_left),
            take.eq(walking & fetched & (~word_there | find)),
            nothing.eq(find & settings.whole & ~word[0]),
            last_of_row.eq(place.word == settings.last_pixel[column_bits:]),
            again.eq(last_of_row & (rows_left == 1) & (passes_left != 1)),
            next_address.eq(Mux(again | settings.whole, settings.mask_base, address + 1)),
            mask.address.eq(Mux(take, next_address, address)),
            self.moved.eq(take),
        ]
        m.d.sync += [fetched.eq(walking), every.eq(~settings.gated | settings.whole)]
        with m.If(take):
            m.d.sync += [
                word.eq(mask.data),
                word_place.eq(place),
                word_last.eq(last_of_row),
                word_first.eq(place.word == 0),
                address.eq(next_address),
                place.word.eq(Mux(last_of_row, 0, place.word + 1)),
            ]
            with m.If(last_of_row):
                m.d.sync += [place.row.eq(place.row + 1), rows_left.eq(rows_left - 1)]
                with m.If(again):
                    m.d.sync += [passes_left.eq(passes_left - 1), place.parity.eq(~place.parity),
                                 place.first_pass.eq(0)]
                with m.Elif(rows_left == 1):
                    m.d.sync += walking.eq(0)
        with m.If(take | find):
            m.d.sync += word_there.eq(take)
        with m.If(self.start | (take & again)):
            m.d.sync += [place.row.eq(settings.output_y), rows_left.eq(settings.output_rows)]
        with m.If(nothing):
            m.d.sync += [walking.eq(0), word_there.eq(0)]
        with m.If(self.start):
            # Where no mask gates, there is nothing to wait for.
            m.d.sync += [walking.eq(1), fetched.eq(~settings.gated), address.eq(settings.mask_base),
                         passes_left.eq(settings.passes), place.word.eq(0), place.parity.eq(0), place.first_pass.eq(1)]

        # ---- bytes with active pixels, the lowest first -----------------------------------------------------------
        found, lowest = Signal(bytes_per_word), Signal(bytes_per_word)
        byte, chosen, rest = Signal(8), Signal(8), Signal(8)
        byte_place = Signal(_PLACE, reset_less=True)
        byte_number, announced = Signal(range(bytes_per_word), reset_less=True), Signal()
        load, advance, cut = Signal(), Signal(), Signal()
        within_row = Cat(Const(1, 1), (settings.last_pixel[:3] >= i for i in range(1, 8)))
        m.d.comb += [
            found.eq(Cat(
                (every | word.word_select(i, 8).any())
                & (~word_last | (settings.last_pixel[3:column_bits] >= i) if i else 1)
                for i in range(bytes_per_word))),
            lowest.eq(_lowest(bytes_left)),
            cut.eq(source_last & (lowest & last_byte).any()),
            chosen.eq(Cat(
                (every | Cat(source[8 * i + bit] & lowest[i] for i in range(bytes_per_word)).any())
                & (~cut | within_row[bit]) for bit in range(8))),
            rest.eq(byte & ~_lowest(byte)),
            advance.eq(~self.item.valid | self.item.ready),
            load.eq(some_left & ((byte == 0) | (advance & announced & (rest == 0)))),
        ]
        with m.If(find):
            m.d.sync += [source.eq(word), source_place.eq(word_place), source_last.eq(word_last),
                         bytes_left.eq(Mux(nothing, 0, found)), some_left.eq(~nothing & found.any())]
            with m.If(word_first):
                m.d.sync += new_row.eq(1)
        with m.If(load):
            m.d.sync += [bytes_left.eq(bytes_left & ~lowest), some_left.eq((bytes_left & ~lowest) != 0),
                         byte_place.eq(source_place), byte_number.eq(_number(lowest)), new_row.eq(0)]

        # ---- items: the row, then its pixels from the lowest bit on -------------------------------------------
        m.d.comb += self.busy.eq(walking | word_there | some_left | (byte != 0) | self.item.valid)
        item = self.item.payload
        with m.If(advance):
            m.d.sync += [
                self.item.valid.eq(byte != 0),
                item.is_row.eq(~announced),
                item.parity.eq(byte_place.parity),
                item.first_pass.eq(byte_place.first_pass),
                item.index.eq(Mux(announced, Cat(_number(_lowest(byte)), byte_number, byte_place.word),
                                  byte_place.row)),
            ]
            with m.If(byte != 0):
                m.d.sync += announced.eq(1)
        with m.If(load):
            m.d.sync += byte.eq(chosen)
            with m.If(new_row):
                m.d.sync += announced.eq(0)
        with m.Elif(advance & announced):
            m.d.sync += byte.eq(rest)
        return m


def _lowest(bits: Value) -> Value:
    """Only the lowest bit that is set."""
    return Cat(bits[i] & ~bits[:i].any() for i in range(len(bits)))


def _number(one: Value) -> Value:
    """The number of the only bit, of eight, that is set."""
    return Cat(Cat(one[i] for i in range(8) if i >> bit & 1).any() for bit in range(3))
