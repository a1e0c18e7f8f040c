"""The vector engine's Verilog on random commands, with reads and writes that are delayed, against the golden model.

`tests/rtl/test_block_benches.py` builds the design and runs this.
"""

from __future__ import annotations

import os
from typing import Any

import cocotb
import numpy as np

from hw.contract.commands import Space
from hw.contract.config import preset
from hw.contract.registers import Error
from testbench.engine_bench import EngineBench, contract_command, golden_twin
from testbench.random_commands import random_memory, random_vector_command

CONFIG = preset(os.environ.get("LACUNA_PRESET", "nano"))
SEED = int(os.environ.get("LACUNA_SEED", "1"))
COMMANDS = 40


@cocotb.test()
async def random_commands_match_the_golden_model(dut: Any) -> None:
    """Values, counters, and no write anywhere else; reads and writes wait at random."""
    rng = np.random.default_rng([SEED, CONFIG.rows])
    memory = random_memory(rng, CONFIG)
    golden = golden_twin(CONFIG, memory)
    bench = EngineBench(dut, CONFIG, memory, rng, word_readers=["read_a", "read_b"], byte_readers=[], writer="write",
                        mask_writer="decisions", prompt=set(),
                        private={"mask": Space.MASK, "parameters": Space.PARAMETER})
    await bench.reset()
    for number in range(COMMANDS):
        opcode, values = random_vector_command(rng, CONFIG)
        what = f"LACUNA_SEED={SEED} {CONFIG.name}, command {number} {opcode.name} {values}"
        error, counters = await bench.execute(opcode, values)
        assert error is Error.NONE, f"{what}: {error.name}"
        bench.check(what, golden, golden.execute(contract_command(opcode, values)), counters)
