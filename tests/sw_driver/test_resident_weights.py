"""Weights that stay on chip: loaded once, by a program of their own, never computed with when they are not there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import lacuna
from hw.contract.commands import COMMAND_BYTES, Opcode, Space, decode, transfer_beats
from hw.contract.config import PRESETS
from hw.contract.image import ImageError, Program
from hw.contract.registers import REGISTERS, Control, Error, Status, Window
from sim.tokens import read_program
from sw_driver.compiler import CapacityError
from sw_driver.compiler.residency import keep
from sw_driver.links.golden import GoldenLink
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED", "1"))
PRESET = "small"
CONFIG = PRESETS[PRESET]
SHAPE = (1, 6, 7, 8)
WEIGHTS = (Space.WEIGHT, Space.MAP, Space.PARAMETER)


def network(seed: int = 1, channels: int = 24, table: bool = True) -> bytes:
    """Two convolutions, the first of which has rows of zero weights, a depthwise one, and tables of both engines."""
    builder = TfliteBuilder()
    rng = np.random.default_rng(seed)
    x = builder.add_input("image", SHAPE, scale=0.05, zero_point=3)
    weights = rng.integers(-60, 60, (channels, 3, 3, 8)).astype(np.int8)
    weights[:, 1, 1, 2:5] = 0
    x = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=-3)
    if table:
        x = builder.add_logistic(x)
    x = builder.add_depthwise_conv_2d(x, rng.integers(-60, 60, (1, 3, 3, channels)).astype(np.int8), None, 0.01,
                                      scale=0.05, zero_point=4)
    if table:
        x = builder.add_logistic(x)
    x = builder.add_conv_2d(x, rng.integers(-60, 60, (16, 1, 1, channels)).astype(np.int8), None, 0.01, scale=0.05,
                            zero_point=0)
    builder.add_output(x)
    return builder.to_bytes()


@pytest.fixture(scope="module")
def model() -> bytes:
    return network()


@pytest.fixture(scope="module")
def program(model: bytes) -> Program:
    return lacuna.compile(model, preset=PRESET, weights="resident")


@pytest.fixture(scope="module")
def plain() -> Program:
    """Another model, whose weights are loaded for every run."""
    return lacuna.compile(network(2), preset=PRESET)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, SHAPE).astype(np.int8)


class Watched(GoldenLink):
    """The golden model; notes at which offset of the image each program starts."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.starts: list[int] = []

    def write_register(self, address: int, value: int) -> None:
        if address == REGISTERS["CONTROL"].address and value & Control.START:
            self.starts.append(self.read_register(REGISTERS["PROGRAM"].address))
        super().write_register(address, value)


@pytest.fixture
def link() -> Watched:
    return Watched()


def exact(device: lacuna.Device, program: Program, model: bytes, seed: int) -> lacuna.RunResult:
    result = device.run(program, image(seed))
    np.testing.assert_array_equal(result.output, run_oracle(model, [image(seed)])[0])
    return result


# ---- the image ----------------------------------------------------------------------------------


def test_a_run_loads_no_weights(program: Program, model: bytes) -> None:
    assert program.loading is not None
    run, loading = read_program(program.image), read_program(program.image, program.loading.offset)
    assert len(run) == program.command_count - 2
    assert len(loading) == program.loading.command_count - 2
    assert not any(command.opcode is Opcode.LOAD and command.values["space"] in WEIGHTS for command in run)
    assert all(command.opcode is Opcode.LOAD and command.values["space"] in WEIGHTS for command in loading)
    assert all(command.values["window"] == Window.IMAGE for command in loading)
    begins = [decode(program.image[at : at + COMMAND_BYTES])[1] for at in (0, program.loading.offset)]
    assert [(begin["requires"], begin["establishes"]) for begin in begins] == [
        (program.loading.tag, 0), (0, program.loading.tag)]
    streamed = lacuna.compile(model, preset=PRESET)
    assert streamed.loading is None
    assert streamed.report["residency"] is None
    values = decode(streamed.image[:COMMAND_BYTES])[1]
    assert values["requires"] == values["establishes"] == 0
    assert program.report["expected_cycles"] < streamed.report["expected_cycles"]


