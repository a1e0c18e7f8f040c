"""Programs written by hand, and a driver at the level of registers: for what no compiled model would do.

    image = image_of(config, [(Opcode.LOAD, {...}), (Opcode.STORE, {...})])
    host = Host(link, config)
    host.place(image)
    assert host.run() == (Error.NONE, 0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hw.contract.commands import COMMAND_BYTES, MAGIC, Opcode, Space, encode
from hw.contract.config import FORMAT_VERSION, Config
from hw.contract.image import Port, Program, Result
from hw.contract.layouts import align
from hw.contract.registers import REGISTERS, Control, Error, Permission, Window
from sw_driver.links.link import Link

Command = tuple[Opcode, Mapping[str, int]]

#: Where Host puts the windows: byte address and bytes.
PLACES = {
    Window.IMAGE: (0x1000, 0xC000),
    Window.INPUT: (0x1_0000, 0x1000),
    Window.OUTPUT: (0x1_2000, 0x1000),
    Window.RECORD: (0x1_4000, 0x8000),
}
PERMISSIONS = {
    Window.IMAGE: Permission.READ, Window.INPUT: Permission.READ,
    Window.OUTPUT: Permission.WRITE, Window.RECORD: Permission.WRITE,
}


def image_of(config: Config, commands: Sequence[Command], data: bytes = b"", **begin: int) -> bytes:
    """A program image: BEGIN, the commands, END, then `data`. `begin` replaces fields of BEGIN.

    `data` starts at `data_offset(len(commands))`.
    """
    fields = {"magic": MAGIC, "format_version": FORMAT_VERSION, "config_hash": config.hash,
              "command_count": len(commands) + 2, **begin}
    code = [encode(Opcode.BEGIN, fields), *(encode(opcode, values) for opcode, values in commands),
            encode(Opcode.END, {})]
    return b"".join(code) + data


def data_offset(commands: int) -> int:
    """Where the data of an image with so many commands (BEGIN and END not counted) starts."""
    return (commands + 2) * COMMAND_BYTES


def _program(config: Config, name: str, commands: Sequence[Command], data: bytes = b"", *, output_bytes: int = 0,
             outputs: Sequence[Port] = (), results: Sequence[Result] = ()) -> Program:
    return Program(
        model=name, preset=config.name, config_hash=config.hash, image=image_of(config, commands, data),
        command_count=len(commands) + 2, input_bytes=0, output_bytes=output_bytes, inputs=[], outputs=list(outputs),
        feeds=[], results=list(results), host_steps=[], layers=[])


def reading_program(config: Config) -> Program:
    """Stores the whole feature memory: its output is int8 [feature words, lanes]."""
    words, lanes, size = config.feature_words, config.lanes, config.feature_bytes
    return _program(
        config, "feature memory", [(Opcode.STORE, {"window": Window.OUTPUT, "space": Space.FEATURE, "length": size})],
        output_bytes=size, outputs=[Port("feature memory", 0, [words, lanes], "int8", 1.0, 0)],
        results=[Result(0, [words, lanes], 0, size, words, 1, lanes)])


def filling_program(config: Config, rng: np.random.Generator) -> Program:
    """Loads every on-chip memory with random bytes: what a program finds there must not matter to it."""
    sizes = {
        Space.FEATURE: config.feature_bytes, Space.WEIGHT: config.weight_bytes, Space.MAP: 8 * config.map_entries,
        Space.MASK: 8 * config.mask_words, Space.PARAMETER: config.parameter_entries * config.parameter_entry_bytes,
    }
    commands: list[Command] = []
    data = b""
    for space, size in sizes.items():
        commands.append((Opcode.LOAD, {"window": Window.IMAGE, "space": space, "length": size,
                                       "offset": data_offset(len(sizes)) + len(data)}))
        data += rng.bytes(align(size, 8))
    return _program(config, "random memories", commands, data)


class Host:
    """Drives a device by its registers.

    Parameters
    ----------
    link : to the device. config : what it was built with.
    """

    def __init__(self, link: Link, config: Config):
        self.link = link
        self.config = config

    def read(self, register: str) -> int:
        """A register by its name."""
        return self.link.read_register(REGISTERS[register].address)

    def write(self, register: str, value: int) -> None:
        """Write a register by its name."""
        self.link.write_register(REGISTERS[register].address, int(value))

    def set_window(self, window: Window, base: int, size: int, permission: int) -> None:
        """Set an address window."""
        for part, value in (("BASE", base & 0xFFFF_FFFF), ("BASE_HIGH", base >> 32), ("SIZE", size),
                            ("PERMISSION", permission)):
            self.write(f"WINDOW{int(window)}_{part}", value)

    def place(self, image: bytes, program: int = 0) -> None:
        """Set every window to its place, enable the interrupt, and put `image` into window IMAGE, zeros behind it."""
        for window, (base, size) in PLACES.items():
            self.set_window(window, base, size, PERMISSIONS[window])
        base, size = PLACES[Window.IMAGE]
        self.link.write_memory(base, image.ljust(size, b"\0"))
        self.write("PROGRAM", program)
        self.write("INTERRUPT_ENABLE", 1)

    def start(self) -> None:
        """Ring the doorbell."""
        self.write("CONTROL", Control.START)

    def run(self, cycles: int = 500_000) -> tuple[Error, int]:
        """Run the program placed last to its end: error code and command. Raises InterruptTimeout."""
        self.start()
        return self.finish(cycles)

    def finish(self, cycles: int = 500_000) -> tuple[Error, int]:
        """Wait for the end of a program: error code and command. Raises InterruptTimeout."""
        self.link.wait_interrupt(cycles)
        return Error(self.read("ERROR_CODE")), self.read("ERROR_COMMAND")
