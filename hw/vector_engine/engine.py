"""The vector engine: its steps, one after the other, and the command that they work on."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.activation_table import TABLE_WORDS, WORD_BYTES
from hw.contract.commands import Engine
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.registers import Error
from hw.ports import ERROR_LAYOUT, EnginePort, MaskWrite, MemoryRead, ReadPort, WritePort
from hw.requantise import delayed
from hw.vector_engine.combine import Combine
from hw.vector_engine.decide import Decide
from hw.vector_engine.depthwise_mac import DepthwiseMac
from hw.vector_engine.depthwise_walk import DepthwiseWalk, LineTag
from hw.vector_engine.dilate import Dilate
from hw.vector_engine.pixel_generator import PixelGenerator
from hw.vector_engine.post_process import PostProcess
from hw.vector_engine.reduce import Reduce
from hw.vector_engine.settings import Settings, decode, window_area
from hw.vector_engine.tap_walk import TapTag, TapWalk
from hw.vector_engine.window_generator import WindowGenerator
from hw.vector_engine.word_reader import WordReader


class VectorEngine(wiring.Component):
    """Works on all vector commands (fields: see hw.contract.commands).

    A word of results costs L / Q cycles (ADD, MUL: twice that) or its number of taps (DEPTHWISE: of lines of three
    taps), whichever is more.
    A MAX_POOL with a window of one pixel copies. A field outside its limits, or a pool's window without input pixels,
    is Error.BAD_COMMAND; the engine then shows the error until it is reset.

    Members
    -------
    engine : EnginePort: commands, counters, error.
    read_a, read_b : operands; only ADD uses read_b. write : results. All feature memory words of L int8.
    decisions : writes to the mask memory.
    mask, weights, parameters : the private memories, data in the cycle after the address.
    progress : something moved in this cycle: a word was read or written, or a mask word passed.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "engine": Out(EnginePort(Engine.VECTOR)),
            "read_a": Out(ReadPort(config)),
            "read_b": Out(ReadPort(config)),
            "write": Out(WritePort(config)),
            "mask": Out(MemoryRead(config.mask_words, MASK_WORD_BITS)),
            "decisions": Out(MaskWrite(config)),
            "weights": Out(MemoryRead(config.weight_words, 8 * config.weight_word_bytes)),
            "parameters": Out(MemoryRead(config.parameter_entries, 8 * config.parameter_entry_bytes)),
            "progress": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.pixels = pixels = PixelGenerator(config)
        m.submodules.windows = windows = WindowGenerator(config)
        tag_bits = max(TapTag(config).size, LineTag(config).size)
        m.submodules.taps = taps = TapWalk(config, tag_bits)
        m.submodules.depthwise_walk = depthwise_walk = DepthwiseWalk(config, tag_bits)
        m.submodules.reader = reader = WordReader(config, tag_bits)
        m.submodules.reduce = reduce = Reduce(config, tag_bits)
        m.submodules.depthwise_mac = depthwise_mac = DepthwiseMac(config, tag_bits)
        m.submodules.decide = decide = Decide(config)
        m.submodules.dilate = dilate = Dilate(config)
        m.submodules.combine = combine = Combine(config)
        m.submodules.post_process = post_process = PostProcess(config)

        connect(m, pixels.item, windows.item)
        connect(m, reader.read_a, flipped(self.read_a))
        connect(m, reader.read_b, flipped(self.read_b))
        connect(m, post_process.parameters, flipped(self.parameters))
        connect(m, post_process.write, flipped(self.write))

        # ---- the command ---------------------------------------------------------------------------------------
        command = self.engine.command
        settings = Signal(Settings(config), reset_less=True)
        decoded, bad_field = decode(m, config, command.payload)
        bad = Signal()
        area = window_area(m, decoded.kernel_height, decoded.kernel_width)
        busy = Signal()
        # Two ways from windows to reduced words: taps one by one, or lines of depthwise taps.
        with m.If(settings.depthwise):
            _route(m, windows.window, depthwise_walk.window)
            _route(m, depthwise_walk.fetch, reader.fetch)
            _route(m, reader.words, depthwise_mac.words)
            _route(m, depthwise_mac.result, post_process.result)
        with m.Else():
            _route(m, windows.window, taps.window)
            _route(m, taps.fetch, reader.fetch)
            _route(m, reader.words, reduce.words)
            with m.If(settings.decide):
                _route(m, reduce.result, decide.result)
            with m.Else():
                _route(m, reduce.result, post_process.result)
        with m.If(settings.dilate):
            _route(m, dilate.write.request, self.decisions.request)
        with m.Elif(settings.combine):
            _route(m, combine.write.request, self.decisions.request)
        with m.Else():
            _route(m, decide.write.request, self.decisions.request)
        m.d.comb += [
            self.mask.address.eq(Mux(settings.dilate, dilate.mask.address,
                                     Mux(settings.combine, combine.mask.address, pixels.mask.address))),
            pixels.mask.data.eq(self.mask.data),
            dilate.mask.data.eq(self.mask.data),
            combine.mask.data.eq(self.mask.data),
            combine.settings.eq(settings),
            decide.settings.eq(settings),
            decide.start.eq(pixels.start),
            dilate.settings.eq(settings),
            pixels.settings.eq(settings),
            windows.settings.eq(settings),
            windows.start.eq(pixels.start),
            taps.settings.eq(settings),
            depthwise_walk.settings.eq(settings),
            depthwise_walk.start.eq(pixels.start),
            depthwise_mac.settings.eq(settings),
            depthwise_mac.start.eq(pixels.start),
            post_process.start.eq(pixels.start),
            reader.absent.eq(settings.input_zero_point),
            reduce.maximum.eq(settings.maximum),
            post_process.settings.eq(settings),
            busy.eq(Cat(pixels.busy, windows.busy, taps.busy, depthwise_walk.busy, reader.busy, reduce.busy,
                        depthwise_mac.busy, post_process.busy, decide.busy, dilate.busy, combine.busy).any()),
        ]
        loading, table_there = Signal(), Signal()
        self._load_table(m, settings, loading, table_there, post_process)
        m.d.comb += [
            depthwise_mac.weights.data.eq(self.weights.data),
            self.weights.address.eq(Mux(loading, settings.table_base + self._table_entry,
                                        depthwise_mac.weights.address)),
        ]
        failed = Signal()
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [settings.eq(decoded), bad.eq(bad_field)]
                with m.If(command.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):  # the product of the kernel's sides takes a cycle longer
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(bad | ((area > config.pool_area) & ~settings.depthwise & ~settings.dilate)):
                    m.next = "FAILED"
                with m.Elif(settings.table & ~table_there):
                    m.d.comb += loading.eq(1)
                with m.Elif(settings.dilate | settings.combine):
                    m.d.comb += [dilate.start.eq(settings.dilate), combine.start.eq(settings.combine)]
                    m.next = "RUN"
                with m.Else():
                    m.d.comb += pixels.start.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(windows.empty_window):
                    m.next = "FAILED"
                with m.Elif(~busy):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += command.ready.eq(1)
                m.next = "IDLE"
            with m.State("FAILED"):
                m.d.comb += failed.eq(1)
        # As one value: a constant part would become an `always @*` that nothing ever triggers.
        refusal = ERROR_LAYOUT.const({"valid": 1, "code": Error.BAD_COMMAND, "address": 0})
        m.d.comb += self.engine.error.as_value().eq(Mux(failed, refusal.as_value(), 0))

        # ---- counters --------------------------------------------------------------------------------------------
        def accepted(request) -> Signal:
            moved = Signal()
            m.d.comb += moved.eq(request.valid & request.ready)
            return moved

        counters = Signal(self.engine.counters.shape())
        active = Signal.like(combine.active)
        with m.If(settings.combine):
            m.d.comb += active.eq(combine.active)
        with m.Else():
            m.d.comb += active.eq(Mux(settings.decide, decide.active, windows.active))
        read_a, read_b = accepted(self.read_a.request), accepted(self.read_b.request)
        written = accepted(self.write.request)
        with m.If(pixels.start | dilate.start | combine.start):
            m.d.sync += counters.as_value().eq(0)
        with m.Else():
            m.d.sync += [
                counters.active_pixels.eq(counters.active_pixels + active),
                counters.words_read.eq(counters.words_read + (read_a + read_b)),
                counters.words_written.eq(counters.words_written + written),
            ]
        m.d.comb += [
            self.engine.counters.eq(counters),
            self.progress.eq(read_a | read_b | written | pixels.moved | dilate.busy | combine.busy),
        ]
        return m

    def _load_table(self, m: Module, settings, loading: Signal, there: Signal, post_process: PostProcess) -> None:
        """Read the table's words one after the other while `loading`; `there` when the last one has been written."""
        in_entry = self.config.weight_word_bytes // WORD_BYTES
        self._table_at = at = Signal(range(TABLE_WORDS + 1))
        self._table_entry = at // in_entry
        reading, arriving, arriving_at = Signal(), Signal(), delayed(m, at[:-1], 2)
        m.d.sync += [
            reading.eq(loading & (at != TABLE_WORDS)),
            arriving.eq(reading),
            at.eq(Mux(loading, Mux(at == TABLE_WORDS, at, at + 1), 0)),
            post_process.table_write.eq(arriving),
            post_process.table_index.eq(arriving_at),
            post_process.table_data.eq(delayed(m, self.weights.data, 1).word_select(arriving_at % in_entry,
                                                                                          8 * WORD_BYTES)),
        ]
        m.d.comb += there.eq((at == TABLE_WORDS) & ~(reading | arriving))


def _route(m: Module, source, target) -> None:
    """Connect two streams, under the condition that holds."""
    m.d.comb += [target.valid.eq(source.valid), target.payload.eq(source.payload), source.ready.eq(target.ready)]
