"""Nearest-neighbour resizing: the indices are TFLite Micro's, the runs cover them, and the device agrees."""

import os

import numpy as np
import pytest

from sw_driver.compiler import compile_model
from sw_driver.compiler.nearest import nearest, runs
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder

SEED = int(os.environ.get("LACUNA_SEED", "1"))
MODES = [(False, False), (True, False), (False, True)]


def resizing(inputs, outputs, corners, half):
    b = TfliteBuilder("resize")
    x = b.add_input("x", (1, inputs, 2, 1), scale=1.0, zero_point=0)
    b.add_output(b.add_resize_nearest_neighbor(x, (outputs, 2), align_corners=corners, half_pixel_centers=half))
    return b.to_bytes()


@pytest.mark.parametrize(("corners", "half"), MODES)
def test_indices_are_those_of_tflite_micro(corners, half):
    print(f"LACUNA_SEED={SEED}")
    random = np.random.default_rng([SEED, corners, half])
    sizes = [(1, 1), (1, 7), (7, 1), (5, 8), (8, 5), (4, 12), (12, 4), (127, 100), (96, 127), (3, 100),
             *random.integers(1, 120, (60, 2)).tolist()]
    for inputs, outputs in sizes:
        x = np.repeat(np.arange(inputs, dtype=np.int8), 2).reshape(1, inputs, 2, 1)
        (found,) = run_oracle(resizing(inputs, outputs, corners, half), [x])
        wanted = nearest(inputs, outputs, align_corners=corners, half_pixel_centers=half)
        assert found[0, :, 0, 0].tolist() == wanted, f"{inputs} to {outputs}"
        covered = {run.first + run.step * i: run.source + run.stride * i for run in runs(wanted, inputs)
                   for i in range(run.count)}
        assert [covered[at] for at in range(outputs)] == wanted
        assert sum(run.count for run in runs(wanted, inputs)) == outputs


def test_whole_factors_take_as_many_runs():
    for factor in range(1, 6):
        indices = nearest(7, 7 * factor, align_corners=False, half_pixel_centers=False)
        assert [run[1:] for run in runs(indices, 7)] == [(factor, 0, 1, 7)] * factor


@pytest.mark.parametrize(("shape", "size", "corners", "half"), [
    ((5, 7), (8, 3), False, False), ((6, 6), (9, 15), False, True), ((4, 4), (7, 7), True, False),
    ((9, 8), (4, 4), False, False), ((3, 5), (1, 20), True, False)])
def test_the_golden_model_resizes_exactly(shape, size, corners, half):
    random = np.random.default_rng([SEED, *shape, *size])
    b = TfliteBuilder("resize")
    x = b.add_input("x", (1, *shape, 24), scale=0.5, zero_point=3)
    y = b.add_resize_nearest_neighbor(x, size, align_corners=corners, half_pixel_centers=half)
    y = b.add_unary("RELU", y, scale=0.5, zero_point=3)
    y = b.add_resize_nearest_neighbor(y, (11, 13), half_pixel_centers=half)
    b.add_output(y)
    values = random.integers(-128, 128, (1, *shape, 24), dtype=np.int8)
    with open_device("golden", "small") as device:
        result = device.run(compile_model(b.to_bytes(), "small"), {"x": values})
    assert np.array_equal(result.output, run_oracle(b.to_bytes(), [values])[0])
