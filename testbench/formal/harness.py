"""What the harnesses of proofs are made of: free inputs, a module under proof, assumptions, assertions."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping
from unittest import mock

from amaranth import ClockDomain, Module, Mux, Signal, Value
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import wiring

#: Module name of a harness, and prefix of signals that stand for some within the module under proof.
TOP = "top"
PROBE = "probe_"


class Harness(abc.ABC):
    """A module under proof, `dut`; whatever is not driven by `properties` is free in every cycle.

    There is no reset: a proof starts in the state after one. Subclasses say in `properties` what is assumed and
    asserted; these hold in every cycle, so that they may use combinational values.

    Parameters
    ----------
    dut : the module under proof. instead : by the names by which it knows them, what it takes instead of other classes
        or constants while it is elaborated.

    Attributes
    ----------
    probes : signals of the module under proof, by their paths after flattening, and what stands for them.
    """

    def __init__(self, dut: wiring.Component, instead: Mapping[str, object] | None = None):
        self.dut = dut
        self._instead = instead or {}
        self.m = Module()
        self.probes: dict[str, Signal] = {}
        self._free: list[Value] = []
        self._clock = ClockDomain("sync", reset_less=True)

    @abc.abstractmethod
    def properties(self) -> None:
        """Add to the module `m`."""

    # ---- for properties ------------------------------------------------------------------------------------------

    def always(self, condition: Value) -> None:
        """The condition must hold in every cycle."""
        self.m.d.comb += Assert(condition, src_loc_at=1)

    def assume(self, condition: Value) -> None:
        """The other side of the bus sees to it that the condition holds in every cycle."""
        self.m.d.comb += Assume(condition)

    def reachable(self, condition: Value) -> None:
        """The condition must be able to hold in some cycle: else the assumptions leave nothing to prove."""
        self.m.d.comb += Cover(condition)

    def free(self, shape, name: str) -> Signal:
        """An input that may have any value in each cycle."""
        signal = Signal(shape, name=name)
        self._free.append(Value.cast(signal))
        return signal

    def constant(self, shape, name: str) -> Signal:
        """An input that may have any value, and keeps it."""
        signal = self.free(shape, name)
        self.assume(~self.past(1) | (signal == self.past(signal)))
        return signal

    def probe(self, shape, path: str) -> Signal:
        """A signal within the module under proof: `path` as Yosys names it after flattening, without "dut."."""
        if path not in self.probes:
            signal = self.free(shape, PROBE + path.replace(".", "_"))
            self.probes[path] = signal
        return self.probes[path]

    def past(self, value, init: int = 0) -> Signal:
        """A value as it was in the cycle before; `init` in the first."""
        value = Value.cast(value)
        signal = Signal(value.shape(), init=init)
        self.m.d.sync += signal.eq(value)
        return signal

    def stable(self, valid: Value, ready: Value, payload: Value) -> Value:
        """Whether an offer that was not taken in the cycle before is still there, and the same."""
        waited = self.past(valid & ~ready)
        return ~waited | (valid & (payload == self.past(payload)))

    def counter(self, up: Value, down: Value, bits: int = 4) -> Signal:
        """How often `up` was high, less `down`, in the cycles before."""
        count = Signal(bits)
        self.m.d.sync += count.eq(count + up - down)
        return count

    def patience(self, waits: Value, most: int) -> Value:
        """Whether `waits` has been high for at most `most` cycles on end, this one included."""
        count = Signal(range(most + 2))
        self.m.d.sync += count.eq(Mux(waits, Mux(count > most, count, count + 1), 0))
        return ~(waits & (count >= most))

    # ---- for the prover ------------------------------------------------------------------------------------------

    def rtlil(self) -> str:
        """The harness as a module TOP for Yosys; inputs of the module under proof are inputs."""
        self.m.domains.sync = self._clock
        self.m.submodules.dut = self.dut
        self.properties()
        inputs = [Value.cast(value) for _path, _member, value in self.dut.signature.flatten(self.dut)]
        with contextlib.ExitStack() as stack:
            for name, stand_in in self._instead.items():
                stack.enter_context(mock.patch(name, stand_in))
            return rtlil.convert(self.m, name=TOP, ports=[*inputs, *self._free, self._clock.clk])
