"""The boards: what each is given, and what its tools must be told. Plain data, without Amaranth."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

#: Megabits per second are too many for some of the chips on these boards that make a serial port of USB.
BAUD = 1_000_000

#: The clock before the gate that holds an ECP5's device until the PLL has locked, and the domain of the few registers
#: there.
EARLY_CLOCK, EARLY_DOMAIN = "source_clock", "free"

_KIB = 1024


@dataclasses.dataclass(frozen=True)
class Flash:
    """The part of a board's SPI flash that programs lie in.

    Parameters
    ----------
    resource : name of the flash among the platform's resources.
    offset : of the part in the flash, behind every bitstream that the FPGA may have; a multiple of 4096.
    size : bytes, a multiple of 4096.
    """

    resource: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Board:
    """A board and the device on it.

    Parameters
    ----------
    name : for the command line. title : for people. preset : of the device.
    platform : class of amaranth-boards, "module:class". part : the FPGA, for people.
    family : "ecp5" or "ice40", which decides about tools and primitives.
    place_and_route : what nextpnr must know of the FPGA.
    oscillator_hz : of the board. clock_hz : of the device, made from it by a PLL where they differ.
    memory_bytes : block RAM that stands for external memory.
    lights : two resources, by name and number: busy and error.
    baud : of the serial line. flash : where programs may lie that block RAM is too small for; None: nowhere.
    """

    name: str
    title: str
    preset: str
    platform: str
    part: str
    family: str
    place_and_route: tuple[str, ...]
    oscillator_hz: int
    clock_hz: int
    memory_bytes: int
    lights: tuple[tuple[str, int], tuple[str, int]] = (("led", 0), ("led", 1))
    baud: int = BAUD
    flash: Flash | None = None


#: An 85F's bitstream takes 1.9 MiB uncompressed; the first of these boards have 4 MiB of flash, later ones 16.
_ULX3S_FLASH = Flash("spi_flash", 2 << 20, 2 << 20)
_ULX3S = ("--package", "CABGA381", "--speed", "6")

#: By name, in the order of the documentation.
BOARDS = MappingProxyType({board.name: board for board in (
    Board("ulx3s-85f", "Radiona ULX3S 85F", "medium", "amaranth_boards.ulx3s:ULX3S_85F_Platform", "LFE5U-85F-6", "ecp5",
          ("--router", "router2", "--85k", *_ULX3S), 25_000_000, 80_000_000, 32 * _KIB, flash=_ULX3S_FLASH),
    Board("ulx3s-85f-small", "Radiona ULX3S 85F", "small", "amaranth_boards.ulx3s:ULX3S_85F_Platform", "LFE5U-85F-6",
          "ecp5", ("--router", "router2", "--85k", *_ULX3S), 25_000_000, 25_000_000, 128 * _KIB, flash=_ULX3S_FLASH),
    Board("ulx3s-45f", "Radiona ULX3S 45F", "nano", "amaranth_boards.ulx3s:ULX3S_45F_Platform", "LFE5U-45F-6", "ecp5",
          ("--router", "router1", "--45k", *_ULX3S), 25_000_000, 25_000_000, 64 * _KIB, flash=_ULX3S_FLASH),
    Board("icebreaker", "1BitSquared iCEBreaker", "nano", "amaranth_boards.icebreaker:ICEBreakerPlatform",
          "iCE40UP5K-SG48", "ice40", ("--up5k", "--package", "sg48"), 12_000_000, 18_000_000, 4 * _KIB,
          flash=Flash("spi_flash_1x", 1 << 20, 4 << 20)),
)})
