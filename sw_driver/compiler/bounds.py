"""What bounds each layer: its computing, or waiting for weights or for features from external memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hw.contract.commands import Engine, Opcode, Space
from sim.timeline import Span
from sim.tokens import Command, predecessors
from sw_driver.compiler.instructions import Instruction
from sw_driver.compiler.layers import Layer

#: Memories that are filled with features; the others hold weights, row maps and parameters.
_FEATURES = (Space.FEATURE, Space.MASK)


@dataclasses.dataclass
class LayerBound:
    """Expected cycles of a layer.

    computing : an engine works on it and on no layer before. weights, features : its engine waits for a transfer,
    and these are what is being transferred.
    """

    computing: int = 0
    weights: int = 0
    features: int = 0

    @property
    def bound_by(self) -> str:
        """The largest of them: "compute", "weights" or "features"."""
        return max((self.computing, "compute"), (self.weights, "weights"), (self.features, "features"),
                   key=lambda pair: pair[0])[1]


def command_bounds(commands: Sequence[Command], spans: Sequence[Span]) -> list[LayerBound]:
    """The same for each command of a program, from when it runs, or ran."""
    before = predecessors(commands)
    engine_end = dict.fromkeys(Engine, 0)
    # A LOAD that has started behind another one moves its data when that is complete.
    begins: list[int] = []
    moved = dict.fromkeys(Engine, 0)
    for command, span in zip(commands, spans, strict=True):
        begins.append(max(span.start, moved[command.engine]))
        moved[command.engine] = max(moved[command.engine], span.end)
    bounds: list[LayerBound] = []
    for i, command in enumerate(commands):
        free, engine_end[command.engine] = engine_end[command.engine], max(engine_end[command.engine], spans[i].end)
        bound = LayerBound(computing=max(0, spans[i].end - max(spans[i].start, free)))
        computed = [spans[j].end for j in before[i] if not _transfers(commands[j])]
        first = max([free, *computed])
        end = max((spans[j].end for j in before[i] if _transfers(commands[j])), default=first)
        for other, transfer, begin in zip(commands, spans, begins, strict=True):
            if _transfers(other):
                cycles = max(0, min(end, transfer.end) - max(first, begin))
                if other.opcode is Opcode.LOAD and other.values["space"] not in _FEATURES:
                    bound.weights += cycles
                else:
                    bound.features += cycles
        bounds.append(bound)
    return bounds


def layer_bounds(instructions: Sequence[Instruction], commands: Sequence[Command], spans: Sequence[Span],
                 ) -> dict[Layer, LayerBound]:
    """The bounds of all layers that an engine runs, from when each command of the program is expected to run."""
    bounds: dict[Layer, LayerBound] = {}
    for instruction, own in zip(instructions, command_bounds(commands, spans), strict=True):
        if instruction.layer is not None:
            bound = bounds.setdefault(instruction.layer, LayerBound())
            bound.computing += own.computing
            bound.weights += own.weights
            bound.features += own.features
    return bounds


def _transfers(command: Command) -> bool:
    return command.engine in (Engine.LOAD, Engine.STORE)
