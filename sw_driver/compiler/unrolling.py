"""The spatial unrolling of a convolution, by the cycle model; and its cut into commands that fit the weight store."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hw.contract.config import Config
from sim.cycle_model import expected
from sw_driver.compiler.errors import CapacityError
from sw_driver.compiler.layers import ConvLayer
from sw_driver.compiler.masks import Grain
from sw_driver.compiler.weights import WeightTiles

#: Densities of non-zero activations that a choice must do well at, with their weights. Very sparse inputs count
#: little, but enough to prefer an unrolling with slack in tiles and fetches where the others are as good.
DENSITIES = ((1.0, 0.2), (0.5, 0.4), (0.25, 0.3), (0.1, 0.1))

#: The same for gated layers: there, how few active pixels share the rows matters more.
GATED_DENSITIES = ((1.0, 0.2), (0.5, 0.5), (0.25, 0.3))

#: Shares of active pixels assumed for gated layers.
GATED_SHARES = (0.1, 0.25, 0.5)


def cost(layer: ConvLayer, tiles: WeightTiles, config: Config, output_blocks: int, unrolling: int) -> float:
    """Cycles of `output_blocks` of a layer's blocks, weighted over densities of activations and masks."""
    pixels = layer.output.height * layer.output.width
    lanes = ((layer.input_blocks - 1) * config.lanes + layer.last_lanes) / layer.input_blocks
    counts = [max(1, round(pixels * share)) for share in GATED_SHARES] if layer.mask else [pixels]
    return sum(
        weight * expected(config, pixels=count, kernel_tiles=tiles.tiles_per_block, output_blocks=output_blocks,
                          unrolling=unrolling, density=density, lanes_per_word=lanes,
                          weight_density=tiles.row_density, add=layer.add is not None)
        for count in counts for density, weight in (GATED_DENSITIES if layer.mask else DENSITIES)
    ) / len(counts)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Output blocks first_block .. first_block + blocks - 1, in one CONV command with `unrolling` (log2)."""

    first_block: int
    blocks: int
    unrolling: int


def choose_chunks(layer: ConvLayer, tiles: WeightTiles, config: Config, *, last: bool = False,
                  resident: bool = False) -> list[Chunk]:
    """Cut a layer into commands, with the unrolling of each. Where every block has a gate it has a command.

    A command's weights take at most half of the weight store, so that the next command's arrive meanwhile,
    unless one block alone needs more. Weights that are used once, and the last ones to arrive, take at most a
    quarter: what is computed when all are there is less. Resident weights are there in any case. Raises
    CapacityError when one block does not fit at all.
    """
    if layer.mask is not None and layer.mask.grain is Grain.BLOCK:
        if not all(_fits(tiles, first, 1, config, 1) for first in range(tiles.output_blocks)):
            raise _too_large(layer, tiles, config)
        return [Chunk(first, 1, 0) for first in range(tiles.output_blocks)]
    shares = (4, 2, 1) if last and layer.output.height * layer.output.width == 1 else (2, 1)
    if resident:
        shares = (1,)
    best: tuple[float, list[Chunk]] | None = None
    for unrolling in range(len(config.unrollings)):
        if 1 << unrolling > max(1, 2 * tiles.output_blocks - 1):
            break
        chunks = _cut(layer, tiles, config, unrolling, shares)
        if chunks is None:
            continue
        cycles = sum(cost(layer, tiles, config, chunk.blocks, unrolling) for chunk in chunks)
        if best is None or cycles < best[0]:
            best = cycles, chunks
    if best is None:
        raise _too_large(layer, tiles, config)
    return best[1]


def _cut(layer: ConvLayer, tiles: WeightTiles, config: Config, unrolling: int, shares: Sequence[int],
         ) -> list[Chunk] | None:
    """The fewest commands, each of whole groups of output blocks but the last; None where a group does not fit.

    shares : of the weight store that a command may take, the first one first."""
    group = 1 << unrolling
    for share in shares:
        chunks: list[Chunk] = []
        first = 0
        while first < tiles.output_blocks:
            count = 0
            while first + count < tiles.output_blocks and _fits(
                    tiles, first, min(count + group, tiles.output_blocks - first), config, share):
                count = min(count + group, tiles.output_blocks - first)
            if count == 0:
                break
            chunks.append(Chunk(first, count, unrolling))
            first += count
        else:
            return chunks
    return None


def _fits(tiles: WeightTiles, first: int, count: int, config: Config, share: int) -> bool:
    return (tiles.words(first, count) <= config.weight_words // share
            and tiles.map_entries(count) <= config.map_entries // share
            and tiles.parameter_entries(count) <= config.parameter_entries // share)


def _too_large(layer: ConvLayer, tiles: WeightTiles, config: Config) -> CapacityError:
    words = int(tiles.block_words.max())
    if words > config.weight_words:
        return CapacityError(f"{layer}: the weights of {config.lanes} output channels take "
                             f"{words * config.weight_word_bytes} bytes, the weight store has {config.weight_bytes}")
    return CapacityError(f"{layer}: {config.lanes} output channels have {tiles.tiles_per_block} tiles of weights, "
                         f"the map memory has {config.weight_maps} row maps")
