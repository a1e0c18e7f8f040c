"""The AXI4 port of the bus masters: handshakes, beats and bursts that belong together, and that everything ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Elaboratable

from hw.bus.axi import BURST_INCR
from hw.bus.master import BusMaster
from hw.bus.read_master import ReadMaster
from hw.bus.write_master import WRITES_OUTSTANDING, WriteMaster
from hw.contract.config import preset
from testbench.formal.harness import Harness
from testbench.formal.planner import AnyPlanner

CONFIG = preset("nano")

#: Bursts and queues short enough for all of their states to come up within few cycles.
SHORT = dataclasses.replace(CONFIG, burst_beats=2, reads_outstanding=2)


#: Cycles that a fair bus or client may let the other side wait.
FAIR = 1

#: Cycles without a handshake on a channel, at most, while there is something to do and all are fair.
STILL = 5

#: Cycles from `stop` to idle, at most, when all are fair: for two read bursts of two beats, or one write burst, and one
#: that is offered.
READS_SOON, WRITES_SOON = 14, 16


class AddressChannels(Harness):
    """AR and AW are the bursts of the planners, of which the rules on pages, lengths and windows are proved; an address
    stays until it is taken; W stays until it is taken."""

    def __init__(self) -> None:
        super().__init__(BusMaster(CONFIG))

    def properties(self) -> None:
        bus = self.dut.bus
        for channel, path in (("ar", "read"), ("aw", "write")):
            port = {name: getattr(bus, f"{channel}{name}") for name in (
                "valid", "ready", "addr", "len", "size", "burst", "id", "lock", "cache", "prot", "qos")}
            burst = self.probe(CONFIG.axi_address_bits + 10, f"{path}.planner.burst__payload")
            offered = self.probe(1, f"{path}.planner.burst__valid")
            taken = self.probe(1, f"{path}.planner.burst__ready")
            payload = Cat(value for name, value in port.items() if name not in ("valid", "ready"))
            self.always(self.stable(port["valid"], port["ready"], payload))
            self.always(~(self.probe(1, f"{path}.planner.chosen") & offered))
            self.always(~port["valid"] | (offered & (Cat(port["addr"], port["len"]) == burst[: len(burst) - 2])))
            self.always((offered & taken) == (port["valid"] & port["ready"]))
            self.always((port["size"] == 3) & (port["burst"] == BURST_INCR))
            self.always((port["id"] == 0) & (port["lock"] == 0))
        # What these rest on: the queues never hold more than there is room for.
        self.always(self.probe(3, "read.order.level") <= CONFIG.reads_outstanding)
        self.always(self.probe(3, "write.answer_order.level") <= WRITES_OUTSTANDING)
        self.always(self.stable(bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb, bus.wlast)))
        self.always((bus.wstrb == 0) | bus.wstrb.all())
        self.reachable(bus.arvalid & self.past(bus.arvalid & ~bus.arready)
                       & bus.awvalid & self.past(bus.awvalid & ~bus.awready))


class Reads(Harness):
    """Never more bursts than there is room for; the master is idle only when all of them have ended."""

    def __init__(self) -> None:
        super().__init__(ReadMaster(SHORT), {"hw.bus.read_master.BurstPlanner": AnyPlanner})

    def properties(self) -> None:
        dut, bus = self.dut, self.dut.bus
        beat = bus.rvalid & bus.rready
        self.under_way = self.counter(bus.arvalid & bus.arready, beat & bus.rlast)
        # The bus: a beat belongs to a burst, and an offer stays.
        self.assume(~bus.rvalid | (self.under_way != 0))
        self.assume(self.stable(bus.rvalid, bus.rready, Cat(bus.rdata, bus.rresp, bus.rlast)))
        # A burst leaves the queue with its last beat, which may then wait in the slice.
        filled = [self.probe(1, f"slice.{name}") for name in ("o__valid", "spare_valid")]
        level = self.probe(2, "order.level")
        self.always(~filled[1] | filled[0])
        self.always(level == self.under_way)
        self.always(level <= SHORT.reads_outstanding)
        self.always(~dut.idle | ((self.under_way == 0) & ~filled[0]))
        self.reachable((self.under_way == SHORT.reads_outstanding) & bus.rvalid)


class Writes(Harness):
    """Never more bursts than there is room for; the master is idle only when all of them have been answered."""

    def __init__(self, instead: Mapping[str, object] | None = None, outstanding: int = WRITES_OUTSTANDING) -> None:
        super().__init__(WriteMaster(SHORT), {"hw.bus.write_master.BurstPlanner": AnyPlanner,
                                              "hw.bus.write_master.WRITES_OUTSTANDING": outstanding, **(instead or {})})
        self.outstanding = outstanding

    def properties(self) -> None:
        dut, bus = self.dut, self.dut.bus
        address, beat = bus.awvalid & bus.awready, bus.wvalid & bus.wready
        answer = bus.bvalid & bus.bready
        self.under_way = self.counter(address, answer)  # bursts without an answer
        self.with_data = self.counter(address, beat & bus.wlast)  # bursts whose data is still to come
        # The bus answers bursts whose last beat it has, and no others.
        self.assume(~bus.bvalid | (self.under_way != self.with_data))
        # Bursts that wait for their data are those whose last beat is not in the slice.
        self.filled = filled = [self.probe(1, f"slice.{name}") for name in ("o__valid", "spare_valid")]
        self.last = last = [self.probe(66, f"slice.{name}")[65] for name in ("o__payload", "spare")]
        bits = self.outstanding.bit_length()
        self.waiting = waiting = self.probe(bits, "data_order.level")
        unanswered = self.probe(bits, "answer_order.level")
        self.always(~filled[1] | filled[0])
        self.always(self.with_data == waiting + (filled[0] & last[0]) + (filled[1] & last[1]))
        # A burst waits until its last beat is pushed into the slice, behind all of the others.
        self.always(~(filled[0] & ~last[0]) | filled[1] | (waiting != 0))
        self.always(~(filled[1] & ~last[1]) | (waiting != 0))
        self.always(unanswered == self.under_way)
        self.always((self.with_data <= self.under_way) & (self.under_way <= self.outstanding))
        self.always(~bus.wvalid | (self.with_data != 0))  # data follows its address
        self.always(~dut.idle | (self.under_way == 0))
        self.always(~(dut.record.done | dut.store.done) | self.past(answer))
        self.reachable((self.under_way == self.outstanding) & bus.wvalid & bus.wlast)


class OpenFIFO(Elaboratable):
    """Does what Amaranth's SyncFIFO does, with entries that have names: the oldest is `entry0`."""

    def __init__(self, *, width: int, depth: int):
        self.depth = depth
        self.entries = [Signal(width, name=f"entry{i}") for i in range(depth)]
        self.w_data, self.w_en, self.w_rdy = Signal(width), Signal(), Signal()
        self.r_data, self.r_en, self.r_rdy = Signal(width), Signal(), Signal()
        self.level = Signal(range(depth + 1))

    def elaborate(self, platform) -> Module:
        m = Module()
        reads, writes = Signal(), Signal()
        m.d.comb += [
            self.r_rdy.eq(self.level != 0), self.w_rdy.eq(self.level != self.depth), self.r_data.eq(self.entries[0]),
            reads.eq(self.r_rdy & self.r_en), writes.eq(self.w_rdy & self.w_en),
        ]
        m.d.sync += self.level.eq(self.level + writes - reads)
        for i, entry in enumerate(self.entries):
            with m.If(writes & (self.level - reads == i)):
                m.d.sync += entry.eq(self.w_data)
            if i + 1 < self.depth:
                with m.Elif(reads):
                    m.d.sync += entry.eq(self.entries[i + 1])
        return m


