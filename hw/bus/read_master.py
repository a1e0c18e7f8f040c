"""The read master: bursts on AR, beats from R to the client that they are for."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import BURST_INCR, CACHE_NORMAL, AXI4Read
from hw.bus.burst_planner import CLIENTS, BurstPlanner
from hw.bus.transfer import BEAT_BYTES, ReadClient
from hw.bus.windows import window_table
from hw.contract.config import Config
from hw.contract.registers import Error, Permission
from hw.register_slice import RegisterSlice


class ReadMaster(wiring.Component):
    """Reads for two clients over one AXI4 port, with up to `Config.reads_outstanding` bursts under way.

    All bursts have ID 0, so data comes in the order of the requests, and a small queue knows whose it is.
    A client that does not take its data holds the other one up.

    Members
    -------
    bus : AR and R.
    program, load : the clients; `program` goes first, burst by burst.
    windows : the address windows.
    stop : make no new bursts, and throw the data of those under way away.
    idle : no transfer and no burst under way.
    moved : an address or a beat was taken in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "bus": Out(AXI4Read(config)),
            "program": In(ReadClient(config)),
            "load": In(ReadClient(config)),
            "windows": In(window_table(config)),
            "stop": In(1),
            "idle": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bus = self.config, self.bus
        beat_shift = BEAT_BYTES.bit_length() - 1
        clients = (self.program, self.load)
        m.submodules.planner = planner = BurstPlanner(config, Permission.READ)
        wiring.connect(m, planner.request0, wiring.flipped(self.program.request))
        wiring.connect(m, planner.request1, wiring.flipped(self.load.request))
        m.d.comb += [planner.windows.eq(self.windows), planner.stop.eq(self.stop)]

        # Whose burst comes next, and where it lies.
        under_way = data.StructLayout({"client": unsigned(1), "address": unsigned(32)})
        m.submodules.order = order = fifo.SyncFIFO(width=under_way.size, depth=config.reads_outstanding)
        head = data.View(under_way, order.r_data)
        m.d.comb += [
            bus.arid.eq(0),
            bus.araddr.eq(planner.burst.payload.address),
            bus.arlen.eq(planner.burst.payload.length),
            bus.arsize.eq(beat_shift),
            bus.arburst.eq(BURST_INCR),
            bus.arcache.eq(CACHE_NORMAL),
            bus.arvalid.eq(planner.burst.valid & order.w_rdy),
            planner.burst.ready.eq(bus.arready & order.w_rdy),
            order.w_en.eq(bus.arvalid & bus.arready),
            order.w_data.eq(Cat(planner.burst.payload.client, planner.burst.payload.address[:32])),
        ]

        # A beat that comes is of the client at the head of the queue.
        beat = data.StructLayout({"data": config.axi_data_bits, "failed": 1, "client": 1})
        m.submodules.slice = slice_ = RegisterSlice(beat)
        taken = Signal()
        m.d.comb += [
            slice_.i.valid.eq(bus.rvalid),
            slice_.i.payload.data.eq(bus.rdata),
            slice_.i.payload.failed.eq(bus.rresp[1]),
            slice_.i.payload.client.eq(head.client),
            bus.rready.eq(slice_.i.ready),
            taken.eq(bus.rvalid & bus.rready),
            order.r_en.eq(taken & bus.rlast),
        ]
        position = Signal(8)
        with m.If(taken):
            m.d.sync += position.eq(Mux(bus.rlast, 0, position + 1))

        # The beat at hand goes to its client, or nowhere.
        at_hand = slice_.o
        discard = Signal()
        m.d.comb += [
            discard.eq(self.stop | at_hand.payload.failed),
            at_hand.ready.eq(
                discard | Mux(at_hand.payload.client, self.load.data.ready, self.program.data.ready)),
        ]
        failed = Signal(CLIENTS)
        # A failure is told once its beat is at hand, so that whose it is can be known from the beats before. Where it
        # was is known when it comes.
        failing, failed_address = Signal(), Signal(32)
        with m.If(taken & bus.rresp[1] & ~failing):
            m.d.sync += [failing.eq(1), failed_address.eq(Cat(
                head.address[:beat_shift], (head.address[beat_shift:12] + position)[:12 - beat_shift],
                head.address[12:]))]
        with m.If(self.stop):
            m.d.sync += failing.eq(0)
        # A transfer that is denied in the cycle of a failure is not told: the failure stops everything.
        address = Signal(32)
        m.d.comb += address.eq(Mux(failed.any(), failed_address, planner.error[0].address))
        for c, client in enumerate(clients):
            m.d.comb += [
                client.data.valid.eq(at_hand.valid & ~discard & (at_hand.payload.client == c)),
                client.data.payload.eq(at_hand.payload.data),
                client.error.valid.eq(Mux(failed.any(), failed[c], planner.error[c].valid)),
                client.error.code.eq(Mux(failed.any(), Error.BUS_READ, Error.WINDOW_READ)),
                client.error.address.eq(address),
            ]
            m.d.sync += failed[c].eq(
                at_hand.valid & at_hand.payload.failed & (at_hand.payload.client == c) & ~self.stop)
        assert len(clients) == CLIENTS

        m.d.comb += [
            self.idle.eq(planner.idle & ~order.r_rdy & ~at_hand.valid),
            self.moved.eq((bus.arvalid & bus.arready) | (bus.rvalid & bus.rready)),
        ]
        return m
