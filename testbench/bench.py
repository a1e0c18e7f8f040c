"""The bench that serves a link: a cocotb test that gives a client the device's registers, memory and interrupt.

It is started by sim.session, listens at $LACUNA_SOCKET and writes the address that it got to $LACUNA_READY.
Requests are served one at a time; between them the simulation stands still. Python wakes for a request's
end, never for a clock edge (but while waves of a window of commands are recorded: then every few cycles).

$LACUNA_KEEP: "1" to wait for the next client when one leaves. $LACUNA_LIFELINE: a pipe whose other end the
starting process holds; when that process is gone, however it ended, the kernel kills this one.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import First, RisingEdge, Timer, ValueChange

from hw.contract.registers import REGISTERS, Window
from sw_driver.links import protocol
from sw_driver.links.protocol import Reply, Request

CLOCK_NS = 10  #: period of the clock in harness.v
REGISTER_LIMIT = 10_000  #: cycles after which a register access has failed
RESET_CYCLES = 4
POLL_CYCLES = 32  #: between looks at the running commands, while a window of them is recorded

#: Where the flash is, if there is one: base and size of window IMAGE, followed as they are written.
IMAGE_REGISTERS = [REGISTERS[f"WINDOW{int(Window.IMAGE)}_{part}"].address for part in ("BASE", "SIZE")]

#: What `violation` in external_memory.v means.
VIOLATIONS = {
    1: "a read burst that is not INCR of whole words within a 4 KB page",
    2: "a write burst that is not INCR of whole words within a 4 KB page",
    3: "WLAST on the wrong beat",
    4: "ARVALID or a read address withdrawn or changed before ARREADY",
    5: "AWVALID or a write address withdrawn or changed before AWREADY",
    6: "WVALID or write data withdrawn or changed before WREADY",
}


class BenchError(Exception):
    """A request that can't be served; the text goes to the client."""


