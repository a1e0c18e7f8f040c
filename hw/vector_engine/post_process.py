"""From reduced words to int8 words: operands scaled and summed, or a sum divided; then clamped and stored."""

from __future__ import annotations

from amaranth import Cat, Const, EnableInserter, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.activation_table import Table, table_index_bits
from hw.contract.config import Config
from hw.ports import MemoryRead, WritePort, word_address_bits
from hw.requantise import MULTIPLIER_BITS, Requantise, ScaleOperand, delayed, under_way
from hw.vector_engine.reciprocal import reciprocals, stored_bits, table_bits
from hw.vector_engine.reduce import Reduced, value_bits
from hw.vector_engine.settings import Settings

#: From a slice of a word to its values, for ADD, which takes longest.
LATENCY = 1 + ScaleOperand.LATENCY + Requantise.LATENCY + Table.LATENCY

#: Of a product of two operands.
_MULTIPLY_LATENCY = 2


class PostProcess(wiring.Component):
    """Q lanes per cycle, hence a word every L / Q cycles. All paths end in the same Requantise:

    ADD: (a, b) -> ScaleOperand -> accumulator, bias, with the sum's multiplier. Pools: value * 2^J ->
    accumulator, with the reciprocal of the number of taps (see `reciprocal`); a maximum is divided by one.
    MUL: a * b -> accumulator. MEAN: value -> accumulator, with a bias and the sum's multiplier.
    DEPTHWISE: value -> accumulator, with bias, multiplier and shift from the parameter memory.

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
            "table_index": In(table_index_bits(config)),
            "table_data": In(8 * config.weight_word_bytes),
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

        # ---- slices of a word, one per cycle ---------------------------------------------------------------------
        at = Signal(range(slices))
        issue = Signal()
        m.d.comb += [
            issue.eq(result.valid & ((at != 0) | addresses.w_rdy)),
            addresses.w_en.eq(issue & (at == 0)),
            addresses.w_data.eq(result.payload.output),
            result.ready.eq(issue & (at == slices - 1)),
        ]
        with m.If(issue):
            m.d.sync += at.eq(Mux(at == slices - 1, 0, at + 1))
        valid = delayed(m, issue, 1, reset_less=False)
        values = Signal(data.ArrayLayout(signed(value_bits(config)), lanes), reset_less=True)
        b = Signal(data.ArrayLayout(signed(8), lanes), reset_less=True)
        m.d.sync += [values.eq(result.payload.values[at]), b.eq(result.payload.b[at])]

        # ---- reciprocal of the number of taps: its table answers when the slice is in `values` ------------------
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
        pool_multiplier = Cat(Const(0, MULTIPLIER_BITS - 1 - stored_bits(config)), entry.data, Const(1, 1))
        pool_shift = Signal(signed(8))
        m.d.comb += pool_shift.eq(1 - table_bits(config) - divisor_bits)

        # ---- parameters of DEPTHWISE: entries of a channel block, and of the next when the pass changes -----------
        entry_bits = len(self.parameters.address)
        block_entry, of_parity, changed = Signal(entry_bits), Signal(), Signal()
        block_now = Signal(entry_bits)
        m.d.comb += [
            changed.eq(result.payload.parity != of_parity),
            block_now.eq(block_entry + Mux(changed, slices, 0)),
            self.parameters.address.eq(block_now + at),
        ]
        with m.If(self.start):
            m.d.sync += [block_entry.eq(settings.parameter_base), of_parity.eq(0)]
        with m.Elif(issue):
            m.d.sync += [block_entry.eq(block_now), of_parity.eq(result.payload.parity)]
        parameters = data.View(data.StructLayout({
            "bias": data.ArrayLayout(signed(32), lanes),
            "multiplier": data.ArrayLayout(unsigned(32), lanes),
            "shift": data.ArrayLayout(signed(8), lanes),
            "unused": unsigned(8 * config.parameter_entry_bytes - 72 * lanes),
        }), self.parameters.data)

        # ---- both paths, and where they meet -----------------------------------------------------------------------
        scaled = {}
        scaling, scaled_valid = under_way(m, valid & settings.add, ScaleOperand.LATENCY)
        for name, operand in (("a", values), ("b", b)):
            scale = ScaleOperand(lanes)
            m.submodules[f"scale_{name}"] = EnableInserter(scaling)(scale)
            scaled[name] = scale.o
            m.d.comb += [scale.i[i].eq(operand[i]) for i in range(lanes)]
            m.d.comb += [
                scale.zero_point.eq(settings.constants[f"{name}_zero_point"]),
                scale.multiplier.eq(settings.constants[f"{name}_multiplier"]),
                scale.shift.eq(settings.constants[f"{name}_shift"]),
            ]
        product_valid = delayed(m, valid & settings.multiply, _MULTIPLY_LATENCY, reset_less=False)
        m.submodules.table = table = Table(config)
        m.d.comb += [table.write.eq(self.table_write), table.write_index.eq(self.table_index),
                     table.write_data.eq(self.table_data)]
        m.submodules.requantise = requantise = Requantise(lanes)
        m.d.comb += [
            requantise.i_valid.eq(Mux(settings.add, scaled_valid, Mux(settings.multiply, product_valid, valid))),
            requantise.zero_point.eq(settings.constants.sum_zero_point),
            requantise.minimum.eq(settings.constants.sum_min),
            requantise.maximum.eq(settings.constants.sum_max),
        ]
        for i in range(lanes):
            with m.If(settings.add):
                m.d.comb += [
                    requantise.i_accumulator[i].eq(scaled["a"][i]),
                    requantise.i_bias[i].eq(scaled["b"][i]),
                    requantise.i_multiplier[i].eq(settings.constants.sum_multiplier),
                    requantise.i_shift[i].eq(settings.constants.sum_shift),
                ]
            with m.Elif(settings.multiply):
                factor_a, factor_b = (Signal(signed(9), name=f"factor_{name}_{i}", reset_less=True) for name in "ab")
                product = Signal(signed(18), name=f"product_{i}", reset_less=True)
                m.d.sync += [
                    factor_a.eq(values[i][:8].as_signed() - settings.constants.a_zero_point),
                    factor_b.eq(b[i] - settings.constants.b_zero_point),
                    product.eq(factor_a * factor_b),
                ]
                m.d.comb += [
                    requantise.i_accumulator[i].eq(product),
                    requantise.i_multiplier[i].eq(settings.constants.sum_multiplier),
                    requantise.i_shift[i].eq(settings.constants.sum_shift),
                ]
            with m.Elif(settings.mean):
                m.d.comb += [
                    requantise.i_accumulator[i].eq(values[i]),
                    requantise.i_bias[i].eq(settings.bias),
                    requantise.i_multiplier[i].eq(settings.constants.sum_multiplier),
                    requantise.i_shift[i].eq(settings.constants.sum_shift),
                ]
            with m.Elif(settings.depthwise):
                m.d.comb += [
                    requantise.i_accumulator[i].eq(values[i]),
                    requantise.i_bias[i].eq(parameters.bias[i]),
                    requantise.i_multiplier[i].eq(parameters.multiplier[i]),
                    requantise.i_shift[i].eq(parameters.shift[i]),
                ]
            with m.Else():
                m.d.comb += [
                    requantise.i_accumulator[i].eq(values[i] << table_bits(config)),
                    requantise.i_multiplier[i].eq(pool_multiplier),
                    requantise.i_shift[i].eq(pool_shift),
                ]

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
