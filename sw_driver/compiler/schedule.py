"""Which command must wait for which, the order of the program, and the tokens that hold it together."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from hw.contract.commands import Engine, Flag, Opcode
from sw_driver.compiler.instructions import Instruction, Memory

#: A command goes into the program when the one so many places before it on its engine is expected to start: far
#: enough ahead to be in the engine's queue in time, and never so far that it fills the queue of another engine.
LOOK_AHEAD = 2


def dependencies(instructions: Sequence[Instruction]) -> list[list[int]]:
    """For each instruction, the earlier ones of other engines that touch the same memory, if either writes it.

    The instructions are in an order in which they could run one after the other.
    """
    accesses: dict[Memory, list[tuple[int, int, int, bool]]] = {}
    result: list[list[int]] = []
    for index, instruction in enumerate(instructions):
        before: set[int] = set()
        for regions, writing in ((instruction.reads, False), (instruction.writes, True)):
            for region in regions:
                known = accesses.setdefault(region.memory, [])
                for first, end in region.intervals():
                    before.update(j for a, b, j, wrote in known if a < end and first < b and (writing or wrote))
                    if writing:
                        # What this write covers is ordered before it: later conflicts are with this write.
                        known[:] = [old for old in known if not (first <= old[0] and old[1] <= end and old[2] != index)]
                    known.append((first, end, index, writing))
        before.discard(index)
        result.append(sorted(j for j in before if instructions[j].engine != instruction.engine))
    return result


def program_order(instructions: Sequence[Instruction], before: Sequence[Sequence[int]],
                  cycles: Sequence[int]) -> list[int]:
    """Indices of the instructions in the order of the program: as they are expected to start, a little ahead.

    Every engine keeps its order, and everything stays after what it depends on. `cycles` are those that each
    instruction is expected to take.
    """
    starts, ends = [0.0] * len(instructions), [0.0] * len(instructions)
    on_engine: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    keys: list[float] = []
    for i, instruction in enumerate(instructions):
        queue = on_engine[instruction.engine]
        starts[i] = max([ends[j] for j in before[i]] + ([ends[queue[-1]]] if queue else []), default=0.0)
        ends[i] = starts[i] + cycles[i]
        keys.append(starts[queue[-LOOK_AHEAD]] if len(queue) >= LOOK_AHEAD else 0.0)
        queue.append(i)
    waiting = [len(before[i]) for i in range(len(instructions))]
    after: list[list[int]] = [[] for _ in instructions]
    for i in range(len(instructions)):
        for j in before[i]:
            after[j].append(i)
    for queue in on_engine.values():
        for previous, following in itertools.pairwise(queue):
            after[previous].append(following)
            waiting[following] += 1
    ready = [(keys[i], i) for i in range(len(instructions)) if not waiting[i]]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _key, i = heapq.heappop(ready)
        order.append(i)
        for j in after[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, (keys[j], j))
    return order


def set_order(instructions: Sequence[Instruction]) -> None:
    """Set ORDERED where a convolution reads what the one before it on its engine writes; in program order."""
    convolutions = [instruction for instruction in instructions if instruction.opcode is Opcode.CONV]
    for before, instruction in itertools.pairwise(convolutions):
        assert instruction.fetches is not None
        if any(written.meets(instruction.fetches) for written in before.writes):
            instruction.values["flags"] |= Flag.ORDERED


def set_tokens(instructions: Sequence[Instruction], before: Sequence[Sequence[int]]) -> None:
    """Set `signal` and `wait_*`: one token for each dependency that does not follow from others.

    `instructions` are in program order, `before` holds positions in it. A vector clock tells what each command
    knows complete when it starts; a dependency that it knows of needs no token. Tokens of a pair of engines
    are taken in the order in which they are given, because the positions waited for only grow.
    """
    clocks: list[dict[Engine, int]] = []
    last: dict[Engine, int] = {}
    for i, instruction in enumerate(instructions):
        instruction.values["signal"] = 0
        clock = dict.fromkeys(Engine, -1)
        if instruction.engine in last:
            _learn(clock, clocks, last[instruction.engine], instruction.engine)
        for j in sorted(before[i], reverse=True):
            producer = instructions[j]
            if j <= clock[producer.engine]:
                continue
            producer.values["signal"] |= 1 << instruction.engine
            field = f"wait_{producer.engine.name.lower()}"
            instruction.values[field] = instruction.values.get(field, 0) + 1
            _learn(clock, clocks, j, producer.engine)
        clocks.append(clock)
        last[instruction.engine] = i


def _learn(clock: dict[Engine, int], clocks: list[dict[Engine, int]], known: int, engine: Engine) -> None:
    for other, position in clocks[known].items():
        clock[other] = max(clock[other], position)
    clock[engine] = max(clock[engine], known)