class Bench:
    """The device in the harness, as requests see it."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.memory_bytes = int(os.environ["LACUNA_MEMORY_BYTES"])
        self.can_record = os.environ.get("LACUNA_WAVES") == "1"
        self.waves_commands: tuple[int, int] | None = None
        self.image = [0, 0]
        self.run_cycles = 0
        self.run_s = 0.0

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation started."""
        return int(cocotb.simtime.get_sim_time("ns")) // CLOCK_NS

    async def reset(self) -> None:
        """A hardware reset."""
        self.dut.reset.value = 1
        await Timer(RESET_CYCLES * CLOCK_NS, "ns")
        self.dut.reset.value = 0
        await Timer(RESET_CYCLES * CLOCK_NS, "ns")

    async def _register(self, address: int, value: int | None) -> int:
        dut = self.dut
        dut.register_address.value = address
        dut.register_value.value = value or 0
        dut.register_write.value = int(value is not None)
        dut.register_request.value = 1 - int(dut.register_acknowledge.value)
        done = ValueChange(dut.register_acknowledge)
        if await First(done, Timer(REGISTER_LIMIT * CLOCK_NS, "ns")) is not done:
            raise BenchError(f"the device did not answer on AXI4-Lite within {REGISTER_LIMIT} cycles "
                             f"(register at {address:#x})")
        if int(dut.register_response.value):
            raise BenchError(f"the device answered AXI4-Lite response {int(dut.register_response.value)} "
                             f"for the register at {address:#x}")
        return int(dut.register_result.value) if value is None else 0

    async def read_register(self, address: int) -> int:
        return await self._register(address, None)

    async def write_register(self, address: int, value: int) -> None:
        await self._register(address, value)
        if address in IMAGE_REGISTERS:
            self.image[IMAGE_REGISTERS.index(address)] = value
            first, size = self.image
            self.dut.flash_first.value = first
            self.dut.flash_last.value = min(max(first + size - 1, 0), 0xFFFF_FFFF)  # whatever a host writes

    async def _move_file(self, store: bool, address: int, length: int) -> None:
        if address % 8 or length % 8 or address + length > self.memory_bytes:
            raise BenchError(f"memory access of {length} bytes at {address:#x}: both must be multiples of 8 within "
                             f"the memory of {self.memory_bytes} bytes")
        dut = self.dut
        dut.file_store.value = int(store)
        dut.file_first.value = address // 8
        dut.file_count.value = length // 8
        done = ValueChange(dut.file_acknowledge)
        dut.file_request.value = 1 - int(dut.file_acknowledge.value)
        await done

    async def read_memory(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        await self._move_file(True, address, length)
        lines = Path("memory.hex").read_text().splitlines()
        words = array.array("Q", bytes.fromhex("".join(line for line in lines if line and line[0] not in "/@")))
        words.byteswap()
        return words.tobytes()

    async def write_memory(self, address: int, data: bytes) -> None:
        if data:
            if len(data) % 8 == 0:
                words = array.array("Q", data)
                words.byteswap()
                Path("memory.bin").write_bytes(words.tobytes())
            await self._move_file(False, address, len(data))

    async def wait_interrupt(self, cycles: int) -> bool:
        """Sleep until the interrupt line is high; False when it is not within `cycles`."""
        start, began = self.cycles, time.perf_counter()
        try:
            if self.waves_commands is None:
                await self._sleep(cycles)
            else:
                await self._sleep_and_watch(cycles)
        finally:
            self.run_cycles += self.cycles - start
            self.run_s += time.perf_counter() - began
        code = int(self.dut.violation.value)
        if code:
            raise BenchError(f"the device broke a rule of AXI4: {VIOLATIONS.get(code, code)}")
        return bool(int(self.dut.irq.value))

    async def _sleep(self, cycles: int) -> None:
        if not int(self.dut.irq.value) and not int(self.dut.violation.value) and cycles:
            await First(RisingEdge(self.dut.irq), ValueChange(self.dut.violation), Timer(cycles * CLOCK_NS, "ns"))

    async def _sleep_and_watch(self, cycles: int) -> None:
        """Sleep in short stretches, and record waves while a command of the window is under way."""
        assert self.waves_commands is not None
        first, last = self.waves_commands
        end = self.cycles + cycles
        while not int(self.dut.irq.value) and not int(self.dut.violation.value) and self.cycles < end:
            dispatched = await self.read_register(REGISTERS["DISPATCHED"].address)
            recording = False
            if dispatched > first:
                running = [await self.read_register(REGISTERS[f"{name}_COMMAND"].address)
                           for name in ("LOAD", "STORE", "CONV", "VECTOR")]
                completed = await self.read_register(REGISTERS["COMPLETED"].address)
                recording = completed <= last or any(first <= index <= last for index in running)
            self.dut.trace.value = int(recording)
            await self._sleep(min(POLL_CYCLES, max(end - self.cycles, 0)))
        self.dut.trace.value = 0

    def configure(self, options: dict[str, Any]) -> None:
        """Set options of the memory, the error injection and the waves; see sw_driver.links.protocol."""
        dut = self.dut
        for name, value in options.items():
            if name in ("latency", "flash_latency"):
                if not 2 <= value <= 0xFFFF:
                    raise BenchError(f"{name} must be 2 to 65535 cycles, not {value}")
                getattr(dut, name).value = value
            elif name == "flash_bandwidth" and value is None:
                dut.flash_interval.value = 0
            elif name in ("bandwidth", "flash_bandwidth"):
                interval = 8 / value if value > 0 else 0
                if not (1 <= interval <= 0xFFFF and interval == int(interval)):
                    raise BenchError(f"{name} must be 8 / n bytes per cycle (8, 4, 2, 1, 0.5, ...), not {value}")
                (dut.beat_interval if name == "bandwidth" else dut.flash_interval).value = int(interval)
            elif name == "stall_seed":
                dut.stall_seed.value = value & 0xFFFFFFFF
            elif name in ("read_errors", "write_errors"):
                bit = 1 if name == "read_errors" else 2
                self._error_on = (self._error_on & ~bit) | (bit if value else 0)
                dut.error_on.value = self._error_on
            elif name == "error_range":
                dut.error_first.value, dut.error_last.value = value
            elif name in ("waves", "waves_commands"):
                if value and not self.can_record:
                    raise BenchError("this simulator was started without waves")
                if name == "waves":
                    dut.trace.value = int(value)
                else:
                    self.waves_commands = (int(value[0]), int(value[1])) if value else None
            else:
                raise BenchError(f"there is no option {name!r}")

    _error_on = 0

    def inform(self) -> dict[str, Any]:
        """What INFORM answers."""
        return {
            "name": os.environ["LACUNA_SIMULATOR"],
            "version": os.environ["LACUNA_SIMULATOR_VERSION"],
            "label": os.environ.get("LACUNA_LABEL", ""),
            "memory_bytes": self.memory_bytes,
            "waves": self.can_record,
            "cycles": self.cycles,
            "run_cycles": self.run_cycles,
            "run_s": self.run_s,
        }

    async def serve(self, connection: socket.socket) -> bool:
        """Answer requests until the client leaves; False when it asked to end the simulation."""
        while True:
            try:
                code, first, second, payload = protocol.receive(connection)
            except (protocol.Disconnected, ConnectionResetError):
                return True
            reply, answer, micros, data = Reply.OK, 0, 0, b""
            try:
                match code:
                    case Request.READ_REGISTER:
                        answer = await self.read_register(first)
                    case Request.WRITE_REGISTER:
                        await self.write_register(first, second)
                    case Request.READ_MEMORY:
                        data = await self.read_memory(first, second)
                    case Request.WRITE_MEMORY:
                        await self.write_memory(first, payload)
                    case Request.WAIT_INTERRUPT:
                        cycles, seconds = self.run_cycles, self.run_s
                        reply = Reply.OK if await self.wait_interrupt(first) else Reply.TIMEOUT
                        answer, micros = self.run_cycles - cycles, round(1e6 * (self.run_s - seconds))
                    case Request.CONFIGURE:
                        self.configure(json.loads(payload))
                        await Timer(CLOCK_NS, "ns")
                    case Request.INFORM:
                        data = json.dumps(self.inform()).encode()
                    case Request.RESET:
                        await self.reset()
                    case Request.CLOSE:
                        protocol.send(connection, Reply.OK)
                        return False
                    case _:
                        raise BenchError(f"there is no request {code}")
            except BenchError as error:
                reply, data = Reply.ERROR, str(error).encode()
            try:
                protocol.send(connection, reply, answer, micros, data)
            except (BrokenPipeError, ConnectionResetError):
                return True


def end_with_starter() -> None:
    """Let the kernel kill this process when the one that started it is gone: its end of the pipe closes."""
    if "LACUNA_LIFELINE" not in os.environ:
        return
    lifeline = int(os.environ["LACUNA_LIFELINE"])
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO, which kills
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        sys.exit("the process that started this simulation is gone")


@cocotb.test()
async def serve_link(dut: Any) -> None:
    """Serve clients until there is no more need."""
    end_with_starter()
    bench = Bench(dut)
    await bench.reset()
    listener, address = protocol.listen(os.environ["LACUNA_SOCKET"])
    with listener:
        ready = Path(os.environ["LACUNA_READY"])
        ready.with_suffix(".part").write_text(address)
        ready.with_suffix(".part").rename(ready)
        more = True
        while more:
            connection, _peer = listener.accept()
            with connection:
                more = await bench.serve(connection) and os.environ.get("LACUNA_KEEP") == "1"
