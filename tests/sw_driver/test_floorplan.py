"""Sites of multipliers and block RAMs: affinities by hand, the annealer on puzzles with known answers, netlists."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest

from sw_driver.boards.floorplan import HARD, affinity, anneal, floorplan, netlist_of_sites, sites_of


def seeded() -> np.random.Generator:
    seed = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed)


def module_of(nets: list[list[str]], kinds: dict[str, str] | None = None) -> dict[str, Any]:
    """A flat netlist: each net by the cells on it; a cell is soft unless `kinds` says what it is."""
    names = sorted({name for net in nets for name in net})
    cells = {name: {"type": (kinds or {}).get(name, "LUT4"), "attributes": {}, "connections": {
        f"P{i}": [i + 2] for i, net in enumerate(nets) if name in net}} for name in names}
    return {"cells": cells, "ports": {}, "netnames": {}}


def test_affinity_is_what_flows_through_resistors() -> None:
    """Nets of two are wires of 1: a chain of n is 1/n; two chains side by side add up; a dead end takes nothing."""
    module = module_of([["a", "x"], ["x", "b"], ["x", "dead"], ["b", "y"], ["y", "z"], ["z", "c"], ["b", "w"],
                        ["w", "c"]])
    found = affinity(module, ["a", "b", "c"])
    assert found == pytest.approx(found.T)
    assert found[0, 1] == pytest.approx(1 / 2, rel=1e-3)
    assert found[1, 2] == pytest.approx(1 / 3 + 1 / 2, rel=1e-3)
    assert found[0, 2] == pytest.approx(0, abs=1e-6)
    assert np.diag(found) == pytest.approx(0)


def test_a_net_of_three_is_a_star() -> None:
    """Three arms of 3/2 to a node: 1/2 between each two."""
    found = affinity(module_of([["a", "b", "c"]]), ["a", "b", "c"])
    assert found == pytest.approx((np.ones((3, 3)) - np.eye(3)) / 2)


def test_nets_with_many_pins_say_nothing() -> None:
    many = [f"u{i}" for i in range(100)]
    found = affinity(module_of([["a", "b", *many], ["a", "s"], ["s", "b"]]), ["a", "b"])
    assert found[0, 1] == pytest.approx(1 / 2, rel=1e-3)


def test_annealing_finds_the_best_of_all_orders() -> None:
    """A chain in any order onto sites in a line, against all permutations."""
    rng = seeded()
    for seed in range(3):
        order = rng.permutation(6)
        weights = np.zeros((6, 6))
        for left, right in itertools.pairwise(order):
            weights[left, right] = weights[right, left] = rng.integers(1, 9)
        distances = np.abs(np.arange(6.0)[:, None] - np.arange(6.0))
        site = anneal(weights, distances, [range(6)], seed)
        best = min((weights * distances[np.ix_(p, p)]).sum() for p in itertools.permutations(range(6)))
        assert sorted(site) == list(range(6))
        assert (weights * distances[np.ix_(site, site)]).sum() == best


def test_kinds_keep_to_their_sites() -> None:
    rng = seeded()
    weights = rng.random((12, 12))
    weights = np.triu(weights, 1) + np.triu(weights, 1).T
    places = rng.random((12, 2))
    distances = np.abs(places[:, None] - places).sum(axis=2)
    site = anneal(weights, distances, [range(5), range(5, 12)], 1)
    assert set(site[:5]) == set(range(5))
    assert set(site[5:]) == set(range(5, 12))


def placed_sites(counts: dict[str, int]) -> dict[str, Any]:
    """As nextpnr would: sites of a kind in rows of four, a row of each in turn."""
    netlist = netlist_of_sites(counts)
    for name, cell in netlist["modules"]["sites"]["cells"].items():
        kind, i = cell["type"], int(name.rpartition("_")[2])
        row = 2 * (i // 4) + (kind == HARD[1])
        cell["attributes"]["NEXTPNR_BEL"] = f"X{i % 4 * 10}/Y{row * 10}/{kind}_{i}"
    return netlist


def test_clusters_lie_together() -> None:
    """Four clusters of two multipliers and two block RAMs, shuffled among each other: each gets neighbouring sites."""
    rng = seeded()
    kinds = {f"{kind[0]}{cluster}{i}": kind for kind in HARD for cluster in range(4) for i in range(2)}
    names = sorted(kinds, key=lambda _: rng.random())
    nets = [[name, f"soft{name[1]}"] for name in names for _ in range(3)] + [["soft0", "soft1"], ["soft2", "soft3"]]
    module = module_of(nets, kinds)
    module["cells"] = {name: module["cells"][name] for name in sorted(module["cells"], key=lambda _: rng.random())}
    sites = sites_of(placed_sites({HARD[0]: 8, HARD[1]: 8}))
    assert floorplan(module, sites) == 16
    taken = {name: module["cells"][name]["attributes"]["BEL"] for name in kinds}
    assert len(set(taken.values())) == 16
    for name, kind in kinds.items():
        assert taken[name] in sites[kind]
    assert all("BEL" not in cell["attributes"] for name, cell in module["cells"].items() if name not in kinds)
    for cluster in range(4):
        places = [[int(part[1:]) for part in taken[name].split("/")[:2]] for name in kinds if name[1] == str(cluster)]
        assert np.ptp(places, axis=0).sum() <= 30  # of 60: two columns, four rows at most


def test_too_many_are_left_to_the_placer() -> None:
    module = module_of([["m0", "m1"]], {"m0": HARD[0], "m1": HARD[0]})
    assert floorplan(module, sites_of(placed_sites({HARD[0]: 1, HARD[1]: 4}))) == 0
    assert all(not cell["attributes"] for cell in module["cells"].values())
    assert floorplan(module_of([["x", "y"]]), sites_of(placed_sites({HARD[0]: 4, HARD[1]: 4}))) == 0


def test_a_site_without_a_place() -> None:
    cell = {"type": HARD[0], "attributes": {"NEXTPNR_BEL": "somewhere"}}
    with pytest.raises(ValueError, match="X<column>/Y<row>/<kind>, not 'somewhere'"):
        sites_of({"modules": {"sites": {"cells": {"m": cell}}}})
