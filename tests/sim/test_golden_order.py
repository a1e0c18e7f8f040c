"""Programs in every order that their tokens allow: the hazard check and the results must agree.

A real device interleaves the engines as its timing happens to be. Here compiled programs are executed command by
command in random legal orders. What passes the hazard check gives the same results in all of them, also after
tokens were taken out of the program; and most tokens can't be taken out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest

from hw.contract.commands import ENGINE_OF, Engine, Flag, Opcode, Space
from hw.contract.config import Config, preset
from hw.contract.image import Program
from hw.contract.layouts import align
from hw.contract.registers import Window
from sim.golden import HazardError, check_hazards
from sim.golden.model import give_tokens, take_tokens
from sim.tokens import WAIT_FIELD, Command, TokenError, read_program
from sw_driver.compiler import CapacityError, compile_model
from sw_driver.device import Device
from sw_driver.links.golden import GoldenLink
from sw_driver.tensor_layouts import result_array
from testbench.random_graphs import random_graph

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))

#: Graphs for each preset; orders tried for each program; programs made from it by leaving out a token.
GRAPHS, ORDERS, MUTANTS = 10, 3, 8


def legal_order(rng: np.random.Generator, commands: Sequence[Command]) -> list[Command]:
    """The commands in a random order that the tokens allow; each engine's stay in program order."""
    waiting = {engine: [command for command in commands if ENGINE_OF[command.opcode] is engine] for engine in Engine}
    tokens = {(producer, consumer): 0 for producer in Engine for consumer in Engine}
    order: list[Command] = []
    while any(waiting.values()):
        able = [queue for queue in waiting.values() if queue and all(
            tokens[producer, queue[0].engine] >= queue[0].values[WAIT_FIELD[producer]] for producer in Engine)]
        command = able[int(rng.integers(len(able)))].pop(0)
        take_tokens(command, tokens)
        give_tokens(command, tokens)
        order.append(command)
    return order


def results(link: GoldenLink, program: Program) -> list[list[int]]:
    """The elements of each result."""
    base = link.golden.windows.windows[Window.OUTPUT].base
    return [result_array(result, link.read_memory(base + result.offset, align(result.length, 8)),
                         link.config.lanes).reshape(-1).tolist() for result in program.results]


def run_in_order(rng: np.random.Generator, link: GoldenLink, commands: Sequence[Command],
                 program: Program) -> list[list[int]]:
    """Results after the commands in this order, from memories full of noise."""
    for entries in link.golden.memory.entries.values():
        entries[:] = rng.integers(0, 256, entries.shape)
    # Shifts and multipliers out of range would be noise that no program loads.
    link.golden.memory.entries[Space.PARAMETER][:] = 0
    for command in commands:
        link.golden.execute(command)
    return results(link, program)


def without_one_token(rng: np.random.Generator, commands: Sequence[Command]) -> list[Command] | None:
    """The commands, one of them waiting for one token less; None where nobody waits."""
    places = [(i, field) for i, command in enumerate(commands) for field in WAIT_FIELD.values()
              if command.values[field]]
    if not places:
        return None
    i, field = places[int(rng.integers(len(places)))]
    changed = list(commands)
    values = {**commands[i].values, field: commands[i].values[field] - 1}
    changed[i] = Command(commands[i].index, commands[i].opcode, values)
    return changed


@pytest.mark.parametrize("config", [preset("nano"), preset("small"), preset("medium")], ids=lambda config: config.name)
def test_legal_orders_give_the_same_results(config: Config) -> None:
    print(f"LACUNA_SEED={SEED}")
    found = unordered = 0
    for number in range(GRAPHS):
        rng = np.random.default_rng([SEED, config.lanes, number])
        graph = random_graph(rng, "tiny")
        try:
            program = compile_model(graph.model, config, stripes=(None, 2, 3)[number % 3])
        except CapacityError:
            continue
        link = GoldenLink(config)
        with Device(link, config) as device:
            device.run(program, graph.inputs[0])
            expected = results(link, program)
            commands = read_program(program.image)
            check_hazards(commands, config, program.image)
            for i, command in enumerate(commands):
                if command.opcode is Opcode.CONV and command.values["flags"] & Flag.ORDERED:
                    values = {**command.values, "flags": command.values["flags"] & ~Flag.ORDERED}
                    mutant = [*commands[:i], Command(command.index, command.opcode, values), *commands[i + 1 :]]
                    try:
                        check_hazards(mutant, config, program.image)
                    except HazardError as error:
                        unordered += "because it is not ORDERED" in str(error)
            for _ in range(ORDERS):
                assert run_in_order(rng, link, legal_order(rng, commands), program) == expected, f"graph {number}"
            for _ in range(MUTANTS):
                mutant = without_one_token(rng, commands)
                if mutant is None:
                    break
                try:
                    check_hazards(mutant, config, program.image)
                except (HazardError, TokenError):
                    found += 1
                    continue
                for _ in range(ORDERS):
                    order = legal_order(rng, mutant)
                    assert run_in_order(rng, link, order, program) == expected, (
                        f"graph {number}: the hazard check passes, but the order "
                        f"{[command.index for command in order]} gives other results")
    assert found, "no token was needed in any program"
    assert unordered, "no convolution was ORDERED in any program"
