"""The register block: the register table behind AXI4-Lite, and the interrupt line."""

from __future__ import annotations

import functools
import operator
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.hdl import Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import AXI4Lite, Response
from hw.bus.windows import window_table
from hw.contract.commands import Engine
from hw.contract.config import FORMAT_VERSION, WINDOWS, Config
from hw.contract.registers import ID, REGISTERS, Access, Control, Permission, Status

#: STATUS as the sequencer drives it, bit by bit as in registers.Status.
STATUS_LAYOUT = data.StructLayout({"busy": 1, "done": 1, "error": 1, "interrupt": 1})

assert [1 << i for i in range(4)] == [Status.BUSY, Status.DONE, Status.ERROR, Status.INTERRUPT]


class ControlPort(wiring.Signature):
    """Between register block and sequencer, seen from the register block.

    Members
    -------
    start, soft_reset, acknowledge : for one cycle, when CONTROL is written with the bit set.
    program, watchdog : the registers of these names.
    status : STATUS. error_code, error_command, error_address, cycles, completed, dispatched : the registers.
    running : per engine (contract numbering) the index of its running command; all ones: idle.
    """

    def __init__(self):
        super().__init__({
            "start": Out(1),
            "soft_reset": Out(1),
            "acknowledge": Out(1),
            "program": Out(32),
            "watchdog": Out(32),
            "status": In(STATUS_LAYOUT),
            "error_code": In(8),
            "error_command": In(32),
            "error_address": In(32),
            "cycles": In(32),
            "completed": In(32),
            "dispatched": In(32),
            "running": In(data.ArrayLayout(unsigned(32), len(Engine))),
        })


