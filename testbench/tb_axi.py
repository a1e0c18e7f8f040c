"""The AXI ports judged by cocotbext-axi: programs of loads and stores on a top without compute engines.

`tests/hw/test_axi_judge.py` builds the design and runs this. The judge checks bursts (4 KB rule, WLAST, IDs) and
answers with random latency and back-pressure; here stability of the channels, data and errors are checked.
"""

from __future__ import annotations

import itertools
import logging
import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave, MemoryRegion

from hw.contract.commands import MAGIC, RECORD_BYTES, Opcode, decode_records, encode
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import ADDRESS_BYTES, ID, REGISTERS, Access, Control, Error, Permission, Status, Window

CONFIG = preset(os.environ.get("LACUNA_PRESET", "small"))
SEED = int(os.environ.get("LACUNA_SEED", "1"))

PART = 1 << 14  # bytes of each window; they lie one after the other, off page boundaries
BASE = {Window.IMAGE: 0x0_0040, Window.INPUT: 0x1_0FF8, Window.OUTPUT: 0x2_0008, Window.RECORD: 0x3_0FE8}


class ExternalMemory(MemoryRegion):
    """Memory with random latency that refuses addresses in `bad`."""

    def __init__(self, clock, size: int):
        super().__init__(size)
        self.clock = clock
        self.bad: list[range] = []
        self.slow = 0.0  # probability that an access takes its time

    async def _dawdle(self, address: int) -> None:
        if random.random() < self.slow:
            await ClockCycles(self.clock, random.randrange(1, 60))
        if any(address in bad for bad in self.bad):
            raise ValueError(f"there is no memory at {address:#x}")

    async def _read(self, address, length, **kwargs):
        await self._dawdle(address)
        return self.mem[address : address + length]

    async def _write(self, address, data, **kwargs):
        await self._dawdle(address)
        self.mem[address : address + len(data)] = bytes(data)


class StabilityMonitor:
    """Asserts that a channel's payload stays as it is from `valid` until `ready`."""

    def __init__(self, dut, prefix: str, channel: str, payload: tuple[str, ...]):
        self.name = f"{prefix}_{channel}"
        self.clock = dut.clk
        self.valid = getattr(dut, f"{self.name}valid")
        self.ready = getattr(dut, f"{self.name}ready")
        self.payload = [getattr(dut, f"{self.name}{name}") for name in payload]
        self.transfers = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        offered = None
        while True:
            await RisingEdge(self.clock)
            now = tuple(int(signal.value) for signal in self.payload) if self.valid.value == 1 else None
            if offered is not None:
                assert now == offered, f"{self.name}: {offered} became {now} before it was taken"
            taken = now is not None and self.ready.value == 1
            self.transfers += taken
            offered = None if taken else now


