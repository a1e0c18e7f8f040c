"""From transfers to bursts: window check, then bursts that cross no page, two clients in turn."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import PAGE_BYTES
from hw.bus.transfer import BEAT_BYTES, TRANSFER_LAYOUT
from hw.bus.windows import window_table
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
    keep their carry. A denied transfer makes no burst. The lowest bits of a window's base and size, which is a
    multiple of BEAT_BYTES, are not looked at.

    Parameters
    ----------
    config : `axi_address_bits` and `burst_beats` are used.
    permission : what a window must permit: Permission.READ or Permission.WRITE.

    Members
    -------
    request0, request1 : transfers of the two clients; between bursts, client 0 goes first.
    windows : the address windows.
    stop : drop all transfers and take no new ones; a burst that is offered stays offered.
    burst : bursts in order, the next one two cycles after one was taken; the first is offered six cycles after its
        request was taken.
    error : per client, for one cycle: the transfer was denied; `address`, of both the same, is its offset.
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
        beat_shift = BEAT_BYTES.bit_length() - 1
        bits = self.config.axi_address_bits - beat_shift  # addresses and lengths in here are in beats
        beats_bits = 32 - beat_shift

        # A transfer under way, per client: its next beat, and its last.
        active = [Signal(name=f"active{c}") for c in range(CLIENTS)]
        address = [Signal(bits, name=f"address{c}") for c in range(CLIENTS)]
        final = [Signal(bits, name=f"final{c}") for c in range(CLIENTS)]

        # ---- the check, in four cycles: taken, looked up, compared, judged ------------------------------------------
        looking = Signal()
        checking = Signal()
        judging = Signal()
        client = Signal(range(CLIENTS))
        transfer = Signal(TRANSFER_LAYOUT)
        wanted = Signal(CLIENTS)
        for c, request in enumerate((self.request0, self.request1)):
            m.d.comb += wanted[c].eq(request.valid & ~active[c] & ~(looking | checking | judging) & ~self.stop)
        m.d.comb += [
            self.request0.ready.eq(wanted[0]),
            self.request1.ready.eq(wanted[1] & ~wanted[0]),
        ]
        m.d.sync += [
            looking.eq(wanted.any()),
            checking.eq(looking & ~self.stop),
            judging.eq(checking & ~self.stop),
        ]
        with m.If(~(looking | checking | judging)):
            m.d.sync += [
                client.eq(~wanted[0]),
                transfer.eq(Mux(wanted[0], self.request0.payload, self.request1.payload)),
            ]

        # Second cycle: a copy of the transfer's window; of one that does not exist it is zero, which denies everything.
        offset = Signal(beats_bits)
        length = Signal(beats_bits)
        well_formed = Signal()
        end = Signal(beats_bits + 1)
        m.d.comb += [
            offset.eq(transfer.offset[beat_shift:]),
            length.eq(transfer.length[beat_shift:]),
        ]
        m.d.sync += [
            well_formed.eq((Cat(transfer.offset[:beat_shift], transfer.length[:beat_shift]) == 0) & (length != 0)),
            end.eq(offset + length),
        ]
        contents = []
        for i in range(WINDOWS):
            permits = self.windows[i].read if self.permission is Permission.READ else self.windows[i].write
            contents.append(Cat(permits, self.windows[i].size[beat_shift:], self.windows[i].base[beat_shift:]))
        window = Signal(len(contents[0]), reset_less=True)
        with m.If(transfer.window < WINDOWS):
            m.d.sync += window.eq(Array(contents)[transfer.window[: (WINDOWS - 1).bit_length()]])
        with m.Else():
            m.d.sync += window.eq(0)

        # Third cycle: compare with the window, add its base.
        permitted = Signal()
        size = Signal(beats_bits)
        base = Signal(bits)
        limit = Signal(max(bits, beats_bits + 1) + 1)
        inside = Signal()
        m.d.comb += Cat(permitted, size, base).eq(window)
        m.d.sync += [
            inside.eq(permitted & well_formed & (end <= size)),
            limit.eq(base + end),
        ]

        # Fourth cycle: compare with the end of the address space; grant or deny.
        last_beat = Signal.like(limit)
        granted = Signal()
        m.d.comb += [
            last_beat.eq(limit - 1),
            granted.eq(inside & (last_beat[bits:] == 0)),
        ]
        for c in range(CLIENTS):
            mine = Signal(name=f"mine{c}")
            m.d.comb += [
                mine.eq(client == c),
                self.error[c].code.eq(self.code),
                self.error[c].address.eq(transfer.offset),
            ]
            m.d.sync += self.error[c].valid.eq(judging & ~granted & ~self.stop & mine)

        # ---- bursts, which end where their length divides the address, so that none crosses a page ---------------
        # A client is chosen first, then its burst is made.
        most = self.config.burst_beats
        assert PAGE_BYTES % (most * BEAT_BYTES) == 0
        low = most.bit_length() - 1
        chosen = Signal()
        choose = Signal()
        make = Signal()
        turn = Signal(range(CLIENTS))
        now = Signal(bits)
        end_low = Signal(low)
        last = Signal()
        next_now, next_final = Signal(bits), Signal(bits)
        m.d.comb += [
            next_now.eq(Mux(active[0], address[0], address[1])),
            next_final.eq(Mux(active[0], final[0], final[1])),
            choose.eq((active[0] | active[1]) & ~chosen & (~self.burst.valid | self.burst.ready) & ~self.stop),
            make.eq(chosen & ~self.stop),
        ]
        m.d.sync += chosen.eq(choose)
        with m.If(~chosen):
            m.d.sync += [
                turn.eq(~active[0]),
                now.eq(next_now),
                end_low.eq(next_final[:low]),
                last.eq(next_final[low:] == next_now[low:]),
            ]
        with m.If(self.burst.ready):
            m.d.sync += self.burst.valid.eq(0)
        with m.If(make):
            m.d.sync += [
                self.burst.valid.eq(1),
                self.burst.payload.address.eq(Cat(Const(0, beat_shift), now)),
                self.burst.payload.length.eq(Mux(last, end_low, most - 1) - now[:low]),
                self.burst.payload.client.eq(turn),
                self.burst.payload.last.eq(last),
            ]
        following = Signal(bits - low)  # where the next burst starts, in longest bursts
        m.d.comb += following.eq(now[low:] + 1)
        for c in range(CLIENTS):
            made = Signal(name=f"made{c}")
            mine = Signal(name=f"is_for{c}")
            m.d.comb += [made.eq(make & (turn == c)), mine.eq(client == c)]
            # Whether it is granted or not: it only counts once it is active.
            with m.If(checking & mine):
                m.d.sync += address[c].eq(base + offset)
            with m.Elif(made):
                m.d.sync += address[c].eq(Cat(Const(0, low), following))
            with m.If(judging & mine):
                m.d.sync += final[c].eq(last_beat)
            with m.If(self.stop | (made & last)):
                m.d.sync += active[c].eq(0)
            with m.Elif(judging & granted & mine):
                m.d.sync += active[c].eq(1)
        m.d.comb += self.idle.eq(~(looking | checking | judging | active[0] | active[1] | self.burst.valid))
        return m
