"""Where an ECP5's multipliers and block RAMs go, before anything else is placed.

nextpnr's placers move all cells as if they could lie anywhere, and find sites for the few that can't at the end: the
multipliers of one row of the conv engine then lie across the whole FPGA, and what belongs to each follows. Here they
get their sites first.

How much two hard blocks belong together is read from the netlist as from a network of resistors: each net is a node,
tied to the cells on it; each hard block is held at a potential, and what flows between two of them through all of the
soft logic is their affinity. It is the exact cost, in quadratic wire length, of a placement in which the soft logic
has found its best places (a Schur complement; Kleinhans et al., GORDIAN, 1991). Annealing (Kirkpatrick et al., 1983)
then swaps sites until affinity times Manhattan distance is small.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

#: Cell types that get sites, in the order in which they are annealed.
HARD = ("MULT18X18D", "DP16KD")

#: Nets with more pins say little about where something belongs.
PINS_MAX = 64

#: Steps of relaxation: how many cells away a hard block is felt.
RELAXATIONS = 40

#: Times that the annealing begins anew; the best result is taken.
ATTEMPTS = 4

#: Swaps that are tried for each site.
SWAPS = 16000

#: The temperature falls to this part of its beginning.
COLD = 1e-4


def netlist_of_sites(counts: dict[str, int]) -> dict[str, Any]:
    """A netlist of nothing but so many hard blocks, in Yosys's JSON: placed, it names the sites of an FPGA."""
    cells = {f"{kind}_{i}": {"hide_name": 0, "type": kind, "parameters": {}, "attributes": {}, "port_directions": {},
                             "connections": {}}
             for kind, count in counts.items() for i in range(count)}
    return {"modules": {"sites": {"attributes": {"top": f"{1:032b}"}, "ports": {}, "cells": cells, "netnames": {}}}}


def sites_of(placed: dict[str, Any]) -> dict[str, list[str]]:
    """The sites (BELs) of each kind of hard block, from the netlist that nextpnr wrote of `netlist_of_sites`."""
    (module,) = placed["modules"].values()
    found: dict[str, list[str]] = {kind: [] for kind in HARD}
    for cell in module["cells"].values():
        if cell["type"] in found:
            found[cell["type"]].append(cell["attributes"]["NEXTPNR_BEL"])
    return {kind: sorted(sites, key=_place) for kind, sites in found.items()}


def _place(site: str) -> tuple[int, int]:
    """Column and row of a site."""
    match = re.match(r"X(\d+)/Y(\d+)/", site)
    if match is None:
        raise ValueError(f"A site is named X<column>/Y<row>/<kind>, not {site!r}")
    return int(match[1]), int(match[2])


def affinity(module: dict[str, Any], hard: list[str]) -> np.ndarray:
    """What flows between each two cells of `hard` through the others of a flat netlist, at a unit of potential.

    Returns (n, n) float64, symmetric, zero on the diagonal. A net of p pins ties each of its cells to it with
    p / (p - 1), so that a net of two is a wire of 1.
    """
    from scipy import sparse  # only builds need it, and say so where it is missing

    number = {name: i for i, name in enumerate(module["cells"])}
    pins: dict[int, set[int]] = {}
    for name, cell in module["cells"].items():
        for bits in cell["connections"].values():
            for bit in bits:
                if isinstance(bit, int):
                    pins.setdefault(bit, set()).add(number[name])
    nets = [sorted(cells) for cells in pins.values() if 2 <= len(cells) <= PINS_MAX]
    sizes = np.array([len(net) for net in nets], dtype=np.int64)
    ties = np.repeat(sizes / (sizes - 1), sizes).astype(np.float32)
    shape = (len(nets), len(number))
    joined = sparse.csr_array(
        (ties, np.array([i for net in nets for i in net], dtype=np.int64), np.concatenate(([0], np.cumsum(sizes)))),
        shape=shape)
    of_net, of_cell = (np.asarray(joined.sum(axis=axis), dtype=np.float32) for axis in (1, 0))
    net_mean = sparse.diags_array(1 / of_net) @ joined
    cell_mean = (sparse.diags_array(1 / np.where(of_cell == 0, 1, of_cell)) @ joined.T).tocsr()

    held = np.array([number[name] for name in hard], dtype=np.int64)
    potential = np.zeros((len(number), len(hard)), dtype=np.float32)
    unit = np.eye(len(hard), dtype=np.float32)
    potential[held] = unit
    for _ in range(RELAXATIONS):
        potential = cell_mean @ (net_mean @ potential)
        potential[held] = unit
    flow = np.asarray(joined.T.tocsr()[held] @ (net_mean @ potential), dtype=np.float64)
    flow = (flow + flow.T) / 2
    np.fill_diagonal(flow, 0)
    return flow