class Bench:
    """Clock, reset, judge and a small driver."""

    def __init__(self, dut):
        self.dut = dut
        logging.getLogger("cocotb").setLevel(logging.WARNING)
        random.seed(SEED)
        dut._log.warning("LACUNA_SEED=%d", SEED)
        cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
        self.memory = ExternalMemory(dut.clk, 1 << 18)
        self.slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        address = ("addr", "len", "size", "burst", "id", "cache", "prot", "lock", "qos")
        self.monitors = [StabilityMonitor(dut, "m_axi", "ar", address), StabilityMonitor(dut, "m_axi", "aw", address),
                         StabilityMonitor(dut, "m_axi", "w", ("data", "strb", "last")),
                         StabilityMonitor(dut, "s_axil", "b", ("resp",)),
                         StabilityMonitor(dut, "s_axil", "r", ("data", "resp"))]

    def back_pressure(self, probability: float) -> None:
        """Pause every channel of both ports in that share of the cycles, and let the memory take its time."""
        def pauses():
            return (random.random() < probability for _ in itertools.count())

        for port in (self.slave, self.host):
            for side, channels in (("write_if", ("aw", "w", "b")), ("read_if", ("ar", "r"))):
                for channel in channels:
                    getattr(getattr(port, side), f"{channel}_channel").set_pause_generator(pauses())
        self.memory.slow = probability / 10

    async def reset(self) -> None:
        """Hardware reset, then windows, interrupt and watchdog."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
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
        return await self.get("STATUS")

    def fill(self) -> None:
        """Random inputs, blank outputs and records."""
        self.memory[self.window(Window.INPUT)] = random.randbytes(PART)
        self.memory[self.window(Window.OUTPUT)] = bytes(PART)
        self.memory[self.window(Window.RECORD)] = bytes(PART)

    async def copy(self, count: int) -> None:
        """A program of `count` loads, each followed by a store; all data and all records must be right."""
        self.fill()
        unit = max(CONFIG.lanes, 8)
        commands, expected = [], bytearray(PART)
        for i in range(count):
            length = unit * random.randrange(1, 1 + 1600 // unit)
            source = random.choice([PART - length, 8 * random.randrange((PART - length) // 8 + 1)])
            target = random.choice([PART - length, 8 * random.randrange((PART - length) // 8 + 1)])
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
        assert await self.run() == Status.DONE | Status.INTERRUPT
        assert bytes(self.memory[self.window(Window.OUTPUT)]) == bytes(expected)
        records = self.memory[BASE[Window.RECORD] : BASE[Window.RECORD] + RECORD_BYTES * len(commands)]
        for i, record in enumerate(decode_records(bytes(records))):
            assert (record["command"], record["opcode"]) == (i + 1, commands[i][0])
            assert record["beats"] == commands[i][1]["length"] // 8
        assert await self.get("COMPLETED") == len(commands)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def quick_bus(dut):
    """Copies with an ideal bus."""
    bench = Bench(dut)
    await bench.reset()
    await bench.copy(12)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def slow_bus(dut):
    """Copies under random latency and back-pressure on all channels."""
    bench = Bench(dut)
    await bench.reset()
    for probability in (0.2, 0.6):
        bench.back_pressure(probability)
        await bench.copy(8)
    assert all(monitor.transfers for monitor in bench.monitors)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def bus_errors(dut):
    """An error answer anywhere stops the program with its code; the next program works."""
    bench = Bench(dut)
    await bench.reset()
    bench.back_pressure(0.3)
    command = {"length": 1600, "address": 0}
    load = (Opcode.LOAD, {"window": Window.INPUT, **command})
    store = (Opcode.STORE, {"window": Window.OUTPUT, **command})
    for commands, window, at, code, index in (
            ([load, load], Window.INPUT, 800, Error.BUS_READ, 1),
            ([load, store], Window.OUTPUT, 1592, Error.BUS_WRITE, 2),
            ([load] * 12, Window.IMAGE, 9 * 128, Error.BUS_READ, 9),
            ([load, load], Window.RECORD, RECORD_BYTES, Error.BUS_WRITE, 2)):
        bench.put_program(commands)
        bench.memory.bad = [range(BASE[window] + at, BASE[window] + at + 8)]
        assert await bench.run() == Status.ERROR | Status.INTERRUPT
        assert await bench.get("ERROR_CODE") == code
        assert await bench.get("ERROR_COMMAND") == index
        bench.memory.bad = []
        await bench.copy(2)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def soft_reset_in_mid_burst(dut):
    """The judge sees every burst end in good order."""
    bench = Bench(dut)
    await bench.reset()
    bench.back_pressure(0.3)
    for _ in range(6):
        bench.fill()
        bench.put_program([(Opcode.LOAD, {"window": Window.INPUT, "length": 8192}),
                           (Opcode.STORE, {"window": Window.OUTPUT, "length": 8192})])
        await bench.put("CONTROL", Control.START)
        await ClockCycles(dut.clk, random.randrange(400))
        await bench.put("CONTROL", Control.SOFT_RESET)
        while await bench.get("STATUS") & Status.BUSY:
            pass
        assert await bench.get("STATUS") == 0
        await bench.copy(2)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def registers(dut):
    """Single bytes, halves, words; unknown and forbidden addresses answer SLVERR."""
    bench = Bench(dut)
    await bench.reset()
    bench.back_pressure(0.4)
    assert await bench.get("ID") == ID
    assert await bench.get("CONFIG") == CONFIG.hash
    known = {register.address: register for register in REGISTERS.values()}
    for address in range(0, ADDRESS_BYTES, 4):
        access = known[address].access if address in known else None
        answer = await bench.host.read(address, 4)
        assert (answer.resp == AxiResp.OKAY) == (access in (Access.READ, Access.READ_WRITE)), hex(address)
        if access is not Access.WRITE:
            answer = await bench.host.write(address, bytes(4))
            assert (answer.resp == AxiResp.OKAY) == (access is Access.READ_WRITE), hex(address)
    address = REGISTERS["WATCHDOG"].address
    value = bytearray(4)
    for _ in range(30):
        at = random.randrange(4)
        new = random.randbytes(random.randrange(1, 5 - at))
        value[at : at + len(new)] = new
        assert (await bench.host.write(address + at, new)).resp == AxiResp.OKAY
        assert await bench.get("WATCHDOG") == int.from_bytes(value, "little")
