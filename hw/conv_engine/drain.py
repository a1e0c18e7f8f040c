"""The drain: finished accumulators -> requantise -> residual ADD, table where there are -> feature memory.

Wave by wave, row by row, pixel by pixel, Q lanes per cycle. Nothing behind the launch can stall: the
feature memory gives the first reader and the first writer their banks at once. So every step is a fixed number of
cycles behind the launch.

A residual ADD takes its values through the same Requantise a second time: launches then leave every other cycle to
the sums that come back.

    launch -+-> table of places -> places ----------+-> skip: operand b ----v             (places: of the words to be)
            +-> parameters -+                       |                  AddOperands -> sums, back to Requantise
            +-> accumulators +-> Requantise --------+-- operand a ----------^
                                     +-> table -> words -> write, at their places
"""

from __future__ import annotations

import functools
import operator

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.activation_table import TABLE_WORDS, WORD_BYTES, Table
from hw.contract.config import Config
from hw.contract.layouts import table_entries
from hw.conv_engine.pixel_walker import OUTPUT_WAVES, Wave
from hw.conv_engine.row import pixel_bits
from hw.ports import READ_LATENCY, MemoryRead, ReadPort, WritePort, word_address_bits
from hw.requantise import ADD_CONSTANTS, MULTIPLIER_BITS, AddOperands, Requantise, delayed, selected

#: Cycles from a launch to its values at the entry of Requantise: parameter address, its memory, a register.
_REQUANTISE_AT = 4

#: Cycles from a launch to its operand a: a register is between Requantise and it.
_OPERAND_AT = _REQUANTISE_AT + Requantise.LATENCY + 1

#: Cycles from a launch to its sum, at the entry of Requantise again. It must not meet another launch there.
_SUM_AT = _OPERAND_AT + AddOperands.LATENCY + 1
assert (_SUM_AT - _REQUANTISE_AT) % 2 == 1

#: Cycles from a launch to its looked up values with a residual ADD.
_ADDED_VALUE_AT = _SUM_AT + Requantise.LATENCY + Table.LATENCY


