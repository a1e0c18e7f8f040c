"""The boards: clocks that their PLLs make, pins that they have, tops that elaborate."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
from amaranth import ClockDomain, Module, Signal
from amaranth.lib import io

from hw.boards.catalogue import BOARDS, Board
from hw.boards.clocking import TOLERANCE, ClockError, Clocking, dividers_of, ecp5_dividers, ice40_dividers
from hw.boards.platform_top import design_files, platform_of
from hw.bridge.uart import divisor_of
from hw.bus.axi import PAGE_BYTES
from hw.contract.config import PRESETS

BY_NAME = pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
needs_boards = pytest.mark.skipif(importlib.util.find_spec("amaranth_boards") is None,
                                  reason="amaranth-boards is not installed (extra `boards`)")

#: nextpnr's option for each FPGA.
DEVICE_OPTIONS = {"LFE5U-25F": "--25k", "LFE5U-45F": "--45k", "LFE5U-85F": "--85k", "iCE40UP5K": "--up5k"}


@BY_NAME
def test_sizes_and_rates(board: Board) -> None:
    assert board.preset in PRESETS
    dividers = dividers_of(board.family, board.oscillator_hz, board.clock_hz)
    clock_hz = dividers.clock_hz if dividers else board.oscillator_hz
    assert clock_hz == pytest.approx(board.clock_hz, rel=TOLERANCE)
    assert divisor_of(clock_hz, board.baud)
    assert board.memory_bytes % PAGE_BYTES == 0


@pytest.mark.parametrize(("oscillator", "wanted"), [(25e6, 80e6), (25e6, 50e6), (12e6, 48e6), (48e6, 75e6)])
def test_ecp5_dividers(oscillator: float, wanted: float) -> None:
    found = ecp5_dividers(oscillator, wanted)
    assert found.clock_hz == pytest.approx(wanted, rel=TOLERANCE)
    assert found.clock_hz == pytest.approx(oscillator * found.feedback / found.reference)
    assert found.vco_hz == pytest.approx(found.clock_hz * found.output)
    assert 400e6 <= found.vco_hz <= 800e6


def test_ice40_dividers_are_those_of_icepll() -> None:
    found = ice40_dividers(12e6, 18e6)
    assert (found.reference, found.feedback, found.output, found.vco_hz) == (1, 48, 32, 576e6)


def test_clocks_that_can_not_be() -> None:
    with pytest.raises(ClockError, match="can't make 1 Hz"):
        ecp5_dividers(25e6, 1)
    with pytest.raises(ClockError, match="can't make 500,000,000 Hz"):
        ice40_dividers(12e6, 500e6)
    with pytest.raises(ClockError, match="no PLL for the family 'gowin'"):
        dividers_of("gowin", 27e6, 54e6)
    assert dividers_of("gowin", 27e6, 27e6) is None


@needs_boards
@BY_NAME
def test_the_platform_is_the_one_described(board: Board) -> None:
    platform: Any = platform_of(board)
    assert DEVICE_OPTIONS[platform.device] in board.place_and_route
    assert platform.default_clk_frequency == board.oscillator_hz
    if board.family == "ecp5":
        assert board.part == f"{platform.device}-{platform.speed}"
        assert board.place_and_route[-1] == platform.speed
        assert platform._nextpnr_package_options[platform.package].upper() in board.place_and_route
    else:
        assert board.place_and_route[-1] == platform.package.lower()


@needs_boards
@pytest.mark.slow
@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize("name", ["ulx3s-45f", "icebreaker"])
def test_designs_for_place_and_route(name: str) -> None:
    files = design_files(BOARDS[name])
    assert set(files) == {"board.il", "board.lpf" if BOARDS[name].family == "ecp5" else "board.pcf"}
    constraints = files["board.lpf"] if BOARDS[name].family == "ecp5" else files["board.pcf"]
    for pin in ("uart_0__rx__io", "uart_0__tx__io", "led_0__io", "led_1__io"):
        assert pin in constraints
    assert "module \\board.top.device.conv" in files["board.il"]
    # abc9 would miss such wires; the slices of RTLIL stand behind a blank.
    assert not re.search(r"\\\S+\[\d+\]", files["board.il"])
    assert ("SB_PLL40_PAD" in files["board.il"]) == (name == "icebreaker")


@needs_boards
def test_clock_from_an_ecp5_pll() -> None:
    """The PLL's instance, and the constraint on what it makes."""
    m = Module()
    m.domains.sync = ClockDomain("sync")
    platform: Any = platform_of(BOARDS["ulx3s-85f"])
    m.submodules.clocking = Clocking("ecp5", 25_000_000, ecp5_dividers(25e6, 80e6),
                                     platform.request("clk25", 0, dir="-"))
    count = Signal(8)
    m.d.sync += count.eq(count + 1)
    led = platform.request("led", 0, dir="-")
    m.submodules.led = out = io.Buffer("o", led)
    m.d.comb += out.o.eq(count[-1])
    files = platform.prepare(m, "board").files
    assert "EHXPLLL" in str(files["board.il"])
    assert "80000000.0 HZ" in str(files["board.lpf"])
