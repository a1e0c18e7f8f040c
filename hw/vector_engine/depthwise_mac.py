"""Multiplies and adds the lines of taps: three taps per lane and cycle, with weights from a buffer of its own."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, signed, unsigned
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

#: Bits of an activation less its zero point.
_CENTRED_BITS = 9

#: Steps that a group of lanes passes: centring, window, products, their sum in two steps, accumulator.
_STAGES = 6


class DepthwiseMac(wiring.Component):
    """A pipeline of centring, window, products, their sum, accumulators; it only waits for room for a result.

    It takes a step's words in groups of `depthwise_lanes` lanes, one per cycle. Weights come from the weight store a
    channel block ahead: there are two buffers, filled in turn.

    Members
    -------
    settings : Settings, stable while busy. start : a command begins: weights of before are forgotten.
    words : stream of Words, whose tag starts with a LineTag. weights : the weight store, read while `weights_read`.
    result : stream of Reduced. busy : a step is under way, or a result waits.
    """

    def __init__(self, config: Config, tag_bits: int):
        self.config = config
        self.tag_bits = tag_bits
        self.lanes = config.depthwise_lanes
        self.groups = config.depthwise_cycles
        self.group_bits = (self.groups - 1).bit_length()
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "words": In(stream.Signature(Words(config, tag_bits))),
            "weights": Out(MemoryRead(config.weight_words, 8 * config.weight_word_bytes)),
            "weights_read": Out(1),
            "result": Out(stream.Signature(Reduced(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, words, result = self.config, self.words, self.result
        lanes, groups = self.lanes, self.groups
        tag = data.View(LineTag(config), words.payload.tag[: LineTag(config).size])

        # ---- a step's groups of lanes, one after the other --------------------------------------------------------
        filled = Signal(2)
        group, last_group = Signal(self.group_bits), Signal()
        advance, weights_there, accept = Signal(), Signal(), Signal()
        m.d.comb += [
            last_group.eq(group == groups - 1),
            weights_there.eq(filled.bit_select(tag.parity, 1)),
            words.ready.eq(advance & weights_there & last_group),
            accept.eq(words.valid & advance & weights_there),
        ]
        with m.If(accept):
            m.d.sync += group.eq(group + 1)

        # ---- control: what goes with the lanes from stage to stage -----------------------------------------------
        stage_layout = data.StructLayout({"valid": 1, "last": 1, "parity": 1, "output": LineTag(config)["output"].shape,
                                          "group": unsigned(self.group_bits)})
        entering = Signal(stage_layout)
        m.d.comb += [
            entering.valid.eq(accept & ~tag.first_word),
            entering.last.eq(tag.last),
            entering.parity.eq(tag.parity),
            entering.output.eq(tag.output),
            entering.group.eq(group),
        ]
        stages = [entering]
        for i in range(1, _STAGES):
            stage = Signal(stage_layout, name=f"stage_{i}")
            with m.If(advance):
                m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        ending = stages[-1]
        ends, finish = Signal(), Signal()
        m.d.comb += [
            ends.eq(ending.valid & ending.last & (ending.group == groups - 1)),
            advance.eq(~(ends & result.valid & ~result.ready)),
            finish.eq(advance & ends),
            self.busy.eq(Cat(result.valid, *(stage.valid for stage in stages[1:])).any()),
        ]
        with m.If(result.ready):
            m.d.sync += result.valid.eq(0)
        with m.If(finish):
            m.d.sync += [
                result.valid.eq(1),
                result.payload.output.eq(ending.output),
                result.payload.parity.eq(ending.parity),
            ]

        # ---- the lanes -------------------------------------------------------------------------------------------
        window = self._window(m, tag, group, advance, accept)
        weights = self._weights(m, filled, tag, group, advance, accept)
        add = Signal()
        anew = Signal(groups, init=~0)  # per group: its sums begin with the products, so that they need no reset
        m.d.comb += add.eq(advance & ending.valid)
        with m.If(add):
            m.d.sync += anew.eq(Cat(ending.last, anew[:-1]))
        for i in range(lanes):
            products = []
            for j in range(DEPTHWISE_TAPS):
                activation = Signal(signed(_CENTRED_BITS), name=f"activation_{i}_{j}", reset_less=True)
                weight = Signal(signed(8), name=f"weight_{i}_{j}", reset_less=True)
                product = Signal(signed(17), name=f"product_{i}_{j}", reset_less=True)
                with m.If(advance):
                    m.d.sync += [
                        activation.eq(window[j].word_select(i, _CENTRED_BITS)),
                        weight.eq(weights[j].word_select(i, 8)),
                        product.eq(activation * weight),
                    ]
                products.append(product)
            total = Signal(signed(19), name=f"total_{i}", reset_less=True)
            pair = Signal(signed(18), name=f"pair_{i}", reset_less=True)
            third = Signal.like(products[2], name=f"third_{i}", reset_less=True)
            with m.If(advance):
                m.d.sync += [pair.eq(products[0] + products[1]), third.eq(products[2]), total.eq(pair + third)]
            # Sums of the pixel so far, of every group: they take turns.
            partial = [Signal(signed(ACCUMULATOR_BITS), name=f"partial_{i}_{k}", reset_less=True)
                       for k in range(groups)]
            summed = Signal(signed(ACCUMULATOR_BITS), name=f"summed_{i}")
            m.d.comb += summed.eq(Mux(anew[-1], 0, partial[-1]) + total)
            with m.If(add):
                m.d.sync += [partial[k].eq(partial[k - 1]) for k in range(1, groups)]
                m.d.sync += partial[0].eq(summed)
            # Groups that end before the last one wait for it, as the result of the pixel before may be still there.
            sums = [Signal(signed(ACCUMULATOR_BITS), name=f"sum_{i}_{k}", reset_less=True) for k in range(groups - 1)]
            with m.If(add):
                m.d.sync += [early.eq(late) for early, late in zip(sums, [*sums[1:], summed], strict=False)]
            with m.If(finish):
                for k, value in enumerate([*sums, summed]):
                    slice_, at = divmod(k * lanes + i, config.requantise_lanes)
                    m.d.sync += result.payload.values[slice_][at].eq(value)
        return m

    def _window(self, m: Module, tag, group: Value, advance: Value, accept: Value) -> list[Signal]:
        """Three words of a group's lanes, less the zero point, a cycle after its step: a line's two newest are kept."""
        settings, words = self.settings, self.words.payload
        lanes, groups = self.lanes, self.groups
        line_bits = (DEPTHWISE_KEPT_LINES - 1).bit_length()
        entry = Cat(group, tag.line[:line_bits])
        centred = {name: Signal(_CENTRED_BITS * lanes, name=f"centred_{name}", reset_less=True) for name in "ab"}
        entering = Signal()
        only_a, shifted, clear = Signal(), Signal(), Signal()
        centred_entry = Signal.like(Signal(len(entry)), name="centred_entry")
        with m.If(advance):
            m.d.sync += [
                entering.eq(accept),
                only_a.eq(tag.first_word),
                shifted.eq(tag.pair & ~tag.first_word),
                clear.eq(tag.clear),
                centred_entry.eq(entry),
            ]
            for name in "ab":
                part = Signal(8 * lanes, name=f"group_{name}")
                m.d.comb += part.eq(words[name].word_select(group, 8 * lanes))
                for i in range(lanes):
                    at = centred[name].word_select(i, _CENTRED_BITS)
                    m.d.sync += at.eq(part.word_select(i, 8).as_signed() - settings.input_zero_point)
                with m.If(~words[f"read_{name}"]):  # padding
                    m.d.sync += centred[name].eq(0)

        # An entry is written the cycle after it is read. It comes up again when all groups have had their turn: with
        # more than one, the read may take that cycle, and so any kind of memory does.
        m.submodules.kept = kept = Memory(shape=unsigned(2 * _CENTRED_BITS * lanes),
                                          depth=DEPTHWISE_KEPT_LINES * groups, init=[])
        write = kept.write_port()
        if groups == 1:
            read = kept.read_port(domain="comb")
            m.d.comb += read.addr.eq(centred_entry)
        else:
            read = kept.read_port()
            m.d.comb += [read.addr.eq(entry), read.en.eq(advance)]
        older, old = read.data[: _CENTRED_BITS * lanes], read.data[_CENTRED_BITS * lanes :]
        window = [Signal(_CENTRED_BITS * lanes, name=f"window_{j}") for j in range(DEPTHWISE_TAPS)]
        m.d.comb += [
            window[0].eq(Mux(clear, 0, Mux(shifted, old, older))),
            window[1].eq(Mux(shifted, centred["a"], old)),
            window[2].eq(Mux(only_a, centred["a"], centred["b"])),
            write.addr.eq(centred_entry),
            write.data.eq(Cat(window[1], window[2])),
            write.en.eq(entering & advance),
        ]
        return window

    def _weights(self, m: Module, filled: Signal, tag, group: Value, advance: Value, accept: Value) -> list[Value]:
        """The three taps' weights of a group's lanes, a cycle after its step.

        The buffers are kept full: `filled` bit by bit; one is free again with the first step of the other. A word of
        the weight store has two taps of all lanes, and is written group by group; the second word's second tap is no
        tap. Behind the last channel block what follows is read like a further one, and nobody uses it.
        """
        settings, store = self.settings, self.weights
        lanes, groups = self.lanes, self.groups
        depth = groups * (2 << LINE_BITS)
        memories = {}
        for name, taps in (("first", DEPTHWISE_TAPS - 1), ("second", 1)):
            m.submodules[f"{name}_taps"] = memories[name] = Memory(shape=unsigned(8 * lanes * taps), depth=depth,
                                                                   init=[], attrs={"no_rw_check": 1})
        filling, second, last_line, last_piece, ask = (
            Signal(name=name) for name in ("filling", "second_word", "last_line", "last_piece", "ask"))
        target, used = Signal(), Signal()
        line, piece = Signal(LINE_BITS), Signal(self.group_bits)
        # A request, from registers, as the conv engine waits for it; what it asks for is there, and is written, two
        # cycles later.
        step = data.StructLayout({"valid": 1, "second": 1, "last": 1, "piece": unsigned(self.group_bits),
                                  "entry": unsigned(self.group_bits + LINE_BITS + 1)})
        request, arriving, writing = Signal(step), Signal(step), Signal(step)
        address = Signal.like(store.address)
        rows = Signal(2 * 8 * lanes)
        m.d.comb += [
            last_line.eq(line == settings.kernel_lines - 1),
            last_piece.eq(piece == groups - 1),
            ask.eq(filling & ~filled.bit_select(target, 1) & ~request.last & ~arriving.last & ~writing.last),
            self.weights_read.eq(request.valid),
        ]
        m.d.sync += [
            request.valid.eq(ask), request.second.eq(second), request.piece.eq(piece),
            request.last.eq(ask & second & last_line & last_piece),
            request.entry.eq(Cat(piece, line, target)),
            store.address.eq(address),
            arriving.eq(request),
            writing.eq(arriving),
        ]
        m.d.comb += [rows.word_select(j, 8 * lanes).eq(
            store.data[j * 8 * self.config.lanes :][: 8 * self.config.lanes].word_select(writing.piece, 8 * lanes))
            for j in range(2)]
        with m.If(ask):
            m.d.sync += piece.eq(piece + 1)
            with m.If(last_piece):
                m.d.sync += [address.eq(address + 1), second.eq(~second)]
                with m.If(second):
                    m.d.sync += line.eq(Mux(last_line, 0, line + 1))
        for name, memory in memories.items():
            write = memory.write_port()
            m.d.comb += [
                write.addr.eq(writing.entry),
                write.data.eq(rows),
                write.en.eq(writing.valid & (writing.second if name == "second" else ~writing.second)),
            ]
        with m.If(accept):
            m.d.sync += used.eq(tag.parity)
            with m.If(used != tag.parity):
                m.d.sync += filled.bit_select(used, 1).eq(0)
        with m.If(writing.last):
            m.d.sync += [filled.bit_select(target, 1).eq(1), target.eq(~target)]
        with m.If(self.start):
            m.d.sync += [
                filled.eq(0), target.eq(0), used.eq(0), line.eq(0), piece.eq(0), second.eq(0),
                *(each[bit].eq(0) for each in (request, arriving, writing) for bit in ("valid", "last")),
                filling.eq(settings.depthwise),
                address.eq(settings.weight_base),
            ]
        # A register after a port without one: the two become a port with a clock, and as `no_rw_check` says that a
        # read and a write never meet, nothing is built for this case. A buffer is either read or written.
        weights = []
        for name, memory in memories.items():
            read = memory.read_port(domain="comb")
            data_ = Signal(memory.shape, name=f"{name}_weights", reset_less=True)
            m.d.comb += read.addr.eq(Cat(group, tag.line, tag.parity))
            with m.If(advance):
                m.d.sync += data_.eq(read.data)
            weights += [data_[at : at + 8 * lanes] for at in range(0, len(data_), 8 * lanes)]
        return weights