class WriteBeats(Writes):
    """Each burst has as many beats on W as its AWLEN says, and WLAST is on the last of them."""

    def __init__(self) -> None:
        super().__init__({"hw.bus.write_master.fifo.SyncFIFO": OpenFIFO})

    def properties(self) -> None:
        super().properties()
        m, bus = self.m, self.dut.bus
        # AWLEN of the bursts whose data is still to come, the oldest first, and the beats that the first has had.
        lengths = [Signal(8, name=f"length{i}") for i in range(WRITES_OUTSTANDING)]
        beats = Signal(8)
        addressed, ended = bus.awvalid & bus.awready, bus.wvalid & bus.wready & bus.wlast
        for i, length in enumerate(lengths):
            with m.If(addressed & (self.with_data - ended == i)):
                m.d.sync += length.eq(bus.awlen)
            if i + 1 < len(lengths):
                with m.Elif(ended):
                    m.d.sync += length.eq(lengths[i + 1])
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += beats.eq(Mux(bus.wlast, 0, beats + 1))
        self.always(~bus.wvalid | (bus.wlast == (beats == lengths[0])))

        # What that rests on: the queue holds the same lengths, and the beats in the slice are the next ones.
        filled, last = self.filled, self.last
        ends = [filled[0] & last[0], filled[1] & last[1]]
        passed = Signal(2)
        m.d.comb += passed.eq(ends[0] + ends[1])
        ahead = Cat(lengths) >> 8 * passed
        for i in range(WRITES_OUTSTANDING):
            entry = self.probe(9, f"data_order.entry{i}")
            self.always((self.waiting <= i) | (entry[1:] == ahead.bit_select(8 * i, 8)))
        position, next_length = self.probe(8, "position"), ahead[:8]
        self.always(Mux(self.waiting != 0, position <= next_length, position == 0))
        self.always((self.with_data == 0) | (beats <= lengths[0]))
        self.always((self.with_data != 0) | (beats == 0))
        in_slice = Signal(2)  # beats of the burst that is pushed now
        m.d.comb += in_slice.eq(Mux(ends[1], 0, filled[1] + (filled[0] & ~ends[0])))
        self.always(position == in_slice + Mux(passed == 0, beats, 0))
        self.always(~(filled[0] & ~last[0] & ends[1]) | (beats + 1 == lengths[0]))
        self.always(~(ends[0] & ends[1]) | (lengths[1] == 0))
        self.always(~(ends[0] & filled[1] & ~last[1]) | (lengths[1] != 0))
        self.always(~(filled[0] & filled[1] & ~last[0] & ~last[1]) | (beats + 1 != lengths[0]))
        self.reachable((beats == 1) & bus.wvalid & bus.wlast & (self.with_data == 2))


