"""`lacuna run` on the golden device: results, JSON, inputs of all kinds, programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sw_driver.command_line import main, run
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder

SHAPE = (1, 6, 6, 8)
LAYER_KEYS = {"name", "op", "engine", "cycles", "macs", "macs_issued", "skipped_activation", "skipped_weight", "gated",
              "utilisation"}


def _model(path: Path, *, gated: bool = False, channels: int = SHAPE[3]) -> Path:
    """A 3x3 convolution, in a gated branch if asked for, and a softmax-free end."""
    generator = np.random.default_rng(5)
    builder = TfliteBuilder("tiny")
    x = builder.add_input("image", (*SHAPE[:3], channels), scale=0.05, zero_point=-3)
    weights = generator.integers(-127, 128, (8, 3, 3, channels), dtype=np.int8)
    bias = generator.integers(-500, 500, 8, dtype=np.int32)
    y = builder.add_conv_2d(x, weights, bias, np.full(8, 0.01), scale=0.05, zero_point=-3, activation="RELU")
    if gated:
        mask = builder.add_input("mask", (*SHAPE[:3], 1), "bool")
        y = builder.add_select_v2(mask, y, x)
    builder.add_output(y)
    builder.save(path)
    return path


def _input(path: Path, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Path:
    np.save(path, np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int8))
    return path


def _run(*arguments: object) -> int:
    return main(["run", *map(str, arguments), "--preset", "small", "--device", "golden"])


def test_one_run_per_input_and_the_json_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = _model(tmp_path / "m.tflite"), tmp_path / "out.json"
    files = [_input(tmp_path / "x.npy", 1), _input(tmp_path / "y.npy", 2)]
    assert _run(model, "--input", files[0], "--input", files[1], "--json", out) == 0
    value = json.loads(out.read_text())
    assert set(value) == {"model", "preset", "device", "runs", "layers", "simulator", "timeline"}
    assert (value["model"], value["preset"], value["device"]) == (str(model), "small", "golden")
    assert [entry["input"] for entry in value["runs"]] == [str(file) for file in files]
    for entry, file in zip(value["runs"], files, strict=True):
        assert set(entry) == {"input", "outputs", "cycles", "wall_s", "exact", "loading"}
        assert entry["loading"] is None
        expected = run_oracle(model, [np.load(file)])
        assert entry["outputs"] == [array.ravel().tolist() for array in expected]
        assert entry["exact"] is True
        assert entry["cycles"] > 0
        assert entry["wall_s"] > 0
    (layer,) = value["layers"]
    assert set(layer) == LAYER_KEYS
    assert (layer["op"], layer["engine"], layer["macs"]) == ("CONV_2D", "conv", 36 * 9 * 8 * 8)
    assert layer["macs"] == (layer["macs_issued"] + layer["skipped_activation"] + layer["skipped_weight"]
                             + layer["gated"])
    assert {"name", "version", "cycles_per_second"} <= set(value["simulator"])
    printed = capsys.readouterr().out
    assert f"{value['runs'][0]['cycles']:,} cycles (predicted), exact" in printed
    assert "1x6x6x8" in printed
    assert "bit for bit" in printed


def test_the_timeline_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert _run(_model(tmp_path / "m.tflite"), "--input", _input(tmp_path / "x.npy"), "--json", out) == 0
    value = json.loads(out.read_text())
    spans = value["timeline"]
    assert {span["engine"] for span in spans} == {"load", "conv", "store"}
    assert [span["end"] for span in spans] == sorted(span["end"] for span in spans)
    assert all(0 < span["cycles"] <= span["end"] - span["start"] for span in spans)
    conv = [span for span in spans if span["engine"] == "conv"]
    assert {span["layer"] for span in conv} == {value["layers"][0]["name"]}
    assert sum(span["cycles"] for span in conv) == value["layers"][0]["cycles"]
    assert max(span["end"] for span in spans) < value["runs"][0]["cycles"]


def test_the_memory_plan_is_printed_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _model(tmp_path / "m.tflite", gated=True)
    arguments = ["compile", str(model), "--preset", "small", "-o", str(tmp_path / "m.lacuna")]
    assert main(arguments) == 0
    assert "first layer" not in capsys.readouterr().out
    assert main([*arguments, "--memory-plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("image") and " 288 " in line and "0x" in line for line in lines)  # 6 x 6 x 8 bytes
    assert any(line.startswith("most in use at once") and "of 65,536" in line for line in lines)


def test_named_inputs_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = _model(tmp_path / "m.tflite", gated=True), tmp_path / "out.json"
    image = _input(tmp_path / "x.npy")
    mask = np.random.default_rng(3).random((*SHAPE[:3], 1)) < 0.3
    np.save(tmp_path / "mask.npy", mask)
    assert _run(model, "--input", f"image={image}", "--input", f"mask={tmp_path / 'mask.npy'}", "--json", out) == 0
    (entry,) = json.loads(out.read_text())["runs"]
    assert entry["exact"] is True
    assert entry["input"] == {"image": str(image), "mask": str(tmp_path / "mask.npy")}
    layer = json.loads(out.read_text())["layers"][0]
    assert layer["gated"] == (mask.size - mask.sum()) * 9 * 8 * 8
    capsys.readouterr()

    assert _run(model, "--input", image) == 1
    assert "2 inputs" in capsys.readouterr().err
    assert _run(model, "--input", f"image={image}") == 1
    assert "'mask'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["bin", "png"])
def test_other_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    model = _model(tmp_path / "m.tflite", channels=3)
    file = tmp_path / f"x.{suffix}"
    pixels = np.random.default_rng(4).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    if suffix == "bin":
        file.write_bytes(pixels.tobytes())
    else:
        Image.fromarray(pixels).save(file)
    assert _run(model, "--input", file) == 0


def test_an_output_that_differs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    def off_by_one(*arguments: Any) -> list[np.ndarray]:
        (expected,) = run_oracle(*arguments)
        expected = expected.copy()
        expected[0, 2, 3, 4] ^= 1
        return [expected]

    monkeypatch.setattr(run, "run_oracle", off_by_one)
    out = tmp_path / "out.json"
    assert _run(_model(tmp_path / "m.tflite"), "--input", _input(tmp_path / "x.npy"), "--json", out) == 1
    assert json.loads(out.read_text())["runs"][0]["exact"] is False
    printed = capsys.readouterr().out
    assert "[0, 2, 3, 4]" in printed
    assert "1 of 288 elements differ" in printed
    assert "1 of 1 runs differ from TFLite Micro" in printed


def test_a_compiled_program_runs_like_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, program = _model(tmp_path / "m.tflite"), tmp_path / "m.lacuna"
    file, out = _input(tmp_path / "x.npy"), tmp_path / "out.json"
    assert main(["compile", str(model), "--preset", "small", "-o", str(program)]) == 0
    assert _run(program, "--input", file, "--json", out) == 0
    entry = json.loads(out.read_text())["runs"][0]
    assert entry["exact"] is None
    assert entry["outputs"] == [run_oracle(model, [np.load(file)])[0].ravel().tolist()]
    assert "--reference" in capsys.readouterr().out
    assert _run(program, "--input", file, "--reference", model, "--json", out) == 0
    assert json.loads(out.read_text())["runs"][0]["exact"] is True
    other = _model(tmp_path / "other.tflite", channels=3)
    assert _run(program, "--input", file, "--reference", other) == 1
    assert "was not compiled from" in capsys.readouterr().err


def test_a_program_of_another_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "m.lacuna"
    assert main(["compile", str(_model(tmp_path / "m.tflite")), "--preset", "medium", "-o", str(program)]) == 0
    assert _run(program, "--input", _input(tmp_path / "x.npy")) == 1
    assert "compile it for 'small'" in capsys.readouterr().err


def test_a_damaged_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "m.lacuna"
    assert main(["compile", str(_model(tmp_path / "m.tflite")), "--preset", "small", "-o", str(program)]) == 0
    data = bytearray(program.read_bytes())
    data[-5] ^= 4
    program.write_bytes(data)
    assert _run(program, "--input", _input(tmp_path / "x.npy")) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--waves", "w.fst"], "--device rtl"),
    (["--waves-commands", "2:3"], "--waves FILE"),
    (["--json", "no/such/directory/out.json"], "no directory"),
    (["--reference", "m.tflite"], "compiled program"),
])
def test_options_that_contradict_are_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   arguments: list[str], message: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    _model(Path("m.tflite"))
    _input(Path("x.npy"))
    assert _run("m.tflite", "--input", "x.npy", *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "cycles" not in captured.out
