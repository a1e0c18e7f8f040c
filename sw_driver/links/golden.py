"""The golden model behind the link: the register table in software, so that the driver can't tell the difference.

A program runs to its end inside the write to CONTROL; cycles are the cycle model's.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from hw.contract.commands import COUNTERS, RECORD_BYTES
from hw.contract.config import FORMAT_VERSION, WINDOWS, Config
from hw.contract.registers import ID, REGISTERS, Access, Control, Error, Permission, Register, Status, Window
from sim.golden import Executed, External, Golden, Run, check_hazards
from sim.golden.memory import DeviceError
from sim.timeline import Span, timeline
from sim.tokens import Command
from sw_driver.links.link import InterruptTimeout, LinkError

_BY_ADDRESS = {register.address: register for register in REGISTERS.values()}
_IDLE = 0xFFFF_FFFF


class GoldenLink:
    """A device that is the golden model. Implements `sw_driver.links.link.Link`.

    Parameters
    ----------
    config : the device's sizes.
    memory_bytes : external memory, from byte address 0.
    check : also prove that each program that runs to its end does not depend on timing; raises HazardError.
        A program is checked once, and again when the image changes.
    timing : cycles of convolutions from their activations (slower) or from their shapes.

    Members
    -------
    golden : the model. last : the last run, with its error in words.
    """

    name = "golden"
    flash_base = flash_bytes = 0
    memory_base = 0

    def __init__(self, config: Config, *, memory_bytes: int = 32 << 20, check: bool = True, timing: bool = True):
        self.config = config
        self.memory_bytes = memory_bytes
        self.simulator: dict[str, Any] = {"name": "golden model (NumPy)", "version": np.__version__}
        self.golden = Golden(config, External(self.memory_base, memory_bytes), timing=timing)
        self.last = Run()
        self._check = check
        self._checked: set[tuple[bytes, int]] = set()
        self._loading: list[Command] = []  # of the program whose tag stands
        self._registers = {name: register.reset for name, register in REGISTERS.items()}
        self._registers |= {"ID": ID, "FORMAT": FORMAT_VERSION, "CONFIG": config.hash}
        self._registers |= dict.fromkeys(("LOAD_COMMAND", "STORE_COMMAND", "CONV_COMMAND", "VECTOR_COMMAND"), _IDLE)

    # ---- the link ------------------------------------------------------------------------------

    def read_register(self, address: int) -> int:
        """See Link. Raises LinkError where there is no register to read."""
        return self._registers[self._register(address, Access.WRITE).name]

    def write_register(self, address: int, value: int) -> None:
        """See Link. A START runs the program. Raises LinkError where there is no register to write."""
        register = self._register(address, Access.READ)
        if register.name == "CONTROL":
            self._control(Control(value & (Control.START | Control.SOFT_RESET | Control.ACKNOWLEDGE)))
        else:
            self._registers[register.name] = value & self._writable_bits(register.name)
            self._set_windows()

    def read_memory(self, address: int, length: int) -> bytes:
        """See Link. Raises LinkError outside the memory."""
        return self._memory(address, length).tobytes()

    def write_memory(self, address: int, data: bytes) -> None:
        """See Link. Raises LinkError outside the memory."""
        self._memory(address, len(data))[:] = np.frombuffer(data, dtype=np.uint8)

    def wait_interrupt(self, cycles: int) -> None:
        """See Link. Nothing is ever under way here: the line is high, or never will be."""
        if not (self._registers["INTERRUPT_ENABLE"] & 1 and self._registers["STATUS"] & Status.INTERRUPT):
            raise InterruptTimeout(f"No interrupt within {cycles} cycles: STATUS {self._registers['STATUS']:#x}, "
                                   f"INTERRUPT_ENABLE {self._registers['INTERRUPT_ENABLE']:#x}")

    def close(self) -> None:
        """See Link."""

    # ---- the device ----------------------------------------------------------------------------

    def _register(self, address: int, wrong: Access) -> Register:
        register = _BY_ADDRESS.get(address)
        if register is None or register.access is wrong:
            raise LinkError(f"There is no register at {address:#x}" if register is None else
                            f"Register {register.name} at {address:#x} allows {register.access.value} only")
        return register

    def _writable_bits(self, name: str) -> int:
        """Bits that a register has: multiples of 8 lack the lowest three, addresses those past the bus."""
        if name == "INTERRUPT_ENABLE":
            return 1
        if name.endswith("_PERMISSION"):
            return Permission.READ | Permission.WRITE
        if name.endswith("_BASE_HIGH"):
            return (1 << max(0, self.config.axi_address_bits - 32)) - 1
        if name.endswith("_BASE"):
            return (1 << min(32, self.config.axi_address_bits)) - 8
        return 0xFFFF_FFF8 if name == "PROGRAM" or name.endswith("_SIZE") else 0xFFFF_FFFF

    def _memory(self, address: int, length: int) -> np.ndarray:
        external = self.golden.windows.external
        if address % 8 or length % 8 or not external.holds(address, length):
            raise LinkError(f"External memory has bytes 0 to {self.memory_bytes - 1} in units of 8, not {length} "
                            f"bytes at {address:#x}")
        return external.view(address, length)

    def _set_windows(self) -> None:
        for i in range(WINDOWS):
            window = self.golden.windows.windows[i]
            low, high, size, permission = (
                self._registers[f"WINDOW{i}_{part}"] for part in ("BASE", "BASE_HIGH", "SIZE", "PERMISSION"))
            window.base, window.size, window.permission = high << 32 | low, size, permission

    def _control(self, control: Control) -> None:
        if Control.SOFT_RESET in control:
            self.golden.tag = 0
            self._registers |= {"STATUS": 0, "ERROR_CODE": 0, "ERROR_COMMAND": 0, "ERROR_ADDRESS": 0}
            return
        if Control.ACKNOWLEDGE in control:
            self._registers["STATUS"] &= ~Status.INTERRUPT
        if Control.START in control and not self._registers["STATUS"] & Status.BUSY:
            self._start()

    def _start(self) -> None:
        self.last = run = self.golden.run(self._registers["PROGRAM"])
        commands = [executed.command for executed in run.executed]
        spans, cycles = timeline(commands, [executed.cycles for executed in run.executed], self.config)
        completed = self._write_records(run, spans)
        if self._check and run.error is Error.NONE:
            self._check_hazards(run)
        if run.error:
            self.golden.tag = 0  # the last record may have been refused
        elif self.golden.tag != run.required:
            self._loading = [*(self._loading if run.required else ()), *commands]
        self._registers |= {
            "ERROR_CODE": run.error, "ERROR_COMMAND": run.error_command, "ERROR_ADDRESS": run.error_address,
            "CYCLES": cycles, "COMPLETED": completed, "DISPATCHED": run.dispatched,
            "STATUS": (Status.ERROR if run.error else Status.DONE) | Status.INTERRUPT,
        }
        if run.error is Error.WATCHDOG:
            self._registers["CYCLES"] += self._registers["WATCHDOG"]
            if self._registers["WATCHDOG"] == 0:
                self._registers |= {"STATUS": Status.BUSY, "ERROR_CODE": 0, "ERROR_COMMAND": 0, "ERROR_ADDRESS": 0}

    def _write_records(self, run: Run, spans: list[Span]) -> int:
        """Write the records in order of completion; returns their number, and may end `run` with an error."""
        done = sorted(zip(spans, run.executed, strict=True), key=lambda pair: pair[0].end)
        for i, (span, executed) in enumerate(done):
            try:
                self.golden.windows.write(Window.RECORD, i * RECORD_BYTES, record(executed, span))
            except DeviceError as error:
                run.error, run.error_address = error.code, error.address
                run.error_command, run.error_text = executed.command.index, f"Record {i}: {error}"
                return i
        return len(done)

    def _check_hazards(self, run: Run) -> None:
        window = self.golden.windows.windows[Window.IMAGE]
        image = self.golden.windows.external.view(window.base, window.size).tobytes()
        key = image, self._registers["PROGRAM"]
        if key not in self._checked:
            if not any(image == checked for checked, _program in self._checked):
                self._checked.clear()
            check_hazards([executed.command for executed in run.executed], self.config, image,
                          self._loading if run.required else ())
            self._checked.add(key)


def record(executed: Executed, span: Span) -> np.ndarray:
    """A record as the device writes it: uint8 [RECORD_BYTES]. Counters of stalls are 0: nothing stalls here."""
    command = executed.command
    counters = [executed.counters.get(name, 0) for name, _doc in COUNTERS[command.engine]]
    words = [command.index, command.opcode, span.start, span.end, *counters]
    return np.frombuffer(struct.pack(f"<{len(words)}I", *words).ljust(RECORD_BYTES, b"\0"), dtype=np.uint8)