class Drain(wiring.Component):
    """Empties the rows' finished banks into the feature memory.

    Members
    -------
    start : pulse; the values below are new. add : a residual ADD follows. table : results go through a table at
        parameter entry table_base. output_base, b_base, parameter_base, unrolling, minimum, maximum, constants :
        from the command, stable while it is drained.
    table_* : the walker's writes to the output table.
    wave : one item per wave, taken when all its accumulators are launched; ready only while valid.
    drained_valid, drained (per row), selected, pixel, group, release : the rows' drain ports; release comes in the
        cycle after the bank's last launch.
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
        entry_words = TABLE_WORDS // table_entries(config)  # table words in a parameter entry
        table_at = Signal(range(TABLE_WORDS + 1), init=TABLE_WORDS)
        loading, table_there = Signal(), Signal(init=1)
        arriving = [loading]
        for _ in range(4):  # the address, the memory, its entry, the word
            arriving.append(delayed(m, arriving[-1], 1, reset_less=False))
        arriving_at = delayed(m, table_at[:-1], 3)
        m.d.comb += [
            loading.eq(~table_at[-1]),  # the bit of TABLE_WORDS
            activation_table.write.eq(arriving[-1]),
            activation_table.write_index.eq(delayed(m, arriving_at, 1)),
        ]
        m.d.sync += activation_table.write_data.eq(
            delayed(m, self.parameters.data, 1).word_select(arriving_at % entry_words, 8 * WORD_BYTES))
        assert TABLE_WORDS & (TABLE_WORDS - 1) == 0
        m.d.sync += table_there.eq(~Cat(arriving).any())
        with m.If(self.start & self.table):
            m.d.sync += [table_at.eq(0), table_there.eq(0)]
        with m.Elif(loading):
            m.d.sync += table_at.eq(table_at + 1)

        # ---- launch: Q accumulators of one pixel of one row per cycle, with ADD every other ---------------
        row, next_row = Signal(row_bits), Signal(row_bits)
        pixel_groups = Signal(rows_log2 + 1)
        next_group = Signal(row_bits)
        block = Signal(row_bits)
        index = Signal(index_bits + 1)  # the pixel's place in the wave
        following = Signal(index_bits + 2)  # that of the row's next pixel
        exists, row_valid, has_pixel, last_group, last_pixel, row_end = (Signal() for _ in range(6))
        last_launch = Signal()  # of the row, if it launches
        working, turn, launch = Signal(), Signal(), Signal()
        output_slot = Signal(range(OUTPUT_WAVES))
        groups_log2 = Signal(range(rows_log2 + 1))  # of pixel groups
        groups_mask = Signal(row_bits)  # of the bits of a row that number its pixel group
        m.d.sync += turn.eq(~turn)
        m.d.comb += [
            pixel_groups.eq(rows >> self.unrolling),
            next_row.eq((row + 1)[:rows_log2]),
            groups_mask.eq(pixel_groups - 1),
            next_group.eq(next_row & groups_mask),
            groups_log2.eq(rows_log2 - self.unrolling),
            block.eq(row >> groups_log2),
            exists.eq(block < wave.blocks),
            # A single row comes again at once, and still shows the bank that is released.
            row_valid.eq(self.drained_valid.bit_select(row, 1) & (~self.release if rows == 1 else 1)),
            has_pixel.eq(index < wave.pixels),
            last_group.eq(self.group == groups - 1),
            last_pixel.eq(following >= wave.pixels),
            last_launch.eq((turn | ~self.add) & last_group & last_pixel),
            working.eq(self.wave.valid & ~self.start & table_there),
            launch.eq(working & exists & row_valid & has_pixel & (turn | ~self.add)),
        ]
        with m.If(turn | ~self.add):
            m.d.comb += self.selected.eq(1 << row)
        m.d.sync += self.release.eq(0)  # from registers, as it goes to many of each row
        with m.If(working):
            with m.If(~exists):
                m.d.comb += row_end.eq(1)
            with m.Elif(row_valid & (~has_pixel | last_launch)):
                # A row without pixels has nothing to launch.
                m.d.comb += row_end.eq(1)
                m.d.sync += self.release.bit_select(row, 1).eq(1)
        pixel = Signal(pixel_bits(config))
        group = Signal(range(groups))
        m.d.comb += [self.pixel.eq(pixel), self.group.eq(group)]
        with m.If(launch):
            m.d.sync += group.eq(group + 1)
            with m.If(last_group):
                m.d.sync += [group.eq(0), pixel.eq(pixel + 1), index.eq(following),
                             following.eq(following + pixel_groups)]
        with m.If(row_end):
            m.d.sync += [pixel.eq(0), row.eq(next_row), index.eq(next_group), following.eq(next_group + pixel_groups)]
            with m.If(row == rows - 1):
                m.d.comb += self.wave.ready.eq(1)
                m.d.sync += output_slot.eq(output_slot + 1)
        with m.If(self.start):
            m.d.sync += [index.eq(0), following.eq(pixel_groups)]

        # ---- parameters and the output's place: their memories answer into registers ----------------------
        m.submodules.output_table = table = Memory(
            shape=unsigned(address_bits), depth=OUTPUT_WAVES * config.wave_pixels, init=[])
        table_write, table_read = table.write_port(), table.read_port()
        command_block = Signal(16)
        m.d.comb += [
            table_write.addr.eq(Cat(self.table_index, self.table_slot)),
            table_write.data.eq(self.table_data),
            table_write.en.eq(self.table_valid),
            table_read.addr.eq(Cat(index[:index_bits], output_slot)),
            table_read.en.eq(1),
        ]
        m.d.sync += command_block.eq(wave.first_block + block)
        group_1 = delayed(m, group, 1)
        entry = Cat(group_1, command_block)
        m.d.sync += self.parameters.address.eq(Mux(loading, self.table_base, self.parameter_base)
                                               + Mux(loading, table_at // entry_words, entry))
        place_3 = Signal(address_bits)
        m.d.sync += place_3.eq(delayed(m, table_read.data, 1) + delayed(m, command_block, 1))
        first = delayed(m, launch & (group == 0), 3, reset_less=False)
        # So that the word is there, in a register, with operand a, and its part selected with operand b.
        operand_request = _OPERAND_AT - READ_LATENCY - 1
        place_skip = delayed(m, place_3, operand_request - 4)
        m.d.sync += [
            self.skip.request.valid.eq(delayed(m, first, operand_request - 4, reset_less=False) & self.add),
            self.skip.request.payload.eq(self.b_base + place_skip),
        ]
        # Words are written in the order of their launches. With ADD there are half as many at a time, twice as long.
        words_there = _ADDED_VALUE_AT // (2 * groups)
        m.submodules.places = places = fifo.SyncFIFO(width=address_bits, depth=1 << words_there.bit_length())
        m.d.comb += [places.w_en.eq(first), places.w_data.eq(place_3)]

        # ---- requantise: accumulators, and in between the sums of a residual ADD --------------------------
        m.submodules.requantise = requantise = Requantise(q)
        m.submodules.operands = operands = AddOperands(q, multiply=False)
        constants = self.constants
        accumulators = Signal(data.ArrayLayout(signed(32), q), reset_less=True)
        # The rows that are not selected give zeros, and the selected one its sums two cycles later.
        drained_row = functools.reduce(operator.or_, (self.drained[i] for i in range(rows)))
        m.d.sync += accumulators.eq(delayed(m, drained_row, _REQUANTISE_AT - 3))
        with m.If(operands.o_valid):
            m.d.sync += accumulators.eq(0)
        parameters = data.View(data.StructLayout({
            "bias": data.ArrayLayout(32, q), "multiplier": data.ArrayLayout(32, q), "shift": data.ArrayLayout(8, q),
            "unused": 8 * config.parameter_entry_bytes - 72 * q,
        }), self.parameters.data)
        m.d.sync += [
            requantise.i_valid.eq(delayed(m, launch, _REQUANTISE_AT - 1, reset_less=False) | operands.o_valid),
            requantise.i_range.eq(operands.o_valid),
        ]
        for i in range(q):
            bias, multiplier, shift = (Signal(bits, name=f"{name}_{i}", reset_less=True) for name, bits in (
                ("bias", 32), ("multiplier", MULTIPLIER_BITS), ("shift", 8)))
            m.d.sync += [
                bias.eq(Mux(operands.o_valid, operands.o[i], parameters.bias[i])),
                multiplier.eq(Mux(operands.o_valid, constants.sum_multiplier, parameters.multiplier[i])),
                shift.eq(Mux(operands.o_valid, constants.sum_shift, parameters.shift[i])),
            ]
            m.d.comb += [
                requantise.i_bias[i].eq(bias),
                requantise.i_multiplier[i].eq(multiplier),
                requantise.i_shift[i].eq(shift),
            ]
        m.d.comb += [
            requantise.i_accumulator.eq(accumulators),
            requantise.range_0.zero_point.eq(constants.a_zero_point),
            requantise.range_0.minimum.eq(self.minimum),
            requantise.range_0.maximum.eq(self.maximum),
            requantise.range_1.zero_point.eq(constants.sum_zero_point),
            requantise.range_1.minimum.eq(constants.sum_min),
            requantise.range_1.maximum.eq(constants.sum_max),
        ]

        # ---- residual ADD: operand b was read while the accumulators were requantised ---------------------
        operand_word = Signal(8 * lanes, reset_less=True)
        operand_group = Signal(range(groups))
        with m.If(self.skip.data_valid):
            m.d.sync += operand_word.eq(self.skip.data)
        m.d.comb += [
            operands.i_valid.eq(delayed(m, requantise.o_valid & ~requantise.o_range & self.add, 1, reset_less=False)),
            operands.i_a.eq(delayed(m, requantise.o_value, 1)),
            operands.i_b.eq(selected(m, [operand_word.word_select(i, 8 * q) for i in range(groups)], operand_group,
                                     "operand_b")),
            operands.constants.eq(constants),
        ]
        with m.If(delayed(m, operands.i_valid, 1, reset_less=False)):
            m.d.sync += operand_group.eq(Mux(operand_group == groups - 1, 0, operand_group + 1))

        # ---- gather words and write them ------------------------------------------------------------------
        looked_up = activation_table.o_value.as_value()
        gathered = Signal(8 * lanes)
        gathered_groups = Signal(range(groups))
        complete = Signal()
        m.d.comb += complete.eq(gathered_groups == groups - 1)
        word = Signal(8 * lanes)
        word_valid = Signal()
        m.d.comb += [
            activation_table.use.eq(self.table),
            activation_table.i_valid.eq(requantise.o_valid & (requantise.o_range | ~self.add)),
            activation_table.i_value.eq(requantise.o_value),
            word.eq(Cat(gathered[8 * q:], looked_up)),
        ]
        address = Signal(address_bits)
        m.d.comb += places.r_en.eq(activation_table.o_valid & complete)
        m.d.sync += [word_valid.eq(0), address.eq(self.output_base + places.r_data)]
        with m.If(activation_table.o_valid):
            m.d.sync += [
                gathered.eq(word),
                gathered_groups.eq(Mux(complete, 0, gathered_groups + 1)),
                word_valid.eq(complete),
            ]
        m.d.comb += [
            self.write.request.valid.eq(word_valid),
            self.write.request.payload.address.eq(address),
            self.write.request.payload.data.eq(gathered),
        ]

        under_way = Signal(7)  # words launched and not yet written
        m.d.sync += under_way.eq(under_way + (launch & (group == 0)) - word_valid)
        m.d.comb += self.empty.eq(under_way == 0)
        enable = Signal()
        m.d.sync += enable.eq(~self.empty)
        m.d.comb += [requantise.enable.eq(enable), operands.enable.eq(enable)]
        return m
