"""The reciprocals that pools divide with, against TFLite's division, for every count and every critical sum."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hw.contract.config import preset
from hw.vector_engine.reciprocal import reciprocals, stored_bits


@pytest.mark.parametrize("pool_area", [16, 100, 256, 1024, 4096])
def test_division_is_exact(pool_area):
    config = dataclasses.replace(preset("nano"), pool_area=pool_area)
    quotients = np.arange(-129, 129, dtype=np.int64)
    for count, entry in enumerate(reciprocals(config), start=1):
        assert 0 <= entry < 1 << stored_bits(config)
        multiplier = (1 << stored_bits(config) | entry) << (30 - stored_bits(config))
        # The result changes only between neighbouring sums at half quotients.
        halves = (2 * quotients + 1) * count // 2
        sums = np.concatenate([halves + i for i in (-1, 0, 1, 2)])
        sums = np.unique(sums[(sums >= -128 * count) & (sums <= 127 * count)])
        away = np.where(sums > 0, sums + count // 2, sums - count // 2)
        expected = np.where(away >= 0, away // count, -(-away // count))

        shift = 30 + (count - 1).bit_length()
        assert ((sums * multiplier + (1 << shift - 1)) >> shift == expected).all(), f"count {count}"
