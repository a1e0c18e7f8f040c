"""SELECT_V2: which layers are gated by what, and where a copy is avoided. Every case also runs, exactly."""

import numpy as np
import pytest

from hw.contract.config import PRESETS
from hw.contract.layouts import mask_row_words
from sw_driver.compiler import CapacityError, compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tensor_layouts import demand, mask_words
from sw_driver.tflite.builder import TfliteBuilder

SIZE = (1, 9, 11, 16)


class Model:
    """A model under construction whose feature maps all have the same quantisation."""

    def __init__(self):
        self.builder = TfliteBuilder()
        self.rng = np.random.default_rng(3)
        self.x = self.builder.add_input("x", SIZE, scale=0.05, zero_point=-3)
        self.mask = self.builder.add_input("mask", (*SIZE[:3], 1), "bool")

    def conv(self, x, kernel=3, stride=1, channels=16, activation="NONE"):
        weights = self.rng.integers(-60, 60, (channels, kernel, kernel, self.builder.shape(x)[3])).astype(np.int8)
        bias = self.rng.integers(-500, 500, channels).astype(np.int32)
        return self.builder.add_conv_2d(x, weights, bias, 0.004, scale=0.05, zero_point=-3, stride=stride,
                                        activation=activation)

    def select(self, a, b):
        return self.builder.add_select_v2(self.mask, a, b)

    def check(self, *outputs, preset="small"):
        """Compile, run at several mask densities, compare; returns {layer op: gated} in order, and the program."""
        for output in outputs:
            self.builder.add_output(output)
        model = self.builder.to_bytes()
        program = compile_model(model, preset)
        with open_device("golden", preset) as device:
            for density in (0.0, 0.05, 0.5, 1.0):
                inputs = {"x": self.rng.integers(-128, 128, SIZE).astype(np.int8),
                          "mask": self.rng.random((*SIZE[:3], 1)) < density}
                result = device.run(program, inputs)
                for got, want in zip(result.outputs.values(), run_oracle(model, inputs), strict=True):
                    np.testing.assert_array_equal(got, want)
        gated = program.report["gated_layers"]
        return [(layer.op, layer.name in gated) for layer in program.layers], program


def test_branch_writes_over_the_skip():
    m = Model()
    ops, program = m.check(m.select(m.conv(m.conv(m.x)), m.x))
    assert ops == [("CONV_2D", True), ("CONV_2D+SELECT_V2", True)]
    steps = [feed.demand for feed in program.feeds if feed.layout == "mask"]
    assert sorted(len(chain) for chain in steps) == [0, 1]


def test_reversed_operands_invert_the_mask():
    m = Model()
    ops, program = m.check(m.select(m.x, m.conv(m.conv(m.x))))
    assert ops == [("CONV_2D", True), ("CONV_2D+SELECT_V2", True)]
    assert all(feed.invert for feed in program.feeds if feed.layout == "mask")


def test_both_operands_are_computed_where_they_are_needed():
    m = Model()
    ops, program = m.check(m.select(m.conv(m.x), m.conv(m.x, 1)))
    assert ops == [("CONV_2D+SELECT_V2", True)] * 2
    assert {feed.invert for feed in program.feeds if feed.layout == "mask"} == {True, False}


def test_a_convolution_does_not_overwrite_its_own_input():
    m = Model()
    ops, _program = m.check(m.select(m.conv(m.x), m.x))
    assert ops == [("CONV_2D", True), ("SELECT_V2", True)]  # the pixels of x that are kept are copied


def test_a_residual_addition_may_be_in_place():
    m = Model()
    branch = m.builder.add_add(m.conv(m.conv(m.x)), m.x, scale=0.05, zero_point=-3)
    ops, _program = m.check(m.select(branch, m.x))
    assert ops == [("CONV_2D", True), ("CONV_2D+ADD+SELECT_V2", True)]


def test_what_others_read_is_computed_everywhere():
    m = Model()
    inner = m.conv(m.x)
    ops, _program = m.check(m.select(m.conv(inner), m.x), m.conv(inner, 1))
    assert ops == [("CONV_2D", False), ("CONV_2D+SELECT_V2", True), ("CONV_2D", False)]


def test_an_output_is_not_gated():
    m = Model()
    branch = m.conv(m.conv(m.x))
    ops, _program = m.check(m.select(branch, m.x), branch)
    assert ops == [("CONV_2D", False), ("CONV_2D", False), ("SELECT_V2", True)]


