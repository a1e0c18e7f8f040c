"""Programs for slow memories: as exact, in fewer commands where these cost more than overlap gains."""

from __future__ import annotations

import numpy as np
import pytest

import lacuna
from models.digits_data import as_input, load_samples
from sim.tokens import read_program
from sw_driver.command_line import main
from sw_driver.compiler.program import Options
from sw_driver.oracle import run_oracle

MODEL = "models/digits.tflite"


@pytest.mark.parametrize("weights", ["compressed", "resident"])
def test_slow_memories(weights: str) -> None:
    """The same outputs. The slower memory is, the longer a run is expected to take, and the fewer commands it has."""
    x = as_input(load_samples()[1].images[:1])
    programs = [lacuna.compile(MODEL, preset="large", weights=weights, bandwidth=bandwidth)
                for bandwidth in (8, 1, 0.125)]
    (wanted,) = run_oracle(MODEL, [x])
    with lacuna.open("golden", "large") as device:
        for program in programs:
            np.testing.assert_array_equal(device.run(program, x).output, wanted)
    expected = [program.report["expected_cycles"] for program in programs]
    assert expected == sorted(expected)
    counts = [len(read_program(program.image)) for program in programs]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    assert [program.report["bandwidth"] for program in programs] == [8, 1, 0.125]
    moved = [64 * count for count in counts]
    assert expected[-1] > 8 * moved[-1]  # records alone


def test_what_a_memory_can_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    for bandwidth in (0, 16, 3, -1):
        with pytest.raises(ValueError, match="bandwidth must be 8 / n for a whole number n"):
            Options(bandwidth=bandwidth)
    with pytest.raises(SystemExit) as ended:
        main(["compile", MODEL, "--bandwidth", "3"])
    assert ended.value.code == 2
    assert "must be 8 / n" in capsys.readouterr().err
    assert main(["compile", MODEL, "--bandwidth", "0.5"]) == 0
