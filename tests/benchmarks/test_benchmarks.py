"""The benchmarks' own models are what they say, and their figures come out of exact runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import dynamic as dynamic_module, measuring
from benchmarks.__main__ import SECTIONS
from benchmarks.area import with_submodules
from benchmarks.dynamic import dynamic
from benchmarks.layers import cut_out, random_mask, short_name, synthetic
from benchmarks.measuring import DIGITS, Bench, NotExact
from benchmarks.plots import plot
from benchmarks.report import ORDER, write_report
from benchmarks.tables import Section
from models.scenes_network import UNGATED
from sw_driver.inputs import load_input
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle, run_oracle_tensors
from sw_driver.tflite.reader import load_graph


@pytest.mark.parametrize("zeros", [0.0, 0.25, 0.9])
def test_a_synthetic_layer_has_exactly_the_zeros_asked_for(zeros: float) -> None:
    layer = synthetic((8, 8, 16), 16, 3, zeros, np.random.default_rng(1))
    assert np.count_nonzero(layer.activations == layer.zero_point) == round(zeros * 8 * 8 * 16)
    assert np.all(layer.weights != 0)
    assert layer.macs == 8 * 8 * 16 * 16 * 9


@pytest.mark.parametrize(("density", "active"), [(1.0, 64), (0.5, 32), (0.1, 6), (0.001, 1)])
def test_a_random_mask_has_exactly_its_density(density: float, active: int) -> None:
    assert random_mask((1, 8, 8, 1), density, np.random.default_rng(2)).sum() == active


def test_a_layer_cut_out_of_a_network_computes_what_it_did_there() -> None:
    graph = load_graph(DIGITS)
    file = next((DIGITS.parent / "digits_inputs").iterdir())
    tensors = run_oracle_tensors(DIGITS, [load_input(file, graph.tensors[graph.inputs[0]])])
    convolutions = [operator for operator in graph.operators if operator.op == "CONV_2D"]
    for operator in convolutions:
        layer = cut_out(graph, operator, tensors)
        (found,) = run_oracle(layer.model(), {"x": layer.activations})
        assert np.array_equal(found, tensors[operator.outputs[0]])
        assert layer.macs == found.size * layer.weights[0].size


def test_figures_come_from_exact_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = synthetic((8, 8, 16), 16, 3, 0.5, np.random.default_rng(3))
    with open_device("golden", "small") as device:
        bench = Bench(device, lambda _text: None)
        found, density = bench.gated(layer, 0.25, "gated")
        assert density == 0.25
        assert found.gated == layer.macs * 3 // 4
        assert bench.convolution(layer, "plain").macs == layer.macs
        monkeypatch.setattr(measuring, "run_oracle", lambda *_: [np.zeros((1, 8, 8, 16), np.int8)])
        with pytest.raises(NotExact, match="plain"):
            bench.convolution(layer, "plain")


def test_a_masked_run_is_another_mask_each_time() -> None:
    layer = synthetic((8, 8, 16), 16, 3, 0.0, np.random.default_rng(3))
    with open_device("golden", "small") as device:
        bench = Bench(device, lambda _text: None)
        runs = [bench.gated(layer, 0.25, "gated", number)[0] for number in range(4)]
    assert len({run.macs_issued for run in runs}) > 1
    assert {run.gated for run in runs} == {layer.macs * 3 // 4}


def test_output_shapes() -> None:
    layer = synthetic((9, 7, 16), 8, 3, 0.0, np.random.default_rng(3))
    assert layer.output_shape == (1, 9, 7, 8)
    assert dataclasses.replace(layer, padding="VALID").output_shape == (1, 7, 5, 8)
    strided = dataclasses.replace(layer, padding="VALID", stride=(2, 3))
    assert strided.output_shape == (1, 4, 2, 8)
    assert strided.macs == 4 * 2 * layer.weights.size


@pytest.mark.parametrize(("name", "short"), [
    ("model/activation_1/Relu;model/conv2d/Conv2D", "activation_1"),
    ("model/batch_normalization_2/FusedBatchNormV3;model/conv2d_2/BiasAdd", "batch_normalization_2"),
    ("model/dense/MatMul", "dense"), ("convolution", "convolution")])
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short


def test_a_section_as_markdown_and_json() -> None:
    section = Section("key", "Title", "What it means.", ["layer", "cycles"], [["a", 1234], ["b", 0.5]])
    assert "| a | 1,234 |\n| b | 0.500 |" in section.markdown()
    assert Section.from_json("key", section.json()) == section


def test_a_report_keeps_the_sections_that_were_not_measured_again(tmp_path: Path) -> None:
    first, second = (Section(key, f"Title {number}", "note", ["x"], [[number]]) for number, key in enumerate(ORDER[:2]))
    for section in (second, first, dataclasses.replace(second, rows=[[7]])):
        write_report(tmp_path, section)
    page = (tmp_path / "results.md").read_text()
    assert page.index("## Title 0") < page.index("## Title 1")
    assert "| 0 |" in page
    assert "| 7 |" in page
    assert "| 1 |" not in page


def test_every_section_of_the_command_has_its_place_on_the_page() -> None:
    assert {*SECTIONS, "area"} == set(ORDER)


def test_cells_of_submodules_count_in_the_whole() -> None:
    own = {"top": {"LUT4": 1, "top.a": 2, "top.b": 1}, "top.a": {"LUT4": 3, "top.b": 1}, "top.b": {"FF": 5}}
    assert with_submodules(own)["top"] == {"LUT4": 7, "FF": 15}


def test_the_figure_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs the extra `bench`")
    sections = {
        "zero_activations": Section("", "", "", [], [["a", "random", "50%", 0.9], ["b", "real", "3%", 1.0]]),
        "decision_masks": Section("", "", "", [], [["0.5", 16, 100, 1.01, 0.98]]),
    }
    for name in ("first.svg", "second.svg"):
        plot(sections, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_the_dynamic_section_compares_with_the_network_without_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module, "NETWORKS", dict.fromkeys((UNGATED, "gated_10")))
    with open_device("golden", "large") as device:
        section = dynamic(Bench(device, lambda _text: None), held_out=4, on_device=2)
    dense, gated = (dict(zip(section.header, row, strict=True)) for row in section.rows)
    assert dense["fewer MACs"] == dense["fewer cycles"] == dense["ratio"] == 1
    assert dense["active %"] == 100
    assert gated["MACs"] < dense["MACs"] / 3
    assert gated["cycles"] < dense["cycles"] / 3
    assert gated["ratio"] == pytest.approx(gated["fewer cycles"] / gated["fewer MACs"], abs=0.01)
