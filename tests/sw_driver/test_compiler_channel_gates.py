"""Gates of channels: which blocks are passed over, what the zeros behind them save, and that every case is exact."""

import numpy as np
import pytest

from hw.contract.commands import Opcode
from hw.contract.config import preset as preset_named
from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle, run_oracle_tensors
from sw_driver.tflite.builder import TfliteBuilder

SIZE = (1, 6, 10, 16)
SCALE, ZERO = 0.05, -3


class Model:
    """A model whose gate has `channels`; channel c is open where channel c % 16 of the input is large on average."""

    def __init__(self, channels=32, size=SIZE):
        self.builder = TfliteBuilder()
        self.rng = np.random.default_rng(4)
        self.channels = channels
        self.size = size
        self.x = self.builder.add_input("x", size, scale=SCALE, zero_point=ZERO)

    def conv(self, x, channels, kernel=3, stride=1):
        weights = self.rng.integers(1, 60, (channels, kernel, kernel, self.builder.shape(x)[3])).astype(np.int8)
        weights *= self.rng.choice([-1, 1], weights.shape).astype(np.int8)
        bias = self.rng.integers(-500, 500, channels).astype(np.int32)
        return self.builder.add_conv_2d(x, weights, bias, 0.003, scale=SCALE, zero_point=ZERO, stride=stride)

    def depthwise(self, x):
        weights = self.rng.integers(-60, 60, (1, 3, 3, self.builder.shape(x)[3])).astype(np.int8)
        return self.builder.add_depthwise_conv_2d(x, weights, None, 0.01, scale=SCALE, zero_point=ZERO)

    def gate(self, x, kind="RELU"):
        """A gate for each channel, from the mean of a channel of `x`: closed where that is small."""
        b, inputs = self.builder, self.builder.shape(x)[3]
        pooled = b.add_mean(x, [1, 2], scale=SCALE, zero_point=ZERO)
        weights = np.zeros((self.channels, inputs), np.int8)
        weights[np.arange(self.channels), np.arange(self.channels) * 16 // self.channels] = 100
        y = b.add_fully_connected(pooled, weights, None, 0.01, scale=0.1, zero_point=0, keep_num_dims=True)
        if kind == "LOGISTIC":  # of -12.8, it is 0 to eight bits
            return b.add_logistic(y)
        return b.add_unary("RELU", y, scale=0.1, zero_point=-128)

    def mul(self, x, gate):
        return self.builder.add_mul(x, gate, scale=0.1, zero_point=5)

    def inputs(self, open_channels):
        """Channels in `open_channels` are large, the others are small."""
        x = self.rng.integers(-128, -60, self.size)
        for channel in open_channels:
            x[..., channel] = self.rng.integers(20, 128, self.size[:3])
        return {"x": x.astype(np.int8)}

    def check(self, *outputs, preset="small", stripes=None):
        """Compile and run with all channels open, some, none; the program and the runs."""
        for output in outputs:
            self.builder.add_output(output)
        model = self.builder.to_bytes()
        program = compile_model(model, preset, stripes=stripes)
        results = []
        with open_device("golden", preset) as device:
            for open_channels in (range(16), (1, 3), ()):
                inputs = self.inputs(open_channels)
                results.append(device.run(program, inputs))
                for got, want in zip(results[-1].outputs.values(), run_oracle(model, inputs), strict=True):
                    np.testing.assert_array_equal(got, want)
        return program, results


def blocks_open(result):
    """What the commands that look at gates found."""
    return [record["active_pixels"] for record in result.records if record["opcode"] == Opcode.DECIDE]


@pytest.mark.parametrize("kind", ["RELU", "LOGISTIC"])
@pytest.mark.parametrize("preset", ["small", "large"])
def test_blocks_of_a_convolution(kind, preset):
    m = Model(64)
    gate = m.gate(m.x, kind)
    program, results = m.check(m.mul(m.conv(m.x, 64), gate), preset=preset)
    assert [name for name, mask in program.report["gated_layers"].items()] == ["conv_2d_3"]
    blocks = 64 // preset_named(preset).lanes
    for result, share in zip(results, (1.0, 2 / 16, 0.0), strict=True):
        # Four channels of the gate follow one of the input.
        open_blocks = {channel * 4 // preset_named(preset).lanes for channel in (1, 3)} if share == 2 / 16 else \
            set(range(int(share * blocks)))
        if kind == "RELU":
            assert blocks_open(result) == [len(open_blocks)]
        (found,) = blocks_open(result)
        conv = next(layer for layer in result.layers if layer.name == "conv_2d_3")
        assert conv.gated * blocks == conv.macs * (blocks - found)


def test_closed_channels_cost_the_next_convolution_nothing():
    """It multiplies what is not zero, and nothing else: all of its weights are non-zero."""
    m = Model(32)
    product = m.mul(m.conv(m.x, 32), m.gate(m.x))
    after = m.conv(product, 8, kernel=1)
    _program, results = m.check(after)
    m.rng = np.random.default_rng(9)
    inputs = m.inputs((2, 5, 6))
    with open_device("golden", "small") as device:
        result = device.run(_program, inputs)
    values = run_oracle_tensors(m.builder.to_bytes(), inputs)[product]
    layer = next(layer for layer in result.layers if layer.shape[-1] == 8)
    assert layer.macs_issued == 8 * np.count_nonzero(values != 5) < layer.macs / 3
    assert results[2].layers[-1].macs_issued == 0  # all gates are closed


def test_a_gate_that_depends_on_the_map_gates_nothing():
    """Squeeze and excitation."""
    m = Model(32)
    y = m.conv(m.x, 32)
    program, results = m.check(m.mul(y, m.gate(y)))
    assert not program.report["gated_layers"]
    assert not blocks_open(results[0])


def test_through_layers_channel_by_channel():
    """A depthwise convolution, a pool and an activation in between: all that makes a closed block is passed over."""
    m = Model(32)
    y = m.depthwise(m.conv(m.x, 32))
    y = m.builder.add_max_pool_2d(y, (3, 3), stride=1, padding="SAME")
    program, results = m.check(m.mul(y, m.gate(m.x)))
    assert len(program.report["gated_layers"]) == 2
    for layer in results[2].layers:
        if layer.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            assert layer.gated == layer.macs


def test_a_convolution_in_between_reads_all_channels():
    m = Model(32)
    program, _results = m.check(m.mul(m.conv(m.conv(m.x, 32), 32), m.gate(m.x)))
    assert len(program.report["gated_layers"]) == 1


def test_two_products_with_one_gate():
    m = Model(32)
    gate = m.gate(m.x)
    program, results = m.check(m.mul(m.conv(m.x, 32), gate), m.mul(m.conv(m.x, 32, 1), gate))
    assert len(program.report["gated_layers"]) == 2
    assert len(blocks_open(results[0])) == 1


def test_what_others_read_is_computed():
    m = Model(32)
    gate = m.gate(m.x)
    y, z = m.conv(m.x, 32), m.conv(m.x, 32)
    program, results = m.check(m.mul(y, gate), m.mul(z, gate), y, m.conv(z, 8, 1))
    assert not program.report["gated_layers"]
    assert not blocks_open(results[0])


def test_few_pixels_are_not_worth_a_command_each():
    m = Model(32, (1, 3, 5, 16))
    program, _results = m.check(m.mul(m.conv(m.x, 32), m.gate(m.x)))
    assert not program.report["gated_layers"]


def test_inside_a_gated_branch():
    """One mask gates a layer: that of the pixels; the other way round, that of the blocks."""
    m = Model(32)
    y = m.mul(m.conv(m.x, 32), m.gate(m.x))
    skip = m.builder.add_mul(m.conv(m.x, 32, 1), m.gate(m.x), scale=0.1, zero_point=5)
    score = m.builder.add_conv_2d(m.x, np.ones((1, 1, 1, 16), np.int8), None, 0.001, scale=SCALE, zero_point=ZERO)
    level = m.builder.add_constant("level", np.array(-10, np.int8), scale=SCALE, zero_point=ZERO)
    mask = m.builder.add_comparison("GREATER", score, level)
    m.check(m.builder.add_select_v2(mask, y, skip))


@pytest.mark.parametrize("stripes", [1, 3])
def test_maps_that_do_not_fit(stripes):
    m = Model(72, (1, 16, 16, 16))
    program, _results = m.check(m.mul(m.depthwise(m.conv(m.x, 72)), m.gate(m.x)), preset="nano", stripes=stripes)
    assert program.report["spill_bytes"]
    assert len(program.report["gated_layers"]) == 2
