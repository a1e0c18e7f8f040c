"""From transfers to bursts: window check, then bursts that cross no page, two clients in turn."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import PAGE_BYTES
from hw.bus.transfer import BEAT_BYTES, TRANSFER_LAYOUT
from hw.bus.windows import window_layout, window_table
from hw.contract.config import WINDOWS, Config
from hw.contract.registers import Error, Permission
from hw.ports import ERROR_LAYOUT

#: Clients of a planner; client 0 goes first.
CLIENTS = 2


def burst_layout(config: Config) -> data.StructLayout:
    """A burst: byte address, beats less one (AxLEN), whose it is, and whether its transfer ends with it."""
    return data.StructLayout({
        "address": unsigned(config.axi_address_bits),
        "length": unsigned(8),
        "client": unsigned(1),
        "last": unsigned(1),
    })


class BurstPlanner(wiring.Component):
    """Checks transfers and cuts them into bursts.

    A transfer is denied unless its window exists and permits the access, offset and length are multiples
    of BEAT_BYTES, length is not zero, and all of it lies in the window and in the address space. All sums
    keep their carry. A denied transfer makes no burst.

    Parameters
    ----------
    config : `axi_address_bits` and `burst_beats` are used.
    permission : what a window must permit: Permission.READ or Permission.WRITE.

    Members
    -------
    request0, request1 : transfers of the two clients; between bursts, client 0 goes first.
    windows : the address windows.
    stop : drop all transfers and take no new ones; a burst that is offered stays offered.
    burst : bursts in order, at most one every second cycle for one client; the first is offered two cycles
        after its request was taken.
    error : per client, for one cycle: the transfer was denied; `address` is its offset.
    idle : there is nothing in here.
    """

    def __init__(self, config: Config, permission: Permission):
        self.config = config
        self.permission = permission
        self.code = Error.WINDOW_READ if permission is Permission.READ else Error.WINDOW_WRITE
        super().__init__({
            "request0": In(stream.Signature(TRANSFER_LAYOUT)),
            "request1": In(stream.Signature(TRANSFER_LAYOUT)),
            "windows": In(window_table(config)),
            "stop": In(1),
            "burst": Out(stream.Signature(burst_layout(config))),
            "error": Out(data.ArrayLayout(ERROR_LAYOUT, CLIENTS)),
            "idle": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = self.config.axi_address_bits
        beat_shift = BEAT_BYTES.bit_length() - 1
        beats_bits = 32 - beat_shift

        # A transfer under way, per client.
        active = [Signal(name=f"active{c}") for c in range(CLIENTS)]
        address = [Signal(bits, name=f"address{c}") for c in range(CLIENTS)]
        beats = [Signal(beats_bits, name=f"beats{c}") for c in range(CLIENTS)]

        # First cycle: take a request, look its window up, add offset and length.
        checking = Signal()
        client = Signal(range(CLIENTS))
        permitted = Signal()
        base = Signal(bits)
        size = Signal(32)
        offset = Signal(32)
        length = Signal(32)
        end = Signal(33)

        requests = (self.request0, self.request1)
        wanted = Signal(CLIENTS)
        for c, request in enumerate(requests):
            m.d.comb += wanted[c].eq(request.valid & ~active[c] & ~(checking & (client == c)) & ~self.stop)
        m.d.comb += [
            self.request0.ready.eq(wanted[0]),
            self.request1.ready.eq(wanted[1] & ~wanted[0]),
        ]
        # Which request is taken does not wait for `wanted`: the choice is valid whenever one is taken.
        chosen = Signal(TRANSFER_LAYOUT)
        m.d.comb += chosen.eq(Mux(wanted[0], self.request0.payload, self.request1.payload))
        window = Signal(window_layout(self.config))  # deny-all for a window that does not exist
        with m.Switch(chosen.window):
            for i in range(WINDOWS):
                with m.Case(i):
                    m.d.comb += window.eq(self.windows[i])
        m.d.sync += checking.eq(wanted.any())
        with m.If(wanted.any()):
            m.d.sync += [
                client.eq(~wanted[0]),
                permitted.eq((window.read if self.permission is Permission.READ else window.write)
                             & (Cat(chosen.offset[:beat_shift], chosen.length[:beat_shift]) == 0)
                             & (chosen.length != 0)),
                base.eq(window.base),
                size.eq(window.size),
                offset.eq(chosen.offset),
                length.eq(chosen.length),
                end.eq(chosen.offset + chosen.length),
            ]

        # Second cycle: compare with the window and with the end of the address space.
        inside = Signal()
        addressable = Signal()
        after = Signal(max(bits, 33) + 1)
        m.d.comb += [
            inside.eq(end <= size),
            after.eq(base + end),
            addressable.eq((after[bits:] == 0) | (after == 1 << bits)),
        ]
        granted = Signal()
        m.d.comb += granted.eq(checking & permitted & inside & addressable & ~self.stop)
        for c in range(CLIENTS):
            mine = Signal(name=f"mine{c}")
            m.d.comb += mine.eq(client == c)
            with m.If(granted & mine):
                m.d.sync += [
                    active[c].eq(1),
                    address[c].eq(base + offset),
                    beats[c].eq(length[beat_shift:]),
                ]
            m.d.sync += [
                self.error[c].valid.eq(checking & ~granted & ~self.stop & mine),
                self.error[c].code.eq(self.code),
            ]
            with m.If(checking):
                m.d.sync += self.error[c].address.eq(offset)

        # Bursts end where their length divides the address, so that none crosses a page and no sum is long.
        turn = Signal(range(CLIENTS))
        now = Signal(bits)
        left = Signal(beats_bits)
        most = self.config.burst_beats
        assert PAGE_BYTES % (most * BEAT_BYTES) == 0
        burst_shift = beat_shift + most.bit_length() - 1
        limit = Signal(range(most + 1))
        last = Signal()
        taken = Signal.like(limit)
        m.d.comb += [
            turn.eq(~active[0]),
            now.eq(Mux(active[0], address[0], address[1])),
            left.eq(Mux(active[0], beats[0], beats[1])),
            limit.eq(most - now[beat_shift:burst_shift]),
            last.eq((left[len(limit):] == 0) & (left[: len(limit)] <= limit)),
            taken.eq(Mux(last, left, limit)),
        ]
        with m.If(self.burst.ready):
            m.d.sync += self.burst.valid.eq(0)
        make = Signal()
        m.d.comb += make.eq((active[0] | active[1]) & (~self.burst.valid | self.burst.ready) & ~self.stop)
        with m.If(make):
            m.d.sync += [
                self.burst.valid.eq(1),
                self.burst.payload.address.eq(now),
                self.burst.payload.length.eq(taken - 1),
                self.burst.payload.client.eq(turn),
                self.burst.payload.last.eq(last),
            ]
        for c in range(CLIENTS):
            with m.If(self.stop):
                m.d.sync += active[c].eq(0)
            with m.Elif(make & (turn == c)):
                m.d.sync += [
                    active[c].eq(~last),
                    address[c].eq(Cat(Const(0, burst_shift), now[burst_shift:] + 1)),
                    beats[c].eq(left - taken),
                ]
        m.d.comb += self.idle.eq(~(checking | active[0] | active[1] | self.burst.valid))
        return m
