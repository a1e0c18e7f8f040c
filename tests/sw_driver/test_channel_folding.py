"""Channel folding: which channels go, which must stay, and that no value ever changes.

A failure names the seed and the number of the graph: LACUNA_SEED=<seed> draws the same graphs again,
LACUNA_GRAPH=<number> only that one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import PRESETS
from sw_driver.command_line import main
from sw_driver.compiler import CompileError, compile_model
from sw_driver.compiler.channel_folding import FoldedTensor, fold_channels, folded_tensors
from sw_driver.compiler.channel_ranges import channel_ranges, requantised_range
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle, run_oracle_tensors
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.reader import load_graph
from testbench.random_graphs import random_graph
from testbench.random_motifs import GraphSize

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
ONLY = os.environ.get("LACUNA_GRAPH")
GRAPHS = 250
SIZE = GraphSize(side=9, channels=40, motifs=5, macs=200_000)
PRESET_NAMES = ["nano", "small", "medium", "large"]
VWW = Path(__file__).parents[3] / "shared" / "models" / "vww"

INT32_MAX = (1 << 31) - 1


class Network(TfliteBuilder):
    """A model of 1x6x6 maps, whose layers have the scale 0.05 and take their zero points from the caller."""

    def __init__(self, seed: int = 1):
        super().__init__("planted")
        self.rng = np.random.default_rng(seed)

    def image(self, channels: int = 4, zero_point: int = 3, side: int = 6) -> int:
        return self.add_input(f"image_{len(self.inputs)}", (1, side, side, channels), scale=0.05,
                              zero_point=zero_point)

    def weights(self, *shape: int) -> np.ndarray:
        """Without zeros, so that nothing is folded by chance."""
        return self.rng.choice([-1, 1], shape).astype(np.int8) * self.rng.integers(1, 60, shape).astype(np.int8)

    def conv(self, x: int, outputs: int, kernel: int = 1, constant: tuple[int, ...] = (), unused: tuple[int, ...] = (),
             value: int = 300, zero_point: int = -3, **options) -> int:
        """`constant` outputs have no weights, and a bias of `value`; `unused` inputs only weights of zero."""
        weights = self.weights(outputs, kernel, kernel, self.shape(x)[3])
        weights[list(constant)] = 0
        weights[..., list(unused)] = 0
        bias = self.rng.integers(-200, 200, outputs).astype(np.int32)
        bias[list(constant)] = value
        return self.add_conv_2d(x, weights, bias, 0.02, scale=0.05, zero_point=zero_point, **options)

    def depthwise(self, x: int, kernel: int = 3, multiplier: int = 1, constant: tuple[int, ...] = (),
                  zero_point: int = -3, **options) -> int:
        weights = self.weights(1, kernel, kernel, self.shape(x)[3] * multiplier)
        weights[..., list(constant)] = 0
        bias = self.rng.integers(-200, 200, weights.shape[3]).astype(np.int32)
        return self.add_depthwise_conv_2d(x, weights, bias, 0.02, scale=0.05, zero_point=zero_point, **options)

    def dense(self, x: int, outputs: int, features: int, weights: np.ndarray | None = None) -> int:
        weights = self.weights(outputs, features) if weights is None else weights
        return self.add_fully_connected(x, weights, np.arange(outputs).astype(np.int32), 0.003, scale=0.05,
                                        zero_point=-3)

    def folded(self, *outputs: int, preset: str = "small") -> dict[int, FoldedTensor]:
        """What is folded of the tensors that lost channels, when these are the outputs; every output is compared with
        TFLite Micro's, folded and not."""
        self.outputs = list(outputs)
        model = self.to_bytes()
        inputs = {name: self.rng.integers(-128, 128, self.shape(index)).astype(np.int8)
                  for name, index in zip(load_graph(model).input_names, self.inputs, strict=True)}
        expected = run_oracle(model, inputs)
        programs = [compile_model(model, preset, folding=folding) for folding in (True, False)]
        with open_device("golden", preset) as device:
            for program in programs:
                for got, want in zip(device.run(program, inputs).outputs.values(), expected, strict=True):
                    np.testing.assert_array_equal(got, want)
        assert programs[1].report["folding"] is None
        return folded_tensors(programs[0].report["folding"])


