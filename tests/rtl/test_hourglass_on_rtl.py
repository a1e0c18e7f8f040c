"""The hourglass on the RTL: encoder, decoder, decisions and gated blocks of both kinds, exact."""

from __future__ import annotations

import numpy as np
import pytest

from sw_driver.compiler import compile_model
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from testbench.hourglass import Hourglass

pytestmark = pytest.mark.rtl


def test_hourglass() -> None:
    rng = np.random.default_rng(8)
    model = Hourglass(rng, size=16, channels=8, level=20).to_bytes()
    inputs = {"image": rng.integers(-128, 128, (1, 16, 16, 3)).astype(np.int8)}
    with open_device("rtl", "small") as device:
        result = device.run(compile_model(model, "small"), inputs)
    np.testing.assert_array_equal(result.output, run_oracle(model, inputs)[0])
    assert sum(layer.gated for layer in result.layers)
