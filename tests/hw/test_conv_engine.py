"""The conv engine in Amaranth's simulator against the golden model: random commands, values and counters."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.contract import commands, layouts
from hw.contract.commands import Engine, Flag, Opcode, Space
from hw.contract.config import Config, preset
from hw.conv_engine.activation_fetch import FetchTag
from hw.conv_engine.engine import ConvEngine
from hw.feature_memory import FeatureMemory
from hw.local_memory import LocalMemory
from hw.weight_memory import WeightMemory
from sim.golden import conv as golden_conv
from sim.golden.memory import OnChip
from testbench.random_commands import order, random_convolution, random_memory

SEED = int(os.environ.get("LACUNA_SEED", "1"))


class Bench(wiring.Component):
    """A conv engine and its memories."""

    def __init__(self, config: Config):
        self.config = config
        self.local = {
            Space.WEIGHT: WeightMemory(config),
            Space.MAP: LocalMemory(config.map_entries, 64),
            Space.PARAMETER: LocalMemory(config.parameter_entries, 8 * config.parameter_entry_bytes),
            Space.MASK: LocalMemory(config.mask_words, 64),
        }
        self.dut = ConvEngine(config)
        self.feature = FeatureMemory(config, word_readers=["skip"],
                                     byte_readers={f"fetch_{i}": FetchTag(config).size
                                                   for i in range(config.fetch_ports)},
                                     late_word_readers=[], writers=["write"])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        m.submodules.feature = self.feature
        for space, name in ((Space.WEIGHT, "weights"), (Space.MAP, "maps"), (Space.PARAMETER, "parameters"),
                            (Space.MASK, "mask")):
            m.submodules[name] = self.local[space]
            local = self.local[space]
            wiring.connect(m, getattr(self.dut, name), local.conv if space is Space.WEIGHT else local.read_0)
        for name in ("skip", "write", *(f"fetch_{i}" for i in range(self.config.fetch_ports))):
            wiring.connect(m, getattr(self.dut, name), getattr(self.feature, name))
        return m


def run(config: Config, memory: OnChip, command_list: list[dict[str, int]]):
    """Run commands, each offered as soon as the engine takes it: the feature memory after each that is complete before
    the next computes, or None; the counters; the cycles of all."""
    bench = Bench(config)
    engine = bench.dut.engine
    simulator = Simulator(bench)
    simulator.add_clock(1e-8)
    banks = config.feature_banks
    places = [(layouts.feature_bank(word, banks), word // banks) for word in range(config.feature_words)]
    store = [bank_memory.data for bank_memory in bench.feature.memories]
    results = []

    async def offer(ctx):
        for space, local in bench.local.items():
            for i, entry in enumerate(memory.entries[space]):
                words = local.words if isinstance(local, WeightMemory) else local
                ctx.set(words.memory.data[i], int.from_bytes(entry.tobytes(), "little"))
        for (bank, place), entry in zip(places, memory.entries[Space.FEATURE], strict=True):
            ctx.set(store[bank][place], int.from_bytes(entry.tobytes(), "little"))
        for values in command_list:
            ctx.set(engine.command.payload, int.from_bytes(commands.encode(Opcode.CONV, values), "little"))
            ctx.set(engine.command.valid, 1)
            await ctx.tick().until(engine.command.ready)
            ctx.set(engine.command.valid, 0)
            await ctx.tick()

    async def collect(ctx):
        ctx.set(engine.may_complete, 1)
        cycles = 0
        while len(results) < len(command_list):
            await ctx.tick()
            cycles += 1
            assert cycles < 30_000 * len(command_list), "the engine hangs"
            if ctx.get(engine.complete):
                counters = {name: ctx.get(getattr(engine.counters, name))
                            for name, _doc in commands.COUNTERS[Engine.CONV]}
                following = len(results) + 1
                alone = following == len(command_list) or command_list[following]["flags"] & Flag.ORDERED
                await ctx.tick().repeat(2)  # the last write is accepted; two cycles later it is there
                cycles += 2
                words = [ctx.get(store[bank][place]).to_bytes(config.lanes, "little") for bank, place in places]
                memory_now = np.frombuffer(b"".join(words), np.uint8).reshape(-1, config.lanes)
                results.append((memory_now if alone else None, counters, cycles))

    simulator.add_testbench(offer)
    simulator.add_testbench(collect)
    simulator.run()
    return results


def compare(config: Config, seed: int, count: int, *, whole: bool = False, chain: bool = False) -> None:
    """`whole`: one bit gates each command, and the words behind its word say the contrary. `chain`: each command reads
    what the one before it writes."""
    rng = np.random.default_rng(seed)
    print(f"seed {seed} (replay: LACUNA_SEED={SEED}), {config.name}")
    zero_point = int(rng.integers(-128, 128)) if rng.random() < 0.5 else None  # half the time most activations are it
    memory = random_memory(rng, config, zero_point)
    command_list = [random_convolution(rng, config, zero_point) for _ in range(count)]
    masks = memory.entries[Space.MASK].view(np.uint64).reshape(-1)
    for number, values in enumerate(command_list if whole else []):
        words = values["output_rows"] * layouts.mask_row_words(values["output_width"])
        values["flags"] |= Flag.GATED | Flag.WHOLE
        values["mask_base"] = number * len(masks) // count
        masks[values["mask_base"] + np.arange(words)] = 0 if number % 2 else (1 << 64) - 1
        masks[values["mask_base"]] = 1 if number % 2 else (1 << 64) - 2
    for number, (before, values) in enumerate(itertools.pairwise(command_list if chain else [])):
        if number % 2 == 0:
            values["output_base"] = config.feature_words // 4  # not where it reads
        if not values["flags"] & Flag.PACKED:
            values["input_base"] = before["output_base"]
    order(command_list, config, rng)
    results = run(config, memory, command_list)
    for i, (values, (words, counters, cycles)) in enumerate(zip(command_list, results, strict=True)):
        golden = golden_conv.run(commands.decode(commands.encode(Opcode.CONV, values))[1], memory, config)
        if words is not None:
            wrong = np.flatnonzero((words != memory.entries[Space.FEATURE]).any(axis=1))
            assert not len(wrong), f"command {i} {values}: {len(wrong)} words differ, first {wrong[:5]}"
        for name, value in golden.counters.items():
            assert counters[name] == value, f"command {i} {values}: {name} is {counters[name]}, not {value}"
        assert cycles > 0


TINY = Config("tiny", rows=4, lanes=4, pixels_per_row=4, requantise_lanes=2, depthwise_lanes=4, fetch_ports=2,
              feature_bytes=16384, feature_banks=4, weight_bytes=1024, weight_maps=256, parameter_channels=64,
              mask_words=64)


@pytest.mark.parametrize("number", range(6))
def test_random_commands_match_the_golden_model(number: int) -> None:
    compare(TINY, SEED * 1000 + number, 6)


@pytest.mark.parametrize("number", range(4))
def test_a_command_reads_what_the_one_before_it_writes(number: int) -> None:
    compare(TINY, SEED * 1000 + 200 + number, 8, chain=True)


def test_one_bit_gates_whole_commands() -> None:
    compare(TINY, SEED * 1000 + 102, 6, whole=True)


def test_one_row_and_one_fetch_port() -> None:
    compare(preset("nano"), SEED * 1000 + 100, 4)


def test_two_rows_of_eight_lanes() -> None:
    compare(preset("small"), SEED * 1000 + 101, 4)
