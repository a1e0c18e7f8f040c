"""Multiplies and adds the lines of taps: three taps per lane and cycle, with weights from a buffer of its own."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.layouts import DEPTHWISE_KEPT_LINES, DEPTHWISE_TAPS
from hw.ports import MemoryRead
from hw.vector_engine.depthwise_walk import LINE_BITS, LineTag
from hw.vector_engine.reduce import ACCUMULATOR_BITS, Reduced
from hw.vector_engine.settings import Settings
from hw.vector_engine.word_reader import Words


class DepthwiseMac(wiring.Component):
    """A pipeline of window, centring, products, their sum, accumulators; it only waits for room for a result.

    Weights come from the weight store a channel block ahead: there are two buffers, filled in turn.

    Members
    -------
    settings : Settings, stable while busy. start : a command begins: weights of before are forgotten.
    words : stream of Words, whose tag starts with a LineTag. weights : the weight store.
    result : stream of Reduced. busy : a step is under way, or a result waits.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "words": In(stream.Signature(Words(config, tag_bits))),
            "weights": Out(MemoryRead(config.weight_words, 8 * config.weight_word_bytes)),
            "result": Out(stream.Signature(Reduced(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, words, result = self.config, self.settings, self.words, self.result
        lanes = config.lanes
        tag = data.View(LineTag(config), words.payload.tag[: LineTag(config).size])
        filled = Signal(2)
        advance, accept = Signal(), Signal()
        m.d.comb += [
            words.ready.eq(advance & filled.bit_select(tag.parity, 1)),
            accept.eq(words.valid & words.ready),
        ]

        # ---- the window: a line's two newest words are kept -------------------------------------------------------
        m.submodules.kept = kept = Memory(shape=unsigned(16 * lanes), depth=DEPTHWISE_KEPT_LINES, init=[])
        kept_write, kept_read = kept.write_port(), kept.read_port(domain="comb")
        kept_line = tag.line[: (DEPTHWISE_KEPT_LINES - 1).bit_length()]
        older, old = kept_read.data[: 8 * lanes], kept_read.data[8 * lanes :]
        padding = settings.input_zero_point.as_unsigned().replicate(lanes)
        window = [Signal(8 * lanes, name=f"window_{j}") for j in range(DEPTHWISE_TAPS)]
        m.d.comb += [
            kept_read.addr.eq(kept_line),
            window[0].eq(Mux(tag.clear, padding, Mux(tag.pair & ~tag.first_word, old, older))),
            window[1].eq(Mux(tag.pair & ~tag.first_word, words.payload.a, old)),
            window[2].eq(Mux(tag.first_word, words.payload.a, words.payload.b)),
            kept_write.addr.eq(kept_line),
            kept_write.data.eq(Cat(window[1], window[2])),
            kept_write.en.eq(accept),
        ]

        # ---- weights: buffer by buffer -----------------------------------------------------------------------------
        m.submodules.buffer = buffer = Memory(shape=unsigned(8 * lanes * DEPTHWISE_TAPS), depth=2 << LINE_BITS, init=[])
        weight_write, weight_read = buffer.write_port(), buffer.read_port()
        self._fill(m, filled, weight_write, tag.parity, accept)
        m.d.comb += [weight_read.addr.eq(Cat(tag.line, tag.parity)), weight_read.en.eq(advance)]

        # ---- the pipeline --------------------------------------------------------------------------------------------
        stage_layout = data.StructLayout({"valid": 1, "first": 1, "last": 1, "parity": 1,
                                          "output": LineTag(config)["output"].shape})
        entering = Signal(stage_layout)
        m.d.comb += [
            entering.valid.eq(accept & ~tag.first_word),
            entering.first.eq(tag.first),
            entering.last.eq(tag.last),
            entering.parity.eq(tag.parity),
            entering.output.eq(tag.output),
        ]
        stages = [entering]
        for i in range(1, 5):
            stage = Signal(stage_layout, name=f"stage_{i}")
            with m.If(advance):
                m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        ending = stages[-1]
        m.d.comb += [
            advance.eq(~(ending.valid & ending.last & result.valid & ~result.ready)),
            self.busy.eq(Cat(result.valid, *(stage.valid for stage in stages[1:])).any()),
        ]
        with m.If(result.ready):
            m.d.sync += result.valid.eq(0)
        with m.If(advance & ending.valid & ending.last):
            m.d.sync += [
                result.valid.eq(1),
                result.payload.output.eq(ending.output),
                result.payload.parity.eq(ending.parity),
            ]
        for i in range(lanes):
            products = []
            for j in range(DEPTHWISE_TAPS):
                activation = Signal(signed(8), name=f"activation_{i}_{j}", reset_less=True)
                centred = Signal(signed(9), name=f"centred_{i}_{j}", reset_less=True)
                weight = Signal(signed(8), name=f"weight_{i}_{j}", reset_less=True)
                product = Signal(signed(17), name=f"product_{i}_{j}", reset_less=True)
                with m.If(advance):
                    m.d.sync += [
                        activation.eq(window[j].word_select(i, 8)),
                        centred.eq(activation - settings.input_zero_point),
                        weight.eq(weight_read.data.word_select(j * lanes + i, 8)),
                        product.eq(centred * weight),
                    ]
                products.append(product)
            total = Signal(signed(19), name=f"total_{i}", reset_less=True)
            partial = Signal(signed(ACCUMULATOR_BITS), name=f"partial_{i}", reset_less=True)
            summed = Signal(signed(ACCUMULATOR_BITS), name=f"summed_{i}")
            m.d.comb += summed.eq(Mux(ending.first, 0, partial) + total)
            with m.If(advance):
                m.d.sync += total.eq(sum(products[1:], products[0]))
                with m.If(ending.valid):
                    m.d.sync += partial.eq(summed)
                    with m.If(ending.last):
                        q = config.requantise_lanes
                        m.d.sync += result.payload.values[i // q][i % q].eq(summed)
        return m

    def _fill(self, m: Module, filled: Signal, write, parity: Signal, accept: Signal) -> None:
        """Keep the buffers filled: `filled` bit by bit; one is free again with the first step of the other."""
        config, settings, store = self.config, self.settings, self.weights
        row_bits = 8 * config.lanes
        filling, second, arriving, arriving_second, arriving_last = (
            Signal(name=name) for name in ("filling", "second_word", "arriving", "arriving_second", "arriving_last"))
        blocks_left = Signal(16)
        target, arriving_line, used = Signal(), Signal(LINE_BITS), Signal()
        line = Signal(LINE_BITS)
        last_line = Signal()
        first_rows = Signal(2 * row_bits, reset_less=True)
        ask = Signal()
        m.d.comb += [
            last_line.eq(line == settings.kernel_lines - 1),
            ask.eq(filling & ~filled.bit_select(target, 1) & ~(arriving & arriving_last)),
            write.addr.eq(Cat(arriving_line, target)),
            write.data.eq(Cat(first_rows, store.data[:row_bits])),
            write.en.eq(arriving & arriving_second),
        ]
        m.d.sync += [arriving.eq(ask), arriving_second.eq(second), arriving_line.eq(line),
                     arriving_last.eq(ask & second & last_line)]
        with m.If(ask):
            m.d.sync += [store.address.eq(store.address + 1), second.eq(~second)]
            with m.If(second):
                m.d.sync += line.eq(Mux(last_line, 0, line + 1))
        with m.If(arriving & ~arriving_second):
            m.d.sync += first_rows.eq(store.data)
        with m.If(accept):
            m.d.sync += used.eq(parity)
            with m.If(used != parity):
                m.d.sync += filled.bit_select(used, 1).eq(0)
        with m.If(arriving_last):
            m.d.sync += [filled.bit_select(target, 1).eq(1), target.eq(~target), blocks_left.eq(blocks_left - 1)]
            with m.If(blocks_left == 1):
                m.d.sync += filling.eq(0)
        with m.If(self.start):
            m.d.sync += [
                filled.eq(0), target.eq(0), used.eq(0), line.eq(0), second.eq(0), arriving.eq(0), arriving_last.eq(0),
                filling.eq(settings.depthwise),
                blocks_left.eq(settings.output_blocks),
                store.address.eq(settings.weight_base),
            ]
