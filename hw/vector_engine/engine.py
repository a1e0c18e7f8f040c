"""The vector engine: its steps, one after the other, and the command that they work on."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.contract.commands import Engine
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.registers import Error
from hw.ports import ERROR_LAYOUT, EnginePort, MemoryRead, ReadPort, WritePort
from hw.vector_engine.pixel_generator import PixelGenerator
from hw.vector_engine.post_process import PostProcess
from hw.vector_engine.reduce import Reduce
from hw.vector_engine.settings import Settings, decode, window_area
from hw.vector_engine.tap_reader import TapReader
from hw.vector_engine.window_generator import WindowGenerator


class VectorEngine(wiring.Component):
    """Works on ADD, AVERAGE_POOL and MAX_POOL commands (fields: see hw.contract.commands).

    A word of results costs L / Q cycles or its number of taps, whichever is more. A MAX_POOL with a window of one
    pixel copies. A field outside its limits, or a window without input pixels, is Error.BAD_COMMAND; the engine then
    shows the error until it is reset.

    Members
    -------
    engine : EnginePort: commands, counters, error.
    read_a, read_b : operands; only ADD uses read_b. write : results. All feature memory words of L int8.
    mask : the mask memory.
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
            "progress": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.pixels = pixels = PixelGenerator(config)
        m.submodules.windows = windows = WindowGenerator(config)
        m.submodules.taps = taps = TapReader(config)
        m.submodules.reduce = reduce = Reduce(config)
        m.submodules.post_process = post_process = PostProcess(config)

        connect(m, pixels.item, windows.item)
        connect(m, windows.window, taps.window)
        connect(m, taps.tap, reduce.tap)
        connect(m, reduce.result, post_process.result)
        connect(m, pixels.mask, flipped(self.mask))
        connect(m, taps.read_a, flipped(self.read_a))
        connect(m, taps.read_b, flipped(self.read_b))
        connect(m, post_process.write, flipped(self.write))

        # ---- the command ---------------------------------------------------------------------------------------
        command = self.engine.command
        settings = Signal(Settings(config), reset_less=True)
        decoded, bad_field = decode(m, config, command.payload)
        bad = Signal()
        area = window_area(m, decoded.kernel_height, decoded.kernel_width)
        busy = Signal()
        m.d.comb += [
            pixels.settings.eq(settings),
            windows.settings.eq(settings),
            taps.settings.eq(settings),
            reduce.maximum.eq(settings.maximum),
            post_process.settings.eq(settings),
            busy.eq(Cat(pixels.busy, windows.busy, taps.busy, reduce.busy, post_process.busy).any()),
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
                with m.If(bad | (area > config.pool_area)):
                    m.next = "FAILED"
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
        read_a, read_b = accepted(self.read_a.request), accepted(self.read_b.request)
        written = accepted(self.write.request)
        with m.If(pixels.start):
            m.d.sync += counters.as_value().eq(0)
        with m.Else():
            m.d.sync += [
                counters.active_pixels.eq(counters.active_pixels + windows.active),
                counters.words_read.eq(counters.words_read + (read_a + read_b)),
                counters.words_written.eq(counters.words_written + written),
            ]
        m.d.comb += [
            self.engine.counters.eq(counters),
            self.progress.eq(read_a | read_b | written | pixels.moved),
        ]
        return m
