"""Bytes of compressed weights beside their entropy and other codecs: python -m benchmarks.weight_bytes [MODEL ...]

Everything that a block takes is counted: header, table, row maps, check value, padding. Arm's codec is
`ethos_u_vela`'s mlw_codec; `make bench-weights` installs it.
"""

# Arm's codec comes with the extra `codecs` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import SHARED_MODELS
from benchmarks.tables import Section
from hw.contract.config import PRESETS, Config, preset
from hw.contract.layouts import blocks
from hw.contract.weight_decoding import Tiles, decode
from hw.contract.weight_encoding import encode
from hw.contract.weight_format import TileOrder
from sw_driver.compiler.channel_folding import fold_channels
from sw_driver.compiler.program import compile_model
from sw_driver.graph import Graph
from sw_driver.tflite.reader import load_graph

try:
    from ethosu import mlw_codec
except ImportError:
    mlw_codec = None

#: Operators with weights.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

#: Models that are measured pruned, too.
PRUNED = ("ic", "ad")


def layers(graph: Graph) -> Iterator[tuple[str, np.ndarray]]:
    """Operator and int8 weights, as in the file, of each layer."""
    for operator in graph.operators:
        weights = graph.tensors[operator.inputs[1]].data if operator.op in WEIGHTED else None
        if weights is not None and weights.dtype == np.int8:
            yield operator.op, weights


def prune(weights: np.ndarray, share: float) -> np.ndarray:
    """Without the `share` of weights of the smallest magnitude."""
    pruned = weights.copy().reshape(-1)
    smallest = np.argsort(np.abs(pruned.astype(np.int16)), kind="stable")
    pruned[smallest[: round(share * pruned.size)]] = 0
    return pruned.reshape(weights.shape)


def tiles(op: str, weights: np.ndarray, packed: bool, lanes: int) -> tuple[Tiles, TileOrder]:
    """A layer's tiles, one output block after the other. Depthwise: a row is a tap of the kernel."""
    if op == "DEPTHWISE_CONV_2D":
        values = weights.reshape(-1, weights.shape[-1]).T[:, None, :]
    elif op == "FULLY_CONNECTED":
        values = weights[:, None, :]
    else:
        values = weights.reshape(len(weights), weights.shape[1] if packed else -1,
                                 weights.shape[2] * weights.shape[3] if packed else weights.shape[3])
    outputs, taps, inputs = values.shape
    output_blocks, input_blocks = blocks(outputs, lanes), blocks(inputs, lanes)
    order = TileOrder(lanes, 1, output_blocks, taps, input_blocks, inputs - (input_blocks - 1) * lanes,
                      outputs - (output_blocks - 1) * lanes)
    padded = np.zeros((output_blocks * lanes, taps, input_blocks * lanes), np.int8)
    padded[:outputs, :, :inputs] = values
    split = padded.reshape(output_blocks, lanes, taps, input_blocks, lanes).transpose(0, 2, 3, 4, 1)
    maps, words = [], bytearray()
    for tile in split.reshape(-1, lanes, lanes):
        stored = tile.any(axis=1)
        maps.append(sum(1 << int(row) for row in np.flatnonzero(stored)))
        words += tile[stored].tobytes() + bytes(lanes * (int(stored.sum()) & 1))
    return Tiles(maps, bytes(words)), order


def entropy_bytes(weights: np.ndarray) -> float:
    """Order-0 entropy of a layer."""
    _values, counts = np.unique(weights, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def huffman_bytes(weights: np.ndarray) -> float:
    """A canonical Huffman code of a layer: the weights, and four bits for the length of each value's code."""
    _values, counts = np.unique(weights, return_counts=True)
    heap = [int(count) for count in counts]
    heapq.heapify(heap)
    bits = 0 if len(heap) > 1 else weights.size
    while len(heap) > 1:
        total = heapq.heappop(heap) + heapq.heappop(heap)
        bits += total
        heapq.heappush(heap, total)
    return bits / 8 + 128


def measure(name: str, model: list[tuple[str, np.ndarray]], config: Config, image: int | None = None) -> list[Any]:
    """A row of the table. image : weight bytes of the compiled program."""
    raw = sum(weights.size for _op, weights in model)
    entropy = sum(entropy_bytes(weights) for _op, weights in model)
    huffman = sum(min(weights.size, huffman_bytes(weights)) for _op, weights in model)
    ours = 0
    for index, (op, weights) in enumerate(model):
        packed = index == 0 and op == "CONV_2D" and weights.shape[3] < config.lanes
        content, order = tiles(op, weights, packed, config.lanes)
        # What reads each weight once waits for them: more states are worth their bytes there.
        share = 0.01 if op == "FULLY_CONNECTED" else 0.003
        block = encode(content.maps, content.words, order, config.weight_ways, share)
        assert decode(block, order) == content
        ours += len(block)
    ours += -ours % 8
    arm = "-" if mlw_codec is None else sum(
        len(mlw_codec.encode([int(value) for value in weights.reshape(-1)])) for _op, weights in model)
    return [name, raw, round(entropy), ours, f"{ours / entropy:.4f}", f"{8 * ours / raw:.3f}",
            "-" if image is None else image, round(huffman), arm]


def weight_bytes(config: Config, models: Sequence[Path], progress: Callable[[str], None]) -> Section:
    """Bytes of these models; of MLPerf Tiny's IC and AD also pruned, of models that folding makes smaller also so."""
    rows = []
    for path in models:
        name = path.parent.name if SHARED_MODELS in path.parents else path.stem
        progress(name)
        graph = load_graph(path)
        model = list(layers(graph))
        folded = list(layers(fold_channels(graph, config.lanes).graph))
        smaller = sum(weights.size for _op, weights in folded) < sum(weights.size for _op, weights in model)
        totals = compile_model(path, config).report["weights_total"]
        rows.append(measure(name, model, config, None if smaller else totals["weight_bytes"]))
        if smaller:
            rows.append(measure(f"{name}, folded", folded, config, totals["weight_bytes"]))
        if name in PRUNED:
            rows += [measure(f"{name}, {share:.0%} pruned", [(op, prune(weights, share)) for op, weights in model],
                             config) for share in (0.5, 0.75)]
    return Section(
        "weight_bytes", f"Compressed weights ({config.name})",
        "Bytes. Entropy: of order 0, layer by layer, over all weights of the layer. Ours: every block with header, "
        "table, row maps, check value and padding, with as many states as cost little; in the image: what the "
        "compiler makes of it, which spends bytes where weights would be waited for. Huffman: canonical, with 4 bits "
        "for the length of each value's code. Arm mlw: mlw_codec of ethos-u-vela. Pruned: by magnitude, per layer. "
        "Folded: without channels that are constant or that nobody reads.",
        ["model", "raw", "entropy", "ours", "ours / entropy", "bits per weight", "in the image", "Huffman", "Arm mlw"],
        rows)


def shared_models() -> list[Path]:
    """The MLPerf Tiny models that lie beside the project."""
    return sorted(SHARED_MODELS.glob("*/*.tflite"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_bytes",
                                     description="Bytes of compressed weights beside their entropy and other codecs.")
    parser.add_argument("models", nargs="*", type=Path, help="TFLite files; the MLPerf Tiny models if none is given")
    parser.add_argument("--preset", choices=list(PRESETS), default="large")
    options = parser.parse_args()
    print(weight_bytes(preset(options.preset), options.models or shared_models(), lambda name: None).markdown())


if __name__ == "__main__":
    main()
