"""The device's clock from the board's oscillator, through a PLL, and the reset that goes with it.

Dividers and limits: Lattice FPGA-TN-02200 (ECP5 sysCLOCK), FPGA-TN-02052 (iCE40 sysCLOCK).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from amaranth import Cat, ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.hdl import Value
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from hw.boards.catalogue import EARLY_CLOCK, EARLY_DOMAIN

#: How far a clock may be from what was asked for.
TOLERANCE = 0.005


class ClockError(ValueError):
    """A clock that the PLL can't make."""


@dataclasses.dataclass(frozen=True)
class Dividers:
    """Settings of a PLL: reference divided by `reference`, times `feedback`, divided by `output`; `vco_hz` inside."""

    reference: int
    feedback: int
    output: int
    vco_hz: float
    clock_hz: float


def _nearest(wanted_hz: float, candidates: Iterable[Dividers], centre_hz: float, what: str) -> Dividers:
    best = min(candidates, default=None, key=lambda found: (
        abs(found.clock_hz - wanted_hz), found.reference, abs(found.vco_hz - centre_hz)))
    if best is None or abs(best.clock_hz / wanted_hz - 1) > TOLERANCE:
        raise ClockError(f"{what} can't make {wanted_hz:,.0f} Hz within {TOLERANCE:.1%}; choose another clock_hz")
    return best


def ecp5_dividers(oscillator_hz: float, wanted_hz: float) -> Dividers:
    """EHXPLLL with feedback from its output: output = oscillator x feedback / reference. Raises ClockError."""
    def candidates() -> Iterable[Dividers]:
        for reference, feedback, output in itertools.product(range(1, 17), range(1, 81), range(1, 129)):
            clock_hz = oscillator_hz * feedback / reference
            if 400e6 <= clock_hz * output <= 800e6 and oscillator_hz / reference >= 3.125e6:
                yield Dividers(reference, feedback, output, clock_hz * output, clock_hz)
    return _nearest(wanted_hz, candidates(), 600e6, f"The ECP5's PLL with an oscillator of {oscillator_hz:,.0f} Hz")


def ice40_dividers(oscillator_hz: float, wanted_hz: float) -> Dividers:
    """SB_PLL40 with simple feedback: output = oscillator x feedback / reference / output (a power of two). Raises
    ClockError."""
    def candidates() -> Iterable[Dividers]:
        for reference, feedback, output in itertools.product(range(1, 17), range(1, 129), (2, 4, 8, 16, 32, 64)):
            vco_hz = oscillator_hz * feedback / reference
            if (533e6 <= vco_hz <= 1066e6 and 10e6 <= oscillator_hz / reference <= 133e6
                    and 16e6 <= vco_hz / output <= 275e6):
                yield Dividers(reference, feedback, output, vco_hz, vco_hz / output)
    return _nearest(wanted_hz, candidates(), 800e6, f"The iCE40's PLL with an oscillator of {oscillator_hz:,.0f} Hz")


def dividers_of(family: str, oscillator_hz: float, clock_hz: float) -> Dividers | None:
    """Settings of a board's PLL; None where it needs none. Raises ClockError."""
    if oscillator_hz == clock_hz:
        return None
    makers = {"ecp5": ecp5_dividers, "ice40": ice40_dividers}
    if family not in makers:
        raise ClockError(f"There is no PLL for the family {family!r}; the families are {', '.join(makers)}")
    return makers[family](oscillator_hz, clock_hz)


#: Cycles of the PLL's clock, once it has locked, before an ECP5's device gets it.
_SETTLED = 4


class Clocking(Elaboratable):
    """Drives the clock domain `sync`, which its parent has, and holds the device until the PLL has locked.

    An ECP5 holds it without a reset, which would have to reach every flip-flop: the clock itself comes through a gate
    (DCCA), and the first edge finds all registers as they were configured.

    Parameters
    ----------
    family : "ecp5" or "ice40". oscillator_hz : of the board.
    dividers : of the PLL; None: the board's clock as it is. port : the pin of the board's clock (an Amaranth IO port).
    """

    def __init__(self, family: str, oscillator_hz: int, dividers: Dividers | None, port: Any):
        self.family = family
        self.oscillator_hz = oscillator_hz
        self.dividers = dividers
        self.port = port

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        device_clock, clock, locked = Signal(attrs={"keep": 1}), Signal(name=EARLY_CLOCK), Signal()
        if self.dividers is not None and self.family == "ice40":
            m.submodules.pll = self._ice40(self.dividers, clock, locked)
        else:
            m.submodules.oscillator = buffer = io.Buffer("i", self.port)
            if self.dividers is None:
                m.d.comb += [clock.eq(buffer.i), locked.eq(1)]
            else:
                m.submodules.pll = self._ecp5(self.dividers, buffer.i, clock, locked)
        if self.dividers is not None:
            platform.add_clock_constraint(device_clock, self.dividers.clock_hz)
        m.d.comb += ClockSignal("sync").eq(device_clock)
        if self.family == "ecp5":
            m.domains += ClockDomain(EARLY_DOMAIN, local=True, reset_less=True)
            settled = Signal(_SETTLED)
            m.d[EARLY_DOMAIN] += settled.eq(Cat(locked, settled[:-1]))
            m.submodules.gate = Instance("DCCA", i_CLKI=clock, i_CE=settled[-1], o_CLKO=device_clock)
            m.d.comb += [ClockSignal(EARLY_DOMAIN).eq(clock), ResetSignal("sync").eq(0)]
        else:
            m.d.comb += device_clock.eq(clock)
            m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        return m

    def _ecp5(self, dividers: Dividers, oscillator: Value, clock: Signal, locked: Signal) -> Instance:
        # CLKOP_CPHASE belongs to the divider, and says that the output is in phase: as ecppll sets it.
        return Instance(
            "EHXPLLL", a_FREQUENCY_PIN_CLKI=str(self.oscillator_hz / 1e6),
            a_FREQUENCY_PIN_CLKOP=str(dividers.clock_hz / 1e6), a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=dividers.reference, p_CLKFB_DIV=dividers.feedback, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=dividers.output, p_CLKOP_CPHASE=(dividers.output - 1) // 2,
            p_CLKOP_FPHASE=0,
            i_CLKI=oscillator, i_CLKFB=clock, i_RST=Const(0), i_STDBY=Const(0),
            i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
            o_CLKOP=clock, o_LOCK=locked,
        )

    def _ice40(self, dividers: Dividers, clock: Signal, locked: Signal) -> Instance:
        # This PLL is the buffer of its pin, too.
        at_detector = self.oscillator_hz / dividers.reference
        # Filter range by the frequency at the phase detector, as icepll chooses it.
        limits = (17e6, 26e6, 44e6, 66e6, 101e6)
        return Instance(
            "SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(dividers.reference - 1, 4),
            p_DIVF=Const(dividers.feedback - 1, 7), p_DIVQ=Const(dividers.output.bit_length() - 1, 3),
            p_FILTER_RANGE=Const(1 + sum(at_detector >= limit for limit in limits), 3),
            i_PACKAGEPIN=self.port.io, i_RESETB=Const(1), i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=clock, o_LOCK=locked,
        )
