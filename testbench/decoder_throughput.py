"""How many weights per cycle the decoder makes: `python -m testbench.decoder_throughput`, the rows as JSON.

The component itself, in Amaranth's simulator, every word compared; `benchmarks` makes a table of it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from hw.contract.config import PRESETS, Config
from hw.contract.weight_decoding import Tiles
from hw.contract.weight_encoding import encode_block
from hw.contract.weight_format import TileOrder
from hw.weight_decoder.decoder import WeightDecoder, beat_units
from hw.weight_decoder.unit_window import BEAT_UNITS
from testbench.component_simulation import simulate

#: Of the weights.
SEED = 20

#: Standard deviations of normally distributed weights, and so that a weight is worth about 5 bits, and about 7.4.
SPREADS = (8.0, 42.0)

#: Cycles of decoding that a measured block takes at least, so that its header and states weigh little.
_CYCLES = 640


def _tiles(config: Config, spread: float) -> tuple[Tiles, TileOrder]:
    """Dense tiles, `_CYCLES` times as many weights as are decoded in a cycle."""
    lanes = config.lanes
    order = TileOrder(lanes, 1, 1, 1, -(-_CYCLES * config.weights_per_cycle // lanes**2), lanes, lanes)
    values = np.random.default_rng(SEED).normal(0, spread, (order.tiles, lanes, lanes))
    weights = np.clip(np.rint(values), -127, 127).astype(np.int8)
    weights[weights == 0] = 1  # every row is stored
    return Tiles([(1 << lanes) - 1] * order.tiles, weights.tobytes()), order


def _cycles(config: Config, blocks: list[bytes], order: TileOrder, every: int, wanted: Tiles) -> list[int]:
    """Cycles of each block, one after the other, a beat coming every so many cycles."""
    decoder: Any = WeightDecoder(config)
    size = 2 * beat_units(config)
    beats: list[int] = []
    words = bytearray()
    taken: list[int] = []

    async def feed(ctx) -> None:
        """Beats wait no longer than a cycle."""
        cycle = 0
        while True:
            offered = bool(beats) and cycle % every == 0
            ctx.set(decoder.beats.valid, offered)
            if offered:
                ctx.set(decoder.beats.payload, beats[0])
            *_, ready = await ctx.tick().sample(decoder.beats.ready)
            if offered and ready:
                beats.pop(0)
            if not offered or ready:
                cycle += 1

    async def collect(ctx) -> None:
        while True:
            *_, valid, payload = await ctx.tick().sample(decoder.word_valid, decoder.word)
            if valid:
                words.extend(int(payload).to_bytes(config.weight_word_bytes, "little"))

    async def decode(ctx) -> None:
        fields = decoder.block.payload
        for name in ("group", "output_blocks", "taps", "input_blocks", "last_rows", "last_outputs"):
            ctx.set(getattr(fields.order, name), getattr(order, name))
        for block in blocks:
            data = block + bytes(-len(block) % size)
            beats[:] = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
            ctx.set(fields.units, len(block) // 2)
            ctx.set(decoder.block.valid, 1)
            cycles = 0
            while True:
                *_, ready, failed = await ctx.tick().sample(decoder.block.ready, decoder.failed)
                cycles += 1
                assert not failed, f"{config.name}: the decoder refuses a good block"
                if ready:
                    break
            ctx.set(decoder.block.valid, 0)
            taken.append(cycles)
            assert words == wanted.words, f"{config.name}: the decoder's words are not those that were encoded"
            words.clear()

    simulate(decoder, decode, background=[feed, collect], cycles=20 * _CYCLES)
    return taken


def measure(config: Config, spread: float) -> list[Any]:
    """A row: name, ways, weights, bits of each; weights per cycle as fast as beats are taken, at a beat of the bus per
    cycle, and so with a table of its own."""
    tiles, order = _tiles(config, spread)
    own, table = encode_block(tiles.maps, tiles.words, order, config.weight_ways, math.inf)
    sharing, _table = encode_block(tiles.maps, tiles.words, order, config.weight_ways, math.inf, previous=table,
                                   only_previous=True)
    weights = len(tiles.words)
    bus = beat_units(config) // BEAT_UNITS
    fast = _cycles(config, [own, sharing], order, 1, tiles)
    slow = fast if bus == 1 else _cycles(config, [own, sharing], order, bus, tiles)
    return [config.name, config.weight_ways, weights, round(8 * len(sharing) / weights, 2),
            *(round(weights / cycles, 2) for cycles in (fast[1], slow[1], slow[0]))]


def main() -> None:
    """All presets; xlarge has the decoder of large."""
    print(json.dumps([measure(config, spread) for config in PRESETS.values() if config.name != "xlarge"
                      for spread in SPREADS]))


if __name__ == "__main__":
    main()
