"""Address channels: the bursts that transfers are cut into, and those that the masters put on the bus."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.asserts import AnySeq
from amaranth.hdl import Assume, Value
from amaranth.lib import data

from hw.bus.axi import PAGE_BYTES
from hw.bus.burst_planner import CLIENTS, BurstPlanner
from hw.bus.transfer import TRANSFER_LAYOUT
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

    def check(self, path: str) -> Check:
        """The check in a planner at `path`; there is one transfer in it at most."""
        check = Check(self, path)
        self.always(check.looking + check.checking + check.judging <= 1)
        return check

    def planner_rules(self, permission: Permission, path: str) -> Place:
        """What holds within a planner at `path`: a transfer that was checked, and those under way, lie in a window.

        Returns the place that the offered burst must lie in.
        """
        m, bits = self.m, CONFIG.axi_address_bits
        check = self.check(path)
        base, size = Signal(bits, name=f"{path}base"), Signal(32, name=f"{path}size")
        limit = Signal(_WIDE, name=f"{path}limit")
        m.d.comb += [
            base.eq(self.probe(bits - 3, f"{path}base") << 3),
            size.eq(self.probe(29, f"{path}size") << 3),
            limit.eq(base + (self.probe(30, f"{path}end") << 3)),
        ]
        self.always(~(check.checking & self.probe(1, f"{path}permitted")) | self._is_window(permission, base, size))
        self.always(~(check.checking & self.probe(1, f"{path}well_formed")) | (
            (check.transfer.offset[:3] == 0) & (check.transfer.length[:3] == 0) & (check.transfer.length != 0)))
        self.always(~check.checking | (
            limit == base + Cat(Const(0, 3), check.transfer.offset[3:]) + Cat(Const(0, 3), check.transfer.length[3:])))
        valid, ready = self.probe(1, f"{path}burst__valid"), self.probe(1, f"{path}burst__ready")
        turn = self.probe(bits + 10, f"{path}burst__payload")[bits + 8]
        fresh, place, offered = Signal(), Place(self, f"{path}fresh"), Place(self, f"{path}offered")
        m.d.comb += fresh.eq(valid & (~self.past(valid) | self.past(ready)))
        for c in range(CLIENTS):
            active = self.probe(1, f"{path}active{c}")
            address, behind = Signal(bits, name=f"{path}at{c}"), Signal(_WIDE, name=f"{path}behind{c}")
            m.d.comb += [
                address.eq(self.probe(bits - 3, f"{path}address{c}") << 3),
                behind.eq((self.probe(bits - 3, f"{path}final{c}") << 3) + 8),
            ]
            mine = Place(self, f"{path}client{c}")
            with m.If(check.checking & (check.client == c)):
                m.d.sync += [mine.base.eq(base), mine.size.eq(size), mine.limit.eq(limit)]
            with m.If(fresh & (turn == c)):
                m.d.comb += place.eq(mine)
            self.always(~(active & check.under_way & (check.client == c)))
            judged = check.judging & check.granted & (check.client == c)
            held = Signal(name=f"{path}held{c}")  # a transfer that may be done
            m.d.comb += held.eq(active | judged)
            self.always(~(check.judging & (check.client == c)) | (
                self.probe(bits - 1, f"{path}limit") << 3 == mine.limit))
            self.always(~held | ((address >= mine.base) & (address < mine.limit)))
            self.always(~active | (behind == mine.limit))
            self.always(~(held | fresh & (turn == c)) | mine.is_good(permission))
            # What is known of a client whose burst is made next.
            now, low = self.probe(bits - 3, f"{path}now"), CONFIG.burst_beats.bit_length() - 1
            final = self.probe(bits - 3, f"{path}final{c}")
            self.always(~(self.probe(1, f"{path}chosen") & (self.probe(1, f"{path}turn") == c)) | (
                active & (now << 3 == address) & (self.probe(low, f"{path}end_low") == final[:low])
                & (self.probe(1, f"{path}last") == (final[low:] == now[low:]))))
        self.always(~(self.probe(1, f"{path}chosen") & valid))
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


class Check:
    """Signals of a planner's check: the transfer in it, whose it is, and how far it has come."""

    def __init__(self, harness: WindowHarness, path: str):
        self.looking, self.checking, self.judging, self.client = (
            harness.probe(1, f"{path}{name}") for name in ("looking", "checking", "judging", "client"))
        self.transfer = data.View(TRANSFER_LAYOUT, harness.probe(TRANSFER_LAYOUT.size, f"{path}transfer"))
        self.granted = harness.probe(1, f"{path}granted")
        self.under_way = self.looking | self.checking | self.judging


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
        check = self.check("")
        self.always(check.looking == self.past(Cat(request.valid & request.ready for request in requests).any()))
        self.always(check.checking == self.past(check.looking & ~dut.stop))
        self.always(check.judging == self.past(check.checking & ~dut.stop))
        # The request that was taken last, and whether it must be denied.
        transfer = Signal(TRANSFER_LAYOUT, name="taken_transfer")
        client = Signal(name="taken_client")
        for c, request in enumerate(requests):
            with m.If(request.valid & request.ready):
                m.d.sync += [transfer.eq(request.payload), client.eq(c)]
        base, size = Signal(CONFIG.axi_address_bits, name="window_base"), Signal(32, name="window_size")
        permitted = Signal(name="window_permits")
        for i in range(WINDOWS):
            with m.If(transfer.window == i):
                m.d.comb += [base.eq(dut.windows[i].base), size.eq(dut.windows[i].size),
                             permitted.eq(self._permits(i, self.permission))]
        end, allowed = Signal(_WIDE, name="transfer_end"), Signal(name="allowed")
        m.d.comb += [
            end.eq(transfer.offset + transfer.length),
            allowed.eq(permitted & (transfer.offset[:3] == 0) & (transfer.length[:3] == 0) & (transfer.length != 0)
                       & (end <= size) & (base + end <= 1 << CONFIG.axi_address_bits)),
        ]
        # What the planner holds of it.
        self.always(~check.under_way | ((check.client == client) & (check.transfer.as_value() == transfer.as_value())))
        for width, name, value in ((CONFIG.axi_address_bits - 3, "base", base[3:]), (29, "size", size[3:]),
                                   (1, "permitted", permitted)):
            self.always(~check.checking | (self.probe(width, name) == value))
        self.always(~check.checking | (self.probe(30, "end") == transfer.offset[3:] + transfer.length[3:]))
        self.always(~check.checking | (self.probe(1, "well_formed") == (
            (transfer.offset[:3] == 0) & (transfer.length[:3] == 0) & (transfer.length != 0))))
        limit = self.probe(CONFIG.axi_address_bits - 1, "limit")
        self.always(~check.judging | ((limit << 3) == base + Cat(Const(0, 3), transfer.offset[3:])
                                      + Cat(Const(0, 3), transfer.length[3:])))
        self.always(~check.judging | (check.granted == allowed))
        busy = []
        for c in range(CLIENTS):
            mine = client == c
            self.always(dut.error[c].valid == self.past(check.judging & ~allowed & mine & ~dut.stop))
            self.always(~dut.error[c].valid | (dut.error[c].address == self.past(transfer.offset)))
            # What is still to come of the transfer, this burst included.
            address, left = Signal(CONFIG.axi_address_bits, name=f"to_come_at{c}"), Signal(29, name=f"to_come{c}")
            made = fresh & (burst.payload.client == c)
            with m.If(dut.stop):
                m.d.sync += left.eq(0)
            with m.Elif(check.judging & mine & allowed):
                m.d.sync += [address.eq(base + transfer.offset), left.eq(transfer.length[3:])]
            with m.Elif(made):
                m.d.sync += [address.eq(address + (beats << 3)), left.eq(left - beats)]
            longest = CONFIG.burst_beats - address[3 : 3 + CONFIG.burst_beats.bit_length() - 1]
            self.always(~made | ((burst.payload.address == address) & (left != 0)
                                 & (beats == Mux(left < longest, left, longest))
                                 & (burst.payload.last == (beats == left))))
            # The planner's own view of it.
            active = self.probe(1, f"active{c}")
            own_address = Cat(Const(0, 3), self.probe(CONFIG.axi_address_bits - 3, f"address{c}"))
            own_behind = (self.probe(CONFIG.axi_address_bits - 3, f"final{c}") + 1) << 3
            self.always(~(check.under_way & mine & (active | (left != 0))))
            self.always(~(check.judging & mine & allowed) | (own_address == base + transfer.offset))
            self.always((left == 0) | (address[:3] == 0))
            self.always((left == 0) | (address + (left << 3) <= 1 << CONFIG.axi_address_bits))
            self.always(active == Mux(made, left != beats, left != 0))
            after = Signal(CONFIG.axi_address_bits, name=f"after{c}")
            m.d.comb += after.eq(address + (beats << 3))
            self.always(~active | ((own_behind == address + (left << 3)) & (own_address == Mux(made, after, address))))
            busy.append(left != 0)
        self.always(~burst.valid | (burst.payload.length < CONFIG.burst_beats))
        self.always(~dut.idle | ~(check.under_way | burst.valid | Cat(busy).any()))
        # The next burst is there two cycles after the bus took one.
        more = Cat(self.probe(1, f"active{c}") for c in range(CLIENTS)).any()
        chosen = self.probe(1, "chosen")
        self.always(chosen == self.past(more & ~chosen & (~burst.valid | burst.ready) & ~dut.stop))
        self.always(~self.past(chosen & ~dut.stop) | fresh)
        self.always(~chosen | ~burst.valid)
        for c in range(CLIENTS):
            now, low = self.probe(CONFIG.axi_address_bits - 3, "now"), CONFIG.burst_beats.bit_length() - 1
            final = self.probe(CONFIG.axi_address_bits - 3, f"final{c}")
            self.always(~(chosen & (self.probe(1, "turn") == c)) | (
                self.probe(1, f"active{c}") & (now == self.probe(CONFIG.axi_address_bits - 3, f"address{c}"))
                & (self.probe(low, "end_low") == final[:low])
                & (self.probe(1, "last") == (final[low:] == now[low:]))))
        self.reachable(fresh & burst.payload.last & (burst.payload.client == 1) & self.past(self.past(burst.valid)))


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
