"""Address channels: the bursts that transfers are cut into, and those that the masters put on the bus."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.asserts import AnySeq
from amaranth.hdl import Assume, Value

from hw.bus.axi import PAGE_BYTES
from hw.bus.burst_planner import CLIENTS, BurstPlanner
from hw.contract.config import WINDOWS, preset
from hw.contract.registers import Permission
from testbench.formal.harness import Harness

CONFIG = preset("nano")

#: Bits of a sum of addresses, with its carries.
_WIDE = 35


class WindowHarness(Harness):
    """For what has address windows: they stay, and are as the register block has them (proved of RegisterPort).

    The rules about planners are inductive: they say what a planner has within, by probes.
    """

    def assume_windows(self) -> None:
        """Any windows, aligned, that stay."""
        windows = Value.cast(self.dut.windows)
        self.assume(~self.past(1) | (windows == self.past(windows)))
        for window in self.dut.windows:
            self.assume((window.base[:3] == 0) & (window.size[:3] == 0))

    def _permits(self, i: int, permission: Permission) -> Value:
        window = self.dut.windows[i]
        return window.read if permission is Permission.READ else window.write

    def _is_window(self, permission: Permission, base: Value, size: Value) -> Value:
        return Cat(self._permits(i, permission) & (base == window.base) & (size == window.size)
                   for i, window in enumerate(self.dut.windows)).any()

    def planner_rules(self, permission: Permission, path: str) -> Place:
        """What holds within a planner at `path`: a transfer that was checked, and those under way, lie in a window.

        Returns the place that the offered burst must lie in.
        """
        m, bits = self.m, CONFIG.axi_address_bits
        checking, permitted = self.probe(1, f"{path}checking"), self.probe(1, f"{path}permitted")
        client = self.probe(1, f"{path}client")
        base, size = self.probe(bits, f"{path}base"), self.probe(32, f"{path}size")
        offset, length = self.probe(32, f"{path}offset"), self.probe(32, f"{path}length")
        end = self.probe(33, f"{path}end")
        self.always(~(checking & permitted) | (
            self._is_window(permission, base, size) & (offset[:3] == 0) & (length[:3] == 0) & (length != 0)
            & (end == offset + length)))
        valid, ready = self.probe(1, f"{path}burst__valid"), self.probe(1, f"{path}burst__ready")
        turn = self.probe(bits + 10, f"{path}burst__payload")[bits + 8]
        fresh, place, offered = Signal(), Place(self, f"{path}fresh"), Place(self, f"{path}offered")
        m.d.comb += fresh.eq(valid & (~self.past(valid) | self.past(ready)))
        for c in range(CLIENTS):
            active = self.probe(1, f"{path}active{c}")
            address, beats = self.probe(bits, f"{path}address{c}"), self.probe(29, f"{path}beats{c}")
            mine = Place(self, f"{path}client{c}")
            with m.If(checking & (client == c)):
                m.d.sync += [mine.base.eq(base), mine.size.eq(size), mine.limit.eq(base + end)]
            with m.If(fresh & (turn == c)):
                m.d.comb += place.eq(mine)
            rest = Signal(_WIDE, name=f"{path}rest{c}")
            m.d.comb += rest.eq(address + (beats << 3))
            self.always(~(active & checking & (client == c)))
            self.always(~active | ((beats != 0) & (address[:3] == 0)))
            self.always(~active | (address >= mine.base))
            self.always(~active | (rest == mine.limit))
            self.always(~(active | fresh & (turn == c)) | mine.is_good(permission))
        with m.If(~fresh):
            m.d.comb += place.eq(offered)
        m.d.sync += offered.eq(place)
        self.always(~valid | place.is_good(permission))
        return place

    def is_legal(self, place: Place, address: Value, length: Value) -> Value:
        """Whether a burst (AxADDR, AxLEN) is aligned, short enough, on one page and in its place."""
        beats, end = Signal(9), Signal(_WIDE)
        self.m.d.comb += [beats.eq(length + 1), end.eq(address + (beats << 3))]
        return ((address[:3] == 0) & (beats <= CONFIG.burst_beats) & (address[:12] + (beats << 3) <= PAGE_BYTES)
                & (address >= place.base) & (end <= place.limit))


class Place:
    """A window, and the first address behind a transfer in it."""

    def __init__(self, harness: WindowHarness, name: str):
        self._harness = harness
        self.base = Signal(CONFIG.axi_address_bits, name=f"{name}_base")
        self.size = Signal(32, name=f"{name}_size")
        self.limit = Signal(_WIDE, name=f"{name}_limit")

    def eq(self, other: Place) -> list:
        """Assignments."""
        return [self.base.eq(other.base), self.size.eq(other.size), self.limit.eq(other.limit)]

    def is_good(self, permission: Permission) -> Value:
        """Whether the window is one that permits the access, and the transfer ends in it and in the address space."""
        return (self._harness._is_window(permission, self.base, self.size) & (self.limit <= self.base + self.size)
                & (self.limit <= 1 << CONFIG.axi_address_bits))


class PlannerWindows(WindowHarness):
    """Every burst is legal and stays until it is taken, whatever is asked for and whenever it is stopped."""

    def __init__(self, permission: Permission = Permission.READ) -> None:
        super().__init__(BurstPlanner(CONFIG, permission))
        self.permission = permission

    def properties(self) -> None:
        burst = self.dut.burst
        self.assume_windows()
        place = self.planner_rules(self.permission, "")
        self.always(self.stable(burst.valid, burst.ready, Value.cast(burst.payload)))
        self.always(~burst.valid | self.is_legal(place, burst.payload.address, burst.payload.length))
        self.reachable(burst.valid & (burst.payload.length == CONFIG.burst_beats - 1) & ~burst.payload.last)


class PlannerTransfers(WindowHarness):
    """A transfer is denied exactly when it must be; else its bursts cover it, in order, each up to the next multiple of
    the longest."""

    def __init__(self, permission: Permission = Permission.READ) -> None:
        super().__init__(BurstPlanner(CONFIG, permission))
        self.permission = permission

    def properties(self) -> None:
        m, dut = self.m, self.dut
        burst, requests = dut.burst, (dut.request0, dut.request1)
        self.assume_windows()

        fresh = Signal()  # the burst is there since this cycle
        m.d.comb += fresh.eq(burst.valid & (~self.past(burst.valid) | self.past(burst.ready)))
        beats = Signal(9)
        m.d.comb += beats.eq(burst.payload.length + 1)
        checking, client = self.probe(1, "checking"), self.probe(1, "client")
        busy = []
        for c, request in enumerate(requests):
            transfer = request.payload
            base = Signal(CONFIG.axi_address_bits, name=f"window_base{c}")
            size, permitted = Signal(32, name=f"window_size{c}"), Signal(name=f"window_permits{c}")
            for i in range(WINDOWS):
                with m.If(transfer.window == i):
                    m.d.comb += [base.eq(dut.windows[i].base), size.eq(dut.windows[i].size),
                                 permitted.eq(self._permits(i, self.permission))]
            # The request that was taken in the cycle before, and whether it must be denied.
            taken = self.past(request.valid & request.ready)
            base, size, permitted = self.past(base), self.past(size), self.past(permitted)
            offset, length = self.past(transfer.offset), self.past(transfer.length)
            end, allowed = Signal(_WIDE, name=f"transfer_end{c}"), Signal(name=f"allowed{c}")
            m.d.comb += [
                end.eq(offset + length),
                allowed.eq(permitted & (offset[:3] == 0) & (length[:3] == 0) & (length != 0) & (end <= size)
                           & (base + end <= 1 << CONFIG.axi_address_bits)),
            ]
            self.always(dut.error[c].valid == self.past(taken & ~allowed & ~dut.stop))
            self.always(~dut.error[c].valid | (dut.error[c].address == self.past(offset)))
            # What the planner holds of it.
            self.always(taken == (checking & (client == c)))
            self.always(~taken | (base[:3] == 0))
            for width, name, value in ((CONFIG.axi_address_bits, "base", base), (32, "size", size),
                                       (32, "offset", offset), (32, "length", length), (33, "end", end)):
                self.always(~taken | (self.probe(width, name) == value))
            self.always(~taken | (self.probe(1, "permitted") == (
                permitted & (offset[:3] == 0) & (length[:3] == 0) & (length != 0))))
            # What is still to come of the transfer, this burst included.
            address, left = Signal(CONFIG.axi_address_bits, name=f"to_come_at{c}"), Signal(29, name=f"to_come{c}")
            mine = fresh & (burst.payload.client == c)
            with m.If(dut.stop):
                m.d.sync += left.eq(0)
            with m.Elif(taken & allowed):
                m.d.sync += [address.eq(base + offset), left.eq(length[3:])]
            with m.Elif(mine):
                m.d.sync += [address.eq(address + (beats << 3)), left.eq(left - beats)]
            longest = CONFIG.burst_beats - address[3 : 3 + CONFIG.burst_beats.bit_length() - 1]
            self.always(~mine | ((burst.payload.address == address) & (left != 0)
                                 & (beats == Mux(left < longest, left, longest))
                                 & (burst.payload.last == (beats == left))))
            # The planner's own view of it.
            active = self.probe(1, f"active{c}")
            self.always(~(taken & (active | (left != 0))))
            self.always((left == 0) | (address[:3] == 0))
            own_address, own_left = self.probe(CONFIG.axi_address_bits, f"address{c}"), self.probe(29, f"beats{c}")
            self.always(active == Mux(mine, left != beats, left != 0))
            after = Signal(CONFIG.axi_address_bits, name=f"after{c}")
            m.d.comb += after.eq(address + (beats << 3))
            self.always(~active | Mux(mine, (own_address == after) & (own_left == left - beats),
                                      (own_address == address) & (own_left == left)))
            busy.append(left != 0)
        self.always(~burst.valid | (burst.payload.length < CONFIG.burst_beats))
        self.always(~dut.idle | ~(checking | burst.valid | Cat(busy).any()))
        # The next burst is there in the cycle after the bus took one.
        more = Cat(self.probe(1, f"active{c}") for c in range(CLIENTS)).any()
        self.always(~self.past(more & ~dut.stop & (~burst.valid | burst.ready)) | fresh)
        self.reachable(fresh & burst.payload.last & (burst.payload.client == 1) & self.past(burst.valid))


class AnyPlanner(BurstPlanner):
    """Stands for every planner that does what is proved of BurstPlanner, in proofs of what comes behind it.

    Bursts of any address and length come at any time, but none after `stop`; they stay until they are taken.
    """

    def elaborate(self, platform) -> Module:
        m = Module()
        burst = self.burst
        payload = Value.cast(burst.payload)
        m.d.comb += [burst.valid.eq(AnySeq(1)), payload.eq(AnySeq(len(payload))), self.idle.eq(AnySeq(1))]
        waited, stopped, before = Signal(), Signal(), Signal.like(payload)
        m.d.sync += [waited.eq(burst.valid & ~burst.ready), stopped.eq(self.stop), before.eq(payload)]
        m.d.comb += [
            Assume(~waited | (burst.valid & (payload == before))),
            Assume(~stopped | waited | ~burst.valid),
            Assume(burst.payload.length < self.config.burst_beats),
            Assume(self.idle == ~burst.valid),
        ]
        return m
