"""The sequencer with real masters, registers, load and store engine; the test plays conv and vector engine."""

from __future__ import annotations

import dataclasses
import itertools
import os

import numpy as np
import pytest

from hw.contract.commands import (
    COMMAND_BYTES,
    COUNTERS,
    ENGINE_OF,
    MAGIC,
    RECORD_BYTES,
    Engine,
    Opcode,
    decode,
    decode_records,
    encode,
)
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import REGISTERS, Control, Error, Permission, Status, Window
from hw.ports import UNDER_WAY
from hw.sequencer.beat_queue import BeatQueue
from hw.sequencer.first_error import FirstError
from hw.sequencer.tokens import ANNOUNCED_BEFORE, TokenCounters
from testbench.axi_lite_access import read, write
from testbench.axi_memory_model import AxiMemoryModel
from testbench.component_simulation import simulate
from testbench.control_top import ControlTop

SEED = int(os.environ.get("LACUNA_SEED", "1"))
CONFIG = preset("small")
BASE = 0x4000_0000
IMAGE_BYTES = 65536  # then inputs, outputs and records, of PART_BYTES each
PART_BYTES = 32768
MEMORY_BYTES = IMAGE_BYTES + 3 * PART_BYTES
INPUT_AT, OUTPUT_AT, RECORD_AT = (IMAGE_BYTES + i * PART_BYTES for i in range(3))
IDLE = 0xFFFF_FFFF
TAKEN = 5  # cycles until an engine that overlaps commands has no more need of one's payload


