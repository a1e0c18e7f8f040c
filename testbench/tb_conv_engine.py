"""The conv engine's Verilog on random commands, with feature memory ports that are delayed, against the golden model.

`tests/rtl/test_block_benches.py` builds the design and runs this.
"""

from __future__ import annotations

import os
from typing import Any

import cocotb
import numpy as np

from hw.contract.commands import Opcode, Space
from hw.contract.config import preset
from hw.contract.registers import Error
from testbench.engine_bench import EngineBench, contract_command, golden_twin
from testbench.random_commands import random_convolution, random_memory

CONFIG = preset(os.environ.get("LACUNA_PRESET", "nano"))
SEED = int(os.environ.get("LACUNA_SEED", "1"))
COMMANDS = 8


@cocotb.test()
async def random_commands_match_the_golden_model(dut: Any) -> None:
    """Values, counters, and no write anywhere else; fetches wait at random."""
    rng = np.random.default_rng([SEED, CONFIG.rows])
    zero_point = int(rng.integers(-128, 128)) if rng.random() < 0.5 else None
    memory = random_memory(rng, CONFIG, zero_point)
    golden = golden_twin(CONFIG, memory)
    bench = EngineBench(
        dut, CONFIG, memory, rng, word_readers=["skip"], byte_readers=[f"fetch_{i}" for i in range(CONFIG.fetch_ports)],
        writer="write", prompt={"skip", "write"},
        private={"maps": Space.MAP, "parameters": Space.PARAMETER, "mask": Space.MASK})
    await bench.reset()
    for number in range(COMMANDS):
        values = random_convolution(rng, CONFIG, zero_point)
        what = f"LACUNA_SEED={SEED} {CONFIG.name}, command {number} {values}"
        error, counters = await bench.execute(Opcode.CONV, values)
        assert error is Error.NONE, f"{what}: {error.name}"
        bench.check(what, golden, golden.execute(contract_command(Opcode.CONV, values)), counters)
