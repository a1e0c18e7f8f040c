"""Random TFLite graphs of every operator the device supports, with inputs: the same seed, the same graph.

    model, runs = random_graph(np.random.default_rng(seed), "tiny")
    for inputs in runs: ...                      # {input name: array}

Graphs are built of motifs: single convolutions and pools, residual blocks, gated branches (SELECT_V2), chains of
fully connected layers. Quantisation is drawn so that most values stay inside int8, with rare extremes on purpose.
Accumulators never overflow int32, where TFLite's kernels are undefined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hw.contract.config import Config
from testbench.planted_channels import PlantedGenerator
from testbench.random_motifs import GraphGenerator, GraphSize

SIZES = {
    "tiny": GraphSize(side=9, channels=20, motifs=3, macs=60_000),
    "small": GraphSize(side=20, channels=40, motifs=5, macs=600_000),
    "medium": GraphSize(side=32, channels=64, motifs=8, macs=4_000_000),
}

#: Weights of a layer, in bytes, where the caller sets no limit.
_WEIGHTS_MAX = 1 << 20


class RandomGraph(NamedTuple):
    """A model and inputs for it.

    Parameters
    ----------
    model : the TFLite file.
    inputs : for each run, an array for each graph input, by its name.
    """

    model: bytes
    inputs: list[dict[str, np.ndarray]]


def random_graph(rng: np.random.Generator, size: str | GraphSize = "tiny", *, runs: int = 1,
                 max_macs: int | None = None, max_weights: int | None = None, fits: Config | None = None,
                 gated: bool | None = None, reshape_channels: bool = False,
                 all_outputs: bool = False, planted: bool = False) -> RandomGraph:
    """A random graph, determined by the generator's state and the arguments.

    Parameters
    ----------
    size : 'tiny', 'small', 'medium', or own bounds.
    runs : input sets to draw.
    max_macs : multiply-accumulates of the whole graph at most; by default the size's.
    max_weights : weights (bytes) of each layer at most.
    fits : a configuration for which no layer is too large: its weight and map memories hold the tiles of any one
        block of output channels, its mask memory four decision masks.
    gated : True: at least one SELECT_V2; False: none; None: either.
    reshape_channels : also RESHAPEs between feature maps that move elements to other channels.
    all_outputs : every tensor that an operator makes is a graph output.
    planted : many channels are constant, or read by nobody (`planted_channels`).
    """
    bounds = SIZES[size] if isinstance(size, str) else size
    limit = bounds.macs if max_macs is None else max_macs
    weights = max_weights or _WEIGHTS_MAX
    lanes = fits.lanes if fits else 1
    while True:
        generator = PlantedGenerator if planted else GraphGenerator
        graph = generator(rng, bounds, max_macs=limit, max_weights=weights, reshape_channels=reshape_channels,
                          lanes=lanes)
        graph.grow(gated, all_outputs)
        if graph.macs <= limit and graph.largest_weights <= weights and (fits is None or _fits(graph, fits)):
            return RandomGraph(graph.builder.to_bytes(), [graph.random_inputs() for _ in range(runs)])


def _fits(graph: GraphGenerator, config: Config) -> bool:
    return (graph.largest_tiles <= min(config.weight_maps, config.weight_bytes // config.lanes**2)
            and 4 * graph.largest_mask <= config.mask_words)
