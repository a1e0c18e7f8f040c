"""Plays everything around a compute engine in cocotb: its memories, with random delays, and the sequencer.

The engine's ports are those of its Verilog, as `hw.bus.axi.verilog_ports` names them.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from hw.contract.commands import COUNTERS, ENGINE_OF, Opcode, Space, decode, encode
from hw.contract.config import Config
from hw.contract.registers import Error
from hw.ports import READ_LATENCY, word_address_bits
from sim.golden import Executed, External, Golden
from sim.golden.memory import OnChip
from sim.tokens import Command

#: Shares of cycles in which a stream that may be delayed is.
DELAYS = (0.0, 0.3, 0.9)

#: Cycles that a command may take.
LIMIT = 200_000


class _Stream:
    """Requests of one port, taken at random; `delay` is 0 where the port's contract forbids delays."""

    def __init__(self, dut: Any, port: str):
        self.valid = getattr(dut, f"{port}_request_valid")
        self.ready = getattr(dut, f"{port}_request_ready")
        self.payload = getattr(dut, f"{port}_request_payload")
        self.delay = 0.0
        self._is_ready = False
        self._waiting: int | None = None

    def taken(self) -> int | None:
        """In a clock edge: the request taken by it. Checks that one that waits stays as it is."""
        payload = int(self.payload.value) if self.valid.value == 1 else None
        if self._waiting is not None:
            assert payload == self._waiting, f"{self.payload._name}: {self._waiting:#x} became {payload} while waiting"
        self._waiting = None if self._is_ready else payload
        return payload if self._is_ready else None

    def choose(self, rng: np.random.Generator) -> None:
        """After a clock edge: whether to take a request in the next one."""
        self._is_ready = bool(rng.random() >= self.delay)
        self.ready.value = int(self._is_ready)


class _Read:
    """A reader of the feature memory: words, or bytes with tags where `unaligned`."""

    def __init__(self, dut: Any, port: str, config: Config, memory: OnChip, unaligned: bool):
        self.stream = _Stream(dut, port)
        self.data_valid, self.data = getattr(dut, f"{port}_data_valid"), getattr(dut, f"{port}_data")
        self._tag = getattr(dut, f"{port}_tag") if unaligned else None
        self._address_bits = (config.feature_bytes - 1).bit_length() if unaligned else word_address_bits(config)
        self._memory = memory
        self._latency = READ_LATENCY - 1 + unaligned
        self._edges = 0
        self._under_way: deque[tuple[int, bytes, int]] = deque()  # edge of its arrival, data, tag

    def _answer(self, request: int) -> tuple[bytes, int]:
        """Data and tag."""
        address = request & ((1 << self._address_bits) - 1)
        content = self._memory.entries[Space.FEATURE]
        lanes = content.shape[1]
        if self._tag is None:
            return content[address].tobytes(), 0
        read, tag = request >> self._address_bits & 1, request >> (self._address_bits + 1)
        # What comes with a tag alone must not matter.
        return (content.reshape(-1)[np.arange(address, address + lanes) % content.size].tobytes() if read else
                bytes(lanes)), tag

    def edge(self, rng: np.random.Generator) -> None:
        """Take a request, and give the data of an earlier one; a bank conflict may have delayed it and those behind."""
        request = self.stream.taken()
        if request is not None:
            late = int(rng.integers(1, 4)) if self.stream.delay and rng.random() < self.stream.delay else 0
            arrival = self._edges + self._latency + late
            if self._under_way:
                arrival = max(arrival, self._under_way[-1][0] + 1)
            self._under_way.append((arrival, *self._answer(request)))
        arrived = bool(self._under_way) and self._under_way[0][0] <= self._edges
        _arrival, content, tag = self._under_way.popleft() if arrived else (0, b"", 0)
        self._edges += 1
        self.data_valid.value = int(arrived)
        # What is on the wires without data_valid must not matter.
        self.data.value = int.from_bytes(content, "little")
        if self._tag is not None:
            self._tag.value = tag


class _Weights:
    """Answers the weights port, two cycles after an address that is looked at; what is there otherwise must not matter.

    The conv engine's address is not looked at in some cycles; the vector engine says in which cycles its own is to be.
    """

    def __init__(self, dut: Any, entries: np.ndarray):
        self._dut = dut
        self._entries = entries
        self._waits = hasattr(dut, "weights_taken")
        self._before = b""
        self.delay = 0.0
        if self._waits:
            dut.weights_taken.value = 0

    def edge(self, rng: np.random.Generator) -> None:
        dut = self._dut
        dut.weights_data.value = int.from_bytes(self._before, "little")
        looked_at = dut.weights_taken.value == 0 if self._waits else dut.weights_read.value == 1
        self._before = (self._entries[int(dut.weights_address.value)].tobytes() if looked_at
                        else rng.bytes(self._entries.shape[1]))
        if self._waits:
            dut.weights_taken.value = int(rng.random() < self.delay)


