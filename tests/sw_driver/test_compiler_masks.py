"""Masks of masks, and decisions about a whole branch: what they gate, and that every case runs exactly."""

import numpy as np
import pytest

from hw.contract.commands import COMMAND_BYTES, Opcode, decode
from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder

SIZE = (1, 9, 70, 16)


class Model:
    """A model under construction whose feature maps all have the same quantisation."""

    def __init__(self, size=SIZE):
        self.builder = TfliteBuilder()
        self.rng = np.random.default_rng(3)
        self.size = size
        self.x = self.builder.add_input("x", size, scale=0.05, zero_point=-3)
        self.masks = {}

    def mask_input(self, name, shape=None):
        shape = shape or (*self.size[:3], 1)
        self.masks[name] = shape
        return self.builder.add_input(name, shape, "bool")

    def conv(self, x, kernel=3, channels=16):
        weights = self.rng.integers(-60, 60, (channels, kernel, kernel, self.builder.shape(x)[3])).astype(np.int8)
        bias = self.rng.integers(-500, 500, channels).astype(np.int32)
        return self.builder.add_conv_2d(x, weights, bias, 0.004, scale=0.05, zero_point=-3)

    def compare(self, score, level, op="GREATER"):
        constant = self.builder.add_constant(f"level_{score}", np.array(level, np.int8), scale=0.05, zero_point=-3)
        return self.builder.add_comparison(op, score, constant)

    def decide(self, x, level=40, op="GREATER"):
        return self.compare(self.conv(x, 1, channels=1), level, op)

    def decide_once(self, x, level=-3, fully_connected=True):
        """One decision, on pooled features: the sign of a channel's mean."""
        pooled = self.builder.add_mean(x, [1, 2], scale=0.005, zero_point=-3)
        weights = np.zeros((1, self.builder.shape(x)[3]), np.int8)
        weights[0, 2] = 100
        if fully_connected:
            score = self.builder.add_fully_connected(pooled, weights, None, 0.01, scale=0.05, zero_point=-3)
        else:
            score = self.builder.add_conv_2d(pooled, weights[:, None, None], None, 0.01, scale=0.05, zero_point=-3)
        return self.compare(score, level)

    def check(self, output, preset="small", runs=3, offsets=(0,)):
        """Compile, run, compare; the gated layers by their op, the opcodes, and the last run of each offset of x."""
        self.builder.add_output(output)
        model = self.builder.to_bytes()
        program = compile_model(model, preset)
        results = []
        with open_device("golden", preset) as device:
            for offset in offsets:
                for run in range(runs):
                    inputs = {"x": np.clip(self.rng.integers(-128, 128, self.size) + offset, -128, 127).astype(np.int8)}
                    inputs |= {name: self.rng.random(shape) < (0.5, 0.1, 0.9)[run % 3]
                               for name, shape in self.masks.items()}
                    result = device.run(program, inputs)
                    np.testing.assert_array_equal(result.output, run_oracle(model, inputs)[0])
                results.append(result)
        gated = program.report["gated_layers"]
        opcodes = [decode(program.image[at : at + COMMAND_BYTES])[0]
                   for at in range(0, program.command_count * COMMAND_BYTES, COMMAND_BYTES)]
        return [layer.op for layer in program.layers if layer.name in gated], opcodes, results


# ---- masks of masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["LOGICAL_AND", "LOGICAL_OR"])
@pytest.mark.parametrize("inputs", [0, 1, 2])
def test_two_masks(op, inputs):
    """Of graph inputs and of decisions; the whole branch is gated by the result."""
    m = Model()
    masks = [m.mask_input(f"mask_{i}") if i < inputs else m.decide(m.x, 20) for i in range(2)]
    mask = m.builder.add_logical(op, *masks)
    gated, opcodes, (result,) = m.check(m.builder.add_select_v2(mask, m.conv(m.conv(m.x)), m.x))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert (opcodes.count(Opcode.COMBINE), opcodes.count(Opcode.DILATE)) == (1, 1)
    combined = next(record for record in result.records if record["opcode"] == Opcode.COMBINE)
    branch = next(layer for layer in result.layers if layer.op == "CONV_2D+SELECT_V2")
    assert 0 < combined["active_pixels"] < SIZE[1] * SIZE[2]
    pixels = SIZE[1] * SIZE[2]
    assert branch.gated * pixels == branch.macs * (pixels - combined["active_pixels"])


def test_not_costs_nothing():
    m = Model()
    mask = m.builder.add_logical("LOGICAL_NOT", m.builder.add_logical("LOGICAL_NOT", m.decide(m.x)))
    both = m.builder.add_logical("LOGICAL_AND", m.builder.add_logical("LOGICAL_NOT", mask), m.mask_input("mask"))
    either = m.builder.add_logical("LOGICAL_NOT", m.builder.add_logical("LOGICAL_OR", both, m.decide(m.x, 90)))
    gated, opcodes, _results = m.check(m.builder.add_select_v2(either, m.conv(m.conv(m.x)), m.x))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert (opcodes.count(Opcode.DECIDE), opcodes.count(Opcode.COMBINE)) == (2, 2)


