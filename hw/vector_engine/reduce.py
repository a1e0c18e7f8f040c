"""Reduces the taps of a window to one word: their sum, or their largest value, per channel."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import word_address_bits
from hw.register_slice import RegisterSlice
from hw.vector_engine.tap_walk import TapTag
from hw.vector_engine.word_reader import Words

#: Bits of the sum of a depthwise kernel's taps: 256 products of -128 and 255 at most.
ACCUMULATOR_BITS = 24


def sum_bits(config: Config) -> int:
    """Bits of the sum of the largest pooling window: pool_area values of -128."""
    return 8 + (config.pool_area - 1).bit_length()


def value_bits(config: Config) -> int:
    """Bits of any reduced value: sums of pools, and those of 256 products of a depthwise kernel."""
    return max(sum_bits(config), ACCUMULATOR_BITS)


class Reduced(data.StructLayout):
    """A result before post-processing, lanes in slices of Q as they are requantised.

    values : int, [L / Q][Q]. b : operand b of ADD, int8, [L / Q][Q]. divisor : taps of a sum, less one, else 0.
    output : the word that it goes to. parity : of its pass, where a command has several.
    """

    def __init__(self, config: Config):
        lanes = config.requantise_lanes
        slices = config.lanes // lanes
        super().__init__({
            "values": data.ArrayLayout(data.ArrayLayout(signed(value_bits(config)), lanes), slices),
            "b": data.ArrayLayout(data.ArrayLayout(signed(8), lanes), slices),
            "divisor": unsigned((config.pool_area - 1).bit_length()),
            "output": unsigned(word_address_bits(config)),
            "parity": 1,
        })


class Reduce(wiring.Component):
    """One tap per cycle, in two steps: the tap, or the largest one so far; then the sum. A sum that always begins anew
    makes a maximum pass. A window of one tap passes as it is.

    Members
    -------
    maximum : largest value instead of sum; stable while busy.
    words : stream of Words, whose tag starts with a TapTag. result : stream of Reduced.
    busy : a tap is under way, or a result waits.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        super().__init__({
            "maximum": In(1),
            "words": In(stream.Signature(Words(config, tag_bits))),
            "result": Out(stream.Signature(Reduced(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, words, result = self.config, self.words, self.result
        tag = data.View(TapTag(config), words.payload.tag[: TapTag(config).size])

        # ---- the tap ---------------------------------------------------------------------------------------------
        tap_valid, first = Signal(), Signal(init=1)
        tap_tag = Signal(TapTag(config), reset_less=True)
        b = Signal(8 * config.lanes, reset_less=True)
        advance, accept, always = Signal(), Signal(), Signal()
        m.d.comb += [words.ready.eq(advance), accept.eq(words.valid & advance), always.eq(~self.maximum | first)]
        with m.If(advance):
            m.d.sync += [tap_valid.eq(words.valid), tap_tag.eq(tag), b.eq(words.payload.b)]
        with m.If(accept):
            m.d.sync += first.eq(tag.last)

        # ---- the sum ---------------------------------------------------------------------------------------------
        taps_before = Signal(unsigned((config.pool_area - 1).bit_length()))
        add, end = Signal(), Signal()
        anew = Signal(init=1)  # the sum begins with the tap: a reset of all sums would be a long way
        # Whether there is room for a result comes from a register: all taps, and the reads behind them, hang on it.
        m.submodules.slice = slice_ = RegisterSlice(Reduced(config))
        wiring.connect(m, slice_.o, wiring.flipped(result))
        made = slice_.i.payload
        m.d.comb += [
            slice_.i.valid.eq(tap_valid & tap_tag.last),
            advance.eq(~slice_.i.valid | slice_.i.ready),
            add.eq(tap_valid & advance),
            end.eq(add & tap_tag.last),
            made.b.as_value().eq(b),
            made.divisor.eq(Mux(self.maximum, 0, taps_before)),
            made.output.eq(tap_tag.output),
            self.busy.eq(tap_valid | result.valid),
        ]
        with m.If(add):
            m.d.sync += [taps_before.eq(taps_before + 1), anew.eq(tap_tag.last | self.maximum)]
        with m.If(end):
            m.d.sync += taps_before.eq(0)
        for i in range(config.lanes):
            value = Signal(signed(8), name=f"value_{i}")
            tap = Signal(signed(8), name=f"tap_{i}", reset_less=True)
            partial = Signal(signed(sum_bits(config)), name=f"partial_{i}", reset_less=True)
            reduced = Signal.like(partial, name=f"reduced_{i}")
            m.d.comb += [
                value.eq(words.payload.a.word_select(i, 8)), reduced.eq(Mux(anew, 0, partial) + tap),
                made.values[i // config.requantise_lanes][i % config.requantise_lanes].eq(reduced),
            ]
            take, ahead = Signal(name=f"take_{i}"), Signal(signed(9), name=f"ahead_{i}")
            m.d.comb += [ahead.eq(tap - value), take.eq(accept & (always | ahead[-1]))]
            with m.If(take):
                m.d.sync += tap.eq(value)
            with m.If(add):
                m.d.sync += partial.eq(reduced)
        return m
