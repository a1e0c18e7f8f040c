"""The drain: finished accumulators -> requantise -> residual ADD, table where there are -> feature memory.

Wave by wave, row by row, pixel by pixel, Q lanes per cycle. Nothing behind the launch can stall: the
feature memory gives the first reader and the first writer their banks at once.
"""

from __future__ import annotations

import functools
import operator

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.activation_table import Table, table_index_bits, table_words
from hw.contract.config import Config
from hw.contract.layouts import table_entries
from hw.conv_engine.pixel_walker import OUTPUT_WAVES, Wave
from hw.conv_engine.row import pixel_bits
from hw.ports import MemoryRead, ReadPort, WritePort, word_address_bits
from hw.requantise import ADD_CONSTANTS, Requantise, ResidualAdd


class Drain(wiring.Component):
    """Empties the rows' finished banks into the feature memory.

    Members
    -------
    start : pulse; the values below are new. add : a residual ADD follows. table : results go through a table at
        parameter entry table_base. output_base, b_base, parameter_base, unrolling, minimum, maximum, constants :
        from the command, stable while it is drained.
    table_* : the walker's writes to the output table.
    wave : one item per wave, taken when all its accumulators are launched.
    drained_valid, drained (per row), selected, pixel, group, release : the rows' drain ports.
    parameters : the parameter memory. skip : the residual's operand b. write : the results.
    empty : nothing is under way behind the launch.
    """

    def __init__(self, config: Config):
        self.config = config
        lanes, q = config.lanes, config.requantise_lanes
        super().__init__({
            "start": In(1),
            "add": In(1),
            "table": In(1),
            "table_base": In(range(config.parameter_entries)),
            "output_base": In(word_address_bits(config)),
            "b_base": In(word_address_bits(config)),
            "parameter_base": In(range(config.parameter_entries)),
            "unrolling": In(range(len(config.unrollings))),
            "constants": In(ADD_CONSTANTS),
            "minimum": In(8),
            "maximum": In(8),
            "table_valid": In(1),
            "table_slot": In(range(OUTPUT_WAVES)),
            "table_index": In((config.wave_pixels - 1).bit_length()),
            "table_data": In(word_address_bits(config)),
            "wave": In(stream.Signature(Wave(config))),
            "drained_valid": In(config.rows),
            "drained": In(32 * q).array(config.rows),
            "selected": Out(config.rows),
            "pixel": Out(pixel_bits(config)),
            "group": Out(range(lanes // q)),
            "release": Out(config.rows),
            "parameters": Out(MemoryRead(config.parameter_entries, 8 * config.parameter_entry_bytes)),
            "skip": Out(ReadPort(config)),
            "write": Out(WritePort(config)),
            "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, q, rows = config.lanes, config.requantise_lanes, config.rows
        groups = lanes // q
        address_bits = word_address_bits(config)
        index_bits = (config.wave_pixels - 1).bit_length()
        rows_log2 = (rows - 1).bit_length()
        row_bits = max(1, rows_log2)
        wave = self.wave.payload

        # ---- the table, word by word, before the first launch ---------------------------------------------
        m.submodules.activation_table = activation_table = Table(config)
        words, word_bits = table_words(config), table_index_bits(config)
        entry_words = words // table_entries(config)  # table words in a parameter entry
        table_at, arriving_at = Signal(range(words + 1), init=words), Signal(word_bits)
        loading, arriving, table_there = Signal(), Signal(), Signal()
        m.d.comb += [
            loading.eq(table_at != words),
            table_there.eq(~(loading | arriving)),
            activation_table.write.eq(arriving),
            activation_table.write_index.eq(arriving_at),
            activation_table.write_data.eq(self.parameters.data.word_select(
                arriving_at % entry_words, 8 * config.weight_word_bytes)),
        ]
        m.d.sync += [arriving.eq(loading), arriving_at.eq(table_at)]
        with m.If(self.start & self.table):
            m.d.sync += table_at.eq(0)
        with m.Elif(loading):
            m.d.sync += table_at.eq(table_at + 1)

        # ---- launch: Q accumulators of one pixel of one row per cycle -------------------------------------
        row = Signal(row_bits)
        pixel_groups_log2 = Signal(range(rows_log2 + 1))
        pixel_groups = Signal(rows_log2 + 1)
        pixel_group = Signal(row_bits)
        block = Signal(row_bits)
        index = Signal(index_bits + 1)  # the pixel's place in the wave
        exists, row_valid, last_group, last_pixel, row_end = (Signal() for _ in range(5))
        launch = Signal()
        output_slot = Signal(range(OUTPUT_WAVES))
        m.d.comb += [
            pixel_groups_log2.eq(rows_log2 - self.unrolling),
            pixel_groups.eq(1 << pixel_groups_log2),
            pixel_group.eq(row & (pixel_groups - 1)),
            block.eq(row >> pixel_groups_log2),
            index.eq((self.pixel << pixel_groups_log2) + pixel_group),
            exists.eq(block < wave.blocks),
            row_valid.eq(self.drained_valid.bit_select(row, 1)),
            last_group.eq(self.group == groups - 1),
            last_pixel.eq(index + pixel_groups >= wave.pixels),
        ]
        m.d.comb += self.selected.eq(1 << row)
        with m.If(self.wave.valid & ~self.start & table_there):
            with m.If(~exists):
                m.d.comb += row_end.eq(1)
            with m.Elif(row_valid):
                m.d.comb += launch.eq(index < wave.pixels)
                with m.If(~launch | (last_group & last_pixel)):  # a row without pixels has nothing to launch
                    m.d.comb += [row_end.eq(1), self.release.bit_select(row, 1).eq(1)]
        pixel = Signal(pixel_bits(config))
        group = Signal(range(groups))
        m.d.comb += [self.pixel.eq(pixel), self.group.eq(group)]
        with m.If(launch):
            m.d.sync += group.eq(group + 1)
            with m.If(last_group):
                m.d.sync += [group.eq(0), pixel.eq(pixel + 1)]
        with m.If(row_end):
            m.d.sync += [pixel.eq(0), row.eq(row + 1)]
            with m.If(row == rows - 1):
                m.d.comb += self.wave.ready.eq(1)
                m.d.sync += [row.eq(0), output_slot.eq(output_slot + 1)]

        # ---- parameters and the output's place ------------------------------------------------------------
        m.submodules.output_table = table = Memory(
            shape=unsigned(address_bits), depth=OUTPUT_WAVES * config.wave_pixels, init=[])
        table_write, table_read = table.write_port(), table.read_port()
        command_block = Signal(16)
        first_1, launch_1 = Signal(), Signal()
        block_1 = Signal(16)
        m.d.comb += [
            table_write.addr.eq(Cat(self.table_index, self.table_slot)),
            table_write.data.eq(self.table_data),
            table_write.en.eq(self.table_valid),
            table_read.addr.eq(Cat(index[:index_bits], output_slot)),
            table_read.en.eq(1),
            command_block.eq(wave.first_block + block),
            self.parameters.address.eq(Mux(loading, self.table_base + table_at // entry_words,
                                           self.parameter_base + command_block * groups + group)),
        ]
        m.d.sync += [launch_1.eq(launch), first_1.eq(launch & (group == 0)), block_1.eq(command_block)]
        accumulators = Signal(32 * q)  # the rows not selected give zeros
        m.d.comb += accumulators.eq(functools.reduce(operator.or_, (self.drained[i] for i in range(rows))))

        place = Signal(address_bits)
        first_2 = Signal()
        m.d.sync += [place.eq(table_read.data + block_1), first_2.eq(first_1)]
        m.submodules.addresses = addresses = SyncFIFOBuffered(width=address_bits, depth=32)
        m.d.comb += [
            addresses.w_en.eq(first_2),
            addresses.w_data.eq(self.output_base + place),
            self.skip.request.valid.eq(first_2 & self.add),
            self.skip.request.payload.eq(self.b_base + place),
        ]

        # ---- requantise -----------------------------------------------------------------------------------
        m.submodules.requantise = requantise = Requantise(q)
        parameters = data.View(data.StructLayout({
            "bias": data.ArrayLayout(32, q), "multiplier": data.ArrayLayout(32, q), "shift": data.ArrayLayout(8, q),
            "unused": 8 * config.parameter_entry_bytes - 72 * q,
        }), self.parameters.data)
        m.d.comb += [
            requantise.i_valid.eq(launch_1),
            requantise.i_accumulator.eq(accumulators),
            requantise.i_bias.eq(parameters.bias),
            requantise.i_multiplier.eq(parameters.multiplier),
            requantise.i_shift.eq(parameters.shift),
            requantise.zero_point.eq(self.constants.a_zero_point),
            requantise.minimum.eq(self.minimum),
            requantise.maximum.eq(self.maximum),
        ]

        # ---- residual ADD: operand b was read while the accumulators were requantised ---------------------
        m.submodules.residual_add = residual_add = ResidualAdd(q)
        m.submodules.operands = operands = SyncFIFOBuffered(width=8 * lanes, depth=16)
        operand_group = Signal(range(groups))
        with m.If(requantise.o_valid & self.add):
            m.d.sync += operand_group.eq(Mux(operand_group == groups - 1, 0, operand_group + 1))
        m.d.comb += [
            operands.w_en.eq(self.skip.data_valid),
            operands.w_data.eq(self.skip.data),
            operands.r_en.eq(requantise.o_valid & self.add & (operand_group == groups - 1)),
            residual_add.i_valid.eq(requantise.o_valid & self.add),
            residual_add.i_a.eq(requantise.o_value),
            residual_add.i_b.eq(operands.r_data.word_select(operand_group, 8 * q)),
            residual_add.constants.eq(self.constants),
        ]

        # ---- gather words and write them ------------------------------------------------------------------
        value_valid = Signal()
        value = Signal(8 * q)
        looked_up = activation_table.o_value.as_value()
        gathered = Signal(8 * lanes)
        gathered_groups = Signal(range(groups))
        complete = Signal()
        m.d.comb += [
            value_valid.eq(Mux(self.add, residual_add.o_valid, requantise.o_valid)),
            value.eq(Mux(self.add, residual_add.o_value.as_value(), requantise.o_value.as_value())),
            complete.eq(gathered_groups == groups - 1),
        ]
        word = Signal(8 * lanes)
        word_valid = Signal()
        m.d.comb += [
            activation_table.use.eq(self.table),
            activation_table.i_valid.eq(value_valid),
            activation_table.i_value.eq(value),
            word.eq(Cat(gathered[8 * q:], looked_up)),
        ]
        m.d.sync += word_valid.eq(0)
        with m.If(activation_table.o_valid):
            m.d.sync += [
                gathered.eq(word),
                gathered_groups.eq(Mux(complete, 0, gathered_groups + 1)),
                word_valid.eq(complete),
            ]
        m.d.comb += [
            self.write.request.valid.eq(word_valid),
            self.write.request.payload.address.eq(addresses.r_data),
            self.write.request.payload.data.eq(gathered),
            addresses.r_en.eq(word_valid),
        ]

        under_way = Signal(7)  # words launched and not yet written
        m.d.sync += under_way.eq(under_way + (launch & (group == 0)) - word_valid)
        m.d.comb += self.empty.eq(under_way == 0)
        return m
