"""Decisions on the device: which layers they gate, in which order, and that every case runs exactly."""

import numpy as np
import pytest

from hw.contract.commands import COMMAND_BYTES, Opcode, decode
from sim.golden.numerics import multiply_by_quantized_multiplier
from sw_driver.compiler import compile_model
from sw_driver.compiler.quantisation import decision, quantise_multiplier
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder

SIZE = (1, 10, 70, 16)


class Model:
    """A model under construction whose feature maps all have the same quantisation."""

    def __init__(self):
        self.builder = TfliteBuilder()
        self.rng = np.random.default_rng(3)
        self.x = self.builder.add_input("x", SIZE, scale=0.05, zero_point=-3)

    def conv(self, x, kernel=3, stride=1, channels=16):
        weights = self.rng.integers(-60, 60, (channels, kernel, kernel, self.builder.shape(x)[3])).astype(np.int8)
        bias = self.rng.integers(-500, 500, channels).astype(np.int32)
        return self.builder.add_conv_2d(x, weights, bias, 0.004, scale=0.05, zero_point=-3, stride=stride)

    def depthwise(self, x, stride=1):
        channels = self.builder.shape(x)[3]
        weights = self.rng.integers(-60, 60, (1, 3, 3, channels)).astype(np.int8)
        return self.builder.add_depthwise_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=-3, stride=stride)

    def decide(self, x, level=40, op="GREATER", kernel=1):
        constant = self.builder.add_constant(f"level_{x}", np.array(level, np.int8), scale=0.05, zero_point=-3)
        return self.builder.add_comparison(op, self.conv(x, kernel, channels=1), constant)

    def check(self, output, preset="small"):
        """Compile, run, compare: the gated layers by their op, opcodes in the order of the program, the run."""
        self.builder.add_output(output)
        model = self.builder.to_bytes()
        program = compile_model(model, preset)
        with open_device("golden", preset) as device:
            inputs = {"x": self.rng.integers(-128, 128, SIZE).astype(np.int8)}
            result = device.run(program, inputs)
            np.testing.assert_array_equal(result.output, run_oracle(model, inputs)[0])
        gated = program.report["gated_layers"]
        opcodes = [decode(program.image[at : at + COMMAND_BYTES])[0]
                   for at in range(0, program.command_count * COMMAND_BYTES, COMMAND_BYTES)]
        return [layer.op for layer in program.layers if layer.name in gated], opcodes, result


def test_residual_block():
    m = Model()
    mask = m.decide(m.x)
    gated, opcodes, result = m.check(m.builder.add_select_v2(mask, m.conv(m.conv(m.x)), m.x))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert opcodes.count(Opcode.DECIDE) == opcodes.count(Opcode.DILATE) == 1
    decided = next(record for record in result.records if record["opcode"] == Opcode.DECIDE)
    branch = next(layer for layer in result.layers if layer.op == "CONV_2D+SELECT_V2")
    assert 0 < decided["active_pixels"] < SIZE[1] * SIZE[2]
    assert branch.gated == branch.macs * (1 - decided["active_pixels"] / (SIZE[1] * SIZE[2]))


def test_inverted_residual():
    """The expansion works on the dilated mask, the depthwise layer and the projection on the mask itself."""
    m = Model()
    mask = m.decide(m.x, kernel=3)
    branch = m.conv(m.depthwise(m.conv(m.x, 1, channels=32)), 1)
    gated, opcodes, result = m.check(m.builder.add_select_v2(mask, branch, m.x))
    assert gated == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D+SELECT_V2"]
    assert opcodes.count(Opcode.DILATE) == 1
    expansion, depthwise, projection = [layer for layer in result.layers if layer.gated]
    assert expansion.gated / expansion.macs < depthwise.gated / depthwise.macs == projection.gated / projection.macs


def test_decision_after_the_branch_comes_first():
    m = Model()
    branch = m.conv(m.conv(m.x))
    gated, opcodes, _result = m.check(m.builder.add_select_v2(m.decide(m.x), branch, m.x))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert opcodes.index(Opcode.DECIDE) < len(opcodes) - opcodes[::-1].index(Opcode.CONV)


def test_decision_after_the_branch_comes_first_in_every_block():
    """The second decision depends on the first block, which must not bring that block in front of its own decision."""
    m = Model()
    x = m.x
    for _block in range(2):
        branch = m.conv(m.conv(x))
        x = m.builder.add_select_v2(m.decide(x), branch, x)
    gated, opcodes, _result = m.check(x)
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"] * 2
    assert opcodes.count(Opcode.DILATE) == 2


def test_decision_on_what_the_branch_computes():
    m = Model()
    first = m.conv(m.x)
    gated, _opcodes, _result = m.check(m.builder.add_select_v2(m.decide(first), m.conv(first), m.x))
    assert gated == ["CONV_2D+SELECT_V2"]


@pytest.mark.parametrize("stride", [2, 3])
def test_strided_branch(stride):
    """A mask is dilated through a stride of 2, and not through one of 3."""
    m = Model()
    skip = m.conv(m.x, 1, stride)
    branch = m.conv(m.depthwise(m.conv(m.x, 1), stride), 1)
    gated, _opcodes, _result = m.check(m.builder.add_select_v2(m.decide(skip), branch, skip))
    assert gated == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D+SELECT_V2"][stride - 2 :]


def test_swapped_operands_use_the_complement():
    m = Model()
    gated, opcodes, _result = m.check(m.builder.add_select_v2(m.decide(m.x, op="LESS"), m.x, m.conv(m.conv(m.x))))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert opcodes.count(Opcode.DECIDE) == 1


def test_masks_by_stripes():
    """Maps that do not fit on chip: the decision is made stripe by stripe."""
    m = Model()
    m.check(m.builder.add_select_v2(m.decide(m.x), m.conv(m.conv(m.x)), m.x), preset="nano")


@pytest.mark.parametrize("op", ["GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"])
@pytest.mark.parametrize("swapped", [False, True])
def test_bound(op, swapped):
    rng = np.random.default_rng(5)
    compare = {"GREATER": np.greater, "GREATER_EQUAL": np.greater_equal, "LESS": np.less, "LESS_EQUAL": np.less_equal}
    for _ in range(50):
        x, constant = ((float(np.float32(2.0 ** rng.uniform(-9, -0.1))), int(rng.integers(-128, 128)))
                       for _ in range(2))
        value = int(rng.integers(-128, 128))
        bound, invert = decision(op, x, constant, value, swapped=swapped)
        values = np.arange(-128, 128)
        sides = [multiply_by_quantized_multiplier((v - q[1]) << 8, *quantise_multiplier(q[0]))
                 for v, q in ((values, x), (np.array([value]), constant))]
        want = compare[op](*(sides[::-1] if swapped else sides))
        np.testing.assert_array_equal((values >= bound) != invert, want)
