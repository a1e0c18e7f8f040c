"""From reduced words to int8 words: operands scaled and summed, or a sum divided; then clamped and stored."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.activation_table import TABLE_WORDS, WORD_BYTES, Table
from hw.contract.config import Config
from hw.ports import MemoryRead, WritePort, word_address_bits
from hw.requantise import MULTIPLIER_BITS, AddOperands, Requantise, delayed, selected
from hw.vector_engine.reciprocal import reciprocals, stored_bits
from hw.vector_engine.reduce import Reduced, value_bits
from hw.vector_engine.settings import Settings

#: Cycles from a slice of a word to its values at the entry of Requantise: parameter address, its memory, a register.
_REQUANTISE_AT = 3

#: Cycles from a slice of a word to its results, but for two operands, of which there are half as many at a time.
LATENCY = _REQUANTISE_AT + Requantise.LATENCY + Table.LATENCY


class PostProcess(wiring.Component):
    """Q lanes per cycle, hence a word every L / Q cycles; of two operands every 2 L / Q cycles. All paths end in the
    same Requantise, as accumulator + bias:

    ADD, MUL: (a, b) -> AddOperands -> bias, with the sum's multiplier. Pools: value -> accumulator, with the reciprocal
    of the number of taps (see `reciprocal`); a maximum is divided by one. MEAN: value -> accumulator, with a bias and
    the sum's multiplier. DEPTHWISE: value -> accumulator, with bias, multiplier and shift from the parameter memory.

    Members
    -------
    settings : Settings, stable while busy.
    result : stream of Reduced; a word is started only when there is room for it behind the pipeline.
    start : a command begins. parameters : the parameter memory.
    table_write, table_index, table_data : words of the table, before `start`.
    write : feature memory.
    busy : a word was started and not yet accepted by the memory.
    """

    def __init__(self, config: Config):
        self.config = config
        self.lanes = config.requantise_lanes
        self.slices = config.lanes // config.requantise_lanes
        #: Words under way: enough to never wait for the pipeline, and some more for a memory that makes wait.
        self.words = 1 << (LATENCY // self.slices + 2).bit_length()
        super().__init__({
            "settings": In(Settings(config)),
            "result": In(stream.Signature(Reduced(config))),
            "start": In(1),
            "table_write": In(1),
            "table_index": In(range(TABLE_WORDS)),
            "table_data": In(8 * WORD_BYTES),
            "parameters": Out(MemoryRead(config.parameter_entries, 8 * config.parameter_entry_bytes)),
            "write": Out(WritePort(config)),
            "busy": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, result, lanes, slices = self.config, self.settings, self.result, self.lanes, self.slices

        # ---- store: addresses wait for their words; the address queue holds a word from start to end -----------
        m.submodules.addresses = addresses = SyncFIFO(width=word_address_bits(config), depth=self.words)
        m.submodules.words = words = SyncFIFO(width=8 * config.lanes, depth=self.words)
        request = self.write.request
        written = Signal()
        m.d.comb += [
            request.valid.eq(words.r_rdy),
            request.payload.address.eq(addresses.r_data),
            request.payload.data.eq(words.r_data),
            written.eq(request.valid & request.ready),
            addresses.r_en.eq(written),
            words.r_en.eq(written),
            self.busy.eq(addresses.r_rdy),
        ]

        # ---- slices of a word, one per cycle; of two operands one every other cycle ------------------------------
        at = Signal(range(slices))
        two_operands, turn, issue = Signal(), Signal(), Signal()
        m.d.sync += [turn.eq(~issue), two_operands.eq(settings.add | settings.multiply)]
        m.d.comb += [
            issue.eq(result.valid & ((at != 0) | addresses.w_rdy) & (turn | ~two_operands)),
            addresses.w_en.eq(issue & (at == 0)),
            addresses.w_data.eq(result.payload.output),
        ]
        if slices == 1:
            m.d.comb += result.ready.eq(issue)
        else:  # from a register, as much hangs on it: a word that was started is there until its last slice
            ready = Signal()
            m.d.sync += ready.eq(Mux(two_operands, ~turn & (at == slices - 1), issue & (at == slices - 2)))
            m.d.comb += result.ready.eq(ready)
        with m.If(issue):
            m.d.sync += at.eq(Mux(at == slices - 1, 0, at + 1))
        valid = delayed(m, issue, 1, reset_less=False)
        values, b = (delayed(m, selected(m, [result.payload[name][i].as_value() for i in range(slices)], at, name), 1)
                     for name in ("values", "b"))  # two cycles after `issue`

        # ---- reciprocal of the number of taps ---------------------------------------------------------------------
        m.submodules.reciprocals = quotients = Memory(shape=stored_bits(config), depth=config.pool_area,
                                            init=reciprocals(config))
        entry = quotients.read_port()
        divisor = result.payload.divisor
        divisor_bits = Signal(range(len(divisor) + 1), reset_less=True)
        m.d.comb += entry.addr.eq(divisor)
        for i in range(len(divisor)):
            with m.If(divisor[i]):
                m.d.sync += divisor_bits.eq(i + 1)
        with m.If(divisor == 0):
            m.d.sync += divisor_bits.eq(0)

        # ---- multiplier and shift, unless the parameter memory has them -----------------------------------------
        pool = Signal()
        m.d.sync += pool.eq(~(two_operands | settings.mean | settings.depthwise))
        multiplier, shift = Signal(MULTIPLIER_BITS, reset_less=True), Signal(signed(8), reset_less=True)
        bias = Signal(signed(32), reset_less=True)
        with m.If(pool):
            m.d.sync += [
                multiplier.eq(Cat(Const(0, MULTIPLIER_BITS - 1 - stored_bits(config)), entry.data, Const(1, 1))),
                shift.eq(1 - divisor_bits),
            ]
        with m.Else():
            m.d.sync += [multiplier.eq(settings.constants.sum_multiplier), shift.eq(settings.constants.sum_shift)]
        with m.If(settings.depthwise):
            m.d.sync += [multiplier.eq(0), shift.eq(0)]
        m.d.sync += bias.eq(Mux(settings.mean, settings.bias, 0))

        # ---- parameters of DEPTHWISE: entries of a channel block, and of the next when the pass changes -----------
        block_entry, of_parity, changed = Signal(len(self.parameters.address)), Signal(), Signal()
        m.d.comb += changed.eq(result.payload.parity != of_parity)
        m.d.sync += self.parameters.address.eq(block_entry + Cat(at, changed))
        with m.If(self.start):
            m.d.sync += [block_entry.eq(settings.parameter_base), of_parity.eq(0)]
        with m.Elif(issue):
            m.d.sync += [block_entry.eq(block_entry + Mux(changed, slices, 0)), of_parity.eq(result.payload.parity)]
        parameters = data.View(data.StructLayout({
            "bias": data.ArrayLayout(unsigned(32), lanes),
            "multiplier": data.ArrayLayout(unsigned(32), lanes),
            "shift": data.ArrayLayout(unsigned(8), lanes),
            "unused": unsigned(8 * config.parameter_entry_bytes - 72 * lanes),
        }), self.parameters.data)

        # ---- all paths, and where they meet: what does not belong to the command is zero ---------------------------
        m.submodules.operands = operands = AddOperands(lanes, multiply=True)
        m.submodules.requantise = requantise = Requantise(lanes)
        depthwise = Signal()
        valid_2 = delayed(m, valid, 1, reset_less=False)
        enable = Signal()
        m.d.sync += enable.eq(addresses.r_rdy)
        m.d.comb += [
            operands.enable.eq(enable),
            requantise.enable.eq(enable),
            operands.i_valid.eq(valid_2 & two_operands),
            operands.i_b.eq(delayed(m, b, 1)),
            operands.multiply.eq(settings.multiply),
            operands.constants.eq(settings.constants),
            requantise.once.eq(pool),
            requantise.range_0.zero_point.eq(settings.constants.sum_zero_point),
            requantise.range_0.minimum.eq(settings.constants.sum_min),
            requantise.range_0.maximum.eq(settings.constants.sum_max),
        ]
        m.d.sync += [
            depthwise.eq(settings.depthwise),
            requantise.i_valid.eq((valid_2 & ~two_operands) | operands.o_valid),
        ]
        for i in range(lanes):
            accumulator, lane_bias = (Signal(signed(32), name=f"{name}_{i}", reset_less=True)
                                      for name in ("accumulator", "bias"))
            lane_multiplier = Signal(MULTIPLIER_BITS, name=f"multiplier_{i}", reset_less=True)
            lane_shift = Signal(signed(8), name=f"shift_{i}", reset_less=True)
            m.d.sync += [
                accumulator.eq(values.word_select(i, value_bits(config)).as_signed()),
                lane_bias.eq(Mux(depthwise, parameters.bias[i], 0) | operands.o[i].as_unsigned() | bias.as_unsigned()),
                lane_multiplier.eq(Mux(depthwise, parameters.multiplier[i], 0) | multiplier),
                lane_shift.eq(Mux(depthwise, parameters.shift[i], 0) | shift.as_unsigned()),
            ]
            with m.If(two_operands):
                m.d.sync += accumulator.eq(0)
            m.d.comb += [
                operands.i_a[i].eq(values.word_select(i, value_bits(config))[:8]),
                requantise.i_accumulator[i].eq(accumulator),
                requantise.i_bias[i].eq(lane_bias),
                requantise.i_multiplier[i].eq(lane_multiplier),
                requantise.i_shift[i].eq(lane_shift),
            ]

        m.submodules.table = table = Table(config)
        m.d.comb += [table.write.eq(self.table_write), table.write_index.eq(self.table_index),
                     table.write_data.eq(self.table_data)]
        m.d.comb += [
            table.use.eq(settings.table),
            table.i_valid.eq(requantise.o_valid),
            table.i_value.eq(requantise.o_value),
        ]

        # ---- slices back to words -----------------------------------------------------------------------------------
        done = Signal(range(slices))
        earlier = Signal(8 * config.lanes, reset_less=True)
        word = Signal(8 * config.lanes)
        m.d.comb += [
            word.eq(Cat(earlier, table.o_value)[8 * lanes:]),
            words.w_en.eq(table.o_valid & (done == slices - 1)),
            words.w_data.eq(word),
        ]
        with m.If(table.o_valid):
            m.d.sync += [earlier.eq(word), done.eq(Mux(done == slices - 1, 0, done + 1))]
        return m
