"""The conv engine: from a command's fields to its last word in the feature memory.

    command -> setup -> pixel walker -+-> activation fetch --words--> rows --accumulators--> drain -> writes
                                      +-> tile loader ------tiles-----^                       ^
                                      +-------------------------waves-------------------------+

Three commands can be under way, each in a stage of its own with the settings it needs: one is set up and walked,
the one before it computes, the one before that is drained. Waves carry the number of their command; a stage takes
only those of its own. A command may therefore fetch activations while the one before it is not yet written; one
that reads what that one writes is ORDERED and waits.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.contract.commands import Engine, Flag, Opcode
from hw.contract.config import Config
from hw.contract.registers import Error
from hw.conv_engine.activation_fetch import ActivationFetch, FetchTag
from hw.conv_engine.bits import count_ones
from hw.conv_engine.drain import Drain
from hw.conv_engine.pixel_walker import OUTPUT_WAVES, PixelWalker, Wave
from hw.conv_engine.row import Row
from hw.conv_engine.setup import CommandSetup, ComputeSettings, DrainSettings
from hw.conv_engine.tile_loader import TileLoader
from hw.ports import ByteReadPort, EnginePort, MemoryRead, ReadPort, WritePort, command_layout
from hw.register_slice import RegisterSlice

#: Counters that add up what the rows report in a cycle, each row one at most.
_ROW_COUNTERS = ("issued", "issued_last", "stalled_fetch", "stalled_weight", "stalled_drain")

#: Counters of the activations that were sent to the rows and not issued: what was sent, what is subtracted.
_SKIPPED = {"skipped_weight": ("nonzero", "issued"), "skipped_weight_last": ("nonzero_last", "issued_last")}

#: Bits of a command's number among those under way: three stages.
NUMBER_BITS = 2

#: Cycles that everything must be idle until what the rows report has reached the counters.
SETTLING = 3


class ConvEngine(wiring.Component):
    """R rows x L lanes, with everything that feeds and empties them.

    Members
    -------
    engine : commands, counters, errors. progress : something was computed in the cycle before.
    weights_taken : the vector engine reads the weight store in this cycle.
    fetch_0, fetch_1 (as `fetch_ports` says), skip, write : the feature memory; skip must be its first
        reader, write its first writer.
    maps, parameters, mask, weights : the private memories, data in the cycle after the address, of `weights` in the
        next.
    """

    def __init__(self, config: Config):
        self.config = config
        fetch = {f"fetch_{i}": Out(ByteReadPort(config, FetchTag(config).size)) for i in range(config.fetch_ports)}
        super().__init__({
            "engine": Out(EnginePort(Engine.CONV)),
            "progress": Out(1),
            **fetch,
            "skip": Out(ReadPort(config)),
            "write": Out(WritePort(config)),
            "weights": Out(MemoryRead(config.weight_words, 8 * config.weight_word_bytes)),
            "weights_taken": In(1),
            "maps": Out(MemoryRead(config.map_entries, 64)),
            "parameters": Out(MemoryRead(config.parameter_entries, 8 * config.parameter_entry_bytes)),
            "mask": Out(MemoryRead(config.mask_words, 64)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows = config.rows
        command = data.View(command_layout(Opcode.CONV), self.engine.command.payload)

        m.submodules.setup = setup = CommandSetup(config)
        m.submodules.walker = walker = PixelWalker(config)
        # Between the walker and the queues of its waves, which lie far from it.
        m.submodules.waves = waves = RegisterSlice(Wave(config))
        m.submodules.fetch = fetch = ActivationFetch(config)
        m.submodules.tiles = tiles = TileLoader(config)
        m.submodules.drain = drain = Drain(config)
        computing = Signal(ComputeSettings(config), reset_less=True)
        draining = Signal(DrainSettings(config), reset_less=True)

        # ---- stage 1: a command is set up and walked ------------------------------------------------------
        refused, start, walked = Signal(), Signal(), Signal()
        number = Signal(NUMBER_BITS)  # of the command being walked
        entered = Signal()  # it computes, too
        setting_up = Signal()
        told = Signal()
        m.d.sync += told.eq(refused)
        m.d.comb += [
            setup.command.eq(command),
            self.engine.error.eq(Cat(told, Const(Error.BAD_COMMAND, 8), Const(0, 32))),
            self.engine.command.ready.eq(walked),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.engine.command.valid):
                    m.d.sync += setting_up.eq(1)
                    m.next = "SETUP"
            with m.State("SETUP"):
                with m.If(~setup.acceptable):
                    m.d.comb += refused.eq(1)
                with m.Elif(setup.walk_known):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += start.eq(1)
                m.next = "WALK"
            with m.State("WALK"):
                with m.If(walker.done & ~waves.o.valid & entered):
                    m.d.comb += walked.eq(1)
                    m.next = "IDLE"

        # ---- stage 2: it computes -------------------------------------------------------------------------
        computes = Signal()
        compute_number = Signal(NUMBER_BITS)
        compute_walked = Signal()  # all its waves are known
        active_pixels = Signal(32)
        enter, leave = Signal(), Signal()
        waiting = Signal()  # set up, and has not begun to compute
        ordered = Signal()
        drains = Signal()
        drain_number = Signal(NUMBER_BITS)
        m.d.comb += [
            ordered.eq(command.flags & Flag.ORDERED != 0),
            enter.eq(waiting & ~computes & ~(ordered & drains)),
        ]
        m.d.comb += setup.run.eq(setting_up)
        with m.If(setup.done):
            m.d.sync += [setting_up.eq(0), waiting.eq(1)]
        with m.If(enter):
            m.d.sync += [waiting.eq(0), entered.eq(1), computes.eq(1), compute_walked.eq(0),
                         computing.eq(setup.compute), compute_number.eq(number)]
        with m.If(walked):
            m.d.sync += [entered.eq(0), number.eq(number + 1), compute_walked.eq(1),
                         active_pixels.eq(walker.active_pixels)]
        with m.If(leave):
            m.d.sync += computes.eq(0)

        # ---- stage 3: it is drained, from its first wave on -----------------------------------------------
        entering_drain, complete = Signal(), Signal()
        drain_entered = Signal()  # the command that computes is the one that is drained
        computed = Signal()  # the command that is drained does not compute any more
        drain_setup = Signal(DrainSettings(config), reset_less=True)  # of the command that computes
        with m.If(enter):
            m.d.sync += [drain_setup.eq(setup.drain), drain_entered.eq(0)]
        drain_start = Signal()  # `draining` is new
        m.d.sync += drain_start.eq(entering_drain)
        m.d.comb += entering_drain.eq(computes & ~drain_entered & ~drains)
        with m.If(entering_drain):
            m.d.sync += [drain_entered.eq(1), drains.eq(1), computed.eq(0), draining.eq(drain_setup),
                         drain_number.eq(compute_number)]
        with m.If(leave):
            m.d.sync += computed.eq(1)
        with m.If(complete):
            m.d.sync += drains.eq(0)

        # ---- waves to their three consumers ---------------------------------------------------------------
        tagged = data.StructLayout({"wave": Wave(config), "number": NUMBER_BITS})
        begin = Signal()
        m.d.sync += begin.eq(enter)  # `computing` is new
        queues = {}
        for name, consumer, stage, own in (("fetch", fetch, computes, compute_number),
                                           ("tiles", tiles, computes, compute_number),
                                           ("drain", drain, drains, drain_number)):
            queue = SyncFIFOBuffered(width=tagged.size, depth=OUTPUT_WAVES)
            m.submodules[f"{name}_waves"] = queue
            first = data.View(tagged, queue.r_data)
            # The drain is ready only while there is a wave, and late in the cycle.
            taken = consumer.wave.ready if consumer is drain else consumer.wave.ready & consumer.wave.valid
            mine, none = Signal(name=f"{name}_wave_mine"), Signal(name=f"{name}_waves_none")
            m.d.comb += [
                queue.w_data.eq(Cat(waves.o.payload, number)),
                queue.w_en.eq(waves.o.valid & waves.o.ready),
                mine.eq(queue.r_rdy & (first.number == own)),
                none.eq((queue.level == 0) | (queue.r_rdy & (first.number != own))),
                consumer.wave.valid.eq(mine & stage),
                queue.r_en.eq(taken),
            ]
            if consumer is tiles:
                m.d.comb += [tiles.wave.payload[part].eq(first.wave[part])
                             for part in ("blocks", "last_in_group", "last_group")]
            else:
                m.d.comb += consumer.wave.payload.eq(first.wave)
            queues[name] = queue, none
        m.d.comb += [
            waves.o.ready.eq(Cat(queue.w_rdy for queue, _none in queues.values()).all()),
            walker.input_freed.eq(fetch.freed),
        ]
        wiring.connect(m, walker.wave, waves.i)
        m.d.sync += walker.output_freed.eq(drain.wave.ready)

        # ---- pixel walker ---------------------------------------------------------------------------------
        m.d.comb += [
            walker.steps_known.eq(setup.steps_known),
            walker.start.eq(start),
            walker.gated.eq(command.flags & Flag.GATED != 0),
            walker.whole.eq(command.flags & Flag.WHOLE != 0),
            *(getattr(walker, name).eq(setup.walk[name]) for name in (
                "first_y", "first_address", "row_step", "pixel_step", "width_last")),
            *(getattr(walker, name).eq(command[name]) for name in (
                "output_rows", "output_blocks", "mask_base", "unrolling", "stride_y", "stride_x",
                "pad_left", "output_row_stride", "output_pixel_stride")),
        ]
        wiring.connect(m, walker.mask, wiring.flipped(self.mask))

        # ---- activation fetch -----------------------------------------------------------------------------
        m.d.comb += [
            *(getattr(fetch, name).eq(computing[name]) for name in (
                "packed", "kernel_height", "kernel_width", "input_blocks", "last_lanes", "input_height", "input_width",
                "dilation_y", "dilation_x", "unrolling", "step_y", "step_x", "step_block", "zero_point")),
            fetch.table_valid.eq(walker.input_write.valid),
            fetch.table_single.eq(command.unrolling == len(config.unrollings) - 1),
            fetch.table_slot.eq(walker.input_write.slot),
            fetch.table_index.eq(walker.input_write.index),
            fetch.table_data.eq(walker.input_write.data),
        ]
        for i in range(config.fetch_ports):
            wiring.connect(m, getattr(fetch, f"port_{i}"), wiring.flipped(getattr(self, f"fetch_{i}")))

        # ---- tile loader ----------------------------------------------------------------------------------
        m.d.comb += [
            tiles.start.eq(begin),
            tiles.weights_taken.eq(self.weights_taken),
            *(getattr(tiles, name).eq(computing[name]) for name in ("weight_base", "map_base", "steps", "unrolling")),
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
                row.zero_point.eq(computing.zero_point),
                drain.drained_valid[i].eq(row.drained_valid),
                drain.drained[i].eq(row.drained),
                row.drain_selected.eq(drain.selected[i]),
                row.drain_pixel.eq(drain.pixel),
                row.drain_group.eq(drain.group),
                row.drain_release.eq(drain.release[i]),
            ]

        # ---- from stage to stage --------------------------------------------------------------------------
        idle = Signal()
        settled = Signal(SETTLING)
        m.d.comb += [
            idle.eq(computes & compute_walked & queues["fetch"][1] & queues["tiles"][1]
                    & fetch.idle & tiles.idle & Cat(row.idle for row in row_list).all()),
            leave.eq(settled.all() & computes & drain_entered),  # it stays idle: all its waves are known
            complete.eq(drains & computed & queues["drain"][1] & drain.empty & self.engine.may_complete),
            self.engine.complete.eq(complete),
        ]
        m.d.sync += settled.eq(Mux(idle, Cat(1, settled[:-1]), 0))

        # ---- counters: of the command that computes, then kept until it is complete -----------------------
        kept = self.engine.counters
        with m.If(leave):
            m.d.sync += kept.active_pixels.eq(active_pixels)

        def counter(name, increment, enable=1):
            count = Signal(32, name=f"count_{name}")
            with m.If(begin):
                m.d.sync += count.eq(0)
            with m.Elif(enable):
                m.d.sync += count.eq(count + increment)
            with m.If(leave):
                m.d.sync += kept[name].eq(count)

        totals = {}
        for name in _ROW_COUNTERS:
            total = totals[name] = Signal(range(rows + 1), name=f"rows_{name}")
            m.d.sync += total.eq(count_ones(m, Cat(getattr(row, name) for row in row_list), f"{name}_now"))
            counter(name, total, computes & ~settled[0] if name.startswith("stalled") else 1)
        for name, (sent, issued) in _SKIPPED.items():
            increment = Signal(signed(len(getattr(fetch, sent)) + 1), name=f"increment_{name}")
            m.d.sync += increment.eq(getattr(fetch, sent) - totals[issued])
            counter(name, increment)
        m.d.sync += self.progress.eq(Cat(row.issued | row.issued_last for row in row_list).any() | ~drain.empty
                                     | walker.wave.valid | fetch.moved)

        # ---- drain ----------------------------------------------------------------------------------------
        m.d.comb += [
            *(getattr(drain, name).eq(draining[name]) for name in (
                "add", "output_base", "b_base", "parameter_base", "unrolling", "minimum", "maximum", "constants",
                "table", "table_base")),
            drain.start.eq(drain_start),
            drain.table_valid.eq(walker.output_write.valid),
            drain.table_slot.eq(walker.output_write.slot),
            drain.table_index.eq(walker.output_write.index),
            drain.table_data.eq(walker.output_write.data),
        ]
        wiring.connect(m, drain.parameters, wiring.flipped(self.parameters))
        wiring.connect(m, drain.skip, wiring.flipped(self.skip))
        wiring.connect(m, drain.write, wiring.flipped(self.write))
        return m