def test_the_report_counts_what_lies_on_chip(program: Program) -> None:
    report = program.report["residency"]
    parameters = sum(entry["parameter_bytes"] for entry in program.report["weights"])
    tables = {"store": 256, "parameter": 256 // (8 * CONFIG.requantise_lanes) * CONFIG.parameter_entry_bytes}
    assert report["store_bytes"] == tables["store"] + sum(
        entry["store_bytes"] for entry in program.report["weights"])
    assert report["parameter_bytes"] == parameters + tables["parameter"]
    assert report["store_bytes_limit"] == CONFIG.weight_bytes
    assert all(report[f"{name}_bytes"] <= report[f"{name}_bytes_limit"] for name in ("store", "map", "parameter"))
    loads = read_program(program.image, program.loading.offset) if program.loading else []
    assert report["loading_commands"] == len(loads) + 2
    assert report["loading_expected_cycles"] > report["loading_bytes"] / 8


def test_nothing_on_chip_overlaps(program: Program, model: bytes, link: Watched) -> None:
    """After a run the memories hold what loading left there."""
    device = lacuna.Device(link)
    exact(device, program, model, 1)
    before = {space: link.golden.memory.read(space, 0, 1024).tobytes() for space in WEIGHTS}
    exact(device, program, model, 2)
    assert {space: link.golden.memory.read(space, 0, 1024).tobytes() for space in WEIGHTS} == before


def test_tags_tell_programs_apart(program: Program) -> None:
    assert program.loading is not None
    tags = {program.loading.tag}
    for other in (lacuna.compile(network(2), preset=PRESET, weights="resident"),
                  lacuna.compile(network(table=False), preset=PRESET, weights="resident"),
                  lacuna.compile(network(), preset="medium", weights="resident")):
        assert other.loading is not None
        tags.add(other.loading.tag)
    assert len(tags) == 4
    assert 0 not in tags
    again = lacuna.compile(network(), preset=PRESET, weights="resident")
    assert again.image == program.image


def test_a_file_holds_both_programs(program: Program) -> None:
    again = Program.from_bytes(program.to_bytes())
    assert again == program
    with pytest.raises(ImageError):
        Program.from_bytes(program.to_bytes()[:-8])


def test_weights_of_which_none_can_stay() -> None:
    message = (r"No layer's weights can stay on chip beside room for those of the others: the model's weights and "
               r"tables take 98,000 bytes, the weight store has 16,384\. Weights \"compressed\" are loaded again for "
               r"every run, and need not fit\. Preset 'medium' has room for this model$")
    with pytest.raises(CapacityError, match=message):
        lacuna.compile(network(channels=1000, table=False), preset=PRESET, weights="resident")


@pytest.mark.parametrize("table", [False, True])
def test_some_layers_stay_and_the_others_are_streamed(link: Watched, table: bool) -> None:
    model = network(channels=300, table=table)
    program = lacuna.compile(model, preset=PRESET, weights="resident")
    report = program.report["residency"]
    assert report["layers"] > 0 and report["streamed_layers"] > 0
    assert report["layers"] + report["streamed_layers"] == 3
    assert report["store_bytes"] <= report["store_bytes_limit"] < CONFIG.weight_bytes
    streamed = [command for command in read_program(program.image)
                if command.opcode is Opcode.LOAD and command.values["space"] in WEIGHTS]
    assert streamed
    for command in streamed:  # what is streamed never reaches what stays
        if command.values["space"] == Space.WEIGHT:
            assert command.values["address"] * CONFIG.weight_word_bytes >= report["store_bytes_limit"]
    device = lacuna.Device(link)
    for seed in range(3):
        exact(device, program, model, seed)
    assert program.loading is not None
    assert link.starts == [program.loading.offset, 0, 0, 0]
    everything = lacuna.compile(model, preset=PRESET)
    loaded = [sum(transfer_beats(command.values) for command in read_program(each.image)
                  if command.opcode is Opcode.LOAD) for each in (program, everything)]
    assert loaded[0] < loaded[1]


def test_the_largest_layers_that_fit_stay() -> None:
    layers = [object() for _ in range(4)]
    needs = {layer: {Space.WEIGHT: words, Space.MAP: min(words, 1), Space.PARAMETER: entries}
             for layer, words, entries in zip(layers, (40, 700, 300, 0), (10, 30, 60, 0), strict=True)}
    sizes = {Space.WEIGHT: 1024, Space.MAP: 16, Space.PARAMETER: 64}
    kept = keep(needs, sizes, 4)  # type: ignore[arg-type]
    assert kept.layers == {layers[0], layers[1]}  # of 768 words and 48 entries
    assert [kept.room(size) for size in (1024, 64)] == [768, 48]
    assert kept.streaming(CONFIG).weight_bytes == CONFIG.weight_bytes // 4


@pytest.mark.parametrize("preset", ["nano", "small"])
def test_random_graphs(preset: str) -> None:
    """Exact, and free of hazards; some with all their weights on chip, some with a part of them."""
    print(f"LACUNA_SEED={SEED}")
    kinds: set[bool] = set()
    with lacuna.open("golden", preset) as device:
        for number in range(12):
            graph = random_graph(np.random.default_rng([SEED, number]), ("tiny", "small")[number % 2],
                                 fits=PRESETS[preset], gated=number % 3 == 0, runs=2)
            try:
                program = lacuna.compile(graph.model, preset=preset, weights="resident")
            except CapacityError:
                continue
            if program.report["residency"] is None:
                continue  # nothing but operators without weights
            kinds.add(program.report["residency"]["streamed_layers"] > 0)
            for inputs in graph.inputs:
                result = device.run(program, inputs)
                for got, want in zip(result.outputs.values(), run_oracle(graph.model, inputs), strict=True):
                    np.testing.assert_array_equal(got, want, f"graph {number}")
    assert False in kinds


def test_more_than_a_layer_may_take_when_it_is_streamed() -> None:
    """Most of the weight store for one layer: no room is kept for the next layer's weights."""
    builder = TfliteBuilder()
    rng = np.random.default_rng(4)
    x = builder.add_input("image", (1, 3, 3, 16), scale=0.05, zero_point=3)
    x = builder.add_conv_2d(x, rng.integers(-60, 60, (96, 3, 3, 16)).astype(np.int8), None, 0.01, scale=0.05,
                            zero_point=0)
    builder.add_output(x)
    model = builder.to_bytes()
    program = lacuna.compile(model, preset=PRESET, weights="resident")
    (entry,) = program.report["weights"]
    assert entry["store_bytes"] == 96 * 9 * 16 > CONFIG.weight_bytes // 2
    assert entry["commands"] == 1
    x = rng.integers(-128, 128, (1, 3, 3, 16)).astype(np.int8)
    with lacuna.open("golden", PRESET) as device:
        np.testing.assert_array_equal(device.run(program, x).output, run_oracle(model, [x])[0])


# ---- the driver ---------------------------------------------------------------------------------


def test_weights_are_loaded_once(program: Program, model: bytes, link: Watched) -> None:
    assert program.loading is not None
    device = lacuna.Device(link)
    results = [exact(device, program, model, seed) for seed in range(3)]
    assert link.starts == [program.loading.offset, 0, 0, 0]
    assert [result.loading is None for result in results] == [False, True, True]
    loading = results[0].loading
    assert loading is not None
    assert loading.bytes_read == program.report["residency"]["loading_bytes"]
    assert len(loading.records) == program.loading.command_count - 2
    assert loading.cycles > loading.bytes_read / 8
    assert {len(result.records) for result in results} == {program.command_count - 2}
    assert not any(record["opcode"] == Opcode.LOAD and record["beats"] > image(0).size for record in results[2].records)


def test_another_program_in_between(program: Program, plain: Program, model: bytes, link: Watched) -> None:
    assert program.loading is not None
    load = program.loading.offset
    device = lacuna.Device(link)
    exact(device, program, model, 1)
    device.run(plain, image(1))
    exact(device, program, model, 2)
    device.reset()
    exact(device, program, model, 3)
    assert link.starts == [load, 0, 0, load, 0, load, 0]
    other = lacuna.compile(network(5), preset=PRESET, weights="resident")
    exact(device, other, network(5), 4)
    exact(device, program, model, 5)
    assert other.loading is not None
    assert link.starts[7:] == [other.loading.offset, 0, load, 0]


@pytest.mark.parametrize("elsewhere", ["reset", "another program"])
def test_someone_else_used_the_device(program: Program, plain: Program, model: bytes, link: Watched,
                                      elsewhere: str) -> None:
    """The driver does not know; the device does, and the driver loads again, by itself."""
    assert program.loading is not None
    load = program.loading.offset
    device = lacuna.Device(link)
    exact(device, program, model, 1)
    if elsewhere == "reset":
        link.write_register(REGISTERS["CONTROL"].address, Control.SOFT_RESET)
    else:
        lacuna.Device(link).run(plain, image(1))
        link.write_memory(0, program.image)  # as it was
    link.starts.clear()
    result = exact(device, program, model, 2)
    assert result.loading is not None
    assert link.starts == [0, load, 0]
    assert exact(device, program, model, 3).loading is None


def test_weights_that_never_stand_are_loaded_once(program: Program, link: Watched) -> None:
    """An image whose two programs don't belong together is an error, not a loop."""
    assert program.loading is not None
    wrong = bytearray(program.image)
    wrong[28] ^= 1  # `requires`
    device = lacuna.Device(link)
    with pytest.raises(lacuna.DeviceError, match=r"stopped with NOT_RESIDENT at command 0 \(BEGIN\)") as error:
        device.run(dataclasses.replace(program, image=bytes(wrong)), image(1))
    assert (error.value.code, error.value.command) == (Error.NOT_RESIDENT, 0)
    assert link.starts == [program.loading.offset, 0]
    device.run(program, image(1))


def test_an_error_while_loading(program: Program, model: bytes, link: Watched) -> None:
    """It names the command of the loading program, and nothing runs on half of the weights."""
    assert program.loading is not None
    damaged = bytearray(program.image)
    damaged[program.loading.offset + 2 * COMMAND_BYTES] = 0x77
    device = lacuna.Device(link)
    message = r"BAD_OPCODE at command 2 \(unreadable\) of the program that loads the weights"
    for _ in range(2):
        with pytest.raises(lacuna.DeviceError, match=message):
            device.run(dataclasses.replace(program, image=bytes(damaged)), image(1))
    assert link.starts == [program.loading.offset] * 2
    exact(device, program, model, 1)


def test_an_error_in_a_run(program: Program, model: bytes, link: Watched) -> None:
    """After any error no tag stands: loading comes first."""
    assert program.loading is not None
    device = lacuna.Device(link)
    exact(device, program, model, 1)
    index = program.layers[1].commands[0].index
    damaged = bytearray(program.image)
    damaged[index * COMMAND_BYTES] = 0x77
    link.starts.clear()
    with pytest.raises(lacuna.DeviceError, match=rf"BAD_OPCODE at command {index}"):
        device.run(dataclasses.replace(program, image=bytes(damaged)), image(1))
    exact(device, program, model, 2)
    assert link.starts == [0, program.loading.offset, 0]
    assert link.read_register(REGISTERS["STATUS"].address) & Status.DONE


def test_command_line(tmp_path: Path, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from sw_driver.command_line import main

    source, compiled, result = tmp_path / "model.tflite", tmp_path / "model.lacuna", tmp_path / "result.json"
    source.write_bytes(model)
    inputs = []
    for seed in range(2):
        path = tmp_path / f"{seed}.npy"
        np.save(path, image(seed))
        inputs += ["--input", str(path)]
    resident = ["--preset", PRESET, "--weights", "resident"]
    assert main(["run", str(source), *inputs, *resident, "--device", "golden", "--json", str(result)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("weights loaded: ") == 1
    first, second = json.loads(result.read_text())["runs"]
    assert first["exact"] and second["exact"]
    assert set(first["loading"]) == {"cycles", "wall_s", "bytes", "commands"}
    assert second["loading"] is None
    assert f"weights loaded: {first['loading']['bytes']:,} bytes, {first['loading']['cycles']:,} cycles" in printed

    report = tmp_path / "report.json"
    assert main(["compile", str(source), "-o", str(compiled), *resident, "--json", str(report)]) == 0
    assert "are loaded once, by a program of" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written["loading_commands"] == first["loading"]["commands"] + 2
    assert written["report"]["residency"]["loading_bytes"] == first["loading"]["bytes"]
    assert main(["run", str(compiled), *inputs, "--preset", PRESET, "--device", "golden", "--reference",
                 str(source)]) == 0
    assert "weights loaded: " in capsys.readouterr().out

    large = tmp_path / "large.tflite"
    large.write_bytes(network(channels=1000, table=False))
    assert main(["compile", str(large), *resident]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No layer's weights can stay on chip" in error
