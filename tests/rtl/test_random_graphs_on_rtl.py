"""Random graphs on the RTL and on the golden model: outputs, counters of every command, the whole feature memory.

Before each graph every on-chip memory is filled with random bytes; external memory has a latency, a bandwidth and
stalls of its own for each. LACUNA_SEED=<seed>, which a failure tells, draws the same graphs again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from hw.contract.config import Config, preset
from hw.contract.image import Program
from sw_driver.compiler import CapacityError, compile_model
from sw_driver.device import Device
from sw_driver.links.rtl import RtlLink, open_rtl
from sw_driver.opening import open_device
from sw_driver.result import RunResult
from testbench.hand_made_programs import filling_program, reading_program
from testbench.random_graphs import RandomGraph, random_graph

pytestmark = pytest.mark.rtl

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))

#: Graphs of each size, per preset.
GRAPHS = {"nano": ["tiny"] * 20, "small": ["tiny"] * 14 + ["small"] * 6}

#: Share of pixels that decision masks switch on, in turn.
DENSITIES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)

#: Stripes that layers are cut into, in turn; None: as the compiler thinks best.
STRIPES = (None, 2, 3, 5, None, 4, 7)

#: Fields of a record that depend on time.
TIMED = {"start", "end", "stalled", "stalled_fetch", "stalled_weight", "stalled_drain"}


class Pair(NamedTuple):
    """The same device twice."""

    config: Config
    rtl: Device
    golden: Device
    link: RtlLink


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, Pair]]:
    """Devices opened so far, by preset: a simulator serves all graphs of its preset."""
    opened: dict[str, Pair] = {}
    yield opened
    for pair in opened.values():
        pair.rtl.close()
        pair.golden.close()


def pair_of(pairs: dict[str, Pair], name: str) -> Pair:
    if name not in pairs:
        config = preset(name)
        link = open_rtl(config)
        pairs[name] = Pair(config, Device(link, config), open_device("golden", config), link)
    return pairs[name]


def draw(rng: np.random.Generator, config: Config, size: str, number: int) -> tuple[RandomGraph, Program]:
    """A graph that compiles: every second one gated, every third one with all its tensors as outputs."""
    while True:
        graph = random_graph(rng, size, runs=2, fits=config, gated=number % 2 == 0, all_outputs=number % 3 == 0)
        try:
            return graph, compile_model(graph.model, config, stripes=STRIPES[number % len(STRIPES)])
        except CapacityError:
            continue


def set_memory(link: RtlLink, rng: np.random.Generator) -> dict[str, float]:
    """Give external memory a random behaviour; returns it."""
    options = {"latency": int(rng.choice([2, 7, 20, 100])), "bandwidth": float(rng.choice([8, 8, 4, 2, 1])),
               "stall_seed": int(rng.integers(1, 1 << 32)) if rng.random() < 0.8 else 0}
    link.configure(**options)
    return options


def differences(rtl: RunResult, golden: RunResult) -> list[str]:
    """What is not equal between two runs, but for time."""
    found = []
    for name, want in golden.outputs.items():
        got = rtl.outputs[name]
        if got.shape != want.shape or not np.array_equal(got, want):
            found.append(f"output {name!r}: {np.count_nonzero(got != want)} of {want.size} values")
    got_records, want_records = ({record["command"]: record for record in run.records} for run in (rtl, golden))
    if got_records.keys() != want_records.keys():
        found.append(f"records of commands {sorted(got_records)}, not {sorted(want_records)}")
        return found
    for command, want in want_records.items():
        for name in want.keys() - TIMED:
            if got_records[command][name] != want[name]:
                found.append(f"command {command} (opcode {want['opcode']:#x}): {name} is "
                             f"{got_records[command][name]}, not {want[name]}")
    return found


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, sizes in GRAPHS.items() for n in range(len(sizes))])
def test_random_graph(pairs: dict[str, Pair], name: str, number: int) -> None:
    pair = pair_of(pairs, name)
    rng = np.random.default_rng([SEED, list(GRAPHS).index(name), number])
    graph, program = draw(rng, pair.config, GRAPHS[name][number], number)
    options = set_memory(pair.link, rng)
    replay = f"LACUNA_SEED={SEED} test_random_graph[{name}-{number}], memory {options}"
    print(replay)
    filling, reading = filling_program(pair.config, rng), reading_program(pair.config)
    for inputs in graph.inputs:
        density = DENSITIES[(number // 2 + len(inputs)) % len(DENSITIES)]
        for array in inputs.values():
            if array.dtype == bool and rng.random() < 0.7:
                array[:] = rng.random(array.shape) < density
        for device in (pair.rtl, pair.golden):
            device.run(filling, {})
        found = differences(pair.rtl.run(program, inputs), pair.golden.run(program, inputs))
        got, want = (device.run(reading, {}).output for device in (pair.rtl, pair.golden))
        words = np.flatnonzero((got != want).any(axis=1))
        if len(words):
            found.append(f"feature memory: {len(words)} words, the first {words[:5].tolist()}")
        assert not found, f"{replay}:\n" + "\n".join(found[:10])
