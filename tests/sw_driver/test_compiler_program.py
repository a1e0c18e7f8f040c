"""Whole programs on the golden model: every tensor on the way, stripes, and what does not fit."""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import PRESETS
from hw.contract.image import ImageError, Program
from hw.contract.layouts import blocks
from sw_driver.compiler import CapacityError, CompileError, compile_model
from sw_driver.compiler.channel_folding import folded_tensors
from sw_driver.device import Device
from sw_driver.links.golden import GoldenLink
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle, run_oracle_tensors
from sw_driver.tensor_layouts import unblock
from sw_driver.tflite.builder import TfliteBuilder
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
RESNET = Path(__file__).parents[3] / "shared" / "models" / "ic"


def conv_model(size, channels, kernel=3, count=1):
    """A chain of convolutions."""
    builder = TfliteBuilder()
    rng = np.random.default_rng(1)
    x = builder.add_input("image", size, scale=0.05, zero_point=3)
    for _ in range(count):
        weights = rng.integers(-60, 60, (channels, kernel, kernel, builder.shape(x)[3])).astype(np.int8)
        x = builder.add_conv_2d(x, weights, None, 0.002, scale=0.05, zero_point=-3)
    builder.add_output(x)
    return builder.to_bytes()


def run_and_compare(model, program, config, inputs):
    with Device(GoldenLink(config), config) as device:
        result = device.run(program, inputs)
    for (name, got), want in zip(result.outputs.items(), run_oracle(model, inputs), strict=True):
        np.testing.assert_array_equal(got, want, f"output {name!r}")
    for layer in result.layers:
        assert min(layer.macs_issued, layer.skipped_activation, layer.skipped_weight, layer.gated) >= 0
        assert layer.macs == layer.macs_issued + layer.skipped_activation + layer.skipped_weight + layer.gated
    return result


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_resnet_8(preset):
    if not RESNET.is_dir():
        pytest.skip("../shared/models/ic is not there: the real ResNet-8 and its inputs are not in the repository")
    model = (RESNET / "pretrainedResnet_quant.tflite").read_bytes()
    program = compile_model(model, preset)
    results = []
    for path in sorted((RESNET / "inputs").glob("*.npy"))[: 5 if preset == "large" else 1]:
        x = np.load(path).reshape(program.inputs[0].shape)
        results.append(run_and_compare(model, program, PRESETS[preset], {program.inputs[0].name: x}))
        assert preset != "large" or results[-1].cycles < 60_000
    assert sum(layer.macs for layer in results[0].layers) == 12_501_632
    assert [layer.op for layer in results[0].layers].count("CONV_2D+ADD") == 3


@pytest.mark.parametrize("number", range(24))
def test_every_tensor_on_the_way(number, monkeypatch):
    """Each layer leaves in feature memory what TFLite Micro computes, wherever the layer computes all of it."""
    print(f"LACUNA_SEED={SEED}")
    name = ["nano", "small", "medium", "large"][number % 4]
    config = PRESETS[name]
    graph = random_graph(np.random.default_rng([SEED, number]), "tiny", planted=number % 2 == 1)
    try:
        # Cut into stripes, a map may be overwritten at one end before its other end is written.
        program = compile_model(graph.model, name, stripes=1)
    except CapacityError as error:
        pytest.skip(str(error))
    if program.report["stripe_rows"]:
        pytest.skip("its maps are not on chip as a whole")
    addresses = {item["tensor"]: item["address"] for item in program.report["feature_maps"]
                 if item["layout"] == "blocked"}
    last = {layer.commands[-1].index: layer for layer in program.layers if layer.commands}
    written = [layer.output for layer in program.layers]
    expected = run_oracle_tensors(graph.model, graph.inputs[0])
    folded = folded_tensors(program.report["folding"])
    seen = []

    def observe(executed):
        layer = last.get(executed.command.index)
        partly = layer and layer.name in program.report["gated_layers"]
        if layer is None or partly or written.count(layer.output) > 1 or layer.output < 0:
            return
        want = expected[layer.output]
        if want.dtype == bool:
            return  # a decision: it lies in mask memory, and shows in every layer that it gates
        fold = folded.get(layer.output)
        shape = want.shape if fold is None else (*want.shape[:-1], len(fold.kept))
        height, width, channels = (1, *shape)[-3:] if want.ndim >= 3 else (len(want), 1, shape[-1])
        words = height * width * blocks(channels, config.lanes)
        base = addresses[layer.output]
        data = link.golden.memory.feature[base : base + words].tobytes()
        got = unblock(data, height, width, channels, config.lanes).reshape(shape)
        got = got if fold is None else fold.restored(got)  # where nobody reads a channel, it is masked
        np.testing.assert_array_equal(got, want, f"layer {layer.name!r}")
        seen.append(layer.name)

    link = GoldenLink(config)
    monkeypatch.setattr(link.golden, "run", functools.partial(link.golden.run, observe=observe))
    with Device(link, config) as device:
        device.run(program, graph.inputs[0])
    assert seen or program.report["gated_layers"] or not program.layers


