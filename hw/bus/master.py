"""Both masters behind one AXI4 port."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import AXI4
from hw.bus.read_master import ReadMaster
from hw.bus.transfer import ReadClient, WriteClient
from hw.bus.windows import window_table
from hw.bus.write_master import WriteMaster
from hw.contract.config import Config


class BusMaster(wiring.Component):
    """The device's AXI4 master: a ReadMaster and a WriteMaster.

    Never reset it alone: the bus does not forget its bursts. `stop` ends them; when `idle` is high they
    have ended, and `stop` may fall.

    Members
    -------
    bus : AXI4.
    program, load : read clients. record, store : write clients.
    windows : the address windows.
    stop : make no new bursts; those under way are drained (reads) or ended with WSTRB 0 (writes).
    idle : no transfer and no burst under way.
    moved : a channel moved something in this cycle (for the watchdog).
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "bus": Out(AXI4(config)),
            "program": In(ReadClient(config)),
            "load": In(ReadClient(config)),
            "record": In(WriteClient(config)),
            "store": In(WriteClient(config)),
            "windows": In(window_table(config)),
            "stop": In(1),
            "idle": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.read = read = ReadMaster(self.config)
        m.submodules.write = write = WriteMaster(self.config)
        wiring.connect(m, read.program, wiring.flipped(self.program))
        wiring.connect(m, read.load, wiring.flipped(self.load))
        wiring.connect(m, write.record, wiring.flipped(self.record))
        wiring.connect(m, write.store, wiring.flipped(self.store))
        for master in (read, write):
            m.d.comb += [master.windows.eq(self.windows), master.stop.eq(self.stop)]
            for name, member in master.bus.signature.members.items():
                ours, theirs = getattr(self.bus, name), getattr(master.bus, name)
                m.d.comb += ours.eq(theirs) if member.flow is Out else theirs.eq(ours)
        m.d.comb += [
            self.idle.eq(read.idle & write.idle),
            self.moved.eq(read.moved | write.moved),
        ]
        return m
