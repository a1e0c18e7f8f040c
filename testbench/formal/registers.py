"""The AXI4-Lite port of the register block."""

from __future__ import annotations

from amaranth import Cat, Signal
from amaranth.hdl import Value

from hw.bus.axi import Response
from hw.contract.config import preset
from hw.contract.registers import REGISTERS, Access
from hw.register_block import RegisterBlock
from testbench.formal.harness import Harness


class RegisterPort(Harness):
    """Answers stay until taken, belong to a request, come within three cycles, and tell what is no register."""

    def __init__(self) -> None:
        super().__init__(RegisterBlock(preset("nano")))

    def properties(self) -> None:
        bus = self.dut.bus
        taken = {c: getattr(bus, f"{c}valid") & getattr(bus, f"{c}ready") for c in ("aw", "w", "b", "ar", "r")}
        self.always(self.stable(bus.bvalid, bus.bready, bus.bresp))
        self.always(self.stable(bus.rvalid, bus.rready, Cat(bus.rdata, bus.rresp)))

        # No answer without a request, and none too many under way.
        addresses, data, reads = (self.counter(taken[up], taken[down]) for up, down in
                                  (("aw", "b"), ("w", "b"), ("ar", "r")))
        self.always(addresses == ~bus.awready + bus.bvalid)
        self.always(data == ~bus.wready + bus.bvalid)
        self.always(~bus.bvalid | ((addresses != 0) & (data != 0)))
        self.always((reads != 0) == ~bus.arready)
        self.always((reads <= 1) & (~bus.rvalid | (reads == 1)))

        # Answers come; what is not taken now waits for an answer that the host has to take.
        self.always(self.patience((addresses != 0) & (data != 0) & ~bus.bvalid, 1))
        self.always(self.patience((reads != 0) & ~bus.rvalid, 2))
        reading, passing = self.probe(1, "reading"), self.probe(1, "passing")
        self.always(~(reading & passing) & ~((reading | passing) & bus.rvalid))
        self.always(bus.awready | (addresses != 0))
        self.always(bus.wready | (data != 0))

        # SLVERR, and nothing else, for what can't be read or written.
        for channel, access, response in (("ar", Access.READ, bus.rresp), ("aw", Access.WRITE, bus.bresp)):
            address = Signal(len(bus.araddr), name=f"{channel}_address")
            with self.m.If(taken[channel]):
                self.m.d.sync += address.eq(getattr(bus, f"{channel}addr"))
            known = Cat(address[2:] == register.address // 4 for register in REGISTERS.values()
                        if register.access in (access, Access.READ_WRITE)).any()
            expected = Signal(2, name=f"{channel}_response")
            self.m.d.comb += expected.eq(Response.SLVERR)
            with self.m.If(known):
                self.m.d.comb += expected.eq(Response.OKAY)
            if access is Access.READ:
                self.always(~bus.rvalid | ((response == expected) & (known | (bus.rdata == 0))))
                self.always(bus.arready | bus.rvalid | (self.probe(len(address) - 2, "read_word") == address[2:]))
            else:  # the next address may be there when the answer waits
                self.always(~(bus.bvalid & ~self.past(bus.bvalid)) | (response == self.past(expected)))
                self.always(bus.awready | (self.probe(len(address) - 2, "write_word") == address[2:]))
        windows = Value.cast(self.dut.windows)
        refused = bus.bvalid & bus.bresp[1]
        self.always(~refused | self.past(bus.bvalid) | (windows == self.past(windows)))
        for window in self.dut.windows:
            self.always((window.base[:3] == 0) & (window.size[:3] == 0))
        self.reachable(taken["b"] & self.past(taken["r"]) & ~bus.bresp[1] & (windows != 0))