# ---- which channels go ------------------------------------------------------------------------------------------


def test_constant_channels_go_into_the_bias():
    net = Network()
    x = net.conv(net.image(), 6, constant=(1, 4))
    y = net.conv(x, 5)
    found = net.folded(y)
    assert set(found) == {x}
    assert found[x].kept == [0, 2, 3, 5]
    assert [channel for channel, _value in found[x].constants] == [1, 4]
    assert found[x].constants[0][1] not in (-3, -128, 127)


@pytest.mark.parametrize(("bias", "value"), [(-(1 << 28), -3), (1 << 28, 127)])
def test_a_bias_that_drowns_every_sum(bias, value):
    net = Network()
    x = net.image()
    biases = np.array([5, bias, -7], np.int32)
    x = net.add_conv_2d(x, net.weights(3, 3, 3, 4), biases, 0.02, scale=0.05, zero_point=-3, activation="RELU")
    y = net.conv(x, 5)
    assert net.folded(y)[x] == FoldedTensor(x, 3, [0, 2], [(1, value)])


@pytest.mark.parametrize(("kernel", "padding", "value", "goes"), [
    (3, "VALID", 300, True), (3, "SAME", 300, False), (1, "SAME", 300, True), (3, "SAME", 0, True)])
def test_padding(kernel, padding, value, goes):
    """A constant other than the zero point stays where windows at the border miss some of it."""
    net = Network()
    x = net.conv(net.image(), 6, constant=(2,), value=value)
    y = net.conv(x, 5, kernel, padding=padding)
    assert (x in net.folded(y)) is goes


@pytest.mark.parametrize(("tap", "goes"), [((1, 1), True), ((0, 1), False)])
def test_padding_that_no_weight_meets(tap, goes):
    net = Network()
    x = net.conv(net.image(), 6, constant=(2,))
    weights = net.weights(5, 3, 3, 6)
    weights[..., 2] = 0
    weights[:, tap[0], tap[1], 2] = 9
    y = net.add_conv_2d(x, weights, None, 0.02, scale=0.05, zero_point=0)
    assert (x in net.folded(y)) is goes


def test_taps_outside_a_map_of_one_pixel():
    net = Network()
    x = net.conv(net.image(side=1), 6, constant=(2,))
    weights = net.weights(5, 3, 3, 6)
    weights[:, 1, 1, 4] = 0
    y = net.add_conv_2d(x, weights, None, 0.02, scale=0.05, zero_point=0)
    found = net.folded(y)[x]
    assert found.kept == [0, 1, 3, 5]
    assert [channel for channel, _value in found.constants] == [2]


def test_stride_that_leaves_only_some_windows_at_the_border():
    for side, goes in ((7, False), (8, True)):  # 7 = 3 + 3 + 1: the last window is cut; 8 = 3 + 3 + 2
        net = Network()
        x = net.conv(net.image(side=side), 6, constant=(2,))
        y = net.conv(x, 5, 2, stride=3, padding="SAME")
        assert (x in net.folded(y)) is goes


def test_unused_channels_make_their_producers_unused():
    net = Network()
    image = net.image()
    x = net.conv(image, 6)
    d = net.depthwise(x)
    p = net.add_max_pool_2d(d, 2)
    y = net.conv(p, 5, unused=(0, 3))
    found = net.folded(y)
    assert {t: found[t].kept for t in (x, d, p)} == {t: [1, 2, 4, 5] for t in (x, d, p)}
    assert found[x].constants == []
    assert set(found) == {x, d, p}  # the input stays, and so does the output


def test_a_channel_that_only_dead_outputs_read():
    net = Network()
    x = net.conv(net.image(), 6)
    weights = net.weights(4, 1, 1, 6)
    weights[:3, ..., 5] = 0
    y = net.add_conv_2d(x, weights, None, 0.02, scale=0.05, zero_point=0)
    z = net.conv(y, 3, unused=(3,))
    assert net.folded(z)[x].kept == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("unused", "goes"), [((), False), ((3,), False), ((2, 3), True)])