class EngineBench:
    """An engine, its memories and its commands.

    Parameters
    ----------
    dut : the engine. config : its sizes. memory : the on-chip memories, which it changes.
    word_readers, byte_readers, writer : its feature memory ports. mask_writer : its port to the mask memory, if it
        has one. prompt : those of all these that are never delayed.
    private : its private memories: port and space, but for the weights.
    """

    def __init__(self, dut: Any, config: Config, memory: OnChip, rng: np.random.Generator, *,
                 word_readers: list[str], byte_readers: list[str], writer: str, prompt: set[str],
                 private: dict[str, Space], mask_writer: str | None = None):
        logging.getLogger("cocotb").setLevel(logging.WARNING)
        self.dut = dut
        self.config = config
        self.memory = memory
        self._rng = rng
        self._reads = [_Read(dut, port, config, memory, port in byte_readers)
                       for port in (*word_readers, *byte_readers)]
        self._writes = [(_Stream(dut, writer), word_address_bits(config), memory.entries[Space.FEATURE])]
        if mask_writer:
            self._writes.append((_Stream(dut, mask_writer), (config.mask_words - 1).bit_length(),
                                 memory.entries[Space.MASK]))
        names = (*word_readers, *byte_readers, writer, *([mask_writer] if mask_writer else []))
        streams = (*(read.stream for read in self._reads), *(stream for stream, _bits, _entries in self._writes))
        self._streams = dict(zip(names, streams, strict=True))
        self._prompt = prompt
        overlaps = hasattr(dut, "engine_complete")
        self._complete = dut.engine_complete if overlaps else dut.engine_command_ready
        if overlaps:
            dut.engine_may_complete.value = 1
        self._private = [(getattr(dut, f"{port}_address"), getattr(dut, f"{port}_data"), memory.entries[space])
                         for port, space in private.items()]
        self._weights = _Weights(dut, memory.entries[Space.WEIGHT])

    async def reset(self) -> None:
        """Start the clock, and reset the engine."""
        cocotb.start_soon(Clock(self.dut.clk, 10, unit="ns").start())
        self.dut.engine_command_valid.value = 0
        self.dut.rst.value = 1
        for _ in range(3):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def _edge(self) -> None:
        for address, data, entries in self._private:
            data.value = int.from_bytes(entries[int(address.value)].tobytes(), "little")
        self._weights.edge(self._rng)
        for read in self._reads:
            read.edge(self._rng)
        for stream, address_bits, entries in self._writes:
            written = stream.taken()
            if written is not None:
                entry = (written >> address_bits).to_bytes(entries.shape[1], "little")
                entries[written & ((1 << address_bits) - 1)] = np.frombuffer(entry, np.uint8)
        for stream in self._streams.values():
            stream.choose(self._rng)

    async def execute(self, opcode: Opcode, values: dict[str, int]) -> tuple[Error, dict[str, int]]:
        """Run a command to its end, with delays of its own on every stream: error and counters."""
        dut = self.dut
        for port, stream in self._streams.items():
            stream.delay = 0.0 if port in self._prompt else float(self._rng.choice(DELAYS))
        self._weights.delay = float(self._rng.choice(DELAYS))
        dut.engine_command_payload.value = int.from_bytes(encode(opcode, values), "little")
        dut.engine_command_valid.value = 1
        for _cycle in range(LIMIT):
            await RisingEdge(dut.clk)
            complete = self._complete.value == 1
            if dut.engine_command_ready.value == 1:
                dut.engine_command_valid.value = 0
            error = int(dut.engine_error.value)
            self._edge()
            if complete or error & 1:
                break
        else:
            raise AssertionError(f"{opcode.name} has not ended after {LIMIT} cycles: {values}")
        words = int(dut.engine_counters.value)
        for _ in range(int(self._rng.integers(1, 4))):
            await RisingEdge(dut.clk)
            self._edge()
        names = [name for name, _doc in COUNTERS[ENGINE_OF[opcode]]]
        counters = {name: words >> (32 * i) & 0xFFFF_FFFF for i, name in enumerate(names)}
        return Error(error >> 1 & 0xFF if error & 1 else 0), counters

    def check(self, what: str, expected: Golden, executed: Executed, counters: dict[str, int]) -> None:
        """Assert that memories and counters are the golden model's; counters of stalls are not its business."""
        for space, want in expected.memory.entries.items():
            wrong = np.flatnonzero((self.memory.entries[space] != want).any(axis=1)).tolist()
            assert not wrong, f"{what}: {len(wrong)} entries of {space.name} differ, the first {wrong[:5]}"
        for name, value in executed.counters.items():
            assert counters[name] == value, f"{what}: {name} is {counters[name]}, not {value}"


def golden_twin(config: Config, memory: OnChip) -> Golden:
    """A golden model with a copy of `memory`, and no external memory to speak of."""
    golden = Golden(config, External(0, 8), timing=False)
    golden.memory = copy.deepcopy(memory)
    return golden


def contract_command(opcode: Opcode, values: dict[str, int]) -> Command:
    """A command with all its fields, as the golden model takes it."""
    return Command(0, *decode(encode(opcode, values)))