class Bench:
    """The device, its memory, a driver, and two engines that take as long as a command's first field says."""

    def __init__(self, config=CONFIG, seed=SEED, latency=(20, 20), ready=1.0, valid=1.0, overlap=False):
        self.config = config
        self.overlap = overlap
        self.dut = ControlTop(config)
        content = bytearray(np.random.default_rng(seed).bytes(MEMORY_BYTES))
        content[RECORD_AT:] = b"\xee" * PART_BYTES
        self.memory = AxiMemoryModel(self.dut.m_axi, bytes(content), BASE, seed, latency, ready, valid)
        self.started = {Engine.CONV: [], Engine.VECTOR: []}  # (cycle, command) as the engine saw them
        self.completed = {Engine.CONV: [], Engine.VECTOR: []}
        self.counters = {engine: iter(range(1, 1_000_000)) for engine in self.started}
        self.fail = {}  # duration: (code, address) that the engine reports instead of completing
        self.resets = 0
        self.interrupted = 0

    # ---- memory ---------------------------------------------------------------------------------------------
    def program(self, commands, at=0, **begin):
        """Put a program at offset `at` of window IMAGE; commands are (opcode, fields), END is added."""
        count = len(commands) + 2
        begin = {"magic": MAGIC, "format_version": FORMAT_VERSION, "config_hash": self.config.hash,
                 "command_count": count} | begin
        code = encode(Opcode.BEGIN, begin) + b"".join(encode(*command) for command in commands) + encode(Opcode.END, {})
        self.memory.data[at : at + len(code)] = np.frombuffer(code, np.uint8)

    def records(self, count):
        data = self.memory.data[RECORD_AT : RECORD_AT + RECORD_BYTES * count].tobytes()
        return list(decode_records(data))

    # ---- engines ----------------------------------------------------------------------------------------------
    def engine(self, engine):
        port = {Engine.CONV: self.dut.conv, Engine.VECTOR: self.dut.vector}[engine]
        duration_field = {Opcode.CONV: "input_base", Opcode.ADD: "output_base", Opcode.MAX_POOL: "input_base"}

        async def run(ctx):
            left = None
            duration = 0
            while True:
                _clk, _rst, valid, payload, reset = await ctx.tick().sample(
                    port.command.valid, port.command.payload, self.dut.engine_reset)
                ctx.set(port.command.ready, 0)
                if engine in UNDER_WAY:
                    ctx.set(port.complete, 0)
                ctx.set(port.error.valid, 0)
                if reset:
                    left = None
                elif left == "completed":
                    left = None  # the cycle of `ready`
                elif left == "failed":
                    pass
                elif valid:
                    if left is None:
                        command = decode(payload.to_bytes(COMMAND_BYTES, "little"))
                        self.started[engine].append((self.memory.cycle, command))
                        duration = left = command[1][duration_field[command[0]]]
                    left -= 1
                    if left <= 0 and duration in self.fail:
                        code, address = self.fail[duration]
                        ctx.set(port.error, {"valid": 1, "code": code, "address": address})
                        left = "failed"
                    elif left <= 0 and (engine not in UNDER_WAY or ctx.get(port.may_complete)):
                        for name, _doc in COUNTERS[engine]:
                            ctx.set(getattr(port.counters, name), next(self.counters[engine]))
                        ctx.set(port.command.ready, 1)
                        if engine in UNDER_WAY:
                            ctx.set(port.complete, 1)
                        self.completed[engine].append(self.memory.cycle)
                        left = "completed"
        return run

    def overlapping(self):
        """The conv engine's way: up to UNDER_WAY commands at once, taken after TAKEN cycles, completed in order."""
        port, engine = self.dut.conv, Engine.CONV

        async def run(ctx):
            pending = []  # cycles left of each command under way, oldest first
            shown = 0  # cycles that the command offered has been offered
            completing = False
            while True:
                _clk, _rst, valid, payload, reset, may_complete = await ctx.tick().sample(
                    port.command.valid, port.command.payload, self.dut.engine_reset, port.may_complete)
                taken = ctx.get(port.command.ready)
                ctx.set(port.command.ready, 0)
                ctx.set(port.complete, 0)
                if reset:
                    pending, shown, completing = [], 0, False
                    continue
                if completing and may_complete:
                    pending.pop(0)
                pending = [max(left - 1, 0) for left in pending]
                if valid and not taken:
                    if not shown:
                        command = decode(payload.to_bytes(COMMAND_BYTES, "little"))
                        self.started[engine].append((self.memory.cycle, command))
                        pending.append(command[1]["input_base"])
                    shown += 1
                    assert len(pending) <= UNDER_WAY[engine]
                    if shown >= TAKEN:
                        ctx.set(port.command.ready, 1)
                        shown = 0
                # `complete` answers `may_complete` of the same cycle, which the records in front of it decide.
                completing = bool(pending) and not pending[0] and not (len(pending) == 1 and shown) \
                    and bool(ctx.get(port.may_complete))
                if completing:
                    for name, _doc in COUNTERS[engine]:
                        ctx.set(getattr(port.counters, name), next(self.counters[engine]))
                    ctx.set(port.complete, 1)
                    self.completed[engine].append(self.memory.cycle)
        return run

    async def watch(self, ctx):
        async for _clk, _rst, reset, irq in ctx.tick().sample(self.dut.engine_reset, self.dut.irq):
            self.resets += reset
            self.interrupted += irq

    # ---- driver -----------------------------------------------------------------------------------------------
    async def get(self, ctx, name):
        value, _response = await read(ctx, self.dut.s_axil, REGISTERS[name].address)
        return value

    async def put(self, ctx, name, value):
        await write(ctx, self.dut.s_axil, REGISTERS[name].address, value)

    async def set_up(self, ctx, watchdog=2000):
        for window, base, size, permission in (
                (Window.IMAGE, 0, IMAGE_BYTES, Permission.READ),
                (Window.INPUT, INPUT_AT, PART_BYTES, Permission.READ),
                (Window.OUTPUT, OUTPUT_AT, PART_BYTES, Permission.WRITE),
                (Window.RECORD, RECORD_AT, PART_BYTES, Permission.WRITE)):
            await self.put(ctx, f"WINDOW{window}_BASE", BASE + base)
            await self.put(ctx, f"WINDOW{window}_SIZE", size)
            await self.put(ctx, f"WINDOW{window}_PERMISSION", permission)
        await self.put(ctx, "INTERRUPT_ENABLE", 1)
        await self.put(ctx, "WATCHDOG", watchdog)

    async def start(self, ctx, program=0):
        await self.put(ctx, "PROGRAM", program)
        await self.put(ctx, "CONTROL", Control.START)

    async def wait(self, ctx):
        """Until the interrupt; the status."""
        while not ctx.get(self.dut.irq):
            await ctx.tick()
        return await self.get(ctx, "STATUS")

    async def run(self, ctx, program=0):
        await self.start(ctx, program)
        return await self.wait(ctx)

    async def expect_done(self, ctx, program=0):
        assert await self.run(ctx, program) == Status.DONE | Status.INTERRUPT
        assert await self.get(ctx, "ERROR_CODE") == Error.NONE

    async def expect_error(self, ctx, code, command, address=None, program=0):
        assert await self.run(ctx, program) == Status.ERROR | Status.INTERRUPT
        assert await self.get(ctx, "ERROR_CODE") == code
        assert await self.get(ctx, "ERROR_COMMAND") == command
        if address is not None:
            assert await self.get(ctx, "ERROR_ADDRESS") == address
        for engine in Engine:
            assert await self.get(ctx, f"{engine.name}_COMMAND") == IDLE

    def simulate(self, *processes, background=(), cycles=40_000):
        simulate(self.dut, *processes, cycles=cycles, background=[
            *background, self.memory.run, self.watch, self.engine(Engine.VECTOR),
            self.overlapping() if self.overlap else self.engine(Engine.CONV)])


