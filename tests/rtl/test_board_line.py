"""The simulated board top, its UART pins on a pseudo-terminal, driven by the unchanged driver through pyserial."""

from __future__ import annotations

import collections
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lacuna
from hw.contract.config import PRESETS
from sw_driver.command_line import main
from sw_driver.device import Device
from sw_driver.links.link import LinkError
from sw_driver.links.uart import TRIES, UartLink, open_uart
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from testbench.board_line import KINDS, FaultyLine, SimulatedBoard

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("LACUNA_SEED", "1"))
NANO = PRESETS["nano"]
DIGITS = ROOT / "models" / "digits.tflite"
DIGIT = ROOT / "models" / "digits_inputs" / "digit_3.png"

#: Faults to inject into the line; `make faults` injects 200.
FAULTS = int(os.environ.get("LACUNA_LINE_FAULTS", "24"))


@pytest.fixture(scope="module")
def board() -> Iterator[SimulatedBoard]:
    with SimulatedBoard(NANO) as simulated:
        yield simulated


@pytest.fixture
def rng() -> np.random.Generator:
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng(SEED)


def small_model(rng: np.random.Generator) -> bytes:
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 6, 7, 3), scale=0.05, zero_point=3)
    weights = rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    builder.add_output(builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3))
    return builder.to_bytes()


class Job:
    """A program, and inputs with the outputs that TFLite Micro has for them."""

    def __init__(self, model: bytes, rng: np.random.Generator, count: int = 3):
        self.program = lacuna.compile(model, preset="nano")
        shape = self.program.inputs[0].shape
        self.inputs = [rng.integers(-128, 128, shape).astype(np.int8) for _ in range(count)]
        self.outputs = [run_oracle(model, [array]) for array in self.inputs]

    def check(self, device: Device, number: int) -> None:
        """Run it; the outputs must be exact."""
        which = number % len(self.inputs)
        result = device.run(self.program, self.inputs[which])
        for got, want in zip(result.outputs.values(), self.outputs[which], strict=True):
            assert np.array_equal(got, want), f"a wrong result in run {number}"


def test_the_command_line(board: SimulatedBoard, tmp_path: Path) -> None:
    """The shipped model through `lacuna run`; it compares with TFLite Micro."""
    out = tmp_path / "out.json"
    assert main(["run", str(DIGITS), "--input", str(DIGIT), "--preset", "nano", "--device", f"uart:{board.path}",
                 "--json", str(out)]) == 0
    value = json.loads(out.read_text())
    (run,) = value["runs"]
    assert run["exact"] is True
    assert int(np.argmax(run["outputs"][0])) == 3


def test_faults_on_the_line(board: SimulatedBoard, rng: np.random.Generator) -> None:
    """Bytes dropped, flipped or repeated, in both directions, in the middle of everything that the driver does.

    Every result is exact or there is none, with an error that says why. A third of the faults at least hit runs of
    the shipped model, its image on the way to the board included.
    """
    jobs = {"small": Job(small_model(rng), rng), "digits": Job(DIGITS.read_bytes(), rng)}
    hit: collections.Counter[str] = collections.Counter()
    runs = 0
    link: UartLink | None = None
    with FaultyLine(board.path, rng, lambda: link.retries if link else 0) as line:
        while len(line.faults) < FAULTS:
            name = "digits" if runs % 2 == 0 or hit["digits"] < len(line.faults) / 3 else "small"
            before = len(line.faults)
            line.limit = 0  # until there is a link that counts
            try:
                link = open_uart(line.path)
                with Device(link, NANO) as device:
                    line.limit = FAULTS
                    for number in range(2):
                        jobs[name].check(device, runs + number)
            except LinkError as error:
                if "No answer to" not in str(error):
                    raise
                line.settle("error")
            runs += 1
            hit[name] += len(line.faults) - before
        line.settle("none")
    outcomes = collections.Counter(fault.outcome for fault in line.faults)
    print(f"{len(line.faults)} faults in {2 * runs} runs ({dict(hit)}): {dict(outcomes)}")
    for kind in KINDS:
        for to_board in (True, False):
            found = [fault.outcome for fault in line.faults if (fault.kind, fault.to_board) == (kind, to_board)]
            print(f"  {kind:<9}{'to' if to_board else 'from'} the board: {dict(collections.Counter(found))}")
    assert hit["digits"] >= FAULTS / 3
    assert outcomes["retried"] > FAULTS / 2
    assert {(fault.kind, fault.to_board) for fault in line.faults} == {(k, d) for k in KINDS for d in (True, False)}


def test_a_cable_that_is_pulled(board: SimulatedBoard, rng: np.random.Generator) -> None:
    """In the middle of a run: an error that says so; plugged in again, the next run is exact."""
    job = Job(small_model(rng), rng)
    with FaultyLine(board.path, rng) as line:
        device = Device(open_uart(line.path), NANO)
        job.check(device, 0)
        line.cut = True
        started = time.monotonic()
        with pytest.raises(LinkError, match=rf"No answer to \w+ over {line.path} in {TRIES} tries; check the cable"):
            job.check(device, 1)
        assert time.monotonic() - started < 30
        line.cut = False
        with Device(open_uart(line.path), NANO) as device:
            job.check(device, 1)
        device = Device(open_uart(line.path), NANO)
    with pytest.raises(LinkError, match=r"failed: .*; is its cable plugged in\?"):
        job.check(device, 2)
    with Device(open_uart(board.path), NANO) as device:
        job.check(device, 2)