@pytest.mark.parametrize("name", ["nano", "small", "large"])
def test_stripes(name):
    """With hardly any feature memory, maps go out to external memory and come back row by row."""
    print(f"LACUNA_SEED={SEED}")
    config = dataclasses.replace(PRESETS[name], name=f"{name}, 4 KiB", feature_bytes=4096)
    striped = 0
    for number in range(12):
        graph = random_graph(np.random.default_rng([SEED, number]), "small", max_weights=3000)
        try:
            program = compile_model(graph.model, config)
        except CapacityError:
            continue
        striped += bool(program.report["stripe_rows"])
        run_and_compare(graph.model, program, config, graph.inputs[0])
    assert striped


def test_one_stripe_after_the_other():
    config = dataclasses.replace(PRESETS["small"], feature_bytes=4096)
    model = conv_model((1, 40, 12, 8), 8, count=3)
    program = compile_model(model, config)
    assert all(1 <= rows < 40 for rows in program.report["stripe_rows"].values())
    assert program.report["spill_bytes"] > 0
    inputs = {"image": np.random.default_rng(2).integers(-128, 128, (1, 40, 12, 8)).astype(np.int8)}
    run_and_compare(model, program, config, inputs)


def test_weights_that_do_not_fit_at_once_are_streamed():
    model = conv_model((1, 6, 6, 64), 64)
    program = compile_model(model, "small")  # 36 KiB of weights, a store of 16 KiB
    assert program.report["weights"][0]["commands"] > 2
    inputs = {"image": np.random.default_rng(2).integers(-128, 128, (1, 6, 6, 64)).astype(np.int8)}
    run_and_compare(model, program, PRESETS["small"], inputs)


def test_a_table_outlives_weights_that_come_in_parts():
    """The rings go around between a layer's commands, and over a table that was loaded only once."""
    rng = np.random.default_rng(9)
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 40, 40, 32), scale=0.05, zero_point=3)
    y = builder.add_conv_2d(x, rng.integers(-127, 128, (64, 3, 3, 32), dtype=np.int8), None, np.full(64, 0.004),
                            scale=0.1, zero_point=0)
    builder.add_output(builder.add_unary("TANH", y, scale=1 / 128, zero_point=0))
    model = builder.to_bytes()
    program = compile_model(model, "small")
    (layer,) = program.layers
    assert layer.op == "CONV_2D+TANH"
    assert len(layer.commands) > 24  # 4 or more parameter entries each, 128 in the ring
    run_and_compare(model, program, PRESETS["small"], {"x": rng.integers(-128, 128, (1, 40, 40, 32), dtype=np.int8)})


def test_packed_input_only_where_it_pays():
    for size, kernel, layout in (((1, 8, 8, 3), 3, "packed"), ((1, 8, 8, 3), 1, "blocked"),
                                 ((1, 8, 8, 16), 3, "blocked")):
        program = compile_model(conv_model(size, 16, kernel), "large")
        assert [feed.layout for feed in program.feeds] == [layout]


