"""Compressed weights on the RTL: random sets come back exactly through convolutions, damaged ones are refused.

What the decoder writes is read back through the conv engine; see testbench/weight_programs.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from hw.contract.config import Config, preset
from hw.contract.registers import Error, Window
from sw_driver.links.golden import GoldenLink
from sw_driver.links.rtl import RtlLink, open_rtl
from testbench.hand_made_programs import PLACES, Host
from testbench.weight_programs import KINDS, WeightProgram, random_set, weight_program

pytestmark = pytest.mark.rtl

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))

#: Sets in a program, programs per preset, damaged programs per preset.
SETS, PROGRAMS, DAMAGED = 8, 20, 100


@pytest.fixture(scope="module", params=["nano", "small"])
def devices(request: pytest.FixtureRequest) -> Iterator[tuple[Config, RtlLink, GoldenLink]]:
    config = preset(request.param)
    with open_rtl(config) as link:
        yield config, link, GoldenLink(config, memory_bytes=32 << 20, check=False)


def draw(rng: np.random.Generator, config: Config, first: int) -> WeightProgram:
    """A program whose results fit the output window."""
    while True:
        program = weight_program(rng, config, [random_set(rng, config, KINDS[(first + i) % len(KINDS)])
                                               for i in range(SETS)])
        if program.output.size <= PLACES[Window.OUTPUT][1]:
            return program


def run(host: Host, program: WeightProgram, image: bytes) -> tuple[Error, int]:
    host.place(image)
    base, _size = PLACES[Window.OUTPUT]
    host.link.write_memory(base, bytes(program.output.size))
    return host.run()


def check_output(host: Host, program: WeightProgram) -> None:
    base, _size = PLACES[Window.OUTPUT]
    found = np.frombuffer(host.link.read_memory(base, program.output.size), np.int8)
    np.testing.assert_array_equal(found, program.output)


def test_random_weights(devices: tuple[Config, RtlLink, GoldenLink]) -> None:
    """Hundreds of sets, every table and number of ways, under random stalls of external memory."""
    print(f"LACUNA_SEED={SEED}")
    config, link, golden = devices
    rng = np.random.default_rng([SEED, config.lanes])
    for number in range(PROGRAMS):
        program = draw(rng, config, number)
        link.configure(latency=int(rng.choice([2, 20, 60])), bandwidth=float(rng.choice([8, 4, 1])),
                       stall_seed=int(rng.integers(1 << 32)))
        for host in (Host(link, config), Host(golden, config)):
            assert run(host, program, program.image) == (Error.NONE, 0), golden.last.error_text
            check_output(host, program)


def damage(rng: np.random.Generator, program: WeightProgram) -> tuple[bytes, int] | None:
    """The image with a bit of one block flipped, dropped or repeated (the rest of the block moves), and which block."""
    number = int(rng.integers(len(program.blocks)))
    first, end = program.blocks[number]
    bits = np.unpackbits(np.frombuffer(program.image[first:end], np.uint8), bitorder="little")
    before = bits.copy()
    at = int(rng.integers(len(bits)))
    kind = rng.integers(3)
    if kind == 0:
        bits[at] ^= 1
    elif kind == 1:
        bits[at:-1], bits[-1] = before[at + 1:], 0
    else:
        bits[at + 1:] = before[at:-1]
    if np.array_equal(bits, before):
        return None
    return program.image[:first] + np.packbits(bits, bitorder="little").tobytes() + program.image[end:], number


def test_damaged_weights(devices: tuple[Config, RtlLink, GoldenLink]) -> None:
    """Damage is reported with the command that loads it, on both; the next program runs, and nothing is reset."""
    print(f"LACUNA_SEED={SEED}")
    config, link, golden = devices
    rng = np.random.default_rng([SEED, config.lanes, 1])
    link.configure(latency=20, bandwidth=8, stall_seed=int(rng.integers(1 << 32)))
    rtl_host, golden_host = Host(link, config), Host(golden, config)
    program, caught = draw(rng, config, 0), 0
    while caught < DAMAGED:
        damaged = damage(rng, program)
        if damaged is None:
            continue
        image, number = damaged
        wanted = (Error.WEIGHT_STREAM, program.loads[number])
        assert run(golden_host, program, image) == wanted, number
        assert run(rtl_host, program, image) == wanted, number
        assert rtl_host.read("ERROR_ADDRESS") == program.blocks[number][0] == golden_host.read("ERROR_ADDRESS")
        caught += 1
        if caught % 6 == 0:
            program = draw(rng, config, caught)
            assert run(rtl_host, program, program.image) == (Error.NONE, 0)
            check_output(rtl_host, program)
