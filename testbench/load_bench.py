"""A load engine behind a real bus master, and compressed blocks for it."""

from __future__ import annotations

import numpy as np
from amaranth import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hw.bus.axi import AXI4
from hw.bus.master import BusMaster
from hw.contract.commands import Flag, Space
from hw.contract.weight_encoding import encode as encode_weights
from hw.contract.weight_format import TileOrder
from hw.load_engine import LoadEngine

#: Address of the memory, and its bytes unless another size is asked for.
BASE = 0x1_0000
BYTES = 8192


class LoadBench(wiring.Component):
    """A load engine that can be reset, and a bus master; window 0 is all of the memory."""

    def __init__(self, config, size=BYTES):
        self.size = size
        self.load = LoadEngine(config)
        self.master = BusMaster(config)
        self.reset = Signal()
        super().__init__({"bus": Out(AXI4(config))})
        self.bus = self.master.bus

    def elaborate(self, platform):
        m = Module()
        m.submodules.load = ResetInserter(self.reset)(self.load)
        m.submodules.master = self.master
        wiring.connect(m, self.load.bus, self.master.load)
        window = self.master.windows[0]
        m.d.comb += [window.base.eq(BASE), window.size.eq(self.size), window.read.eq(1),
                     self.master.stop.eq(self.reset)]
        return m


def random_block(random, config):
    """Order, row maps, words and bytes of a compressed block of sparse rows."""
    lanes = config.lanes
    unrolling = int(random.integers(len(config.unrollings)))
    order = TileOrder(lanes, 1 << unrolling, *(int(random.integers(1, 4)) for _ in range(3)),
                      last_rows=int(random.integers(1, lanes + 1)), last_outputs=int(random.integers(1, lanes + 1)))
    maps, words = [], bytearray()
    for tile in order:
        rows = np.clip(np.rint(random.laplace(0, 9, (lanes, lanes))), -128, 127).astype(np.int8)
        rows[:, tile.outputs:] = 0
        stored = [row for row in range(tile.rows) if rows[row].any() and random.random() < 0.8]
        maps.append(sum(1 << row for row in stored))
        words += rows[stored].tobytes() + bytes(lanes * (len(stored) & 1))
    return order, maps, bytes(words), encode_weights(maps, bytes(words), order, config.weight_ways, 1.0)


def fields_of(order, **more):
    return {"space": Space.WEIGHT, "flags": Flag.COMPRESSED, "taps": order.taps, "input_blocks": order.input_blocks,
            "output_blocks": order.output_blocks, "unrolling": order.group.bit_length() - 1,
            "last_rows": order.last_rows, "last_outputs": order.last_outputs, "offset": 0, "parameter_length": 0,
            **more}


def entries(data, size):
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
