"""When each command of a program runs: the four engines, their tokens, the fetch of commands, the read bus.

An event simulation in which a command is one event; how long each takes by itself comes from `cycle_model`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hw.contract.commands import COMMAND_BYTES, RECORD_BYTES, Engine, Opcode, transfer_beats
from hw.contract.config import Config
from sim.cycle_model import COSTS, overlap
from sim.tokens import Command, overlaps, predecessors

#: Beats of a command in external memory.
COMMAND_BEATS = COMMAND_BYTES // 8

#: Beats of a record.
RECORD_BEATS = RECORD_BYTES // 8


@dataclasses.dataclass
class Span:
    """When an engine worked on a command, in cycles since the doorbell.

    left : when the engine can take its next command; the conv and the load engine do so before the end.
    computed : when the next command can compute.
    """

    start: int
    end: int
    left: int = 0
    computed: int = 0


def timeline(commands: Sequence[Command], cycles: Sequence[int], config: Config,
             pace: int = 1) -> tuple[list[Span], int]:
    """When each command runs, given the cycles that each takes, and the cycles of the whole program.

    `commands` are the program's commands between BEGIN and END, in order; `cycles[i]` belongs to commands[i]. pace :
    cycles that external memory takes for a beat; reads and writes share it. Raises TokenError where the tokens can't be
    right.
    """
    run = _Timeline(commands, cycles, config, pace)
    while run.advance():
        pass
    last = max([run.dispatched[-1], *(span.end for span in run.spans if span is not None)])
    return [span for span in run.spans if span is not None], last + COSTS.finish


class _Timeline:
    """Events in the order of their time: a chunk of commands is asked for, or an engine starts a command."""

    def __init__(self, commands: Sequence[Command], cycles: Sequence[int], config: Config, pace: int):
        self.commands, self.cycles, self.config, self.pace = commands, cycles, config, pace
        self.before = predecessors(commands)
        self.spans: list[Span | None] = [None] * len(commands)
        self.on_engine = {engine: [i for i, command in enumerate(commands) if command.engine is engine]
                          for engine in Engine}
        self.started = dict.fromkeys(Engine, 0)  # commands started, per engine
        self.bus_free = 0  # the read bus has moved all beats asked for
        self.loading: Span | None = None  # the last LOAD to start
        # Commands are counted with BEGIN and END here: number 0 is BEGIN.
        self.total = len(commands) + 2
        self.arrived: list[int] = []  # the first beat of each command fetched so far
        self.dispatched: list[int] = []  # the dispatcher has each command's first beat
        self._fetch(COSTS.fetch_start, 2)

    # ---- commands come in ------------------------------------------------------------------------

    def _fetch(self, request: int, count: int) -> None:
        beats = COMMAND_BEATS * count * self.pace  # cycles of the bus
        # Beats that are on their way already.
        ordered = self.config.reads_outstanding * self.config.burst_beats * self.pace
        first, pace = max(request + COSTS.read_latency, self.bus_free), self.pace
        if self.loading is not None and first > request + COSTS.read_latency + ordered:
            # A long LOAD: from now on its bursts and the fetch's alternate.
            first, pace = request + COSTS.read_latency + ordered, 2 * self.pace
            self.loading.end += beats
        self.arrived += [first + pace * COMMAND_BEATS * k for k in range(count)]
        self.bus_free = max(self.bus_free, first) + beats

    def _dispatch(self) -> None:
        """Commands that have arrived go to their queues, as far as there is room."""
        while len(self.dispatched) < len(self.arrived):
            number = len(self.dispatched)
            at = self.arrived[number]
            if number:
                at = max(at, self.dispatched[-1] + COMMAND_BEATS)
            if 1 <= number < self.total - 1:
                queue = self.on_engine[self.commands[number - 1].engine]
                # One command runs, one is next, the others wait in the queue.
                ahead = queue.index(number - 1) - self.config.command_queue - 1
                if ahead >= 0:
                    room = self.spans[queue[ahead]]
                    if room is None:
                        return
                    at = max(at, room.start)
            self.dispatched.append(at)

    def _next_fetch(self) -> tuple[int, int] | None:
        """When the next chunk is asked for, and how many commands it has; None: unknown yet, or none is left."""
        asked = len(self.arrived)
        count = min(COSTS.fetch_chunk, self.total - asked)
        if count <= 0:
            return None
        read = asked + count - COSTS.fetch_ahead  # commands that the dispatcher must have read
        if read > len(self.dispatched):
            return None
        return (self.dispatched[read - 1] + COMMAND_BEATS if read > 0 else self.arrived[0]) + COSTS.fetch_request, count

    # ---- commands run ----------------------------------------------------------------------------

    def _next_start(self, engine: Engine) -> int | None:
        """When an engine's next command starts; None: unknown yet, or none is left."""
        queue = self.on_engine[engine]
        if self.started[engine] == len(queue):
            return None
        i = queue[self.started[engine]]
        if i + 1 >= len(self.dispatched):
            return None
        start = self.dispatched[i + 1] + COSTS.dispatch
        for j in self.before[i]:
            span = self.spans[j]
            if span is None:
                return None
            start = max(start, span.end + COSTS.restart)
        last = self._last(engine)
        return start if last is None else max(start, last.left + COSTS.restart)

    def _last(self, engine: Engine) -> Span | None:
        """The span of the engine's last command that has started."""
        return self.spans[self.on_engine[engine][self.started[engine] - 1]] if self.started[engine] else None

    def _span(self, i: int, start: int) -> Span:
        """A command that takes its tokens at `start`."""
        command, last = self.commands[i], self._last(self.commands[i].engine)
        if command.engine is not Engine.CONV:
            return Span(start, start + self.cycles[i], start + self.cycles[i])
        head, tail = overlap(command.values, self.config)
        head = min(head, self.cycles[i])
        tail = min(tail, self.cycles[i] - head)
        computing = start + head
        if last is not None:
            computing = max(computing, last.computed if overlaps(command) else last.end)
        computed = computing + self.cycles[i] - head - tail
        end = max(computed, 0 if last is None else last.end) + tail
        return Span(start, end, computing, computed)

    def advance(self) -> bool:
        """Let the next event happen; False: the program is over."""
        self._dispatch()
        fetch = self._next_fetch()
        starts = [(start, engine) for engine in Engine if (start := self._next_start(engine)) is not None]
        if fetch is not None and (not starts or fetch[0] <= min(starts)[0]):
            self._fetch(*fetch)
            return True
        if not starts:
            return False
        start, engine = min(starts)
        i = self.on_engine[engine][self.started[engine]]
        span = self.spans[i] = self._span(i, start)
        self.started[engine] += 1
        if self.pace > 1:  # what is written takes its share; a fast memory has gaps enough for it
            stored = transfer_beats(self.commands[i].values) if self.commands[i].opcode is Opcode.STORE else 0
            self.bus_free = max(self.bus_free, start) + self.pace * (RECORD_BEATS + stored)
        if self.commands[i].opcode is Opcode.LOAD:
            self._load(i, span)
        return True

    def _load(self, i: int, span: Span) -> None:
        """A LOAD asks for its beats while the one before is being written; so may beats of a block be read."""
        before = 0 if self.loading is None else self.loading.end
        first = span.start + COSTS.load + COSTS.read_latency
        self.bus_free = max(first, self.bus_free) + transfer_beats(self.commands[i].values) * self.pace
        written = max(first, before) + self.cycles[i] - (first - span.start)
        span.end = max(written, self.bus_free + COSTS.load_end)
        span.left = max(span.start + COSTS.load, before)
        self.loading = span
