"""The oracle: TFLite Micro in a process of its own."""

import os
import signal

import numpy as np
import pytest

from sw_driver import oracle
from sw_driver.graph import ModelError
from sw_driver.oracle import OracleError, run_oracle, run_oracle_tensors
from sw_driver.tflite.builder import TfliteBuilder


def chain():
    """x -> add -> softmax, with exact results: y = 2 x at the same scale."""
    builder = TfliteBuilder("chain")
    x = builder.add_input("x", (1, 4), scale=0.5)
    y = builder.add_add(x, x, scale=0.5, zero_point=0)
    builder.add_output(builder.add_softmax(y))
    builder.add_output(y)
    return builder.to_bytes()


X = np.array([[0, 1, -2, 30]], np.int8)


def test_outputs_in_the_models_order():
    softmax, doubled = run_oracle(chain(), [X])
    np.testing.assert_array_equal(doubled, 2 * X)
    np.testing.assert_array_equal(softmax, [[-128, -128, -128, 127]])


def test_a_file_and_names(tmp_path):
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain())
    for name in ("x", "input", "input_0"):
        np.testing.assert_array_equal(run_oracle(path, {name: X})[1], 2 * X)


def test_every_tensor():
    tensors = run_oracle_tensors(chain(), [X])
    assert sorted(tensors) == [0, 1, 2]
    np.testing.assert_array_equal(tensors[0], X)
    np.testing.assert_array_equal(tensors[1], 2 * X)
    np.testing.assert_array_equal(tensors[2], run_oracle(chain(), [X])[0])


def test_masks_are_bool():
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 2, 2, 3), scale=1.0)
    mask = builder.add_input("mask", (1, 2, 2, 1), "bool")
    builder.add_output(builder.add_select_v2(mask, builder.add_add(x, x, scale=1.0, zero_point=0), x))
    array = np.arange(12, dtype=np.int8).reshape(1, 2, 2, 3)
    active = np.array([1, 0, 0, 1], bool).reshape(1, 2, 2, 1)
    (output,) = run_oracle(builder.to_bytes(), {"mask": active, "x": array})
    np.testing.assert_array_equal(output, np.where(active, 2 * array, array))


@pytest.mark.parametrize(("inputs", "message"), [
    ([], "has 1 inputs, not 0: 'x'"),
    ({}, "no array for the model's input 'x'"),
    ({"y": X}, "has no input 'y'; its inputs are 'x'"),
    ([X[0]], r"Input 'x' must be int8 \(1, 4\), not int8 \(4,\)"),
    ([X.astype(np.uint8)], r"must be int8 \(1, 4\), not uint8"),
])
def test_inputs_that_do_not_match(inputs, message):
    with pytest.raises(OracleError, match=message):
        run_oracle(chain(), inputs)


def test_a_bad_file_never_reaches_the_interpreter():
    with pytest.raises(ModelError):
        run_oracle(chain()[:200], [X])


def test_what_tflite_micro_refuses_is_reported():
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 4), scale=0.5)
    y = builder.add_softmax(x)
    builder._tensors[y].quantization.zeroPoint = np.array([3])
    builder.add_output(y)
    with pytest.raises(OracleError, match=r"can't run this model.*softmax"):
        run_oracle(builder.to_bytes(), [X])
    run_oracle(chain(), [X])


def test_an_arena_too_small_is_enlarged(monkeypatch):
    monkeypatch.setattr(oracle, "_arena_bytes", lambda _graph: 500)
    np.testing.assert_array_equal(run_oracle(chain(), [X])[1], 2 * X)
    monkeypatch.setattr(oracle, "_arena_bytes", lambda _graph: 20)
    with pytest.raises(OracleError, match="TFLite Micro"):
        run_oracle(chain(), [X])


def test_a_dead_process_is_replaced():
    run_oracle(chain(), [X])
    process = oracle._WORKER._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    np.testing.assert_array_equal(run_oracle(chain(), [X])[1], 2 * X)
    second = oracle._WORKER._process
    assert second is not None
    oracle.close_oracle()
    assert second.poll() is not None
