"""The device without its compute engines: registers, sequencer, load and store engine, feature memory, bus masters.

The ports of conv and vector engine lead outside, where a bench plays the engines.
"""

from __future__ import annotations

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import AXI4, AXI4Lite
from hw.bus.master import BusMaster
from hw.contract.commands import Engine
from hw.contract.config import Config
from hw.feature_memory import FeatureMemory
from hw.load_engine import LoadEngine
from hw.ports import EnginePort
from hw.register_block import RegisterBlock
from hw.sequencer.sequencer import Sequencer
from hw.store_engine import StoreEngine


class ControlTop(wiring.Component):
    """Everything between AXI and the compute engines.

    Members
    -------
    m_axi, s_axil, irq : as the device's.
    conv, vector : the compute engines' ports. engine_reset : their reset. progress : they have moved on.
    """

    def __init__(self, config: Config):
        self.config = config
        self.feature = FeatureMemory(config, word_readers=("store",), byte_readers={}, late_word_readers=(),
                                     writers=("load",))
        self.load = LoadEngine(config)
        super().__init__({
            "m_axi": Out(AXI4(config)),
            "s_axil": In(AXI4Lite()),
            "irq": Out(1),
            "conv": In(EnginePort(Engine.CONV)),
            "vector": In(EnginePort(Engine.VECTOR)),
            "engine_reset": Out(1),
            "progress": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = registers = RegisterBlock(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.master = master = BusMaster(config)
        m.submodules.feature = self.feature
        clean = ResetInserter(sequencer.engine_reset)
        load, store = self.load, StoreEngine(config)
        m.submodules.load = clean(load)
        m.submodules.store = clean(store)

        wiring.connect(m, wiring.flipped(self.s_axil), registers.bus)
        wiring.connect(m, wiring.flipped(self.m_axi), master.bus)
        wiring.connect(m, registers.control, sequencer.control)
        wiring.connect(m, sequencer.program, master.program)
        wiring.connect(m, sequencer.record, master.record)
        wiring.connect(m, load.bus, master.load)
        wiring.connect(m, store.bus, master.store)
        wiring.connect(m, sequencer.load, load.engine)
        wiring.connect(m, sequencer.store, store.engine)
        wiring.connect(m, sequencer.conv, wiring.flipped(self.conv))
        wiring.connect(m, sequencer.vector, wiring.flipped(self.vector))
        wiring.connect(m, load.feature, self.feature.load)
        wiring.connect(m, store.feature, self.feature.store)
        m.d.comb += [
            self.irq.eq(registers.irq),
            self.engine_reset.eq(sequencer.engine_reset),
            sequencer.progress.eq(self.progress),
            master.windows.eq(registers.windows),
            master.stop.eq(sequencer.stop_bus),
            sequencer.bus_idle.eq(master.idle),
            sequencer.bus_moved.eq(master.moved),
        ]
        return m
