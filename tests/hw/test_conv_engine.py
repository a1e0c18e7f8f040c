"""The conv engine in Amaranth's simulator against the golden model: random commands, values and counters."""

from __future__ import annotations

import os

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.contract import commands, layouts
from hw.contract.commands import Engine, Flag, Opcode, Space
from hw.contract.config import Config, preset
from hw.conv_engine.engine import ConvEngine
from hw.feature_memory import FeatureMemory
from hw.local_memory import LocalMemory
from sim.golden import conv as golden_conv
from sim.golden.memory import OnChip

SEED = int(os.environ.get("LACUNA_SEED", "1"))


class Bench(wiring.Component):
    """A conv engine and its memories."""

    def __init__(self, config: Config):
        self.config = config
        self.local = {
            Space.WEIGHT: LocalMemory(config.weight_words, 8 * config.weight_word_bytes),
            Space.MAP: LocalMemory(config.map_entries, 64),
            Space.PARAMETER: LocalMemory(config.parameter_entries, 8 * config.parameter_entry_bytes),
            Space.MASK: LocalMemory(config.mask_words, 64),
        }
        self.dut = ConvEngine(config)
        self.feature = FeatureMemory(config, word_readers=["skip"],
                                     byte_readers=[f"fetch_{i}" for i in range(config.fetch_ports)],
                                     late_word_readers=[], writers=["write"])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        m.submodules.feature = self.feature
        for space, name in ((Space.WEIGHT, "weights"), (Space.MAP, "maps"), (Space.PARAMETER, "parameters"),
                            (Space.MASK, "mask")):
            m.submodules[name] = self.local[space]
            wiring.connect(m, getattr(self.dut, name), self.local[space].read_0)
        for name in ("skip", "write", *(f"fetch_{i}" for i in range(self.config.fetch_ports))):
            wiring.connect(m, getattr(self.dut, name), getattr(self.feature, name))
        return m


def random_memory(rng: np.random.Generator, config: Config, map_density: float) -> OnChip:
    memory = OnChip(config)
    for space in Space:
        memory.entries[space][:] = rng.integers(0, 256, memory.entries[space].shape, dtype=np.uint8)
    bits = rng.random(memory.entries[Space.MAP].size * 8) < map_density
    memory.entries[Space.MAP][:] = np.packbits(bits, bitorder="little").reshape(-1, 8)
    q = config.requantise_lanes
    parameters = memory.entries[Space.PARAMETER]
    entries = len(parameters)
    bias = rng.integers(-20000, 20000, (entries, q)).astype("<i4")
    multiplier = rng.integers(1 << 30, 1 << 31, (entries, q)).astype("<i4")
    shift = rng.integers(-12, -5, (entries, q)).astype(np.int8)
    parameters[:, : 4 * q] = bias.view(np.uint8).reshape(entries, -1)
    parameters[:, 4 * q : 8 * q] = multiplier.view(np.uint8).reshape(entries, -1)
    parameters[:, 8 * q : 9 * q] = shift.view(np.uint8).reshape(entries, -1)
    return memory


