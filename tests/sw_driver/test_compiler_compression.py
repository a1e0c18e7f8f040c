"""Which weights are compressed, with how many ways and whose table; what is in the image; what the report says."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode
from hw.contract.config import preset
from hw.contract.weight_decoding import decode_block
from hw.contract.weight_format import BlockHeader, TableKind, TileOrder
from sim.tokens import read_program
from sw_driver.compiler import compile_model
from sw_driver.compiler.compression import Lead, Part, compress
from sw_driver.opening import open_device
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED", "1"))
LARGE = preset("large")


def part(rng: np.random.Generator, blocks: int = 4, taps: int = 4, scale: float = 6.0, zero_rows: float = 0.0) -> Part:
    lanes = LARGE.lanes
    order = TileOrder(lanes, 1, blocks, taps, 2, lanes, lanes)
    tiles = np.clip(np.rint(rng.laplace(0, scale, (order.tiles, lanes, lanes))), -128, 127).astype(np.int8)
    tiles[:, :, 0] |= 1
    tiles[rng.random(tiles.shape[:2]) < zero_rows] = 0
    stored = np.asarray(tiles.any(axis=2))
    words = b"".join(tile[rows].tobytes() + bytes(lanes * (int(rows.sum()) & 1))
                     for tile, rows in zip(tiles, stored, strict=True))
    return Part(tuple((stored @ (1 << np.arange(lanes))).tolist()), words, order)


def test_commands_of_a_layer_share_a_table() -> None:
    """Their blocks can be loaded in order, again and again, whatever came before."""
    rng = np.random.default_rng(SEED)
    for zero_rows in (0.0, 0.5):
        parts = [part(rng, zero_rows=zero_rows) for _ in range(3)]
        blocks = compress(parts, None, Lead(LARGE), 1000.0)
        table = None
        for _round in range(2):
            for own, block in zip(parts, blocks, strict=True):
                assert block is not None
                tiles, table = decode_block(block.data, own.order, table)
                assert (tuple(tiles.maps), tiles.words) == (own.maps, own.words)
        assert [block.header.table is TableKind.PREVIOUS for block in blocks if block] == [False, True, True]
        assert compress(parts[:1], blocks[0].table if blocks[0] else None, Lead(LARGE), 1.0)[0] is not None


def test_ways_are_bought_where_they_save_time() -> None:
    rng = np.random.default_rng(SEED)
    own = part(rng, blocks=8, taps=9)
    (waited,) = compress([own], None, Lead(LARGE), 1000.0)
    lead = Lead(LARGE)
    lead.load(64, 0, 1e6)  # a long layer before it
    (prefetched,) = compress([own], None, lead, 1000.0)
    assert waited is not None and prefetched is not None
    assert waited.header.ways == LARGE.weight_ways
    assert prefetched.header.ways == 1
    assert len(prefetched.data) < len(waited.data)


def test_loading_does_not_run_further_ahead_than_the_store() -> None:
    lead = Lead(LARGE)
    lead.load(LARGE.weight_words // 2, 0, 1000.0)
    lead.load(LARGE.weight_words // 4, 0, 100.0)
    assert lead.available(LARGE.weight_words // 8) == 550
    assert lead.available(LARGE.weight_words // 2) == 50
    assert lead.available(LARGE.weight_words) == 0


def test_weights_without_structure_stay_as_they_are() -> None:
    rng = np.random.default_rng(SEED)
    own = part(rng, scale=1000.0)
    noise = np.frombuffer(own.words, np.int8).copy()
    noise[:] = rng.integers(-128, 128, noise.size)
    noise[::16] |= 1
    noise_part = Part(own.maps, noise.tobytes(), own.order)
    assert compress([noise_part], None, Lead(LARGE), 1000.0, with_maps=False) == [None]
    (block,) = compress([noise_part], None, Lead(LARGE), 1000.0)  # row maps are less in a block than as they are
    assert block is None or len(block.data) <= len(noise) * 1.005


@pytest.mark.parametrize("name", ["nano", "small"])
def test_both_modes_compute_the_same(name: str) -> None:
    config = preset(name)
    rng = np.random.default_rng([SEED, len(name)])
    seen = set()
    with open_device("golden", config) as device:
        for number in range(30):
            if number >= 6 and len(seen) > 1:
                break
            graph = random_graph(rng, "tiny", runs=1, fits=config, gated=number % 2 == 0)
            compressed, raw = (compile_model(graph.model, config, weights=mode) for mode in ("compressed", "raw"))
            one, other = (device.run(program, graph.inputs[0]).outputs for program in (compressed, raw))
            for output, values in one.items():
                np.testing.assert_array_equal(values, other[output])
            for command in read_program(compressed.image):
                if command.opcode is Opcode.LOAD and command.values["flags"] & Flag.COMPRESSED:
                    seen.add(BlockHeader.of(compressed.image[command.values["offset"] :]).table)
            assert not any(command.values["flags"] & Flag.COMPRESSED for command in read_program(raw.image)
                           if command.opcode is Opcode.LOAD)
    assert len(seen) > 1


def test_report() -> None:
    config = preset("small")
    graph = random_graph(np.random.default_rng(3), "tiny", runs=1, fits=config)
    report = compile_model(graph.model, config).report
    for entry in report["weights"]:
        assert entry["mode"] in ("compressed", "raw", "mixed")
        assert entry["bound_by"] in ("compute", "weights", "features")
        assert 0 <= entry["entropy_bytes"] <= entry["raw_bytes"]
        assert 0 <= entry["rows_skipped"] <= entry["rows"]
    assert report["weights_total"]["weight_bytes"] == sum(entry["weight_bytes"] for entry in report["weights"])
    assert {entry["layer"] for entry in report["weights"]} <= {entry["layer"] for entry in report["bounds"]}
    with pytest.raises(ValueError, match="weights must be one of compressed, raw, resident, not 'zip'"):
        compile_model(graph.model, config, weights="zip")