def test_every_reader_must_do_without(unused, goes):
    net = Network()
    x = net.conv(net.image(), 6, constant=(2,))
    outputs = [net.conv(x, 5), net.conv(x, 5, 3, unused=unused)]
    found = net.folded(*outputs)
    assert (x in found) is goes
    assert not goes or found[x].kept == [0, 1, 3, 4, 5]
    assert x not in net.folded(*outputs, x)


def test_residual_additions():
    net = Network()
    image = net.image()
    a, b = net.conv(image, 6, constant=(1, 2)), net.conv(image, 6, constant=(2, 3))
    s = net.add_add(a, b, scale=0.1, zero_point=5)
    found = net.folded(net.conv(s, 5))
    assert {t: found[t].kept for t in (a, b, s)} == {t: [0, 1, 3, 4, 5] for t in (a, b, s)}
    border = net.conv(a, 5, 3)  # who needs an operand's channel keeps the sum's
    assert s not in net.folded(net.conv(s, 5), border)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_depthwise_channels_go_in_whole_groups(multiplier):
    net = Network()
    x = net.conv(net.image(), 4)
    dead = tuple(range(multiplier, 2 * multiplier)) + (3 * multiplier,)
    d = net.depthwise(x, multiplier=multiplier, constant=dead)
    found = net.folded(net.conv(d, 5))
    kept = [0, 2] if multiplier == 1 else [0, 2, 3]
    assert found[x].kept == kept
    assert found[d].kept == [c * multiplier + i for c in kept for i in range(multiplier)]


def test_depthwise_of_one_channel():
    net = Network()
    d = net.depthwise(net.image(1), multiplier=8, constant=(0, 5))
    assert net.folded(net.conv(d, 5))[d].kept == [1, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("flatten", [True, False])
def test_flattened_channels(flatten):
    """A channel of a flattened map is one in every `channels` features; it stays if any of them is used."""
    net = Network()
    x = net.conv(net.image(side=3), 5, constant=(1,))
    weights = net.weights(7, 45)
    weights[:, 3::5] = 0
    weights[:, 4::5] = 0
    weights[6, 5 * 8 + 4] = 1
    y = net.dense(net.add_reshape(x, (1, 45)) if flatten else x, 7, 45, weights)
    assert net.folded(y)[x].kept == [0, 2, 4]


def test_views_that_mix_channels_stay_whole():
    net = Network()
    x = net.conv(net.image(side=4), 8, constant=(1, 2))
    mixed = net.add_reshape(x, (1, 4, 2, 16))
    together = net.conv(mixed, 3)
    found = net.folded(together, preset="small")
    assert found[mixed].kept == [c for c in range(16) if c % 8 not in (1, 2)]
    pooled = net.add_max_pool_2d(mixed, 2)
    assert x not in net.folded(net.conv(pooled, 3), preset="small")


@pytest.mark.parametrize(("preset", "first"), [("nano", 4), ("small", 8)])
def test_concatenated_channels_stay_in_whole_words(preset, first):
    net = Network()
    image = net.image()
    a = net.conv(image, 16, constant=tuple(range(1, 14)), value=0)
    b = net.conv(image, 5, constant=(1, 2), value=0)
    both = net.add_concatenation([a, b])
    found = net.folded(net.conv(both, 5, 3), preset=preset)
    assert len(found[a].kept) == first
    assert found[b].kept == [0, 3, 4]
    assert found[both].kept == [*found[a].kept, *(16 + channel for channel in found[b].kept)]


def test_padding_and_concatenation_widen_ranges():
    net = Network()
    x = net.conv(net.image(), 6, constant=(2,), value=300)
    padded = net.add_pad(x, [(0, 0), (1, 1), (0, 0), (0, 0)])
    below = net.add_concatenation([x, net.conv(x, 6, constant=(2,), value=-300)], axis=1)
    assert net.folded(net.conv(padded, 5), net.conv(below, 5)) == {}


def test_products_tables_and_means():
    """The gate of channel 1 is closed: zero times whatever."""
    net = Network()
    image = net.image()
    x = net.conv(image, 6)
    mean = net.add_mean(image, [1, 2], scale=0.05, zero_point=-3)
    gate = net.add_logistic(net.conv(mean, 6, constant=(1,), value=-40_000))
    y = net.add_mul(x, gate, scale=0.01, zero_point=4)
    z = net.add_unary("LEAKY_RELU", y, scale=0.02, zero_point=1, alpha=-0.3)
    assert net.folded(net.conv(z, 5))[z].kept == [0, 2, 3, 4, 5]


def test_something_is_left_of_a_constant_map():
    net = Network()
    x = net.conv(net.image(), 6, constant=tuple(range(6)))
    y = net.add_max_pool_2d(x, 2)
    found = net.folded(net.conv(y, 5))
    assert (found[x].kept, found[y].kept) == ([0], [0])


# ---- ranges --------------------------------------------------------------------------------------------------


def test_nothing_is_said_about_sums_that_wrap():
    found = requantised_range([0, 0, -INT32_MAX - 1, -(1 << 40), 1 << 24], [INT32_MAX, INT32_MAX + 1, 0, -(1 << 40),
                                                                            1 << 24],
                              1 << 30, [-20, -20, -20, -20, 8], 0, (-128, 127))
    assert found.low.tolist() == [0, -128, -128, -128, -128]
    assert found.high.tolist() == [127, 127, 0, 127, 127]


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "LEAKY_RELU", "HARD_SWISH", "MAX_POOL_2D"])
def test_ranges_are_exact(op):
    """With every input value in the picture, the smallest and largest result are the ends of the range."""
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    for _trial in range(4):
        net = Network(int(rng.integers(1 << 32)))
        zero_point = int(rng.integers(-128, 128))
        x = net.image(1, zero_point, side=16)
        if op == "CONV_2D":
            y = net.conv(x, 16, activation="RELU6", zero_point=-100)
        elif op == "DEPTHWISE_CONV_2D":
            y = net.depthwise(x, 1, multiplier=16, zero_point=40)
        elif op == "MAX_POOL_2D":
            y = net.add_max_pool_2d(x, 1, activation="RELU")
        else:
            y = net.add_unary(op, x, scale=0.03, zero_point=-90, alpha=-0.3)
        net.outputs = [y]
        model = net.to_bytes()
        (values,) = run_oracle(model, [np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)])
        found = channel_ranges(load_graph(model))[y]
        np.testing.assert_array_equal(found.low, values.min(axis=(0, 1, 2)))
        np.testing.assert_array_equal(found.high, values.max(axis=(0, 1, 2)))


