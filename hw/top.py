"""The device: reads like the diagram in docs/architecture.md."""

from __future__ import annotations

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus.axi import AXI4, AXI4Lite
from hw.bus.master import BusMaster
from hw.contract.config import Config
from hw.conv_engine.activation_fetch import FetchTag
from hw.conv_engine.engine import ConvEngine
from hw.feature_memory import FeatureMemory
from hw.load_engine import LoadEngine
from hw.local_memory import LocalMemory
from hw.mask_memory import MaskMemory
from hw.register_block import RegisterBlock
from hw.sequencer.sequencer import Sequencer
from hw.store_engine import StoreEngine
from hw.vector_engine.engine import VectorEngine
from hw.weight_memory import WeightMemory


class Lacuna(wiring.Component):
    """The whole device.

    Members
    -------
    m_axi : external memory, AXI4. s_axil : host, AXI4-Lite registers. irq : the interrupt, level.

    Attributes
    ----------
    status : the STATUS register's bits, for a top around this one that shows them on lights; not a port.
    """

    def __init__(self, config: Config):
        self.config = config
        self.sequencer = Sequencer(config)
        self.status = self.sequencer.control.status
        super().__init__({"m_axi": Out(AXI4(config)), "s_axil": In(AXI4Lite()), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config = self.config

        # ---- host and external memory ---------------------------------------------------------------------
        m.submodules.registers = registers = RegisterBlock(config)
        m.submodules.sequencer = sequencer = self.sequencer
        m.submodules.bus = bus = BusMaster(config)
        connect(m, flipped(self.s_axil), registers.bus)
        connect(m, registers.control, sequencer.control)
        connect(m, bus.bus, flipped(self.m_axi))
        connect(m, sequencer.program, bus.program)
        connect(m, sequencer.record, bus.record)
        m.d.comb += [
            self.irq.eq(registers.irq),
            bus.windows.eq(registers.windows),
            bus.stop.eq(sequencer.stop_bus),
            sequencer.bus_idle.eq(bus.idle),
            sequencer.bus_moved.eq(bus.moved),
        ]

        # ---- engines: an error or a soft reset clears them all --------------------------------------------
        clean = ResetInserter(sequencer.engine_reset)
        load, store = LoadEngine(config), StoreEngine(config)
        conv, vector = ConvEngine(config), VectorEngine(config)
        for name, engine in (("load", load), ("store", store), ("conv", conv), ("vector", vector)):
            m.submodules[name] = clean(engine)
            connect(m, engine.engine, getattr(sequencer, name))
        connect(m, load.bus, bus.load)
        connect(m, store.bus, bus.store)
        # Decoding weights, the load engine may write for long without a word from the bus.
        m.d.comb += sequencer.progress.eq(conv.progress | vector.progress | load.progress)

        # ---- memories: load fills them, the engines read --------------------------------------------------
        m.submodules.weights = weights = WeightMemory(config)
        m.submodules.maps = maps = LocalMemory(config.map_entries, 64)
        m.submodules.parameters = parameters = LocalMemory(config.parameter_entries, 8 * config.parameter_entry_bytes,
                                                             readers=2)
        m.submodules.masks = masks = MaskMemory(config)
        connect(m, load.weight, weights.write)
        connect(m, load.map, maps.write)
        connect(m, load.parameter, parameters.write)
        connect(m, load.mask, masks.write)
        connect(m, conv.weights, weights.conv)
        connect(m, conv.maps, maps.read_0)
        connect(m, conv.parameters, parameters.read_0)
        connect(m, conv.mask, masks.read_0)
        connect(m, vector.mask, masks.read_1)
        connect(m, vector.decisions, masks.decisions)
        connect(m, vector.weights, weights.vector)
        m.d.comb += [weights.vector_reads.eq(vector.weights_read), conv.weights_taken.eq(weights.conv_waits)]
        connect(m, vector.parameters, parameters.read_1)

        fetches = [f"conv_fetch_{i}" for i in range(config.fetch_ports)]
        feature = FeatureMemory(config, word_readers=["conv_skip", "store"],
                                byte_readers=dict.fromkeys(fetches, FetchTag(config).size),
                                late_word_readers=["vector_a", "vector_b"], writers=["conv", "load", "vector"])
        m.submodules.feature = clean(feature)
        connect(m, conv.skip, feature.conv_skip)
        connect(m, store.feature, feature.store)
        for i, name in enumerate(fetches):
            connect(m, getattr(conv, f"fetch_{i}"), getattr(feature, name))
        connect(m, vector.read_a, feature.vector_a)
        connect(m, vector.read_b, feature.vector_b)
        connect(m, conv.write, feature.conv)
        connect(m, load.feature, feature.load)
        connect(m, vector.write, feature.vector)
        return m