def test_one_input_in_two_layouts():
    builder = TfliteBuilder()
    x = builder.add_input("image", (1, 7, 9, 3), scale=0.05, zero_point=3)
    weights = np.random.default_rng(1).integers(-60, 60, (3, 3, 3, 3)).astype(np.int8)
    y = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3)
    builder.add_output(builder.add_add(y, x, scale=0.1, zero_point=0))
    program = compile_model(builder.to_bytes(), "large")
    assert sorted(feed.layout for feed in program.feeds) == ["blocked", "packed"]
    inputs = {"image": np.random.default_rng(2).integers(-128, 128, (1, 7, 9, 3)).astype(np.int8)}
    run_and_compare(builder.to_bytes(), program, PRESETS["large"], inputs)


def test_several_outputs_on_host_and_device():
    builder = TfliteBuilder()
    x = builder.add_input("rows", (2, 6), scale=0.1, zero_point=0)
    y = builder.add_fully_connected(x, np.eye(6, dtype=np.int8) * 9, None, 0.1, scale=0.1, zero_point=0)
    softmax = builder.add_softmax(y)
    for output in (builder.add_reshape(softmax, (3, 4)), y, builder.add_reshape(y, (12,)), softmax):
        builder.add_output(output)
    model = builder.to_bytes()
    result = run_and_compare(model, compile_model(model, "small"), PRESETS["small"],
                             {"rows": np.arange(12, dtype=np.int8).reshape(2, 6)})
    assert [layer.engine for layer in result.layers] == ["conv", "host"]


def test_nothing_for_the_device_to_do():
    builder = TfliteBuilder()
    x = builder.add_input("rows", (2, 6), scale=0.1, zero_point=0)
    builder.add_output(builder.add_softmax(builder.add_reshape(x, (3, 4))))
    model = builder.to_bytes()
    run_and_compare(model, compile_model(model, "nano"), PRESETS["nano"],
                    {"rows": np.arange(12, dtype=np.int8).reshape(2, 6)})


def test_a_program_file_runs_as_well():
    model = conv_model((1, 6, 6, 3), 5)
    program = Program.from_bytes(compile_model(model, "small").to_bytes())
    inputs = {"image": np.zeros((1, 6, 6, 3), np.int8)}
    run_and_compare(model, program, PRESETS["small"], inputs)
    with open_device("golden", "large") as device, pytest.raises(ImageError, match="compile it for 'large'"):
        device.run(program, inputs)


def test_compiling_twice_gives_the_same_image():
    model = random_graph(np.random.default_rng(5), "small").model
    assert compile_model(model, "large").to_bytes() == compile_model(model, "large").to_bytes()


# ---- what does not fit --------------------------------------------------------------------------


def test_too_much_for_one_row():
    model = conv_model((1, 3, 900, 16), 16)
    with pytest.raises(CapacityError, match=r"layer 'conv_2d_0' .* needs \d+ bytes for one row .*'image' \d+ bytes.*"
                                            r"the feature memory has 32768. Preset '\w+' has room for this model"):
        compile_model(model, "nano")


def test_weights_of_one_block_are_too_many():
    model = conv_model((1, 16, 16, 64), 4, kernel=9)
    message = "weights of 4 output channels take 20736 bytes, the weight store has 4096. Preset 'large' has room"
    with pytest.raises(CapacityError, match=message):
        compile_model(model, "nano")


def test_no_preset_has_room():
    model = conv_model((1, 4, 4, 1200), 4, kernel=16)
    with pytest.raises(CapacityError, match="No preset has room for this model"):
        compile_model(model, "large")


def test_a_reshape_that_would_move_bytes():
    builder = TfliteBuilder()
    x = builder.add_input("image", (1, 4, 4, 8), scale=0.05, zero_point=3)
    x = builder.add_max_pool_2d(x, 2, stride=2)
    x = builder.add_reshape(x, (1, 8, 2, 2))
    builder.add_output(builder.add_max_pool_2d(x, 2, stride=2))
    with pytest.raises(CompileError, match=r"reshaped 2x2x8 map: with 16 lanes its bytes do not lie as 8x2x2"):
        compile_model(builder.to_bytes(), "large")