def test_biases_wrap_as_sums_do():
    net = Network()
    x = net.conv(net.image(), 3, constant=(1,), value=400)
    weights = net.weights(2, 1, 1, 3)
    weights[:, 0, 0, 1] = 100
    biases = np.array([INT32_MAX - 10, -INT32_MAX + 10], np.int32)
    y = net.add_conv_2d(x, weights, biases, 1e-9, scale=0.05, zero_point=0)
    assert net.folded(y)[x].kept == [0, 2]
    folded = fold_channels(load_graph(net.to_bytes()), 8).graph
    (bias,) = [folded.tensors[folded.operators[1].inputs[2]].data]
    assert bias is not None
    assert bias[0] < 0 < -bias[1]  # the first has wrapped, the second has not


# ---- random graphs -------------------------------------------------------------------------------------------------


def mismatch(number: int) -> tuple[str | None, int]:
    """What is wrong with one random graph, None for nothing; and the channels that were removed. Raises CompileError
    where it does not compile without folding; with folding it then must."""
    preset = PRESET_NAMES[number % len(PRESET_NAMES)]
    graph = random_graph(np.random.default_rng([SEED, number]), SIZE, planted=True, reshape_channels=number % 5 == 0)
    parsed = load_graph(graph.model)
    ranges, folding = channel_ranges(parsed), fold_channels(parsed, PRESETS[preset].lanes)
    values = run_oracle_tensors(graph.model, graph.inputs[0])
    for index, found in ranges.items():
        seen = values[index].reshape(-1, len(found.low))
        if (seen < found.low).any() or (seen > found.high).any():
            return f"{parsed.tensors[index]} leaves its range", 0
    compile_model(graph.model, preset, folding=False)
    try:
        program = compile_model(graph.model, preset)
    except CompileError as error:
        return f"folding lost it: {error}", 0
    with open_device("golden", preset) as device:
        result = device.run(program, graph.inputs[0])
    for (name, got), index in zip(result.outputs.items(), parsed.outputs, strict=True):
        if not np.array_equal(got, values[index]):
            return f"output {name!r} differs in {np.count_nonzero(got != values[index])} of {got.size}", 0
    return None, sum(tensor.channels - len(tensor.kept) for tensor in folding.tensors)


