"""The conv engine: one command at a time, from its fields to its last word in the feature memory.

    command -> setup -> pixel walker -+-> activation fetch --words--> rows --accumulators--> drain -> writes
                                      +-> tile loader ------tiles-----^                       ^
                                      +-------------------------waves-------------------------+
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Out

from hw.contract.commands import Engine, Flag, Opcode
from hw.contract.config import KERNEL_MAX, Config
from hw.contract.registers import Error
from hw.conv_engine.activation_fetch import ActivationFetch
from hw.conv_engine.drain import Drain
from hw.conv_engine.pixel_walker import OUTPUT_WAVES, PixelWalker, Wave, byte_address_bits
from hw.conv_engine.row import Row, count_ones
from hw.conv_engine.tile_loader import TileLoader
from hw.ports import ByteReadPort, EnginePort, MemoryRead, ReadPort, WritePort, command_layout

#: Counters that add up what the rows report in a cycle.
_ROW_COUNTERS = {
    "issued": "issued",
    "issued_last": "issued_last",
    "skipped_weight": "skipped",
    "skipped_weight_last": "skipped_last",
    "stalled_fetch": "stalled_fetch",
    "stalled_weight": "stalled_weight",
    "stalled_drain": "stalled_drain",
}


class ConvEngine(wiring.Component):
    """R rows x L lanes, with everything that feeds and empties them.

    Members
    -------
    engine : commands, counters, errors. progress : something was computed in this cycle.
    fetch_0, fetch_1 (as `fetch_ports` says), skip, write : the feature memory; skip must be its first
        reader, write its first writer.
    weights, maps, parameters, mask : the private memories, data in the cycle after the address.
    """

    def __init__(self, config: Config):
        self.config = config
        fetch = {f"fetch_{i}": Out(ByteReadPort(config)) for i in range(config.fetch_ports)}
        super().__init__({
            "engine": Out(EnginePort(Engine.CONV)),
            "progress": Out(1),
            **fetch,
            "skip": Out(ReadPort(config)),
            "write": Out(WritePort(config)),
            "weights": Out(MemoryRead(config.weight_words, 8 * config.weight_word_bytes)),
            "maps": Out(MemoryRead(config.map_entries, 64)),
            "parameters": Out(MemoryRead(config.parameter_entries, 8 * config.parameter_entry_bytes)),
            "mask": Out(MemoryRead(config.mask_words, 64)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows = config.rows
        command = data.View(command_layout(Opcode.CONV), self.engine.command.payload)
        flags = command.flags
        packed = flags & Flag.PACKED != 0

        m.submodules.walker = walker = PixelWalker(config)
        m.submodules.fetch = fetch = ActivationFetch(config)
        m.submodules.tiles = tiles = TileLoader(config)
        m.submodules.drain = drain = Drain(config)

        # ---- setup: the products that the walk needs, one per cycle through one multiplier ----------------
        address_bits = byte_address_bits(config)
        product = Signal(signed(36))
        kernel_positions, steps = Signal(16), Signal(24)
        first_y = Signal(signed(18))
        step_y, step_x, row_step, pixel_step = (Signal(address_bits, name=name) for name in
                                                ("step_y", "step_x", "row_step", "pixel_step"))
        left_offset, first_offset, output_offset = (Signal(address_bits, name=name) for name in
                                                    ("left_offset", "first_offset", "output_offset"))
        products = [  # (factors, what takes the product); a product is there two steps later
            (command.kernel_height, command.kernel_width, [kernel_positions.eq(product)]),
            (command.output_y, command.stride_y, [first_y.eq(product - command.pad_top)]),
            (command.dilation_y, command.input_row_stride, [step_y.eq(product)]),
            (command.dilation_x, command.input_pixel_stride, [step_x.eq(product)]),
            (command.stride_y, command.input_row_stride, [row_step.eq(product)]),
            (command.stride_x, command.input_pixel_stride, [pixel_step.eq(product)]),
            (command.pad_left, command.input_pixel_stride, [left_offset.eq(product)]),
            (command.output_y, command.output_row_stride, [output_offset.eq(product)]),
            (kernel_positions, command.input_blocks, [steps.eq(product)]),
            (first_y, command.input_row_stride, [first_offset.eq(product)]),
        ]
        setup_step = Signal(range(len(products) + 3))
        factor_a, factor_b = Signal(signed(18)), Signal(signed(18))
        m.d.sync += product.eq(factor_a * factor_b)
        with m.Switch(setup_step):
            for i in range(len(products) + 2):
                with m.Case(i):
                    if i < len(products):
                        m.d.sync += [factor_a.eq(products[i][0]), factor_b.eq(products[i][1])]
                    if i >= 2:
                        m.d.sync += products[i - 2][2]

        # ---- limits ---------------------------------------------------------------------------------------
        def between(value, low, high):
            return (value >= low) & (value <= high)

        layout_fits, addition_fits, acceptable = Signal(), Signal(), Signal()
        with m.If(packed):
            m.d.comb += layout_fits.eq(Cat(
                command.kernel_width == 1, command.pad_top == 0, command.pad_left == 0,
                between(command.last_lanes, 1, config.lanes),
            ).all())
        with m.Else():
            m.d.comb += layout_fits.eq(between(command.kernel_width, 1, KERNEL_MAX)
                                       & (command.last_lanes == config.lanes))
        m.d.comb += [
            addition_fits.eq(Cat(
                Cat(command[f"{name}_multiplier"][31] == 0, between(command[f"{name}_shift"], -31, 31))
                for name in ("a", "b", "sum")).all()),
            acceptable.eq(Cat(
                flags & ~(Flag.GATED | Flag.PACKED | Flag.ADD).value == 0,
                layout_fits, addition_fits | (flags & Flag.ADD == 0),
                between(command.kernel_height, 1, KERNEL_MAX), command.input_height != 0, command.input_width != 0,
                command.stride_y != 0, command.stride_x != 0, command.dilation_y != 0, command.dilation_x != 0,
                command.input_blocks != 0, command.unrolling < len(config.unrollings),
                command.output_rows != 0, command.output_width != 0, command.output_blocks != 0,
            ).all()),
        ]

        refused = Signal()
        m.d.comb += self.engine.error.eq(Cat(refused, Const(Error.BAD_COMMAND, 8), Const(0, 32)))

        # ---- one command ----------------------------------------------------------------------------------
        start = Signal()
        waves = Signal(range(OUTPUT_WAVES + 2))  # waves between walker and drain
        counters = self.engine.counters
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += setup_step.eq(0)
                with m.If(self.engine.command.valid):
                    with m.If(acceptable):
                        m.next = "SETUP"
                    with m.Else():
                        m.d.comb += refused.eq(1)
            with m.State("SETUP"):
                m.d.sync += setup_step.eq(setup_step + 1)
                with m.If(setup_step == len(products) + 2):  # the last sum is registered
                    m.next = "START"
            with m.State("START"):
                m.d.comb += start.eq(1)
                m.d.sync += [counters[name].eq(0) for name in _ROW_COUNTERS]
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(walker.done & (waves == 0) & drain.empty):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += self.engine.command.ready.eq(1)
                m.next = "IDLE"
        first_address = Signal(address_bits)
        output_base, b_base = Signal.like(drain.output_base), Signal.like(drain.b_base)
        m.d.sync += [
            first_address.eq(command.input_base + first_offset - left_offset),
            output_base.eq(command.output_base + output_offset),
            b_base.eq(command.b_base + output_offset),
        ]
        m.d.comb += counters.active_pixels.eq(walker.active_pixels)

        # ---- pixel walker ---------------------------------------------------------------------------------
        m.d.comb += [
            walker.start.eq(start),
            walker.gated.eq(flags & Flag.GATED != 0),
            walker.first_y.eq(first_y),
            walker.first_address.eq(first_address),
            walker.row_step.eq(row_step),
            walker.pixel_step.eq(pixel_step),
            *(getattr(walker, name).eq(command[name]) for name in (
                "output_rows", "output_width", "output_blocks", "mask_base", "unrolling", "stride_y", "stride_x",
                "pad_left", "output_row_stride", "output_pixel_stride")),
        ]
        wiring.connect(m, walker.mask, wiring.flipped(self.mask))

        # ---- waves to their three consumers ---------------------------------------------------------------
        consumers = []
        for name, consumer in (("fetch", fetch), ("tiles", tiles), ("drain", drain)):
            queue = SyncFIFOBuffered(width=Wave(config).size, depth=OUTPUT_WAVES)
            m.submodules[f"{name}_waves"] = queue
            m.d.comb += [
                queue.w_data.eq(walker.wave.payload),
                queue.w_en.eq(walker.wave.valid & walker.wave.ready),
                consumer.wave.valid.eq(queue.r_rdy),
                queue.r_en.eq(consumer.wave.ready),
            ]
            if consumer is not tiles:
                m.d.comb += consumer.wave.payload.eq(queue.r_data)
            consumers.append(queue)
        wave = data.View(Wave(config), consumers[1].r_data)
        m.d.comb += [
            walker.wave.ready.eq(Cat(queue.w_rdy for queue in consumers).all()),
            *(tiles.wave.payload[name].eq(wave[name]) for name in ("blocks", "last_in_group", "last_group")),
            walker.input_freed.eq(fetch.wave.valid & fetch.wave.ready),
            walker.output_freed.eq(drain.wave.valid & drain.wave.ready),
        ]
        m.d.sync += waves.eq(waves + (walker.wave.valid & walker.wave.ready) - walker.output_freed)

        # ---- activation fetch -----------------------------------------------------------------------------
        m.d.comb += [
            fetch.packed.eq(packed),
            fetch.step_y.eq(step_y),
            fetch.step_x.eq(step_x),
            fetch.step_block.eq(Mux(packed, config.lanes, 1)),
            fetch.zero_point.eq(command.input_zero_point),
            *(getattr(fetch, name).eq(command[name]) for name in (
                "kernel_height", "kernel_width", "input_blocks", "last_lanes", "input_height", "input_width",
                "dilation_y", "dilation_x", "unrolling")),
            fetch.table_valid.eq(walker.input_write.valid),
            fetch.table_slot.eq(walker.input_write.slot),
            fetch.table_index.eq(walker.input_write.index),
            fetch.table_data.eq(walker.input_write.data),
        ]
        for i in range(config.fetch_ports):
            wiring.connect(m, getattr(fetch, f"port_{i}"), wiring.flipped(getattr(self, f"fetch_{i}")))

        # ---- tile loader ----------------------------------------------------------------------------------
        m.d.comb += [
            tiles.start.eq(start),
            tiles.weight_base.eq(command.weight_base),
            tiles.map_base.eq(command.map_base),
            tiles.steps.eq(steps),
            tiles.unrolling.eq(command.unrolling),
        ]
        wiring.connect(m, tiles.weights, wiring.flipped(self.weights))
        wiring.connect(m, tiles.maps, wiring.flipped(self.maps))

        # ---- rows -----------------------------------------------------------------------------------------
        row_list = []
        for i in range(rows):
            m.submodules[f"row_{i}"] = row = Row(config)
            row_list.append(row)
            m.d.comb += [
                row.word_valid.eq(fetch.word_valid[i]),
                row.word.eq(fetch.word[i]),
                fetch.word_taken[i].eq(row.word_taken),
                row.tile_valid.eq(tiles.tile_valid[i]),
                row.tile.eq(tiles.tile),
                tiles.released[i].eq(row.tile_released),
                row.zero_point.eq(command.input_zero_point),
                drain.drained_valid[i].eq(row.drained_valid),
                drain.drained[i].eq(row.drained),
                row.drain_pixel.eq(drain.pixel),
                row.drain_group.eq(drain.group),
                row.drain_release.eq(drain.release[i]),
            ]
        running = Signal()
        m.d.comb += running.eq(waves != 0)
        for counter, member in _ROW_COUNTERS.items():
            reports = [getattr(row, member) for row in row_list]
            total = Signal(range(sum((1 << len(report)) - 1 for report in reports) + 1), name=f"rows_{counter}")
            if len(reports[0]) == 1:
                m.d.sync += total.eq(count_ones(m, Cat(reports), f"{counter}_now"))
            else:
                m.d.sync += total.eq(sum(reports))
            if counter.startswith("stalled"):
                with m.If(running):
                    m.d.sync += counters[counter].eq(counters[counter] + total)
            else:
                with m.If(~start):
                    m.d.sync += counters[counter].eq(counters[counter] + total)
        m.d.comb += self.progress.eq(Cat(row.issued | row.issued_last for row in row_list).any() | ~drain.empty
                                     | walker.wave.valid)

        # ---- drain ----------------------------------------------------------------------------------------
        constants = drain.constants
        m.d.comb += [
            drain.add.eq(flags & Flag.ADD != 0),
            drain.output_base.eq(output_base),
            drain.b_base.eq(b_base),
            drain.parameter_base.eq(command.parameter_base),
            drain.unrolling.eq(command.unrolling),
            drain.minimum.eq(command.output_min),
            drain.maximum.eq(command.output_max),
            constants.a_zero_point.eq(command.output_zero_point),
            *(constants[name].eq(command[name]) for name in (
                "a_multiplier", "b_multiplier", "sum_multiplier", "a_shift", "b_shift", "sum_shift", "b_zero_point",
                "sum_zero_point", "sum_min", "sum_max")),
            drain.table_valid.eq(walker.output_write.valid),
            drain.table_slot.eq(walker.output_write.slot),
            drain.table_index.eq(walker.output_write.index),
            drain.table_data.eq(walker.output_write.data),
        ]
        wiring.connect(m, drain.parameters, wiring.flipped(self.parameters))
        wiring.connect(m, drain.skip, wiring.flipped(self.skip))
        wiring.connect(m, drain.write, wiring.flipped(self.write))
        return m
