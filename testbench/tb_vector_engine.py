"""The vector engine's Verilog on random commands, with reads and writes that are delayed, against the golden model.

`tests/rtl/test_block_benches.py` builds the design and runs this.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import cocotb
import numpy as np

from hw.contract import commands
from hw.contract.commands import Opcode, Space
from hw.contract.config import preset
from hw.contract.registers import Error
from sim.golden import vector
from testbench.engine_bench import EngineBench
from testbench.random_commands import random_memory, random_vector_command

CONFIG = preset(os.environ.get("LACUNA_PRESET", "nano"))
SEED = int(os.environ.get("LACUNA_SEED", "1"))
COMMANDS = 20


@cocotb.test()
async def random_commands_match_the_golden_model(dut: Any) -> None:
    """Values, counters, and no write anywhere else; reads and writes wait at random."""
    rng = np.random.default_rng([SEED, CONFIG.rows])
    memory = random_memory(rng, CONFIG)
    expected = copy.deepcopy(memory)
    bench = EngineBench(dut, CONFIG, memory, rng, word_readers=["read_a", "read_b"], byte_readers=[], writer="write",
                        prompt=set(), private={"mask": Space.MASK})
    await bench.reset()
    for number in range(COMMANDS):
        opcode, values = random_vector_command(rng, CONFIG)
        what = f"LACUNA_SEED={SEED} {CONFIG.name}, command {number} {opcode.name} {values}"
        error, counters = await bench.execute(opcode, values)
        assert error is Error.NONE, f"{what}: {error.name}"
        complete = commands.decode(commands.encode(opcode, values))[1]
        wanted = (vector.add(complete, expected, CONFIG) if opcode is Opcode.ADD
                  else vector.pool(opcode, complete, expected, CONFIG))
        bench.check(what, expected, counters, wanted)