def conv(duration, **fields):
    return Opcode.CONV, {"input_base": duration, **fields}


def add(duration, **fields):
    return Opcode.ADD, {"output_base": duration, **fields}


def load(length=64, **fields):
    return Opcode.LOAD, {"window": Window.INPUT, "length": length, **fields}


def store(length=64, **fields):
    return Opcode.STORE, {"window": Window.OUTPUT, "length": length, **fields}


TO_LOAD, TO_STORE, TO_CONV, TO_VECTOR = (1 << engine for engine in Engine)

GOOD = [load(256, signal=TO_CONV), conv(20, wait_load=1, signal=TO_VECTOR), add(15, wait_conv=1, signal=TO_STORE),
        store(256, wait_vector=1)]


async def good_program_works(ctx, bench):
    """What was loaded comes out, and records follow."""
    bench.program(GOOD, at=16384)
    bench.memory.data[OUTPUT_AT : OUTPUT_AT + 256] = 0
    await bench.expect_done(ctx, 16384)
    memory = bench.memory.data
    assert memory[OUTPUT_AT : OUTPUT_AT + 256].tolist() == memory[INPUT_AT : INPUT_AT + 256].tolist()
    assert [record["command"] for record in bench.records(4)] == [1, 2, 3, 4]
    assert await bench.get(ctx, "COMPLETED") == 4
    assert await bench.get(ctx, "DISPATCHED") == 4


def test_program():
    """Load, conv, vector, store, in the order of the tokens; records, counters, cycles."""
    bench = Bench()
    counted = []

    async def count(ctx):
        """Cycles from the doorbell taken to the interrupt, counted from outside."""
        state = 0
        async for _clk, _rst, written, irq in ctx.tick().sample(
                bench.dut.s_axil.wvalid & bench.dut.s_axil.wready & (bench.dut.s_axil.wdata == Control.START)
                & (bench.dut.s_axil.awaddr == REGISTERS["CONTROL"].address), bench.dut.irq):
            if written:
                state = 1  # held in this cycle, acts in the next
                counted.append(-1)
            elif state and not irq:
                counted[-1] += 1
            elif irq:
                if state:
                    counted[-1] += 1
                state = 0

    async def test(ctx):
        await bench.set_up(ctx)
        await good_program_works(ctx, bench)
        assert await bench.get(ctx, "CYCLES") == counted[-1]
        records = bench.records(4)
        assert [record["opcode"] for record in records] == [Opcode.LOAD, Opcode.CONV, Opcode.ADD, Opcode.STORE]
        assert records[0]["beats"] == records[3]["beats"] == 32
        assert [records[1][name] for name, _doc in COUNTERS[Engine.CONV]] == list(range(1, 9))
        assert [records[2][name] for name, _doc in COUNTERS[Engine.VECTOR]] == [1, 2, 3]
        assert records[0]["start"] < 70, "from the doorbell to the first load"
        for before, after in itertools.pairwise(records):
            assert 1 <= after["start"] - before["end"] <= 4, "a token's way from one engine to the next"
        for record, duration in ((records[1], 20), (records[2], 15)):
            assert record["end"] - record["start"] == duration
        assert bench.memory.data[RECORD_AT + 4 * 64 :].tolist() == [0xEE] * (PART_BYTES - 256)
        # The interrupt stays until it is acknowledged.
        assert ctx.get(bench.dut.irq)
        await bench.put(ctx, "CONTROL", Control.ACKNOWLEDGE)
        assert not ctx.get(bench.dut.irq)
        assert await bench.get(ctx, "STATUS") == Status.DONE

    bench.simulate(test, background=[count])


