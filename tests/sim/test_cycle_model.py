"""The cycle model: bounds that the engine's structure sets, the two ways in agree."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, cast

import numpy as np
import pytest

from hw.contract.commands import Opcode
from hw.contract.config import Config, preset
from hw.contract.layouts import feature_bank
from sim import cycle_model
from sim.cycle_model import ConvWork, convolution, expected

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))


@pytest.fixture
def rng(request):
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng([SEED, *request.node.name.encode()])


def random_work(rng, config: Config, height: int, width: int, input_blocks: int, output_blocks: int, kernel: int,
                unrolling: int, density: float, active: float = 1.0, row_density: float = 1.0) -> ConvWork:
    """A SAME convolution, stride 1, on random activations; `active` is the share of pixels in its random mask."""
    around = kernel // 2
    inside = np.zeros((height + kernel - 1, width + kernel - 1), bool)
    inside[around : around + height, around : around + width] = True
    nonzero = (rng.random((*inside.shape, input_blocks, config.lanes)) < density) & inside[:, :, None, None]
    words = np.arange(inside.size * input_blocks).reshape(*inside.shape, input_blocks)
    banks = np.asarray(1 << feature_bank(cast(Any, words), config.feature_banks))
    pixels = np.sort(rng.choice(height * width, round(height * width * active), replace=False))
    y, x = np.divmod(pixels, width)
    taps = [(y + ky, x + kx) for ky in range(kernel) for kx in range(kernel)]
    tiles = np.concatenate([nonzero[tap] for tap in taps], axis=1)  # [pixels, kernel tiles, lanes]
    maps = rng.random((tiles.shape[1], config.lanes, output_blocks)) < row_density
    return ConvWork(
        issue=np.einsum("ntl,tlo->nto", tiles.astype(np.float32), maps.astype(np.float32)).astype(np.int64),
        banks=np.concatenate([np.where(inside[tap][:, None], banks[tap], 0) for tap in taps], axis=1),
        tile_rows=maps.sum(axis=1), unrolling=unrolling)


def utilisation(work: ConvWork, config: Config) -> float:
    """Weight rows multiplied per row and cycle."""
    return float(work.issue.sum()) / config.rows / convolution(work, config)


@pytest.mark.parametrize("density", [1.0, 0.75, 0.5, 0.25])
def test_skipping_is_nearly_free(rng, density):
    """The figures that the design promises for a 16x16x64 -> 64 layer."""
    config = preset("large")
    best = max(utilisation(random_work(rng, config, 16, 16, 4, 4, 3, unrolling, density), config)
               for unrolling in range(3))
    assert (0.93 if density >= 0.5 else 0.88) <= best < 1


@pytest.mark.parametrize("active", [0.75, 0.5, 0.25, 0.1])
def test_masks_save_what_they_switch_off(rng, active):
    config = preset("large")
    dense = random_work(rng, config, 16, 16, 4, 4, 3, 2, 0.5)
    masked = random_work(rng, config, 16, 16, 4, 4, 3, 2, 0.5, active=active)
    share = len(masked.issue) / len(dense.issue)
    assert convolution(dense, config) * share / convolution(masked, config) >= (0.93 if active >= 0.25 else 0.87)


def test_no_active_pixel_takes_only_the_overhead(rng):
    config = preset("small")
    assert convolution(random_work(rng, config, 4, 4, 1, 1, 3, 0, 0.5, active=0), config) < 50


@pytest.mark.parametrize("name", ["small", "medium", "large", "xlarge"])
def test_expected_is_near_what_activations_give(rng, name):
    config = preset(name)
    for height, width, input_blocks, output_blocks, kernel in ((16, 16, 2, 2, 3), (8, 8, 4, 4, 3), (25, 5, 4, 4, 1)):
        for density in (1.0, 0.5, 0.25):
            for unrolling in range(min(len(config.unrollings), output_blocks.bit_length())):
                work = random_work(rng, config, height, width, input_blocks, output_blocks, kernel, unrolling, density)
                shape = {"pixels": height * width, "kernel_tiles": kernel * kernel * input_blocks,
                         "output_blocks": output_blocks, "unrolling": unrolling}
                guess = expected(config, pixels=height * width, kernel_tiles=shape["kernel_tiles"],
                                 output_blocks=output_blocks, unrolling=unrolling, density=density,
                                 words_per_tap=float((work.banks != 0).mean()))
                assert guess == pytest.approx(convolution(work, config), rel=0.2), (name, shape, density)


def test_bounds_of_loader_fetch_and_drain(rng):
    config = preset("large")
    # One pixel: every tile must be loaded, 8 words each, whatever the activations.
    loads = random_work(rng, config, 1, 1, 8, 8, 1, 3, 0.1)
    assert convolution(loads, config) >= 8 * 8 * 8
    # Without stored rows a tile still takes a cycle.
    empty = random_work(rng, config, 1, 1, 8, 8, 1, 3, 0.5, row_density=0)
    assert 8 * 8 <= convolution(empty, config) < convolution(loads, config) / 2
    # Zero activations must still be fetched, two a cycle, a few of them from the same bank.
    zeros = random_work(rng, config, 16, 16, 4, 1, 3, 0, 0)
    assert 256 * 36 / 2 <= convolution(zeros, config) < 256 * 36 / 2 * 1.25
    # A pointwise layer with few channels is bound by the drain: lanes / Q cycles for a pixel's block.
    drained = random_work(rng, config, 32, 32, 1, 1, 1, 0, 0.1)
    assert 2 * 1024 <= convolution(drained, config) < 2 * 1024 * 1.1


def test_depthwise_lines_take_turns_of_lanes():
    config = dataclasses.replace(preset("large"), depthwise_lanes=16)
    fewer = dataclasses.replace(config, depthwise_lanes=4)
    assert cycle_model.depthwise(300, 100, fewer) - cycle_model.depthwise(300, 100, config) == 3 * 300
    # With one line per word, requantisation takes longer: two cycles.
    halves = dataclasses.replace(config, depthwise_lanes=8)
    assert cycle_model.depthwise(100, 100, halves) == cycle_model.depthwise(100, 100, config)


def test_expected_command_covers_every_opcode():
    config = preset("small")
    shape = {"flags": 0, "space": 0, "output_rows": 4, "output_width": 4, "output_blocks": 2, "kernel_height": 3,
             "kernel_width": 3, "stride_x": 1, "dilation_y": 1, "dilation_x": 1, "input_height": 4, "input_width": 4,
             "input_blocks": 2, "last_lanes": 8, "unrolling": 0, "length": 800}
    cycles = {opcode: cycle_model.expected_command(opcode, shape, config) for opcode in Opcode
              if opcode not in (Opcode.BEGIN, Opcode.END)}
    assert cycles[Opcode.LOAD] >= 100
    assert cycles[Opcode.AVERAGE_POOL] >= 4 * 4 * 2 * 9
    assert cycles[Opcode.CONV] > cycles[Opcode.ADD] > 0