class ReadsEnd(Reads):
    """With a fair bus and fair clients reads do not stand still for long, and after `stop` they end soon."""

    def properties(self) -> None:
        super().properties()
        dut, bus = self.dut, self.dut.bus
        self.assume(self.patience(bus.arvalid & ~bus.arready, FAIR))
        self.assume(self.patience(~bus.rvalid & (self.under_way != 0), FAIR))
        for client in (dut.program, dut.load):
            self.assume(self.patience(client.data.valid & ~client.data.ready, FAIR))
        beats = Signal(2)  # of a burst: the bus keeps to ARLEN, here two at most
        with self.m.If(bus.rvalid & bus.rready):
            self.m.d.sync += beats.eq(Mux(bus.rlast, 0, beats + 1))
        self.assume(~bus.rvalid | (beats == 0) | bus.rlast)
        self.always(self.patience(~dut.idle & ~dut.moved & ~dut.stop, STILL))
        self.always(self.patience(~dut.idle & dut.stop, READS_SOON))
        self.reachable(dut.idle & self.past(dut.stop) & self.past(self.past(self.under_way != 0)))


class WritesEnd(Writes):
    """With a fair bus and fair clients writes do not stand still for long, and after `stop` they end soon."""

    def __init__(self) -> None:
        super().__init__({"hw.bus.write_master.fifo.SyncFIFO": OpenFIFO}, outstanding=1)

    def properties(self) -> None:
        super().properties()
        dut, bus = self.dut, self.dut.bus
        self.assume(self.patience(bus.awvalid & ~bus.awready, FAIR))
        self.assume(self.patience(bus.wvalid & ~bus.wready, FAIR))
        self.assume(self.patience((self.under_way != self.with_data) & ~bus.bvalid, FAIR))
        for client in (dut.record, dut.store):  # which are asked for data only when they owe some
            self.assume(self.patience(client.data.ready & ~client.data.valid, FAIR))
        self.always(self.patience(~dut.idle & ~dut.moved & ~dut.stop, STILL))
        self.always(self.patience(~dut.idle & dut.stop, WRITES_SOON))
        self.reachable(dut.idle & self.past(dut.stop) & self.past(self.past(self.under_way != 0)))
