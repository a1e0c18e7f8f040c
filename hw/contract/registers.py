"""The register table: AXI4-Lite, 32-bit registers. Hardware, driver, C header and documentation read it."""

from __future__ import annotations

import dataclasses
import enum

from hw.contract.config import WINDOWS

#: Value of the ID register: "LCNA".
ID = 0x414E434C

#: Bytes that the register table takes in the address space.
ADDRESS_BYTES = 0x200


class Access(enum.Enum):
    """How software may use a register."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "read and write"


@dataclasses.dataclass(frozen=True)
class Register:
    """One 32-bit register at byte address `address`; `reset` is its value after reset."""

    name: str
    address: int
    access: Access
    doc: str
    reset: int = 0


class Control(enum.IntFlag):
    """Bits of CONTROL; each acts when written as one."""

    START = 1  #: the doorbell: fetch and run the program at PROGRAM; ignored while busy
    SOFT_RESET = 2  #: stop all engines, end the bus transactions under way, clear error and interrupt
    ACKNOWLEDGE = 4  #: clear the interrupt


class Status(enum.IntFlag):
    """Bits of STATUS."""

    BUSY = 1  #: from the doorbell, or a soft reset, until the device can take the next doorbell
    DONE = 2  #: the last program ran to its END
    ERROR = 4  #: the last program ended with ERROR_CODE; stays until START or SOFT_RESET
    INTERRUPT = 8  #: the interrupt is raised: set with DONE or ERROR, cleared by ACKNOWLEDGE, START, SOFT_RESET


class Permission(enum.IntFlag):
    """Bits of a window's PERMISSION; zero, as after reset, denies everything."""

    READ = 1
    WRITE = 2


class Error(enum.IntEnum):
    """Values of ERROR_CODE."""

    NONE = 0
    BAD_IMAGE = 1  #: the program does not start with BEGIN and MAGIC
    WRONG_FORMAT = 2  #: the image has another format version
    WRONG_CONFIG = 3  #: the image was built for another configuration
    BAD_OPCODE = 4  #: unknown opcode, or BEGIN after the start
    BAD_COMMAND = 5  #: a field outside its limits
    WINDOW_READ = 6  #: a read outside its window, or one that its window does not permit
    WINDOW_WRITE = 7  #: a write outside its window, or one that its window does not permit
    BUS_READ = 8  #: the bus answered a read with an error
    BUS_WRITE = 9  #: the bus answered a write with an error
    WATCHDOG = 10  #: no command completed and no data moved for WATCHDOG cycles
    WEIGHT_STREAM = 11  #: a corrupt weight stream
    TOKEN_OVERFLOW = 12  #: a token counter would have passed its limit
    NOT_RESIDENT = 13  #: the program requires a tag that does not stand


class Window(enum.IntEnum):
    """What the address windows are for, by the driver's convention."""

    IMAGE = 0  #: program, weights, constants: read
    INPUT = 1  #: input feature maps and masks: read
    OUTPUT = 2  #: output feature maps: write
    RECORD = 3  #: records; the sequencer writes them to this window


def _window_registers() -> list[Register]:
    table = []
    for i in range(WINDOWS):
        base = 0x80 + 16 * i
        name = f"WINDOW{i}_"
        rw = Access.READ_WRITE
        table += [
            Register(name + "BASE", base, rw, f"window {i}: first byte address, low 32 bits; a multiple of 8"),
            Register(name + "BASE_HIGH", base + 4, rw, f"window {i}: first byte address, high bits"),
            Register(name + "SIZE", base + 8, rw, f"window {i}: bytes; a multiple of 8"),
            Register(name + "PERMISSION", base + 12, rw, f"window {i}: Permission bits"),
        ]
    return table


_R, _W, _RW = Access.READ, Access.WRITE, Access.READ_WRITE

REGISTERS: dict[str, Register] = {
    register.name: register
    for register in [
        Register("ID", 0x00, _R, "ID"),
        Register("FORMAT", 0x04, _R, "FORMAT_VERSION of the commands and layouts that the device reads"),
        Register("CONFIG", 0x08, _R, "Config.hash of the device"),
        Register("CONTROL", 0x0C, _W, "Control bits"),
        Register("STATUS", 0x10, _R, "Status bits"),
        Register("INTERRUPT_ENABLE", 0x14, _RW, "1: the interrupt line follows Status.INTERRUPT"),
        Register("ERROR_CODE", 0x18, _R, "Error of the last program"),
        Register("ERROR_COMMAND", 0x1C, _R, "index of the command that failed, BEGIN being 0"),
        Register("ERROR_ADDRESS", 0x20, _R, "low 32 bits of the byte address, or the offset, that failed"),
        Register("PROGRAM", 0x24, _RW, "offset of the BEGIN command in window IMAGE; a multiple of 8"),
        Register("WATCHDOG", 0x28, _RW, "cycles without progress after which the device stops; 0: never", 100_000),
        Register("CYCLES", 0x2C, _R, "cycles from doorbell to interrupt; running while busy"),
        Register("COMPLETED", 0x30, _R, "commands completed (records written) since the doorbell"),
        Register("DISPATCHED", 0x34, _R, "commands fetched and sent to an engine since the doorbell"),
        Register("LOAD_COMMAND", 0x40, _R, "index of the load engine's running command; all ones: idle"),
        Register("STORE_COMMAND", 0x44, _R, "index of the store engine's running command; all ones: idle"),
        Register("CONV_COMMAND", 0x48, _R, "index of the conv engine's running command; all ones: idle"),
        Register("VECTOR_COMMAND", 0x4C, _R, "index of the vector engine's running command; all ones: idle"),
        *_window_registers(),
    ]
}
