"""Into how many stripes layers are cut, so that both engines work at once: by the cycle model, on whole programs.

A layer that is cut lets the next one start on its first rows while it works on its last ones: on the other engine, or
on the conv engine itself, whose commands overlap. Every cut costs a command, and waves that are not full.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hw.contract.commands import fields
from hw.contract.config import Config
from sim.cycle_model import expected_command
from sim.timeline import Span, timeline
from sim.tokens import Command
from sw_driver.compiler.assembly import Assembly
from sw_driver.compiler.instructions import Instruction
from sw_driver.compiler.layers import ConvLayer, Layer, MaskLayer
from sw_driver.compiler.schedule import dependencies, program_order, set_order, set_tokens

#: Stripes that are tried for every layer.
STRIPES = (1, 2, 3, 4, 6, 8)

#: Output rows of a stripe of each layer that is cut; the others are whole.
Rows = Mapping[Layer, int]


@dataclasses.dataclass
class Schedule:
    """Instructions in program order, with their tokens, and as commands; spans : when each is expected to run; cycles :
    of the whole program, expected. loading : the instructions for resident weights, which are a program of their own;
    loading_cycles : expected."""

    assembly: Assembly
    instructions: list[Instruction]
    commands: list[Command]
    spans: list[Span]
    cycles: int
    loading: list[Instruction]
    loading_cycles: int


def best_schedule(assemble: Callable[[Rows], Assembly], layers: Sequence[Layer], config: Config,
                  stripes: int | None = None, *, pace: int = 1) -> Schedule:
    """The schedule that is expected to take the fewest cycles, where memory takes `pace` of them for a beat; with
    `stripes`, the one that cuts every layer into so many. Raises what `assemble` raises."""
    choices = _choices(layers) if stripes is None else [_cut(layers, stripes)]
    return min((_schedule(assemble(rows), config, pace) for rows in choices), key=lambda schedule: schedule.cycles)


def _cut(layers: Iterable[Layer], stripes: int) -> Rows:
    return {layer: math.ceil(layer.output.height / stripes) for layer in layers
            if stripes > 1 and layer.output.height > 1 and not isinstance(layer, MaskLayer)}


def _choices(layers: Sequence[Layer]) -> Iterator[Rows]:
    """Cuts to try: the same number of stripes for all layers, or for those with a neighbour on the other engine.

    Gated layers stay whole: the few pixels that a mask lets through would not fill the waves of several stripes.
    """
    at_border = {layer for pair in itertools.pairwise(layers) if _on_conv(pair[0]) != _on_conv(pair[1])
                 for layer in pair}
    seen: list[Rows] = []
    for count, candidates in itertools.product(STRIPES, (at_border, layers)):
        rows = _cut([layer for layer in candidates if layer.mask is None], count)
        if rows not in seen:
            seen.append(rows)
            yield rows


def _on_conv(layer: Layer) -> bool:
    return isinstance(layer, ConvLayer)


def _schedule(assembly: Assembly, config: Config, pace: int) -> Schedule:
    loading = [instruction for instruction in assembly.transfers.instructions if instruction.resident]
    instructions = [instruction for instruction in assembly.transfers.instructions if not instruction.resident]
    before = dependencies(instructions)
    cycles = _cycles(instructions, config, pace)
    order = program_order(instructions, before, cycles)
    ordered = [instructions[i] for i in order]
    position = {i: at for at, i in enumerate(order)}
    set_order(ordered)
    set_tokens(ordered, [sorted(position[j] for j in before[i]) for i in order])
    commands = _commands(ordered)
    spans, total = timeline(commands, [cycles[i] for i in order], config, pace)
    loading_cycles = (timeline(_commands(loading), _cycles(loading, config, pace), config, pace)[1] if loading else 0)
    return Schedule(assembly, ordered, commands, spans, total, loading, loading_cycles)


def _cycles(instructions: Iterable[Instruction], config: Config, pace: int) -> list[int]:
    return [instruction.cycles or expected_command(instruction.opcode, instruction.values, config, pace=pace)
            for instruction in instructions]


def _commands(ordered: Iterable[Instruction]) -> list[Command]:
    return [Command(index, instruction.opcode, dict.fromkeys(
        (field.name for field in fields(instruction.opcode)), 0) | instruction.values)
        for index, instruction in enumerate(ordered, start=1)]
