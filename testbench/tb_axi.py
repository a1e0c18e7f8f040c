"""The AXI ports judged by cocotbext-axi: programs of loads and stores on a top without compute engines.

`tests/hw/test_axi_judge.py` builds the design and runs this; the judge and what it looks at is in
testbench/axi_judge.py. Everything happens at random moments under random latency and back-pressure.
"""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiResp

from hw.contract.commands import RECORD_BYTES, Opcode
from hw.contract.registers import ADDRESS_BYTES, ID, REGISTERS, Access, Control, Error, Status, Window
from testbench.axi_judge import BASE, BEAT, CONFIG, PART, Bench

ERRORS = (AxiResp.SLVERR, AxiResp.DECERR)

#: Long transfers in both directions at once.
LOAD = (Opcode.LOAD, {"window": Window.INPUT, "length": 8192})
STORE = (Opcode.STORE, {"window": Window.OUTPUT, "length": 8192})


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


@cocotb.test(timeout_time=9, timeout_unit="ms")
async def bus_errors(dut):
    """SLVERR or DECERR on one beat stops the program with its code; the next program works.

    First, last and a random beat of a transfer of several bursts, in every window.
    """
    bench = Bench(dut)
    await bench.reset()
    length = 1600
    load = (Opcode.LOAD, {"window": Window.INPUT, "length": length})
    store = (Opcode.STORE, {"window": Window.OUTPUT, "length": length})
    cases = [(window, place, error) for window in Window for place in ("first", "random", "last") for error in ERRORS]
    for window, place, error in cases:
        bench.back_pressure(random.choice([0.0, 0.1, 0.3]))
        reads = window in (Window.IMAGE, Window.INPUT)
        # Where the accesses are, and which command it is that makes them.
        commands, start, size, index, code = {
            Window.IMAGE: ([load] * 12, 9 * 128, 128, 9, Error.BUS_READ),
            Window.INPUT: ([load, load], 0, length, 1, Error.BUS_READ),
            Window.OUTPUT: ([load, store], 0, length, 2, Error.BUS_WRITE),
            Window.RECORD: ([load, load], RECORD_BYTES, RECORD_BYTES, 2, Error.BUS_WRITE),
        }[window]
        beat = {"first": 0, "last": size // BEAT - 1, "random": random.randrange(size // BEAT)}[place]
        at = BASE[window] + start + BEAT * beat
        bench.put_program(commands)
        (bench.memory.bad_reads if reads else bench.memory.bad_writes)[at] = error
        assert await bench.run() == Status.ERROR | Status.INTERRUPT
        case = f"{window.name}, {place} beat, {error.name}"
        assert (await bench.get("ERROR_CODE"), await bench.get("ERROR_COMMAND")) == (code, index), case
        address = await bench.get("ERROR_ADDRESS")
        if reads:
            assert address == at, case
        else:  # an answer is about a whole burst
            assert address <= at < address + BEAT * CONFIG.burst_beats, case
        bench.memory.bad_reads.clear()
        bench.memory.bad_writes.clear()
        await bench.copy(1)


@cocotb.test(timeout_time=9, timeout_unit="ms")
async def many_bus_errors(dut):
    """Reads and writes fail at once, many times: the first error counts, every burst ends, the next program works."""
    bench = Bench(dut)
    await bench.reset()
    seen = set()
    for _ in range(10):
        bench.back_pressure(random.choice([0.0, 0.2, 0.5]))
        for bad, window in ((bench.memory.bad_reads, Window.INPUT), (bench.memory.bad_writes, Window.OUTPUT)):
            share = random.choice([0.005, 0.05, 1.0])
            bad.update({BASE[window] + at: random.choice(ERRORS) for at in range(0, 8192, BEAT)
                        if random.random() < share})
        bench.put_program([LOAD, STORE])
        assert await bench.run() == Status.ERROR | Status.INTERRUPT
        code, command = await bench.get("ERROR_CODE"), await bench.get("ERROR_COMMAND")
        address = await bench.get("ERROR_ADDRESS")
        assert (code, command) in ((Error.BUS_READ, 1), (Error.BUS_WRITE, 2))
        if code == Error.BUS_READ:
            assert address == min(bench.memory.bad_reads)
        else:
            assert address <= min(bench.memory.bad_writes) < address + BEAT * CONFIG.burst_beats
        seen.add(code)
        bench.memory.bad_reads.clear()
        bench.memory.bad_writes.clear()
        await bench.copy(1)
    assert len(seen) == 2


async def until_under_way(bench: Bench, reads: bool, writes: bool) -> None:
    """Wait for the middle of a burst, of which half the beats may have passed."""
    ledger = bench.ledger
    while (reads and not ledger.reads) or (writes and not ledger.answers):
        await RisingEdge(bench.dut.clk)
    await ClockCycles(bench.dut.clk, random.randrange(1, 30))


async def until_somewhere_in_a_run(bench: Bench, number: int) -> None:
    """Start a program, of random back-pressure, and wait: anywhere in its first rounds, then within bursts."""
    bench.back_pressure(random.choice([0.0, 0.3, 0.7]))
    bench.fill()
    bench.put_program([LOAD, STORE])
    await bench.put("CONTROL", Control.START)
    if number < 4:
        await ClockCycles(bench.dut.clk, random.randrange(400))
    else:
        await until_under_way(bench, reads=number % 4 != 0, writes=number % 4 != 1)


@cocotb.test(timeout_time=9, timeout_unit="ms")
async def soft_reset_in_mid_burst(dut):
    """The device makes no new bursts, and is busy until those that it began have ended, errors among them or not."""
    bench = Bench(dut)
    await bench.reset()
    open_reads = open_writes = 0
    for number in range(12):
        if number % 3 == 0:
            bench.memory.bad_reads.update(dict.fromkeys(range(BASE[Window.INPUT] + 1024, BASE[Window.RECORD], BEAT),
                                                        random.choice(ERRORS)))
        await until_somewhere_in_a_run(bench, number)
        ledger = bench.ledger
        await bench.put("CONTROL", Control.SOFT_RESET)
        open_reads += bool(ledger.reads)
        open_writes += bool(ledger.answers)
        before = ledger.read_bursts, ledger.write_bursts
        while await bench.get("STATUS") & Status.BUSY:
            pass
        assert ledger.settled, "idle, but transactions have not ended"
        # What was offered must stay offered; no more than that may follow.
        assert ledger.read_bursts <= before[0] + 1
        assert ledger.write_bursts <= before[1] + 1
        assert await bench.get("STATUS") == await bench.get("ERROR_CODE") == 0
        bench.memory.bad_reads.clear()
        await bench.copy(2)
    assert open_reads > 2 and open_writes > 2, "no reset came in the middle of a burst"


@cocotb.test(timeout_time=9, timeout_unit="ms")
async def hardware_reset_in_mid_burst(dut):
    """All of the bus is reset while bursts and register accesses are under way: nothing of them is left."""
    bench = Bench(dut)
    await bench.reset()
    open_reads = open_writes = 0
    for number in range(12):
        await until_somewhere_in_a_run(bench, number)
        cocotb.start_soon(bench.host.read(REGISTERS["STATUS"].address, 4))
        cocotb.start_soon(bench.host.write(REGISTERS["WATCHDOG"].address, bytes(4)))
        await ClockCycles(dut.clk, random.randrange(8))
        open_reads += bool(bench.ledger.reads)
        open_writes += bool(bench.ledger.answers)
        dut.rst.value = 1
        await ClockCycles(dut.clk, random.randrange(1, 5))
        dut.rst.value = 0
        before = bench.ledger.read_bursts, bench.ledger.write_bursts
        await ClockCycles(dut.clk, 40)
        assert (bench.ledger.read_bursts, bench.ledger.write_bursts) == before, "a burst of before the reset"
        assert await bench.get("STATUS") == await bench.get("CYCLES") == 0
        assert await bench.get("WATCHDOG") == REGISTERS["WATCHDOG"].reset
        await bench.reset(cycles=1)
        await bench.copy(2)
    assert open_reads > 2 and open_writes > 2, "no reset came in the middle of a burst"


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


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def registers_at_once(dut):
    """Reads and writes that do not wait for each other, good ones and bad ones mixed: each gets its own answer."""
    bench = Bench(dut)
    await bench.reset()
    offsets = [REGISTERS[f"WINDOW{i}_BASE"].address for i in range(4)]
    for probability in (0.0, 0.3, 0.7):
        bench.back_pressure(probability)
        values = {}
        writes, reads = [], []
        for _ in range(20):
            address = random.choice([*offsets, REGISTERS["STATUS"].address, ADDRESS_BYTES - 4])
            value = 8 * random.randrange(1 << 20)
            writes.append((address, cocotb.start_soon(bench.host.write(address, value.to_bytes(4, "little")))))
            if address in offsets:
                values[address] = value
            address = random.choice([REGISTERS["ID"].address, REGISTERS["CONTROL"].address, ADDRESS_BYTES - 4])
            reads.append((address, cocotb.start_soon(bench.host.read(address, 4))))
        for address, task in writes:
            assert (await task).resp == (AxiResp.OKAY if address in offsets else AxiResp.SLVERR)
        for address, task in reads:
            answer = await task
            good = address == REGISTERS["ID"].address
            assert answer.resp == (AxiResp.OKAY if good else AxiResp.SLVERR)
            assert int.from_bytes(answer.data, "little") == (ID if good else 0)
        for address, value in values.items():
            answer = await bench.host.read(address, 4)
            assert int.from_bytes(answer.data, "little") == value


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def whole_window(dut):
    """A transfer of all of a window, from its first byte to its last: bursts end at every page."""
    bench = Bench(dut)
    await bench.reset()
    bench.back_pressure(0.1)
    bench.fill()
    size = min(PART, CONFIG.feature_bytes)
    offset = PART - size
    bench.put_program([(Opcode.LOAD, {"window": Window.INPUT, "offset": offset, "length": size, "signal": 0b10}),
                       (Opcode.STORE, {"window": Window.OUTPUT, "offset": offset, "length": size, "wait_load": 1})])
    assert await bench.run() == Status.DONE | Status.INTERRUPT
    source, target = BASE[Window.INPUT] + offset, BASE[Window.OUTPUT] + offset
    assert bench.memory[target : target + size] == bench.memory[source : source + size]