def random_command(rng: np.random.Generator, config: Config) -> dict[str, int]:
    lanes = config.lanes
    flags = int(rng.choice([0, Flag.GATED, Flag.ADD, Flag.GATED | Flag.ADD]))
    height, width = int(rng.integers(1, 8)), int(rng.integers(1, 12))
    kernel = [int(rng.integers(1, min(5, 2 + side))) for side in (height, width)]
    stride = [int(rng.integers(1, 4)) for _ in range(2)]
    dilation = [int(rng.integers(1, 3)) for _ in range(2)]
    pad = [int(rng.integers(0, k)) for k in kernel]
    blocks, out_blocks = int(rng.integers(1, 4)), int(rng.integers(1, 2 * config.rows + 2))
    out_h = max(1, (height + 2 * pad[0] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1)
    out_w = max(1, (width + 2 * pad[1] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1)
    if rng.random() < 0.15:  # wider than a mask word
        out_w, width, height, out_h = 70, 70 * stride[1], 1, 1
    output_y = int(rng.integers(0, out_h))
    values = {
        "flags": flags, "input_base": 0, "input_row_stride": width * blocks, "input_pixel_stride": blocks,
        "input_height": height, "input_width": width, "kernel_height": kernel[0], "kernel_width": kernel[1],
        "stride_y": stride[0], "stride_x": stride[1], "dilation_y": dilation[0], "dilation_x": dilation[1],
        "pad_top": pad[0], "pad_left": pad[1], "input_blocks": blocks, "last_lanes": lanes,
        "unrolling": int(rng.integers(0, len(config.unrollings))),
        "output_base": config.feature_words // 2, "output_row_stride": out_w * out_blocks,
        "output_pixel_stride": out_blocks, "output_y": output_y, "output_rows": out_h - output_y,
        "output_width": out_w, "output_blocks": out_blocks, "mask_base": int(rng.integers(0, config.mask_words // 2)),
        "weight_base": int(rng.integers(0, config.weight_words)), "map_base": int(rng.integers(0, config.weight_maps)),
        "parameter_base": int(rng.integers(0, config.parameter_entries)),
        "input_zero_point": int(rng.integers(-128, 128)), "output_zero_point": int(rng.integers(-128, 128)),
        "output_min": -128, "output_max": 127, "b_base": config.feature_words * 3 // 4,
        "a_multiplier": int(rng.integers(1 << 30, 1 << 31)), "b_multiplier": int(rng.integers(1 << 30, 1 << 31)),
        "sum_multiplier": int(rng.integers(1 << 30, 1 << 31)), "a_shift": -1, "b_shift": -2, "sum_shift": -18,
        "b_zero_point": int(rng.integers(-128, 128)), "sum_zero_point": int(rng.integers(-128, 128)),
        "sum_min": -128, "sum_max": 127,
    }
    if rng.random() < 0.3:
        channels = int(rng.integers(1, 5))
        bytes_in_row = kernel[1] * channels
        values |= {
            "flags": flags | Flag.PACKED, "input_base": int(rng.integers(0, 100)), "kernel_width": 1,
            "input_pixel_stride": channels, "input_row_stride": (out_w * stride[1] + kernel[1]) * channels + 3,
            "input_blocks": layouts.blocks(bytes_in_row, lanes), "pad_top": 0, "pad_left": 0, "dilation_x": 1,
            "last_lanes": bytes_in_row - (layouts.blocks(bytes_in_row, lanes) - 1) * lanes,
        }
    return values


def run(config: Config, memory: OnChip, command_list: list[dict[str, int]]):
    """Run commands one after the other; yields, after each, the feature memory, the counters and the cycles."""
    bench = Bench(config)
    simulator = Simulator(bench)
    simulator.add_clock(1e-8)
    results = []

    async def testbench(ctx):
        for space, local in bench.local.items():
            for i, entry in enumerate(memory.entries[space]):
                ctx.set(local.memory.data[i], int.from_bytes(entry.tobytes(), "little"))
        banks = config.feature_banks
        places = [(layouts.feature_bank(word, banks), word // banks) for word in range(config.feature_words)]
        store = [bank_memory.data for bank_memory in bench.feature.memories]
        for (bank, place), entry in zip(places, memory.entries[Space.FEATURE], strict=True):
            ctx.set(store[bank][place], int.from_bytes(entry.tobytes(), "little"))
        for values in command_list:
            data = commands.encode(Opcode.CONV, values)
            ctx.set(bench.dut.engine.command.payload, int.from_bytes(data, "little"))
            ctx.set(bench.dut.engine.command.valid, 1)
            cycles = 0
            while not ctx.get(bench.dut.engine.command.ready):
                await ctx.tick()
                cycles += 1
                assert cycles < 200_000, "the engine hangs"
            counters = {name: ctx.get(getattr(bench.dut.engine.counters, name))
                        for name, _doc in commands.COUNTERS[Engine.CONV]}
            await ctx.tick()
            ctx.set(bench.dut.engine.command.valid, 0)
            await ctx.tick()
            words = [ctx.get(store[bank][place]).to_bytes(config.lanes, "little") for bank, place in places]
            results.append((np.frombuffer(b"".join(words), np.uint8).reshape(-1, config.lanes), counters, cycles))

    simulator.add_testbench(testbench)
    simulator.run()
    return results


def compare(config: Config, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    print(f"seed {seed} (replay: LACUNA_SEED={SEED}), {config.name}")
    memory = random_memory(rng, config, float(rng.choice([0.3, 0.8, 1.0])))
    if rng.random() < 0.5:  # few non-zero activations
        zero_point = int(rng.integers(-128, 128))
        feature = memory.entries[Space.FEATURE]
        feature[rng.random(feature.shape) < 0.8] = zero_point & 255
    else:
        zero_point = None
    for entry in memory.entries[Space.MASK]:
        entry[:] = np.packbits(rng.random(64) < rng.choice([0, 0.02, 0.5, 1.0]))
    command_list = [random_command(rng, config) for _ in range(count)]
    if zero_point is not None:
        for values in command_list:
            values["input_zero_point"] = zero_point
    results = run(config, memory, command_list)
    for i, (values, (words, counters, cycles)) in enumerate(zip(command_list, results, strict=True)):
        golden = golden_conv.run(commands.decode(commands.encode(Opcode.CONV, values))[1], memory, config)
        expected = memory.entries[Space.FEATURE]
        wrong = np.flatnonzero((words != expected).any(axis=1))
        assert not len(wrong), f"command {i} {values}: {len(wrong)} words differ, first {wrong[:5]}"
        for name, value in golden.counters.items():
            assert counters[name] == value, f"command {i} {values}: {name} is {counters[name]}, not {value}"
        assert cycles > 0


TINY = Config("tiny", rows=4, lanes=4, pixels_per_row=4, requantise_lanes=2, fetch_ports=2, feature_bytes=16384,
              feature_banks=4, weight_bytes=1024, weight_maps=256, parameter_channels=64, mask_words=64)


@pytest.mark.parametrize("number", range(6))
def test_random_commands_match_the_golden_model(number: int) -> None:
    compare(TINY, SEED * 1000 + number, 6)


def test_one_row_and_one_fetch_port() -> None:
    compare(preset("nano"), SEED * 1000 + 100, 4)


def test_two_rows_of_eight_lanes() -> None:
    compare(preset("small"), SEED * 1000 + 101, 4)