def test_no_gap_between_commands():
    """The next command of an engine starts at most three cycles after the one before."""
    bench = Bench()
    bench.program([command for i in range(10) for command in (conv(60 + i), add(60 + i))])

    async def test(ctx):
        await bench.set_up(ctx)
        await bench.expect_done(ctx)
        for opcode in (Opcode.CONV, Opcode.ADD):
            records = [record for record in bench.records(20) if record["opcode"] == opcode]
            assert len(records) == 10
            gaps = [after["start"] - before["end"] for before, after in itertools.pairwise(records)]
            assert max(gaps) <= 4, gaps
            assert sorted(gaps)[4] <= 3, gaps

    bench.simulate(test)


def random_program(random, count):
    """A program whose tokens are all given before they are taken; returns commands."""
    given = {(p, c): 0 for p in Engine for c in Engine}
    commands = []
    for _ in range(count):
        engine = Engine(int(random.integers(4)))
        length = 8 * int(random.integers(1, 40))
        offset = 8 * int(random.integers(0, (PART_BYTES - length) // 8))
        maker = {
            Engine.LOAD: lambda length=length, offset=offset: load(length, offset=offset),
            Engine.STORE: lambda length=length, offset=offset: store(length, offset=offset),
            Engine.CONV: lambda: conv(int(random.integers(8, 80))),
            Engine.VECTOR: lambda: add(int(random.integers(8, 80))),
        }
        opcode, fields = maker[engine]()
        for producer in Engine:
            tokens = given[producer, engine]
            take = int(random.integers(0, tokens + 1)) if random.random() < 0.7 else 0
            fields[f"wait_{producer.name.lower()}"] = take
            given[producer, engine] -= take
        fields["signal"] = int(random.integers(16))
        for consumer in Engine:
            given[engine, consumer] += fields["signal"] >> consumer & 1
        commands.append((opcode, fields))
    return commands


@pytest.mark.parametrize(("queue", "seed"), [(4, 1), (1, 2), (2, 3)])
def test_random_programs(queue, seed):
    """Every command once, in order on its engine, after its tokens; records in order of completion."""
    print(f"LACUNA_SEED={SEED}")
    random = np.random.default_rng([SEED, seed])
    config = dataclasses.replace(CONFIG, command_queue=queue)
    bench = Bench(config, SEED + seed, (1, 40), 0.7, 0.7, overlap=True)
    commands = random_program(random, 40)
    bench.program(commands)

    async def test(ctx):
        await bench.set_up(ctx)
        await bench.expect_done(ctx)
        records = bench.records(len(commands))
        assert sorted(record["command"] for record in records) == list(range(1, len(commands) + 1))
        assert [record["end"] for record in records] == sorted(record["end"] for record in records)
        for engine in Engine:
            own = [record for record in records if ENGINE_OF[Opcode(record["opcode"])] is engine]
            assert [record["command"] for record in own] == sorted(record["command"] for record in own)
        # Replay: at its start, a command's tokens must have been given by commands that had ended.
        tokens = {(p, c): 0 for p in Engine for c in Engine}
        events = sorted([(r["end"], 0, r) for r in records] + [(r["start"], 1, r) for r in records],
                        key=lambda event: event[:2])
        for _cycle, starts, record in events:
            engine = ENGINE_OF[Opcode(record["opcode"])]
            fields = commands[record["command"] - 1][1]
            for other in Engine:
                if starts:
                    tokens[other, engine] -= fields[f"wait_{other.name.lower()}"]
                    assert tokens[other, engine] >= 0
                else:
                    tokens[engine, other] += fields["signal"] >> other & 1
        for engine in (Engine.CONV, Engine.VECTOR):
            mine = [command for command in commands if ENGINE_OF[command[0]] is engine]
            for (_cycle, (opcode, seen)), (expected_opcode, fields) in zip(bench.started[engine], mine, strict=True):
                assert opcode is expected_opcode
                assert all(seen[name] == value for name, value in fields.items())

    bench.simulate(test)


def test_completions_of_one_cycle():
    """Two engines that complete in the same cycle, many times, with a memory too slow for their records."""
    bench = Bench(latency=(60, 60), ready=0.2)
    commands = [command for _ in range(20) for command in (conv(8), add(8))]
    bench.program(commands)

    async def test(ctx):
        await bench.set_up(ctx)
        await bench.expect_done(ctx)
        records = bench.records(len(commands))
        assert sorted(record["command"] for record in records) == list(range(1, len(commands) + 1))

    bench.simulate(test)


BAD_PROGRAMS = [
    # begin fields, commands, error, command, address
    ({"magic": 1}, [], Error.BAD_IMAGE, 0, 0),
    ({"format_version": FORMAT_VERSION + 1}, [], Error.WRONG_FORMAT, 0, 0),
    ({"config_hash": preset("nano").hash}, [], Error.WRONG_CONFIG, 0, 0),
    ({"command_count": 1}, [], Error.BAD_COMMAND, 0, 0),
    ({"command_count": 1 << 25}, [], Error.BAD_COMMAND, 0, 0),
    ({"command_count": 1000}, [conv(300)] * (IMAGE_BYTES // COMMAND_BYTES - 2), Error.WINDOW_READ, 6, 6 * 128),
    ({}, [conv(20), (Opcode.BEGIN, {})], Error.BAD_OPCODE, 2, 256),
    ({"command_count": 3}, [conv(20), conv(20)], Error.BAD_OPCODE, 2, 256),
    ({}, [load(64), load(63)], Error.BAD_COMMAND, 2, 0),
    ({}, [load(64), load(64, offset=PART_BYTES - 56)], Error.WINDOW_READ, 2, PART_BYTES - 56),
    ({}, [store(64, window=Window.INPUT)], Error.WINDOW_WRITE, 1, 0),
    ({}, [conv(9), conv(13)], Error.BAD_COMMAND, 2, 0x1234),
    ({}, [add(9), add(13)], Error.WEIGHT_STREAM, 2, 0x5678),
]


@pytest.mark.parametrize("case", range(len(BAD_PROGRAMS)))
def test_errors_and_recovery(case):
    """Each error has its code, command and address, and the next program works."""
    begin, commands, code, command, address = BAD_PROGRAMS[case]
    bench = Bench()
    bench.program(commands, **begin)
    if code == Error.BAD_COMMAND:
        bench.fail[13] = (Error.BAD_COMMAND, 0x1234)
    if code == Error.WEIGHT_STREAM:
        bench.fail[13] = (Error.WEIGHT_STREAM, 0x5678)

    async def test(ctx):
        await bench.set_up(ctx)
        if code == Error.WINDOW_READ:
            await bench.put(ctx, "WINDOW0_SIZE", 8 * 128)  # commands are fetched two, then four at a time
        await bench.expect_error(ctx, code, command, address)
        await bench.put(ctx, "WINDOW0_SIZE", IMAGE_BYTES)
        bench.fail.clear()
        await good_program_works(ctx, bench)

    bench.simulate(test)


def test_bad_opcodes():
    """Blank memory is no command, wherever it is met."""
    bench = Bench()

    async def test(ctx):
        await bench.set_up(ctx)
        bench.memory.data[:256] = 0
        await bench.expect_error(ctx, Error.BAD_IMAGE, 0, 0)
        bench.program([conv(30)] * 5, at=1024)
        bench.memory.data[1024 + 3 * 128] = 0x7F
        await bench.expect_error(ctx, Error.BAD_OPCODE, 3, 1024 + 3 * 128, program=1024)
        await good_program_works(ctx, bench)

    bench.simulate(test)


LOADS, REQUIRES, PLAIN, REPLACES, FAILS, WRONG = range(0, 6 * 2048, 2048)  # offsets of programs, for tags
TAG, OTHER_TAG = 0x8000_0001, 0x0000_0001


def programs_with_tags():
    """One that establishes TAG, one that requires it, one without tags, one that replaces TAG by OTHER_TAG, one that
    would establish TAG but fails, one that requires OTHER_TAG."""
    bench = Bench()
    bench.program([load(64)], at=LOADS, establishes=TAG)
    bench.program([conv(9)], at=REQUIRES, requires=TAG)
    bench.program([conv(9)], at=PLAIN)
    bench.program([conv(9)], at=REPLACES, requires=TAG, establishes=OTHER_TAG)
    bench.program([load(64), load(63)], at=FAILS, establishes=TAG)
    bench.program([conv(9)], at=WRONG, requires=OTHER_TAG)
    return bench


def test_tags():
    """A tag stands from the end of the program that establishes it until one runs that does not require it."""
    bench = programs_with_tags()

    async def test(ctx):
        async def refused(program):
            await bench.expect_error(ctx, Error.NOT_RESIDENT, 0, program, program=program)
            assert await bench.get(ctx, "DISPATCHED") == await bench.get(ctx, "COMPLETED") == 0

        await bench.set_up(ctx)
        await refused(REQUIRES)
        await refused(REPLACES)
        await bench.expect_done(ctx, LOADS)
        for _ in range(3):
            await bench.expect_done(ctx, REQUIRES)
        await refused(WRONG)  # another tag: an error, after which none stands
        await refused(REQUIRES)
        await bench.expect_done(ctx, LOADS)
        await bench.expect_done(ctx, PLAIN)
        await refused(REQUIRES)
        await bench.expect_done(ctx, LOADS)
        await bench.expect_done(ctx, REPLACES)
        for _ in range(2):
            await bench.expect_done(ctx, WRONG)  # OTHER_TAG stands now
        await refused(REQUIRES)
        await refused(WRONG)
        await bench.expect_error(ctx, Error.BAD_COMMAND, 2, program=FAILS)
        await refused(REQUIRES)
        await good_program_works(ctx, bench)

    bench.simulate(test)


@pytest.mark.parametrize("what", ["error", "image", "bus", "idle reset", "reset", "watchdog"])
def test_what_a_tag_does_not_survive(what):
    """Any error, of the program that establishes it or of one that requires it, and a soft reset at any time."""
    bench = programs_with_tags()
    bench.fail[13] = (Error.BAD_COMMAND, 0x1234)
    bench.program([conv(9), conv(13)], at=16384, requires=TAG)
    bench.program([conv(3000)], at=20480, requires=TAG)
    bench.program([conv(9), add(9, wait_load=1)], at=24576, requires=TAG)

    async def soft_reset(ctx):
        await bench.put(ctx, "CONTROL", Control.SOFT_RESET)
        while await bench.get(ctx, "STATUS") & Status.BUSY:
            pass

    async def test(ctx):
        await bench.set_up(ctx)
        await bench.expect_done(ctx, LOADS)
        await bench.expect_done(ctx, REQUIRES)
        if what == "error":
            await bench.expect_error(ctx, Error.BAD_COMMAND, 2, program=16384)
        elif what == "image":
            await bench.expect_error(ctx, Error.BAD_IMAGE, 0, program=LOADS + 128)
        elif what == "bus":
            bench.memory.read_errors = [range(BASE + REQUIRES + 8, BASE + REQUIRES + 16)]
            await bench.expect_error(ctx, Error.BUS_READ, 0, program=REQUIRES)
            bench.memory.read_errors = []
        elif what == "idle reset":
            await soft_reset(ctx)
        elif what == "reset":
            await bench.start(ctx, 20480)
            for _ in range(300):
                await ctx.tick()
            await soft_reset(ctx)
        else:
            await bench.expect_error(ctx, Error.WATCHDOG, 2, program=24576)
        await bench.expect_error(ctx, Error.NOT_RESIDENT, 0, REQUIRES, program=REQUIRES)
        await bench.expect_done(ctx, LOADS)
        await bench.expect_done(ctx, REQUIRES)

    bench.simulate(test)


def test_bus_errors():
    """In the program, in data, in a record."""
    bench = Bench()

    async def test(ctx):
        await bench.set_up(ctx)
        bench.program([conv(3000)] * 6)
        bench.memory.read_errors = [range(BASE + 5 * 128 + 8, BASE + 5 * 128 + 16)]
        await bench.expect_error(ctx, Error.BUS_READ, 5, BASE + 5 * 128 + 8)
        bench.program([conv(10), load(512)])
        bench.memory.read_errors = [range(BASE + INPUT_AT + 400, BASE + INPUT_AT + 408)]
        await bench.expect_error(ctx, Error.BUS_READ, 2, BASE + INPUT_AT + 400)
        bench.program([conv(10), store(512)])
        bench.memory.write_errors = [range(BASE + OUTPUT_AT + 400, BASE + OUTPUT_AT + 408)]
        await bench.expect_error(ctx, Error.BUS_WRITE, 2, BASE + OUTPUT_AT + 256)
        bench.program([conv(30), conv(30), add(100, wait_conv=0), conv(3000)])
        bench.memory.write_errors = [range(BASE + RECORD_AT + 128, BASE + RECORD_AT + 136)]
        await bench.expect_error(ctx, Error.BUS_WRITE, 3, BASE + RECORD_AT + 128)
        assert await bench.get(ctx, "COMPLETED") == 2
        bench.memory.write_errors = bench.memory.read_errors = []
        await bench.put(ctx, "WINDOW3_SIZE", 128)
        await bench.expect_error(ctx, Error.WINDOW_WRITE, 3, 128)
        await bench.put(ctx, "WINDOW3_SIZE", PART_BYTES)
        await good_program_works(ctx, bench)

    bench.simulate(test)


def test_token_counter_limits():
    """255 tokens are counted, the 256th is an error; a token given in the cycle in which others are taken is no
    overflow; what is missing is missed until it is given."""
    dut = TokenCounters()

    async def give(ctx):
        ctx.set(dut.complete, TO_CONV)
        await ctx.tick()
        ctx.set(dut.complete, 0)
        await ctx.tick()

    async def announce(ctx, engines, number):
        ctx.set(dut.announced, engines)
        ctx.set(dut.waits[Engine.CONV], number)
        await ctx.tick()
        ctx.set(dut.announced, 0)
        ctx.set(dut.waits[Engine.CONV], 0)

    async def test(ctx):
        ctx.set(dut.signals[Engine.CONV], TO_STORE)
        await announce(ctx, TO_STORE, 255)
        await ctx.tick().repeat(ANNOUNCED_BEFORE - 1)
        for i in range(255):
            assert ctx.get(dut.enough) == 0b1111 & ~TO_STORE
            await give(ctx)
            assert ctx.get(dut.enough) == (0b1111 if i == 254 else 0b1111 & ~TO_STORE)
        for _ in range(255):
            await give(ctx)
        assert ctx.get(dut.enough) == 0b1111
        assert not ctx.get(dut.overflow)
        await announce(ctx, TO_STORE, 1)  # the two meet in the counter
        await give(ctx)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.overflow)
        await announce(ctx, TO_LOAD, 255)  # of another engine
        await give(ctx)
        assert ctx.get(dut.overflow) == TO_CONV

    simulate(dut, test)


def test_first_error():
    """Of two errors of one cycle that of the first source counts, and no later one."""
    dut = FirstError(3)

    async def report(ctx, *sources):
        for i in sources:
            ctx.set(dut.sources[i], {"error": {"valid": 1, "code": i + 1, "address": 0x100 + i}, "index": 10 + i})
        await ctx.tick()
        for i in sources:
            ctx.set(dut.sources[i].error.valid, 0)

    async def test(ctx):
        await report(ctx, 0)  # nobody listens
        ctx.set(dut.listen, 1)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.fault)
        await report(ctx, 1, 2)
        await report(ctx, 0)
        await ctx.tick().repeat(3)
        ctx.set(dut.give_up, 1)
        await ctx.tick()
        ctx.set(dut.give_up, 0)
        assert ctx.get(dut.fault)
        assert (ctx.get(dut.code), ctx.get(dut.command), ctx.get(dut.address)) == (2, 11, 0x101)
        ctx.set(dut.listen, 0)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.give_up, 1)
        await ctx.tick()
        assert (ctx.get(dut.code), ctx.get(dut.command), ctx.get(dut.address)) == (Error.WATCHDOG, 0, 0)

    simulate(dut, test)


def test_beat_queue():
    """Everything comes out once, in order, a beat per cycle; it takes one more than its depth."""
    dut = BeatQueue(8)
    random = np.random.default_rng(SEED)
    got = []

    async def send(ctx):
        for value in range(60):
            while value >= 20 and random.random() < 0.4:
                await ctx.tick()
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def receive(ctx):
        await ctx.tick().repeat(20)
        assert ctx.get(dut.stored) == 8
        assert not ctx.get(dut.i.ready)
        while len(got) < 60:
            ctx.set(dut.o.ready, len(got) < 20 or random.random() < 0.6)
            ready = ctx.get(dut.o.ready)
            _clk, _rst, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            assert valid or len(got) >= 9
            if valid and ready:
                got.append(payload)

    simulate(dut, send, receive)
    assert got == list(range(60))


def test_token_overflow():
    """The 256th token that nobody takes stops the program; the next one finds no tokens of it."""
    bench = Bench()

    async def test(ctx):
        await bench.set_up(ctx)
        bench.program([conv(8, signal=TO_STORE)] * 257)
        await bench.expect_error(ctx, Error.TOKEN_OVERFLOW, 256)
        bench.program([conv(200, signal=15), store(8, wait_conv=1, signal=15), add(8, signal=15)])
        for _ in range(2):
            await bench.expect_done(ctx)
            records = bench.records(3)
            assert [record["command"] for record in records] == [3, 1, 2]
            assert records[2]["start"] > records[1]["end"]

    bench.simulate(test)


def test_watchdog():
    """A command that waits for ever, an engine that never completes, and one that is slow but moves."""
    bench = Bench()

    async def test(ctx):
        await bench.set_up(ctx, watchdog=300)
        bench.program([conv(10), add(10, wait_load=1), conv(20)])
        await bench.expect_error(ctx, Error.WATCHDOG, 2)
        bench.program([add(10), conv(100_000), add(10, wait_conv=1)])
        await bench.expect_error(ctx, Error.WATCHDOG, 2)
        assert 300 < await bench.get(ctx, "CYCLES") < 500
        bench.program([conv(1000)])
        ctx.set(bench.dut.progress, 1)
        await bench.expect_done(ctx)
        ctx.set(bench.dut.progress, 0)
        await bench.put(ctx, "WATCHDOG", 0)
        await bench.expect_done(ctx)
        await good_program_works(ctx, bench)

    bench.simulate(test)


def test_dead_bus():
    """A bus that stops answering: error after two watchdog periods; every new start waits again, and ends."""
    bench = Bench()

    async def test(ctx):
        await bench.set_up(ctx, watchdog=200)
        bench.program([load(4096), store(4096)])
        await bench.start(ctx)
        await ctx.tick().repeat(100)
        bench.memory.frozen = True
        assert await bench.wait(ctx) == Status.ERROR | Status.INTERRUPT
        assert await bench.get(ctx, "ERROR_CODE") == Error.WATCHDOG
        assert await bench.get(ctx, "ERROR_COMMAND") == 1
        assert 500 <= await bench.get(ctx, "CYCLES") <= 560
        await bench.expect_error(ctx, Error.WATCHDOG, 0)
        await bench.put(ctx, "CONTROL", Control.SOFT_RESET)
        assert await bench.get(ctx, "STATUS") == Status.BUSY
        assert await bench.wait(ctx) == Status.ERROR | Status.INTERRUPT
        await bench.start(ctx)  # and the bus comes back to life
        await ctx.tick().repeat(20)
        bench.memory.frozen = False
        assert await bench.wait(ctx) == Status.DONE | Status.INTERRUPT
        await good_program_works(ctx, bench)

    bench.simulate(test)


def test_soft_reset():
    """At any moment, bursts end, nothing is left behind, no interrupt; a doorbell while busy does nothing."""
    print(f"LACUNA_SEED={SEED}")
    bench = Bench(latency=(5, 30), ready=0.7, valid=0.7)
    random = np.random.default_rng(SEED)

    async def test(ctx):
        await bench.set_up(ctx)
        for pause in (0, 1, 2, 3, *(int(random.integers(5, 300)) for _ in range(5))):
            bench.program([load(512, signal=15), store(512, signal=15), conv(50, wait_load=1, signal=15),
                           add(60, wait_store=1, signal=15)] * 3 + [conv(100_000)])
            await bench.start(ctx)
            await ctx.tick().repeat(pause + 1)
            await bench.put(ctx, "CONTROL", Control.START)
            await bench.put(ctx, "CONTROL", Control.SOFT_RESET | Control.START)
            while await bench.get(ctx, "STATUS") == Status.BUSY:
                pass
            assert await bench.get(ctx, "STATUS") == 0
            assert not ctx.get(bench.dut.irq)
            await good_program_works(ctx, bench)
        await bench.put(ctx, "CONTROL", Control.SOFT_RESET)
        assert await bench.get(ctx, "STATUS") in (0, Status.BUSY)
        assert await bench.get(ctx, "STATUS") == 0

    bench.simulate(test)
