"""The timeline keeps tokens, engine order, queues, and shares the read bus."""

from __future__ import annotations

import itertools

import pytest

from hw.contract.commands import Engine, Flag, Opcode
from hw.contract.config import preset
from sim.cycle_model import COSTS, overlap, transfer
from sim.timeline import COMMAND_BEATS, RECORD_BEATS, timeline
from sim.tokens import Command, TokenError

CONFIG = preset("small")
TO_CONV = {"signal": 1 << Engine.CONV}


def commands(*items: tuple[Opcode, dict[str, int]]) -> list[Command]:
    zero = {"signal": 0, "wait_load": 0, "wait_store": 0, "wait_conv": 0, "wait_vector": 0, "length": 8, "space": 0,
            "flags": 0, "offset": 0, "output_rows": 8, "output_width": 8, "output_blocks": 1, "unrolling": 0}
    return [Command(i, opcode, zero | values) for i, (opcode, values) in enumerate(items, start=1)]


def test_tokens_and_engine_order():
    program = commands((Opcode.LOAD, TO_CONV), (Opcode.CONV, {"wait_load": 1}), (Opcode.LOAD, TO_CONV),
                       (Opcode.CONV, {"wait_load": 1, "flags": Flag.ORDERED}), (Opcode.ADD, {}))
    spans, total = timeline(program, [400, 1000, 200, 500, 50], CONFIG)
    load_1, conv_1, load_2, conv_2, add = spans
    assert [span.end - span.start for span in (load_1, conv_1, add)] == [pytest.approx(400, abs=128), 1000, 50]
    assert conv_1.start == load_1.end + COSTS.restart
    assert load_1.start + COSTS.load < load_2.start < load_1.end  # it asks for its data, which come at once
    assert load_2.end == load_1.end + 200 - COSTS.load - COSTS.read_latency  # beside the convolution
    assert load_2.end <= conv_2.start < conv_1.end  # it is set up and walked, then waits for its input
    head, _tail = overlap(program[3].values, CONFIG)
    assert conv_2.end == conv_1.end + 500 - head
    assert add.start < load_1.end  # waits for nobody
    assert total == conv_2.end + COSTS.finish


def test_convolutions_overlap():
    program = commands(*[(Opcode.CONV, {})] * 3)
    (first, second, third), _ = timeline(program, [1000] * 3, CONFIG)
    head, tail = overlap(program[0].values, CONFIG)
    assert second.start < first.end and third.start < second.end
    assert third.end - second.end == second.end - first.end == 1000 - head - tail


def test_room_in_an_engine_queue():
    count = CONFIG.command_queue + 4
    program = commands(*[(Opcode.CONV, {})] * count, (Opcode.LOAD, {}))
    spans, _ = timeline(program, [1000] * count + [40], CONFIG)
    # The LOAD is fetched once all convolutions have a place: one runs, one is next, the others fill the queue.
    assert spans[count - CONFIG.command_queue - 2].start <= spans[-1].start < spans[-2].start


def test_commands_and_data_share_the_bus():
    short = commands((Opcode.LOAD, {}))
    alone, _ = timeline(short, [transfer(Opcode.LOAD, short[0].values, CONFIG)], CONFIG)
    # Behind a LOAD come further commands, which are fetched meanwhile.
    program = commands(*[(Opcode.LOAD, {})] * 12)
    spans, _ = timeline(program, [transfer(Opcode.LOAD, command.values, CONFIG) for command in program], CONFIG)
    assert spans[0].end - spans[0].start >= alone[0].end - alone[0].start
    assert spans[-1].end >= (len(program) + 2) * COMMAND_BEATS + len(program)
    assert all(later.end > earlier.end for earlier, later in itertools.pairwise(spans))
    assert all(later.start >= earlier.start + COSTS.load for earlier, later in itertools.pairwise(spans))


@pytest.mark.parametrize("pace", [2, 8])
def test_a_slow_memory(pace):
    """All that a program moves takes its time: commands, data, records; nothing but that where little is computed."""
    program = commands(*[(Opcode.LOAD, {"length": 4096})] * 6, *[(Opcode.STORE, {"length": 1024})] * 2)
    fast, total = timeline(program, [transfer(each.opcode, each.values, CONFIG) for each in program], CONFIG)
    slow, slow_total = timeline(program, [transfer(each.opcode, each.values, CONFIG, pace) for each in program], CONFIG,
                                pace)
    beats = (len(program) + 2) * COMMAND_BEATS + 6 * 512 + 2 * 128 + len(program) * RECORD_BEATS
    assert pace * beats * 0.95 < slow_total < pace * beats + 600
    assert slow_total > 0.9 * pace * total
    assert all(after.start >= before.start for before, after in zip(fast, slow, strict=True))


def test_a_program_without_commands():
    spans, total = timeline([], [], CONFIG)
    assert spans == []
    assert total > 0


def test_tokens_that_never_come():
    with pytest.raises(TokenError, match=r"command 1 \(CONV\) waits for 1 token\(s\) from the load engine"):
        timeline(commands((Opcode.CONV, {"wait_load": 1}), (Opcode.LOAD, TO_CONV)), [1, 1], CONFIG)
