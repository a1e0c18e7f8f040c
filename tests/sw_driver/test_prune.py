"""`lacuna prune`: which weights go, what else in the file stays, what is said, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hw.contract.config import preset
from sw_driver.command_line import main
from sw_driver.compiler import compile_model
from sw_driver.graph import ModelError
from sw_driver.oracle import run_oracle
from sw_driver.pruning import prune_model, prune_rows, prune_weights
from sw_driver.tflite.builder import TfliteBuilder
from sw_driver.tflite.constants import replace_constants
from sw_driver.tflite.reader import load_graph

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits.tflite"
PICTURES = [ROOT / "models" / "digits_inputs" / f"digit_{digit}.png" for digit in (3, 7)]
RESNET = ROOT.parent / "shared" / "models" / "ic" / "pretrainedResnet_quant.tflite"
LANES = preset("small").lanes
SEED = int(os.environ.get("LACUNA_SEED", "1"))


def _model(depthwise: bool = True, others: bool = True) -> bytes:
    """A convolution, a depthwise one and a fully connected layer, none of whose channels are alike in scale."""
    rng = np.random.default_rng(SEED)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape, dtype=np.int8)

    builder = TfliteBuilder("layers")
    x = builder.add_input("x", (1, 6, 6, 8), scale=0.05, zero_point=-3)
    if others:
        x = builder.add_conv_2d(x, weights(16, 3, 3, 8), None, rng.uniform(0.001, 0.01, 16), scale=0.05, zero_point=-3)
    if depthwise:
        channels = builder.shape(x)[3]
        x = builder.add_depthwise_conv_2d(x, weights(1, 3, 3, channels), None, rng.uniform(0.001, 0.01, channels),
                                          scale=0.05, zero_point=-3)
    if others:
        x = builder.add_reshape(x, (1, int(np.prod(builder.shape(x)))))
        x = builder.add_fully_connected(x, weights(10, builder.shape(x)[1]), None, 0.002, scale=0.1, zero_point=5)
    if not (depthwise or others):
        x = builder.add_max_pool_2d(x, 2)
    builder.add_output(x)
    return builder.to_bytes()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "layers.tflite"
    path.write_bytes(_model())
    np.save(tmp_path / "x.npy", np.random.default_rng(SEED).integers(-128, 128, (1, 6, 6, 8), dtype=np.int8))
    return path


# ---- which weights -----------------------------------------------------------------------------------


def test_weights_are_compared_by_real_value() -> None:
    weights = np.array([[9, -3], [2, 1]], np.int8)
    scales = np.array([[0.1], [1.0]], np.float32)
    assert prune_weights(weights, scales, 0.5).tolist() == [[0, 0], [2, 1]]
    assert prune_weights(weights, np.ones(1, np.float32), 0.5).tolist() == [[9, -3], [0, 0]]
    assert prune_weights(np.array([0, 5, -128, 4], np.int8), np.ones(1), 0.5).tolist() == [0, 5, -128, 0]


def test_rows_are_whole_and_the_smallest() -> None:
    rng = np.random.default_rng(SEED)
    print(f"LACUNA_SEED={SEED}")
    weights = rng.integers(-128, 128, (20, 2, 3, 5), dtype=np.int8)
    scales = rng.uniform(0.001, 0.1, (20, 1, 1, 1)).astype(np.float32)
    pruned = prune_rows(weights, scales, 0.3, 8)
    norms = {}
    for block in range(3):
        part = slice(8 * block, min(8 * block + 8, 20))
        for at in np.ndindex(2, 3, 5):
            row = np.abs(weights[(part, *at)].astype(float)) * scales[part, 0, 0, 0]
            norms[block, *at] = float(row.sum())
    ordered = sorted(norms, key=lambda at: norms[at])
    count = round(0.3 * len(ordered))
    for position, (block, *at) in enumerate(ordered):
        row = (slice(8 * block, 8 * block + 8), *at)
        np.testing.assert_array_equal(pruned[row], 0 if position < count else weights[row])


def test_rows_are_made_of_the_channels_that_folding_leaves() -> None:
    weights = np.arange(1, 7, dtype=np.int8)[:, None] * np.ones((1, 3), np.int8)
    pruned = prune_rows(weights, np.ones(1), 0.5, 2, [0, 3, 4, 5])
    assert pruned[:, 0].tolist() == [0, 2, 3, 0, 5, 6]
    weights[:, 1] = 0
    pruned = prune_rows(weights, np.ones(1), 0.5, 2, [0, 3, 4, 5], [0, 2])
    assert pruned.tolist() == [[0, 0, 0], [2, 0, 2], [3, 0, 3], [0, 0, 0], [5, 0, 5], [6, 0, 6]]


@pytest.mark.parametrize("rows", [False, True])
def test_nothing_else_in_the_file_changes(rows: bool) -> None:
    data = _model()
    graph = load_graph(data)
    pruned, layers = prune_model(data, graph, 0.5, LANES if rows else None)
    assert len(pruned) == len(data)
    after = load_graph(pruned)
    weights = {operator.inputs[1] for operator in graph.operators if operator.op not in ("RESHAPE",)}
    spans = 0
    for tensor in graph.tensors:
        if tensor.data is not None and tensor.index in weights:
            spans += int(np.count_nonzero(tensor.data != after.tensors[tensor.index].data))
        elif tensor.data is not None:
            np.testing.assert_array_equal(tensor.data, after.tensors[tensor.index].data)
    assert sum(old != new for old, new in zip(data, pruned, strict=True)) == spans
    assert [layer.pruned for layer in layers] == [True, not rows, True]
    for layer in layers:
        if layer.pruned and not rows:
            assert layer.zeros_after == max(layer.zeros_before, round(layer.weights / 2))
        elif not layer.pruned:
            assert layer.zeros_after == layer.zeros_before


def test_the_compiler_skips_the_rows() -> None:
    data = _model(depthwise=False)
    total = compile_model(prune_model(data, load_graph(data), 0.25, LANES)[0], "small").report["weights_total"]
    before = compile_model(data, "small").report["weights_total"]
    assert before["rows_skipped"] == 0
    assert total["rows"] == before["rows"]
    assert total["rows_skipped"] == total["rows"] // 4
    assert total["weight_bytes"] < before["weight_bytes"]


def test_constants_that_share_their_bytes() -> None:
    data = _model()
    graph = load_graph(data)
    first, second = (graph.operators[index].inputs[1] for index in (0, 1))
    graph.tensors[second].data, graph.tensors[second].shape = graph.tensors[first].data, graph.tensors[first].shape
    zeros = np.zeros(graph.tensors[first].shape, np.int8)
    with pytest.raises(ModelError, match="shares its bytes"):
        replace_constants(data, graph, {first: zeros})
    assert replace_constants(data, graph, {first: zeros, second: zeros}) != data
    with pytest.raises(ValueError, match="not read from these bytes"):
        replace_constants(bytes(100), graph, {first: zeros})
    with pytest.raises(ValueError, match="can't become int8"):
        replace_constants(data, graph, {first: zeros[:1]})


# ---- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [False, True])
def test_what_is_written_and_said(tmp_path: Path, model: Path, rows: bool, capsys: pytest.CaptureFixture[str]) -> None:
    out, report, x = tmp_path / "pruned.tflite", tmp_path / "out.json", tmp_path / "x.npy"
    assert main(["prune", str(model), "--share", "0.5", *(["--rows"] if rows else []), "-o", str(out), "--preset",
                 "small", "--input", str(x), "--json", str(report)]) == 0
    value = json.loads(report.read_text())
    assert set(value) == {"model", "pruned", "preset", "granule", "share", "weights", "cycles_from", "before", "after",
                          "layers", "runs"}
    assert (value["granule"], value["cycles_from"]) == ("row" if rows else "weight", "golden model")
    old, new = run_oracle(model, [np.load(x)])[0], run_oracle(out, [np.load(x)])[0]
    steps = np.abs(old.astype(int) - new)
    (run,) = value["runs"]
    assert run == {"input": str(x), "max": steps.max(), "mean": pytest.approx(steps.mean()),
                   "largest_stays": bool(old.argmax() == new.argmax())}
    before, after = value["before"], value["after"]
    assert set(before) == {"weight_bytes", "bits_per_weight", "rows", "rows_skipped", "cycles", "zero_weights"}
    total = compile_model(out, "small").report["weights_total"]
    assert (after["weight_bytes"], after["rows_skipped"]) == (total["weight_bytes"], total["rows_skipped"])
    assert after["bits_per_weight"] == 8 * after["weight_bytes"] / value["weights"]
    assert after["weight_bytes"] < before["weight_bytes"]
    if rows:
        assert after["cycles"] < before["cycles"]
    said = capsys.readouterr().out
    assert f"{after['weight_bytes']:,}" in said
    assert ("1 layer without rows" in said) == rows
    assert "the largest element stays in" in said


def test_without_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "out.json"
    assert main(["prune", str(MODEL), "--share", "0.75", "--rows", "-o", str(tmp_path / "p.tflite"), "--preset",
                 "small", "--json", str(report)]) == 0
    value = json.loads(report.read_text())
    assert (value["cycles_from"], value["runs"]) == ("compiler", [])
    assert value["after"]["rows_skipped"] > 0.7 * value["after"]["rows"]
    assert "Outputs were not compared" in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "50", "half", "nan", "inf"])
def test_bad_shares(tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(MODEL), f"--share={share}", "-o", str(tmp_path / "p.tflite")])
    assert ended.value.code == 2
    assert f"must be above 0 and below 1, such as 0.5 for half, not '{share}'" in capsys.readouterr().err


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["prune", *map(str, arguments), "--share", "0.5", "--preset", "small"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("lacuna: error: ")
    return said


def test_refusals(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.tflite"
    assert "missing.tflite: the model file can't be read" in _refused(capsys, tmp_path / "missing.tflite", "-o", out)
    assert "is the model itself" in _refused(capsys, model, "-o", model)
    assert "there is no directory" in _refused(capsys, model, "-o", tmp_path / "no" / "p.tflite")
    assert "there is no such file" in _refused(capsys, model, "-o", out, "--input", tmp_path / "no.npy")
    plain, deep = tmp_path / "plain.tflite", tmp_path / "deep.tflite"
    plain.write_bytes(_model(depthwise=False, others=False))
    deep.write_bytes(_model(others=False))
    assert "no convolution or fully connected layer" in _refused(capsys, plain, "-o", out)
    assert "prune without --rows" in _refused(capsys, deep, "-o", out, "--rows")
    deep.write_bytes(deep.read_bytes()[:300])
    assert "deep.tflite" in _refused(capsys, deep, "-o", out)
    assert not out.exists()


@pytest.mark.skipif(not RESNET.exists(), reason="the shared models are not there")
def test_a_real_model(tmp_path: Path) -> None:
    """Half of the weights of every layer of ResNet-8."""
    data = RESNET.read_bytes()
    graph = load_graph(data)
    pruned, layers = prune_model(data, graph, 0.5)
    assert len(layers) == 10
    assert sum(layer.zeros_after for layer in layers) == pytest.approx(sum(layer.weights for layer in layers) / 2, 1e-2)
    x = np.random.default_rng(SEED).integers(-128, 128, (1, 32, 32, 3), dtype=np.int8)
    assert run_oracle(pruned, [x])[0].shape == run_oracle(data, [x])[0].shape
