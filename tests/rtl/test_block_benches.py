"""The cocotb benches of the compute engines, on Verilator: random stalls on every stream that may stall.

Load and store engine, bus masters and sequencer have theirs in tests/hw/test_axi_judge.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.back import verilog

from hw.bus.axi import verilog_ports
from hw.contract.config import preset
from hw.conv_engine.engine import ConvEngine
from hw.vector_engine import VectorEngine
from sim.simulator import run_cocotb

pytestmark = pytest.mark.rtl

ENGINES = {"conv_engine": ConvEngine, "vector_engine": VectorEngine}


#: Two rows, two fetch ports, several lanes requantised at a time.
PRESET = "small"


@pytest.mark.parametrize("engine", ENGINES)
def test_engine(engine: str, tmp_path: Path) -> None:
    top = ENGINES[engine](preset(PRESET))
    path = tmp_path / f"{engine}.v"
    path.write_text(verilog.convert(top, name=engine, ports=verilog_ports(top), emit_src=False))
    run_cocotb([path], engine, f"testbench.tb_{engine}", env={"LACUNA_PRESET": PRESET})