def test_random_graphs():
    """Every value lies in the range that the analysis gives it, and every output is TFLite Micro's."""
    print(f"LACUNA_SEED={SEED}")
    failures, removed, done = [], 0, 0
    for number in range(GRAPHS) if ONLY is None else [int(ONLY)]:
        try:
            problem, count = mismatch(number)
        except CompileError:
            continue
        except Exception as error:
            problem, count = f"{type(error).__name__}: {error}", 0
        done += 1
        removed += count
        if problem is not None:
            failures.append(f"LACUNA_SEED={SEED} LACUNA_GRAPH={number}: {problem}")
    assert not failures, f"{len(failures)} of {done} graphs:\n" + "\n".join(failures[:10])
    assert done > GRAPHS // 2 or ONLY is not None
    assert removed > 5 * done or ONLY is not None


# ---- the command line ----------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network()
    x = net.conv(net.image(), 6, constant=(2,))
    net.add_output(net.conv(x, 5, unused=(4,)))
    model, array, report, out = (tmp_path / name for name in ("m.tflite", "x.npy", "out.json", "m.lacuna"))
    net.save(model)
    np.save(array, net.rng.integers(-128, 128, (1, 6, 6, 4), np.int8))
    expected = "folding removed 2 channels that are constant or unused from 1 operator; 36 of 54 weights are left"
    preset = ["--preset", "small"]
    macs = {}
    for options, folded in (([], True), (["--no-folding"], False)):
        assert main(["compile", str(model), "-o", str(out), "--json", str(report), *preset, *options]) == 0
        assert (expected in capsys.readouterr().out) is folded
        found = json.loads(report.read_text())["report"]["folding"]
        assert (found is not None) is folded
        if folded:
            assert [(layer["operator"], layer["removed"], layer["constant"], layer["unused"], layer["weights_kept"])
                    for layer in found["layers"]] == [(0, 2, 1, 1, 16), (1, 0, 0, 0, 20)]
        run = ["run", str(model), "--input", str(array), "--device", "golden", "--json", str(report), *preset]
        assert main([*run, *options]) == 0
        assert (expected in capsys.readouterr().out) is folded
        macs[folded] = [layer["macs"] for layer in json.loads(report.read_text())["layers"]]
    assert macs == {True: [36 * 16, 36 * 20], False: [36 * 24, 36 * 30]}
    assert main(["check", str(model), "--json", str(report), *preset]) == 0
    printed = capsys.readouterr().out
    assert expected in printed
    assert "2 of 6" in printed
    assert json.loads(report.read_text())["folding"]["weights_kept"] == 36
    assert main(["run", str(out), "--input", str(array), "--device", "golden", *preset, "--no-folding"]) == 1
    assert "is compiled already" in capsys.readouterr().err


# ---- a real network ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not VWW.is_dir(), reason="../shared/models/vww is not here")
def test_visual_wake_words():
    model = VWW / "vww_96_int8.tflite"
    programs = {folding: compile_model(model, "large", folding=folding) for folding in (True, False)}
    report = programs[True].report["folding"]
    assert (report["weights"], report["weights_kept"]) == (208_112, 29_066)
    image = np.load(VWW / "inputs" / "yes_0.npy").reshape(1, 96, 96, 3)
    with open_device("golden", "large") as device:
        results = {folding: device.run(program, image) for folding, program in programs.items()}
    (expected,) = run_oracle(model, [image])
    for result in results.values():
        np.testing.assert_array_equal(result.output, expected)
    cycles = {folding: result.cycles for folding, result in results.items()}
    print(f"predicted cycles, folded and not: {cycles}")
    assert cycles[True] < 0.9 * cycles[False]