def test_skip_that_is_read_later_is_kept():
    m = Model()
    selected = m.select(m.conv(m.conv(m.x)), m.x)
    ops, _program = m.check(m.conv(m.x, 1), selected)
    assert ops == [("CONV_2D", True), ("CONV_2D", True), ("SELECT_V2", True), ("CONV_2D", False)]


def test_the_same_map_on_both_sides():
    m = Model()
    y = m.conv(m.x)
    m.check(m.select(y, y))


def test_demand_through_a_pool_and_an_addition():
    m = Model()
    a = m.conv(m.x)
    pooled = m.builder.add_max_pool_2d(a, (3, 3), stride=1, padding="SAME")
    branch = m.builder.add_add(pooled, m.x, scale=0.05, zero_point=-3)
    ops, _program = m.check(m.select(branch, m.x))
    assert ops == [("CONV_2D", True), ("MAX_POOL_2D", True), ("ADD+SELECT_V2", True)]


def test_a_copy_is_made_whole():
    m = Model()
    padded = m.builder.add_pad(m.conv(m.x), [(0, 0), (1, 1), (1, 1), (0, 0)])
    ops, _program = m.check(m.select(m.builder.add_max_pool_2d(padded, (3, 3), stride=1), m.x))
    assert ops == [("CONV_2D", False), ("PAD", False), ("MAX_POOL_2D+SELECT_V2", True)]


def test_small_mask_memory_gates_the_last_layers_only():
    """nano has 128 mask words: the masks of layers within the branches don't fit beside the selections' own."""
    builder = TfliteBuilder()
    height = 100
    x = builder.add_input("x", (1, height, 2, 4), scale=0.1, zero_point=0)
    mask = builder.add_input("mask", (1, height, 2, 1), "bool")
    rng = np.random.default_rng(1)
    for _ in range(2):
        branch = x
        for _ in range(2):
            weights = rng.integers(-60, 60, (4, 3, 3, 4)).astype(np.int8)
            branch = builder.add_conv_2d(branch, weights, None, 0.01, scale=0.1, zero_point=0)
        x = builder.add_select_v2(mask, branch, x)
    builder.add_output(x)
    model = builder.to_bytes()
    assert 2 * height * mask_row_words(2) > PRESETS["nano"].mask_words
    assert len(compile_model(model, "small").report["gated_layers"]) == 4
    program = compile_model(model, "nano")
    assert len(program.report["gated_layers"]) == 2
    inputs = {"x": rng.integers(-128, 128, (1, height, 2, 4)).astype(np.int8),
              "mask": rng.random((1, height, 2, 1)) < 0.3}
    with open_device("golden", "nano") as device:
        np.testing.assert_array_equal(device.run(program, inputs).output, run_oracle(model, inputs)[0])


def test_a_mask_larger_than_the_memory():
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 200, 2, 4), scale=0.1, zero_point=0)
    mask = builder.add_input("decision", (1, 200, 2, 1), "bool")
    pooled = builder.add_max_pool_2d(x, (3, 3), stride=1, padding="SAME")
    builder.add_output(builder.add_select_v2(mask, pooled, x))
    with pytest.raises(CapacityError, match=r"masks 200x2 of 'decision'.* take \d+ bytes at once; the mask memory has "
                                            r"1024. Preset 'small' has room for this model"):
        compile_model(builder.to_bytes(), "nano")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_demand_is_what_is_read(stride, dilation):
    """Against the definition: an input position is demanded if a demanded output reads it."""
    rng = np.random.default_rng(stride)
    mask = rng.random((5, 7)) < 0.2
    pad, size = (1, 2), (stride * 5 + 2, stride * 7)
    step = {"kernel": [3, 2], "stride": [stride, stride], "dilation": [dilation, dilation], "pad": list(pad),
            "size": list(size)}
    expected = np.zeros(size, bool)
    for oy, ox in np.argwhere(mask):
        for ky in range(3):
            for kx in range(2):
                y, x = oy * stride + ky * dilation - pad[0], ox * stride + kx * dilation - pad[1]
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    expected[y, x] = True
    np.testing.assert_array_equal(demand(mask, [step]), expected)


def test_mask_words():
    mask = np.zeros((2, 70), bool)
    mask[0, 0] = mask[0, 69] = mask[1, 63] = True
    assert [hex(word) for word in mask_words(mask)] == ["0x1", "0x20", "0x8000000000000000", "0x0"]
