"""The vector engine: its steps, one after the other, and the command that they work on."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out, connect, flipped

from hw.activation_table import TABLE_WORDS, WORD_BYTES
from hw.contract.commands import Engine
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.registers import Error
from hw.ports import ERROR_LAYOUT, EnginePort, MaskWrite, MemoryRead, ReadPort, WritePort
from hw.register_slice import RegisterSlice
from hw.requantise import delayed
from hw.vector_engine.combine import Combine
from hw.vector_engine.command_decoder import CommandDecoder
from hw.vector_engine.decide import Decide
from hw.vector_engine.depthwise_mac import DepthwiseMac
from hw.vector_engine.depthwise_walk import DepthwiseWalk, LineTag
from hw.vector_engine.dilate import Dilate
from hw.vector_engine.pixel_generator import ITEM_LAYOUT, PixelGenerator
from hw.vector_engine.post_process import PostProcess
from hw.vector_engine.reduce import Reduce, Reduced
from hw.vector_engine.tap_walk import TapTag, TapWalk
from hw.vector_engine.window_generator import WindowGenerator
from hw.vector_engine.word_reader import WordReader


class VectorEngine(wiring.Component):
    """Works on all vector commands (fields: see hw.contract.commands).

    A word of results costs L / Q cycles (ADD, MUL: twice that) or its number of taps (DEPTHWISE: of lines of three
    taps, times L / D with D = Config.depthwise_lanes), whichever is more.
    A MAX_POOL with a window of one pixel copies. A field outside its limits, or a pool's window without input pixels,
    is Error.BAD_COMMAND; the engine then shows the error until it is reset.

    Members
    -------
    engine : EnginePort: commands, counters, error.
    read_a, read_b : operands; only ADD uses read_b. write : results. All feature memory words of L int8.
    decisions : writes to the mask memory.
    mask, parameters, weights : the private memories, data in the cycle after the address, of `weights` in the next.
    weights_read : the address of `weights` matters: the conv engine, which shares the weight store, waits.
    progress : something moved two cycles ago: a word was read or written, or a mask word passed.
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
            "weights_read": Out(1),
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

        m.submodules.decoder = decoder = CommandDecoder(config)

        m.submodules.items = items = RegisterSlice(ITEM_LAYOUT)
        connect(m, pixels.item, items.i)
        connect(m, items.o, windows.item)
        connect(m, reader.read_a, flipped(self.read_a))
        connect(m, reader.read_b, flipped(self.read_b))
        connect(m, post_process.parameters, flipped(self.parameters))
        connect(m, post_process.write, flipped(self.write))

        # ---- from step to step -------------------------------------------------------------------------------------
        settings = decoder.settings
        depthwise, deciding = settings.depthwise, settings.decide
        # Two ways from windows to reduced words: taps one by one, or lines of depthwise taps.
        _split(m, windows.window, depthwise, depthwise_walk.window, taps.window)
        _join(m, depthwise, depthwise_walk.fetch, taps.fetch, reader.fetch)
        # Before the MACs, as they say late in the cycle whether they go on, to all of the words' registers.
        m.submodules.lines = lines = RegisterSlice(reader.words.payload.shape())
        _split(m, reader.words, depthwise, lines.i, reduce.words)
        connect(m, lines.o, depthwise_mac.words)
        results = stream.Signature(Reduced(config)).create()
        _split(m, reduce.result, deciding, decide.result, results)
        _join(m, depthwise, depthwise_mac.result, results, post_process.result, shared=("b", "divisor"))
        # Who does not write a mask has zeros as data.
        decision = self.decisions.request
        writers = {decide.write.request: ~(settings.dilate | settings.combine), dilate.write.request: settings.dilate,
                   combine.write.request: settings.combine}
        m.d.comb += [
            decision.valid.eq(Cat(writer.valid & chosen for writer, chosen in writers.items()).any()),
            decision.payload.address.eq(
                Mux(settings.dilate, dilate.write.request.payload.address,
                    Mux(settings.combine, combine.write.request.payload.address,
                        decide.write.request.payload.address))),
            decision.payload.data.eq(decide.write.request.payload.data | dilate.write.request.payload.data
                                     | combine.write.request.payload.data),
            *(writer.ready.eq(decision.ready & chosen) for writer, chosen in writers.items()),
            self.mask.address.eq(Mux(settings.dilate, dilate.mask.address,
                                     Mux(settings.combine, combine.mask.address, pixels.mask.address))),
        ]
        for step in (pixels, dilate, combine):
            m.d.comb += step.mask.data.eq(self.mask.data)
        for step in (pixels, windows, taps, depthwise_walk, depthwise_mac, decide, dilate, combine, post_process):
            m.d.comb += step.settings.eq(settings)
        for step in (windows, depthwise_mac, decide, post_process):
            m.d.comb += step.start.eq(pixels.start)
        m.d.comb += reduce.maximum.eq(settings.maximum)
        loading, table_there = Signal(), Signal()
        self._load_table(m, settings, loading, table_there, post_process)
        m.d.comb += [
            depthwise_mac.weights.data.eq(self.weights.data),
            self.weights_read.eq(self._table_read | depthwise_mac.weights_read),
            self.weights.address.eq(Mux(self._table_read, self._table_entry, depthwise_mac.weights.address)),
        ]

        # ---- the command ---------------------------------------------------------------------------------------
        command = self.engine.command
        started, working = Signal(), Signal()
        empty_window, failed = Signal(), Signal()
        m.d.comb += [decoder.payload.eq(command.payload), started.eq(pixels.start | dilate.start | combine.start)]
        m.d.sync += [
            working.eq(started | items.o.valid | lines.o.valid | Cat(step.busy for step in (
                pixels, windows, taps, depthwise_walk, reader, reduce, depthwise_mac, post_process, decide, dilate,
                combine)).any()),
            empty_window.eq(windows.empty_window),
            command.ready.eq(0),  # from a register: the sequencer is far away
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(command.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += decoder.begin.eq(1)
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                with m.If(decoder.done):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(decoder.bad):
                    m.next = "FAILED"
                with m.Elif(settings.table & ~table_there):
                    m.next = "TABLE"
                with m.Else():
                    m.next = "START"
            with m.State("TABLE"):
                m.d.comb += loading.eq(1)
                with m.If(table_there):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += [dilate.start.eq(settings.dilate), combine.start.eq(settings.combine),
                             pixels.start.eq(~settings.dilate & ~settings.combine)]
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(empty_window):
                    m.next = "FAILED"
                with m.Elif(~working):
                    m.next = "COUNTED"
            with m.State("COUNTED"):
                m.d.sync += command.ready.eq(1)
                m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.next = "IDLE"
            with m.State("FAILED"):
                m.d.comb += failed.eq(1)
        # As one value: a constant part would become an `always @*` that nothing ever triggers.
        refusal = ERROR_LAYOUT.const({"valid": 1, "code": Error.BAD_COMMAND, "address": 0})
        m.d.comb += self.engine.error.as_value().eq(Mux(failed, refusal.as_value(), 0))

        # ---- counters --------------------------------------------------------------------------------------------
        def accepted(request) -> Signal:
            moved = Signal()
            m.d.sync += moved.eq(request.valid & request.ready)
            return moved

        active = Signal.like(combine.active)
        m.d.sync += active.eq(Mux(settings.combine, combine.active, Mux(deciding, decide.active, windows.active)))
        read_a, read_b = accepted(self.read_a.request), accepted(self.read_b.request)
        written = accepted(self.write.request)
        m.d.comb += self.engine.counters.eq(Cat(
            _count(m, "active_pixels", active, started),
            _count(m, "words_read", read_a + read_b, started),
            _count(m, "words_written", written, started),
        ))
        m.d.sync += self.progress.eq(read_a | read_b | written | pixels.moved | dilate.busy | combine.busy)
        return m

    def _load_table(self, m: Module, settings, loading: Signal, there: Signal, post_process: PostProcess) -> None:
        """Read the table's words one after the other while `loading`; `there` when the last one has been written."""
        in_entry = self.config.weight_word_bytes // WORD_BYTES
        at = Signal(range(TABLE_WORDS + 1))
        self._table_read, self._table_entry = Signal(), Signal.like(self.weights.address)
        reading, arriving, arriving_at = Signal(), Signal(), delayed(m, at[:-1], 3)
        m.d.sync += [
            self._table_read.eq(loading & (at != TABLE_WORDS)),
            self._table_entry.eq(settings.table_base + at // in_entry),
            reading.eq(self._table_read),
            arriving.eq(reading),
            at.eq(Mux(loading, Mux(at == TABLE_WORDS, at, at + 1), 0)),
            post_process.table_write.eq(arriving),
            post_process.table_index.eq(arriving_at),
            post_process.table_data.eq(self.weights.data.word_select(arriving_at % in_entry, 8 * WORD_BYTES)),
        ]
        m.d.comb += there.eq((at == TABLE_WORDS) & ~(self._table_read | reading | arriving))


def _split(m: Module, source, condition: Value, target, otherwise) -> None:
    """Connect a stream to one of two others: their payload is the same."""
    m.d.comb += [
        target.valid.eq(source.valid & condition),
        otherwise.valid.eq(source.valid & ~condition),
        target.payload.eq(source.payload),
        otherwise.payload.eq(source.payload),
        source.ready.eq(Mux(condition, target.ready, otherwise.ready)),
    ]


def _join(m: Module, condition: Value, source, otherwise, target, shared: tuple[str, ...] = ()) -> None:
    """Connect two streams, of which only one ever has something, to another; `shared` parts of the payload only come
    from `otherwise`."""
    m.d.comb += [
        target.valid.eq(source.valid | otherwise.valid),
        source.ready.eq(target.ready),
        otherwise.ready.eq(target.ready),
    ]
    for name in target.payload.shape().members:
        first, second = source.payload[name], otherwise.payload[name]
        m.d.comb += target.payload[name].eq(second if name in shared else Mux(condition, first, second))


def _count(m: Module, name: str, amount: Value, clear: Value) -> Value:
    """A counter of 32 bits, a part at a time: the upper part is right a cycle after the lower one."""
    low, high = Signal(8, name=f"{name}_low"), Signal(24, name=f"{name}_high")
    carry, total = Signal(name=f"{name}_carry"), Signal(9, name=f"{name}_total")
    m.d.comb += total.eq(low + amount)
    m.d.sync += [low.eq(total), carry.eq(total[8]), high.eq(high + carry)]
    with m.If(clear):
        m.d.sync += [low.eq(0), carry.eq(0), high.eq(0)]
    return Cat(low, high)