def test_both_sides_of_a_combined_mask():
    m = Model()
    mask = m.builder.add_logical("LOGICAL_OR", m.decide(m.x, 60), m.decide(m.x, -60, "LESS"))
    gated, opcodes, _results = m.check(m.builder.add_select_v2(mask, m.conv(m.x), m.conv(m.x, 1)))
    assert gated == ["CONV_2D+SELECT_V2"] * 2
    assert opcodes.count(Opcode.COMBINE) == 2  # the mask and its complement


def test_one_decision_and_one_per_pixel():
    m = Model()
    mask = m.builder.add_logical("LOGICAL_AND", m.decide_once(m.x, fully_connected=False), m.decide(m.x))
    mask = m.builder.add_logical("LOGICAL_OR", m.mask_input("anyway", (1, 1, 1, 1)), mask)
    gated, opcodes, _results = m.check(m.builder.add_select_v2(mask, m.conv(m.conv(m.x)), m.x), offsets=(-60, 60))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert opcodes.count(Opcode.COMBINE) == 2


def test_masks_by_stripes():
    m = Model()
    mask = m.builder.add_logical("LOGICAL_AND", m.decide(m.x, 0), m.mask_input("mask"))
    m.check(m.builder.add_select_v2(mask, m.conv(m.conv(m.x)), m.x), preset="nano")


# ---- one decision for a branch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fully_connected", [True, False])
@pytest.mark.parametrize("preset", ["small", "large"])
def test_whole_branch(fully_connected, preset):
    m = Model()
    branch = m.conv(m.conv(m.x))
    mask = m.decide_once(m.x, fully_connected=fully_connected)
    gated, opcodes, (no, yes) = m.check(m.builder.add_select_v2(mask, branch, m.x), preset, offsets=(-60, 60))
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
    assert Opcode.DILATE not in opcodes  # every pixel of the branch, or none
    for result, passed_over in ((no, 1), (yes, 0)):
        branch = [layer for layer in result.layers if layer.macs > 10_000]
        assert len(branch) == 2
        assert [layer.gated for layer in branch] == [passed_over * layer.macs for layer in branch]
    conv = [record["end"] - record["start"] for record in no.records if record["opcode"] == Opcode.CONV]
    assert sum(cycles < 40 for cycles in conv) >= 2  # the branch's convolutions are passed over


def test_everything_in_the_branch_is_passed_over():
    """Squeeze and excitation, pools, tables, copies: what pixels can't gate, a single decision can."""
    m = Model((1, 8, 8, 16))
    b = m.builder
    y = m.conv(m.x)
    squeezed = b.add_mean(y, [1, 2], scale=0.05, zero_point=-3)
    weights = m.rng.integers(-60, 60, (16, 16)).astype(np.int8)
    excited = b.add_logistic(b.add_fully_connected(squeezed, weights, None, 0.01, scale=0.05, zero_point=-3,
                                                   keep_num_dims=True))
    y = b.add_mul(y, excited, scale=0.02, zero_point=4)
    y = b.add_resize_nearest_neighbor(b.add_max_pool_2d(y, (2, 2)), (8, 8))
    y = m.conv(b.add_pad(y, [(0, 0), (1, 1), (1, 1), (0, 0)]), 1)
    y = b.add_max_pool_2d(y, (3, 3), stride=1)
    mask = m.decide_once(m.x)
    gated, _opcodes, (no, yes) = m.check(b.add_select_v2(mask, y, m.x), offsets=(-60, 60))
    assert gated == ["CONV_2D", "MEAN", "FULLY_CONNECTED+LOGISTIC", "MUL", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR",
                     "PAD", "CONV_2D", "MAX_POOL_2D+SELECT_V2"]
    work = {bool(decision): sum(record.get("words_written", 0) for record in result.records)
            for decision, result in ((0, no), (1, yes))}
    assert work[False] <= 10 < work[True]  # only the decision's own pooled features


def test_early_exit():
    """Rows of features that one decision chooses between, as classifiers with an early exit do."""
    m = Model((1, 6, 6, 16))
    b = m.builder

    def classifier(x):
        weights = m.rng.integers(-60, 60, (10, 16)).astype(np.int8)
        pooled = b.add_mean(x, [1, 2], scale=0.05, zero_point=-3)
        return b.add_fully_connected(pooled, weights, None, 0.01, scale=0.1, zero_point=0)

    early = classifier(m.x)
    late = classifier(m.conv(m.conv(m.x)))
    gated, _opcodes, _results = m.check(b.add_select_v2(m.decide_once(m.x), late, early), offsets=(-60, 60))
    assert gated == ["MEAN", "FULLY_CONNECTED+SELECT_V2", "CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED+SELECT_V2"]


def test_decision_about_a_branch_given_as_input():
    m = Model()
    mask = m.mask_input("mask", (1, 1, 1, 1))
    gated, _opcodes, _results = m.check(m.builder.add_select_v2(mask, m.x, m.conv(m.conv(m.x))), runs=8)
    assert gated == ["CONV_2D", "CONV_2D+SELECT_V2"]