def anneal(weights: np.ndarray, distances: np.ndarray, kinds: list[range], seed: int) -> np.ndarray:
    """Which site each block takes: a permutation with little `weights` times `distances`.

    weights : (n, n) between blocks, symmetric, zero on the diagonal; a row of zeros is a site left empty.
    distances : (n, n) between sites. kinds : blocks and sites that may be swapped. Returns (n,) int64.
    """
    random = np.random.default_rng(seed)
    site = np.arange(len(weights))
    for kind in kinds:
        site[kind.start:kind.stop] = random.permutation(np.arange(kind.start, kind.stop))
    block = np.argsort(site)  # of each site
    nearest = {kind.start: np.argsort(distances[kind.start:kind.stop, kind.start:kind.stop], axis=1, kind="stable")
               for kind in kinds}
    of_site = [kind for kind in kinds for _ in kind]
    steps = SWAPS * len(weights)
    temperature = (weights * distances[np.ix_(site, site)]).sum() / 2 / max(1, len(weights))
    cooling = COLD ** (1 / max(1, steps))
    for step in range(steps):
        if step % 4096 == 0:
            picks = random.random((4096, 3))
        first, second, chance = picks[step % 4096]
        a = int(first * len(weights))
        kind = of_site[a]
        reach = max(4, int(len(kind) * (1 - step / steps)))  # ever shorter ways
        b = kind.start + int(nearest[kind.start][a - kind.start, min(len(kind) - 1, 1 + int(second * reach))])
        i, j = block[a], block[b]
        pull = weights[i] - weights[j]
        pull[i] = pull[j] = 0
        change = pull @ (distances[b] - distances[a])[site]
        if change <= 0 or chance < math.exp(-change / temperature):
            block[a], block[b], site[i], site[j] = j, i, b, a
        temperature *= cooling
    return site


def floorplan(module: dict[str, Any], sites: dict[str, list[str]]) -> int:
    """Give the hard blocks of `module`, flat and mapped to ECP5 cells as Yosys's JSON has it, their sites as `BEL`.

    Returns how many got one: none if an FPGA with `sites` has too few of them, which nextpnr then says.
    """
    by_kind = {kind: [name for name, cell in module["cells"].items() if cell["type"] == kind] for kind in HARD}
    if any(len(by_kind[kind]) > len(sites[kind]) for kind in HARD):
        return 0
    hard = [name for kind in HARD for name in by_kind[kind]]
    if len(hard) < 2:
        return 0
    kinds: list[range] = []
    numbers: list[int] = []  # of the hard blocks, among all sites
    for kind in HARD:
        start = kinds[-1].stop if kinds else 0
        kinds.append(range(start, start + len(sites[kind])))
        numbers.extend(kinds[-1][:len(by_kind[kind])])
    names = [site for kind in HARD for site in sites[kind]]
    places = np.array([_place(site) for site in names], dtype=np.float64)
    distances = np.abs(places[:, None] - places[None]).sum(axis=2)
    weights = np.zeros_like(distances)
    weights[np.ix_(numbers, numbers)] = affinity(module, hard)
    attempts = [anneal(weights, distances, [kind for kind in kinds if kind], seed) for seed in range(ATTEMPTS)]
    taken = min(attempts, key=lambda site: (weights * distances[np.ix_(site, site)]).sum())
    for name, number in zip(hard, numbers, strict=True):
        module["cells"][name]["attributes"]["BEL"] = names[taken[number]]
    return len(hard)
