"""The bench around the AXI ports of a device: cocotbext-axi on both, a memory that fails where it is told, monitors.

The judge itself checks bursts (4 KB rule, WLAST, IDs) and answers with random latency and back-pressure. `Bench` adds
what it does not look at: that nothing changes before it is taken (`StabilityMonitor`), and that every transaction is
finished (`Ledger`).
"""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave, MemoryRegion

from hw.contract.commands import MAGIC, RECORD_BYTES, Opcode, decode_records, encode
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import REGISTERS, Control, Permission, Status, Window

CONFIG = preset(os.environ.get("LACUNA_PRESET", "small"))
SEED = int(os.environ.get("LACUNA_SEED", "1"))

BEAT = 8

PART = 1 << 14  # bytes of each window; they lie one after the other, off page boundaries
BASE = {Window.IMAGE: 0x0_0040, Window.INPUT: 0x1_0FF8, Window.OUTPUT: 0x2_0008, Window.RECORD: 0x3_0FE8}


class ExternalMemory(MemoryRegion):
    """Memory with random latency.

    Attributes
    ----------
    bad_reads, bad_writes : by byte address of a beat, the error that it is answered with.
    slow : probability that an access takes its time.
    """

    def __init__(self, clock, size: int):
        super().__init__(size)
        self.clock = clock
        self.bad_reads: dict[int, AxiResp] = {}
        self.bad_writes: dict[int, AxiResp] = {}
        self.slow = 0.0
        self._errors: dict[str, AxiResp] = {}

    def answer_through(self, slave: AxiSlave) -> None:
        """Let the slave, whose only error is SLVERR, answer with the error of the address."""
        assert slave.read_if and slave.write_if
        for channel, name in ((slave.read_if.r_channel, "rresp"), (slave.write_if.b_channel, "bresp")):
            channel.send = self._sending(channel.send, name)

    def _sending(self, send, name: str):
        async def send_error(transaction) -> None:
            if getattr(transaction, name) != AxiResp.OKAY:
                setattr(transaction, name, self._errors[name])
            await send(transaction)

        return send_error

    async def _access(self, name: str, address: int, bad: dict[int, AxiResp]) -> None:
        if random.random() < self.slow:
            await ClockCycles(self.clock, random.randrange(1, 60))
        if address in bad:
            self._errors[name] = bad[address]
            raise ValueError(f"{bad[address].name} at {address:#x}")

    async def _read(self, address, length, **kwargs):
        await self._access("rresp", address, self.bad_reads)
        return self.mem[address : address + length]

    async def _write(self, address, data, **kwargs):
        await self._access("bresp", address, self.bad_writes)
        self.mem[address : address + len(data)] = bytes(data)


class StabilityMonitor:
    """Asserts that a channel's payload stays as it is from `valid` until `ready`, and that reset ends `valid`."""

    def __init__(self, dut, prefix: str, channel: str, payload: tuple[str, ...]):
        self.name = f"{prefix}_{channel}"
        self.clock, self.reset = dut.clk, dut.rst
        self.valid = getattr(dut, f"{self.name}valid")
        self.ready = getattr(dut, f"{self.name}ready")
        self.payload = [getattr(dut, f"{self.name}{name}") for name in payload]
        self.transfers = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        offered, was_reset = None, False
        while True:
            await RisingEdge(self.clock)
            now = tuple(int(signal.value) for signal in self.payload) if self.valid.value == 1 else None
            assert not (was_reset and now), f"{self.name}: valid in reset"
            was_reset = self.reset.value == 1
            if was_reset:
                offered = None
                continue
            if offered is not None:
                assert now == offered, f"{self.name}: {offered} became {now} before it was taken"
            taken = now is not None and self.ready.value == 1
            self.transfers += taken
            offered = None if taken else now


class Ledger:
    """Keeps the books of the AXI4 port; asserts that data and answers belong to an address.

    Attributes
    ----------
    reads : beats that are still to come, per read burst. data : beats that are still to be sent, per write burst.
    answers : write bursts without an answer. read_bursts, write_bursts : bursts since the simulation started.
    """

    def __init__(self, dut, prefix: str = "m_axi"):
        self.dut, self.prefix = dut, prefix
        self.reads: deque[int] = deque()
        self.data: deque[int] = deque()
        self.answers = 0
        self.read_bursts = self.write_bursts = 0
        cocotb.start_soon(self._run())

    @property
    def settled(self) -> bool:
        """Every transaction has ended."""
        return not (self.reads or self.data or self.answers)

    def _value(self, name: str) -> int:
        return int(getattr(self.dut, f"{self.prefix}_{name}").value)

    def _taken(self, channel: str) -> bool:
        return bool(self._value(f"{channel}valid") and self._value(f"{channel}ready"))

    @staticmethod
    def _beat(bursts: deque[int], last: int) -> None:
        bursts[0] -= 1
        assert last == (bursts[0] == 0), "the last beat is not where the address says"
        if last:
            bursts.popleft()

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.rst.value == 1:
                self.reads.clear()
                self.data.clear()
                self.answers = 0
                continue
            if self._taken("ar"):
                self.reads.append(self._value("arlen") + 1)
                self.read_bursts += 1
            if self._taken("aw"):
                self.data.append(self._value("awlen") + 1)
                self.answers += 1
                self.write_bursts += 1
            if self._taken("r"):
                assert self.reads, "data that nobody asked for"
                self._beat(self.reads, self._value("rlast"))
            if self._taken("w"):
                assert self.data, "data before its address"
                self._beat(self.data, self._value("wlast"))
            if self._taken("b"):
                self.answers -= 1
                assert self.answers >= len(self.data), "an answer before the last beat"


