"""The write master: bursts on AW, the clients' beats on W, answers on B."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import BURST_INCR, CACHE_NORMAL, AXI4Write
from hw.bus.burst_planner import CLIENTS, BurstPlanner
from hw.bus.transfer import BEAT_BYTES, WriteClient
from hw.bus.windows import window_table
from hw.contract.config import Config
from hw.contract.registers import Error, Permission
from hw.register_slice import RegisterSlice

#: Write bursts under way at once; a power of two.
WRITES_OUTSTANDING = 4


class WriteMaster(wiring.Component):
    """Writes for two clients over one AXI4 port, with up to WRITES_OUTSTANDING bursts under way.

    Addresses go ahead of the data, so that one burst follows the other without a gap. All bursts have ID 0,
    so answers come in order.

    Members
    -------
    bus : AW, W and B.
    record, store : the clients; `record` goes first, burst by burst.
    windows : the address windows.
    stop : make no new bursts, and end those under way with beats that write nothing (WSTRB 0).
    idle : no transfer and no burst under way.
    moved : an address, a beat or an answer was taken in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "bus": Out(AXI4Write(config)),
            "record": In(WriteClient(config)),
            "store": In(WriteClient(config)),
            "windows": In(window_table(config)),
            "stop": In(1),
            "idle": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bus = self.config, self.bus
        clients = (self.record, self.store)
        m.submodules.planner = planner = BurstPlanner(config, Permission.WRITE)
        wiring.connect(m, planner.request0, wiring.flipped(self.record.request))
        wiring.connect(m, planner.request1, wiring.flipped(self.store.request))
        m.d.comb += [planner.windows.eq(self.windows), planner.stop.eq(self.stop)]

        # Bursts that wait for their data, and bursts that wait for their answer.
        waiting = data.StructLayout({"client": unsigned(1), "length": unsigned(8)})
        m.submodules.data_order = data_order = fifo.SyncFIFO(width=waiting.size, depth=WRITES_OUTSTANDING)
        data_head = data.View(waiting, data_order.r_data)
        answered = data.StructLayout({"client": unsigned(1), "last": unsigned(1), "address": unsigned(32)})
        m.submodules.answer_order = answer_order = fifo.SyncFIFO(width=answered.size, depth=WRITES_OUTSTANDING)
        answer_head = data.View(answered, answer_order.r_data)
        burst = planner.burst.payload
        m.d.comb += [
            bus.awid.eq(0),
            bus.awaddr.eq(burst.address),
            bus.awlen.eq(burst.length),
            bus.awsize.eq(BEAT_BYTES.bit_length() - 1),
            bus.awburst.eq(BURST_INCR),
            bus.awcache.eq(CACHE_NORMAL),
            # A burst that waits for its data also waits for its answer: one queue's room is enough to look at.
            bus.awvalid.eq(planner.burst.valid & answer_order.w_rdy),
            planner.burst.ready.eq(bus.awready & answer_order.w_rdy),
            data_order.w_en.eq(bus.awvalid & bus.awready),
            data_order.w_data.eq(Cat(burst.client, burst.length)),
            answer_order.w_en.eq(bus.awvalid & bus.awready),
            answer_order.w_data.eq(Cat(burst.client, burst.last, burst.address[:32])),
        ]

        beat = data.StructLayout({"data": config.axi_data_bits, "strobe": 1, "last": 1})
        m.submodules.slice = slice_ = RegisterSlice(beat)
        position = Signal(8)
        pushed = Signal()
        m.d.comb += [
            slice_.i.valid.eq(data_order.r_rdy & (self.stop | Mux(
                data_head.client, self.store.data.valid, self.record.data.valid))),
            slice_.i.payload.data.eq(Mux(data_head.client, self.store.data.payload, self.record.data.payload)),
            slice_.i.payload.strobe.eq(~self.stop),
            slice_.i.payload.last.eq(position == data_head.length),
            pushed.eq(slice_.i.valid & slice_.i.ready),
            data_order.r_en.eq(pushed & slice_.i.payload.last),
            bus.wvalid.eq(slice_.o.valid),
            bus.wdata.eq(slice_.o.payload.data),
            bus.wstrb.eq(slice_.o.payload.strobe.replicate(len(bus.wstrb))),
            bus.wlast.eq(slice_.o.payload.last),
            slice_.o.ready.eq(bus.wready),
        ]
        with m.If(pushed):
            m.d.sync += position.eq(Mux(slice_.i.payload.last, 0, position + 1))

        answer = Signal()
        m.d.comb += [
            bus.bready.eq(1),
            answer.eq(bus.bvalid & bus.bready),
            answer_order.r_en.eq(answer),
        ]
        failed = Signal(CLIENTS)
        failed_address = Signal(32)
        m.d.sync += failed_address.eq(answer_head.address)
        # A transfer that is denied in the cycle of a failure is not told: the failure stops everything.
        address = Signal(32)
        m.d.comb += address.eq(Mux(failed.any(), failed_address, planner.error[0].address))
        for c, client in enumerate(clients):
            mine = Signal(name=f"mine{c}")
            m.d.comb += [
                client.data.ready.eq(data_order.r_rdy & (data_head.client == c) & slice_.i.ready & ~self.stop),
                mine.eq(answer & (answer_head.client == c) & ~self.stop),
                client.error.valid.eq(Mux(failed.any(), failed[c], planner.error[c].valid)),
                client.error.code.eq(Mux(failed.any(), Error.BUS_WRITE, Error.WINDOW_WRITE)),
                client.error.address.eq(address),
            ]
            m.d.sync += [
                client.done.eq(mine & answer_head.last & ~bus.bresp[1]),
                failed[c].eq(mine & bus.bresp[1]),
            ]

        m.d.comb += [
            self.idle.eq(planner.idle & ~answer_order.r_rdy),
            self.moved.eq((bus.awvalid & bus.awready) | (bus.wvalid & bus.wready) | answer),
        ]
        return m
