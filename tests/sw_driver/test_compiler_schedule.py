"""Tokens, judged by reasoning that shares nothing with the scheduler: exhaustive simulation of engines and queues."""

import os

import numpy as np
import pytest

from hw.contract.commands import Engine, Opcode, Space
from sw_driver.compiler.instructions import Instruction, Region
from sw_driver.compiler.schedule import dependencies, program_order, set_tokens

SEED = int(os.environ.get("LACUNA_SEED", "1"))
SIZE = 64


def random_instructions(rng, count):
    result = []
    for _ in range(count):
        opcode = Opcode(rng.choice([Opcode.LOAD, Opcode.LOAD, Opcode.CONV, Opcode.CONV, Opcode.ADD, Opcode.STORE]))
        regions = [Region(rng.choice([Space.FEATURE, Space.WEIGHT]), int(rng.integers(SIZE)),
                          int(rng.integers(1, SIZE // 2)), SIZE) for _ in range(rng.integers(1, 4))]
        cut = int(rng.integers(len(regions) + 1))
        result.append(Instruction(opcode, {}, regions[:cut], regions[cut:]))
    return result


def touched(regions):
    return {(region.memory, (region.first + i) % SIZE) for region in regions for i in range(region.count)}


def conflicts(a, b):
    return touched(a.writes) & touched(b.reads + b.writes) or touched(a.reads) & touched(b.writes)


def simulate(program, durations, queue_depth):
    """Start and end of every command on four engines fed in order through queues; raises when nothing can go on."""
    tokens = {(p, c): 0 for p in Engine for c in Engine}
    queues = {engine: [] for engine in Engine}
    running = {}
    spans = {}
    dispatched = time = 0
    while len(spans) < len(program) or running:
        progress = True
        while progress:
            progress = False
            if dispatched < len(program) and len(queues[program[dispatched].engine]) < queue_depth:
                queues[program[dispatched].engine].append(dispatched)
                dispatched += 1
                progress = True
            for engine, queue in queues.items():
                if engine in running or not queue:
                    continue
                values = program[queue[0]].values
                waits = {p: values.get(f"wait_{p.name.lower()}", 0) for p in Engine}
                if all(tokens[p, engine] >= waits[p] for p in Engine):
                    for p in Engine:
                        tokens[p, engine] -= waits[p]
                    index = queue.pop(0)
                    running[engine] = index
                    spans[index] = (time, time + durations[index])
                    progress = True
        assert running, f"nothing can go on after {len(spans)} of {len(program)} commands"
        time = min(spans[index][1] for index in running.values())
        for engine in [engine for engine, index in running.items() if spans[index][1] == time]:
            index = running.pop(engine)
            for consumer in Engine:
                tokens[engine, consumer] += program[index].values["signal"] >> consumer & 1
    assert not any(tokens.values()), "tokens are left over"
    return spans


@pytest.mark.parametrize("case", range(12))
def test_conflicting_commands_never_overlap(case):
    rng = np.random.default_rng([SEED, case])
    print(f"LACUNA_SEED={SEED}")
    instructions = random_instructions(rng, 40)
    before = dependencies(instructions)
    order = program_order(instructions, before, rng.integers(1, 60, len(instructions)).tolist())
    assert sorted(order) == list(range(len(instructions)))
    for engine in Engine:
        own = [i for i in order if instructions[i].engine is engine]
        assert own == sorted(own), "an engine's order changed"
    program = [instructions[i] for i in order]
    position = {i: at for at, i in enumerate(order)}
    set_tokens(program, [sorted(position[j] for j in before[i]) for i in order])
    pairs = [(i, j) for j in range(len(program)) for i in range(len(program))
             if order[i] < order[j] and conflicts(program[i], program[j])]
    for _ in range(6):
        durations = rng.choice([1, 5, 50], len(program)).tolist()
        spans = simulate(program, durations, int(rng.choice([1, 4])))
        for i, j in pairs:
            assert spans[i][1] <= spans[j][0], f"{j} starts before {i} is complete"


def test_tokens_that_follow_from_others_are_left_out():
    """STORE waits for CONV, which waited for LOAD: no token from LOAD to STORE."""
    region = Region(Space.FEATURE, 0, 8, SIZE)
    load = Instruction(Opcode.LOAD, {}, [], [region])
    conv = Instruction(Opcode.CONV, {}, [region], [region])
    store = Instruction(Opcode.STORE, {}, [region], [])
    program = [load, conv, store]
    set_tokens(program, [[], [0], [0, 1]])
    assert load.values["signal"] == 1 << Engine.CONV
    assert conv.values["signal"] == 1 << Engine.STORE
    assert store.values.get("wait_load", 0) == 0 and store.values["wait_conv"] == 1


def test_a_region_wraps_around_the_memory():
    assert list(Region(Space.WEIGHT, 60, 8, 64).intervals()) == [(60, 64), (0, 4)]
    assert list(Region(Space.WEIGHT, 0, 64, 64).intervals()) == [(0, 64)]