class Bench:
    """Clock, reset, judge and a small driver."""

    def __init__(self, dut):
        self.dut = dut
        logging.getLogger("cocotb").setLevel(logging.ERROR)  # the judge warns of errors and resets, which are meant
        random.seed(SEED)
        dut._log.error("LACUNA_SEED=%d", SEED)
        cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
        self.memory = ExternalMemory(dut.clk, 1 << 18)
        self.slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory)
        self.memory.answer_through(self.slave)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        address = ("addr", "len", "size", "burst", "id", "cache", "prot", "lock", "qos")
        self.monitors = [StabilityMonitor(dut, "m_axi", "ar", address), StabilityMonitor(dut, "m_axi", "aw", address),
                         StabilityMonitor(dut, "m_axi", "w", ("data", "strb", "last")),
                         StabilityMonitor(dut, "s_axil", "b", ("resp",)),
                         StabilityMonitor(dut, "s_axil", "r", ("data", "resp"))]
        self.ledger = Ledger(dut)

    def back_pressure(self, probability: float) -> None:
        """Pause every channel of both ports in that share of the cycles, and let the memory take its time."""
        def pauses():
            return (random.random() < probability for _ in itertools.count())

        for port in (self.slave, self.host):
            for side, channels in (("write_if", ("aw", "w", "b")), ("read_if", ("ar", "r"))):
                for channel in channels:
                    getattr(getattr(port, side), f"{channel}_channel").set_pause_generator(pauses())
        self.memory.slow = probability / 10

    async def reset(self, cycles: int = 4) -> None:
        """Hardware reset of all that is on the bus, then windows, interrupt and watchdog."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, cycles)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)
        for window, base in BASE.items():
            writes = window in (Window.OUTPUT, Window.RECORD)
            await self.put(f"WINDOW{window}_BASE", base)
            await self.put(f"WINDOW{window}_SIZE", PART)
            await self.put(f"WINDOW{window}_PERMISSION", Permission.WRITE if writes else Permission.READ)
        await self.put("INTERRUPT_ENABLE", 1)
        await self.put("WATCHDOG", 5000)

    async def get(self, name: str) -> int:
        answer = await self.host.read(REGISTERS[name].address, 4)
        assert answer.resp == AxiResp.OKAY
        return int.from_bytes(answer.data, "little")

    async def put(self, name: str, value: int) -> None:
        answer = await self.host.write(REGISTERS[name].address, int(value).to_bytes(4, "little"))
        assert answer.resp == AxiResp.OKAY

    def window(self, window: Window) -> slice:
        return slice(BASE[window], BASE[window] + PART)

    def put_program(self, commands) -> None:
        """A program at offset 0 of window IMAGE."""
        begin = {"magic": MAGIC, "format_version": FORMAT_VERSION, "config_hash": CONFIG.hash,
                 "command_count": len(commands) + 2}
        code = encode(Opcode.BEGIN, begin) + b"".join(encode(*command) for command in commands) + encode(Opcode.END, {})
        self.memory[BASE[Window.IMAGE] : BASE[Window.IMAGE] + len(code)] = code

    async def run(self) -> int:
        """Ring the doorbell and wait for the interrupt; STATUS."""
        await self.put("CONTROL", Control.START)
        await ClockCycles(self.dut.clk, 2)
        if self.dut.irq.value == 0:
            await RisingEdge(self.dut.irq)
        status = await self.get("STATUS")
        assert self.ledger.settled, "the device says that it has ended, but its transactions have not"
        return status

    def fill(self) -> None:
        """Random inputs, blank outputs and records."""
        self.memory[self.window(Window.INPUT)] = random.randbytes(PART)
        self.memory[self.window(Window.OUTPUT)] = bytes(PART)
        self.memory[self.window(Window.RECORD)] = bytes(PART)

    async def copy(self, count: int) -> None:
        """A program of `count` loads, each followed by a store; all memory must be as it should, records too."""
        self.fill()
        unit = max(CONFIG.lanes, BEAT)
        commands, expected = [], bytearray(PART)
        for i in range(count):
            length = unit * random.randrange(1, 1 + 1600 // unit)
            source = random.choice([PART - length, BEAT * random.randrange((PART - length) // BEAT + 1)])
            target = random.choice([PART - length, BEAT * random.randrange((PART - length) // BEAT + 1)])
            address = random.randrange(CONFIG.feature_words)
            common = {"length": length, "address": address}
            # One store at a time reads what the load before it has brought, and frees it for the next load.
            commands.append((Opcode.LOAD, {"window": Window.INPUT, "offset": source, "signal": 0b10,
                                           "wait_store": int(i > 0), **common}))
            commands.append((Opcode.STORE, {"window": Window.OUTPUT, "offset": target, "signal": 0b01,
                                            "wait_load": 1, **common}))
            at = BASE[Window.INPUT] + source
            expected[target : target + length] = self.memory[at : at + length]
        self.put_program(commands)
        whole = bytearray(self.memory[0 : self.memory.size])
        assert await self.run() == Status.DONE | Status.INTERRUPT
        records = slice(BASE[Window.RECORD], BASE[Window.RECORD] + RECORD_BYTES * len(commands))
        for i, record in enumerate(decode_records(bytes(self.memory[records]))):
            assert (record["command"], record["opcode"]) == (i + 1, commands[i][0])
            assert record["beats"] == commands[i][1]["length"] // BEAT
        assert await self.get("COMPLETED") == len(commands)
        whole[self.window(Window.OUTPUT)] = expected
        whole[records] = self.memory[records]
        assert bytes(self.memory[0 : self.memory.size]) == bytes(whole), "something else was written"
