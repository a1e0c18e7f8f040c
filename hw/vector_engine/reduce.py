"""Reduces the taps of a window to one word: their sum, or their largest value, per channel."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import word_address_bits
from hw.vector_engine.tap_reader import Tap


def sum_bits(config: Config) -> int:
    """Bits of the sum of the largest window: pool_area values of -128."""
    return 8 + (config.pool_area - 1).bit_length()


class Reduced(data.StructLayout):
    """A result before post-processing, lanes in slices of Q as they are requantised.

    values : int, [L / Q][Q]. b : operand b of ADD, int8, [L / Q][Q]. divisor : taps of a sum, less one, else 0.
    output : the word that it goes to.
    """

    def __init__(self, config: Config):
        lanes = config.requantise_lanes
        slices = config.lanes // lanes
        super().__init__({
            "values": data.ArrayLayout(data.ArrayLayout(signed(sum_bits(config)), lanes), slices),
            "b": data.ArrayLayout(data.ArrayLayout(signed(8), lanes), slices),
            "divisor": unsigned((config.pool_area - 1).bit_length()),
            "output": unsigned(word_address_bits(config)),
        })


class Reduce(wiring.Component):
    """One tap per cycle. A window of one tap passes as it is.

    Members
    -------
    maximum : largest value instead of sum; stable while busy.
    tap : stream of Tap. result : stream of Reduced.
    busy : a result waits.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "maximum": In(1),
            "tap": In(stream.Signature(Tap(config))),
            "result": Out(stream.Signature(Reduced(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, tap, result = self.config, self.tap, self.result
        first = Signal(init=1)
        taps_before = Signal(unsigned((config.pool_area - 1).bit_length()))
        m.d.comb += [
            tap.ready.eq(~tap.payload.last | ~result.valid | result.ready),
            self.busy.eq(result.valid),
        ]
        accept = Signal()
        m.d.comb += accept.eq(tap.valid & tap.ready)
        with m.If(result.ready):
            m.d.sync += result.valid.eq(0)
        with m.If(accept):
            m.d.sync += [first.eq(tap.payload.last), taps_before.eq(taps_before + 1)]
            with m.If(tap.payload.last):
                m.d.sync += [
                    taps_before.eq(0),
                    result.valid.eq(1),
                    result.payload.b.as_value().eq(tap.payload.b),
                    result.payload.divisor.eq(Mux(self.maximum, 0, taps_before)),
                    result.payload.output.eq(tap.payload.output),
                ]
        for i in range(config.lanes):
            value = Signal(signed(8), name=f"value_{i}")
            partial = Signal(signed(sum_bits(config)), name=f"partial_{i}", reset_less=True)
            reduced = Signal.like(partial, name=f"reduced_{i}")
            m.d.comb += value.eq(tap.payload.a.word_select(i, 8))
            with m.If(first | (self.maximum & (value > partial))):
                m.d.comb += reduced.eq(value)
            with m.Elif(self.maximum):
                m.d.comb += reduced.eq(partial)
            with m.Else():
                m.d.comb += reduced.eq(partial + value)
            with m.If(accept):
                m.d.sync += partial.eq(reduced)
                with m.If(tap.payload.last):
                    m.d.sync += result.payload.values[i // config.requantise_lanes][
                        i % config.requantise_lanes].eq(reduced)
        return m