class RegisterBlock(wiring.Component):
    """An AXI4-Lite slave with the registers of `hw.contract.registers`.

    Byte strobes are honoured. Bits that a register does not have stay zero whatever is written: the lowest
    three of PROGRAM and of each window's BASE and SIZE, and address bits beyond `Config.axi_address_bits`. An
    address without a register, a read of a write-only register and a write of a read-only one are answered
    with SLVERR and do nothing; such a read gives zero.

    Members
    -------
    bus : AXI4-Lite, seen from the slave.
    control : the sequencer's side.
    windows : the address windows, for the bus masters.
    irq : the interrupt line; high while Status.INTERRUPT is set and enabled.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "bus": In(AXI4Lite()),
            "control": Out(ControlPort()),
            "windows": Out(window_table(config)),
            "irq": Out(1),
        })

    def _storage(self) -> dict[str, Signal]:
        """A Signal per writable register, as wide as its writable bits; see `_lowest` for where they start."""
        high_bits = max(0, self.config.axi_address_bits - 32)
        widths = {"INTERRUPT_ENABLE": 1, "PROGRAM": 29, "WATCHDOG": 32}
        for i in range(WINDOWS):
            widths |= {f"WINDOW{i}_BASE": min(32, self.config.axi_address_bits) - 3, f"WINDOW{i}_BASE_HIGH": high_bits,
                       f"WINDOW{i}_SIZE": 29, f"WINDOW{i}_PERMISSION": 2}
        writable = {name for name, register in REGISTERS.items() if register.access is Access.READ_WRITE}
        assert writable == set(widths), f"registers without storage: {writable ^ set(widths)}"
        return {
            name: Signal(width, name=name.lower(), init=REGISTERS[name].reset >> self._lowest(name))
            for name, width in widths.items()
        }

    @staticmethod
    def _lowest(name: str) -> int:
        """The lowest writable bit of a register: 3 where the register is a multiple of 8."""
        return 3 if name == "PROGRAM" or name.endswith(("_BASE", "_SIZE")) else 0

    def elaborate(self, platform) -> Module:
        m = Module()
        bus, control = self.bus, self.control
        storage = self._storage()
        full = {name: Cat(Const(0, self._lowest(name)), signal) for name, signal in storage.items()}

        # ---- write: address and data may come in either order ------------------------------------------------
        address_held, data_held = Signal(), Signal()
        write_word = Signal(len(bus.awaddr) - 2)
        write_data, strobe = Signal(32), Signal(4)
        write = Signal()
        known = Signal()
        m.d.comb += [
            bus.awready.eq(~address_held),
            bus.wready.eq(~data_held),
            write.eq(address_held & data_held & ~bus.bvalid),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address_held.eq(1), write_word.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [data_held.eq(1), write_data.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [
                address_held.eq(0),
                data_held.eq(0),
                bus.bvalid.eq(1),
                bus.bresp.eq(Mux(known, Response.OKAY, Response.SLVERR)),
            ]
        with m.Switch(write_word):
            for name, register in REGISTERS.items():
                if register.access is Access.READ:
                    continue
                with m.Case(register.address // 4):
                    m.d.comb += known.eq(1)
                    if name not in storage:
                        continue
                    target, low = storage[name], self._lowest(name)
                    for byte in range(4):  # each an enable of its flip-flops
                        first, end = max(8 * byte, low), min(8 * byte + 8, low + len(target))
                        if first < end:
                            with m.If(write & strobe[byte]):
                                m.d.sync += target[first - low : end - low].eq(write_data[first:end])
        acts = Signal()
        m.d.comb += acts.eq(write & (write_word == REGISTERS["CONTROL"].address // 4) & strobe[0])
        for member, bit in ((control.start, Control.START), (control.soft_reset, Control.SOFT_RESET),
                            (control.acknowledge, Control.ACKNOWLEDGE)):
            m.d.sync += member.eq(acts & (write_data & bit).any())  # with the response: much hangs on these

        # ---- read ---------------------------------------------------------------------------------------------
        values: dict[str, Any] = {
            **full,
            "ID": ID,
            "FORMAT": FORMAT_VERSION,
            "CONFIG": self.config.hash,
            "STATUS": Value.cast(control.status),
            "ERROR_CODE": control.error_code,
            "ERROR_COMMAND": control.error_command,
            "ERROR_ADDRESS": control.error_address,
            "CYCLES": control.cycles,
            "COMPLETED": control.completed,
            "DISPATCHED": control.dispatched,
            **{f"{engine.name}_COMMAND": control.running[engine] for engine in Engine},
        }
        # A register's value passes a register of its own, which is zero unless it is the one read: what follows is no
        # multiplexer but an OR.
        read_word = Signal(len(bus.araddr) - 2)
        reading = Signal()
        passing = Signal()
        readable = Signal()
        response = Signal.like(bus.rresp)
        passed = []
        m.d.comb += bus.arready.eq(~reading & ~passing & ~bus.rvalid)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [reading.eq(1), read_word.eq(bus.araddr[2:])]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        m.d.sync += passing.eq(reading)
        with m.If(reading):
            m.d.sync += [reading.eq(0), response.eq(Mux(readable, Response.OKAY, Response.SLVERR))]
        for name, register in REGISTERS.items():
            if register.access is not Access.WRITE:
                copy = Signal(32, name=f"read_{name.lower()}")
                chosen = Signal(name=f"reads_{name.lower()}")
                m.d.comb += chosen.eq(read_word == register.address // 4)
                with m.If(chosen):
                    m.d.comb += readable.eq(1)
                m.d.sync += copy.eq(Mux(chosen, values[name], 0))
                passed.append(copy)
        with m.If(passing):
            m.d.sync += [bus.rvalid.eq(1), bus.rresp.eq(response), bus.rdata.eq(_any(passed))]

        # ---- what the rest of the device reads -----------------------------------------------------------------
        m.d.comb += [
            control.program.eq(full["PROGRAM"]),
            control.watchdog.eq(full["WATCHDOG"]),
            self.irq.eq(control.status.interrupt & storage["INTERRUPT_ENABLE"]),
        ]
        for i in range(WINDOWS):
            permission = full[f"WINDOW{i}_PERMISSION"]
            base = Cat(full[f"WINDOW{i}_BASE"], storage[f"WINDOW{i}_BASE_HIGH"])
            m.d.comb += [
                self.windows[i].base.eq(base),
                self.windows[i].size.eq(full[f"WINDOW{i}_SIZE"]),
                self.windows[i].read.eq((permission & Permission.READ).any()),
                self.windows[i].write.eq((permission & Permission.WRITE).any()),
            ]
        return m


def _any(words: list[Signal]) -> Value:
    """The OR of all words."""
    return functools.reduce(operator.or_, words)
