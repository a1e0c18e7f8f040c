"""The AXI ports of the device, judged by cocotbext-axi on Verilator: see testbench/tb_axi.py."""

from __future__ import annotations

import pytest
from amaranth.back import verilog

from hw.bus.axi import verilog_ports
from hw.contract.config import preset
from sim.simulator import run_cocotb
from testbench.control_top import ControlTop

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("name", ["small", "large"])
def test_axi(name, tmp_path):
    """All of testbench.tb_axi, with one and with two beats to a feature memory word."""
    top = ControlTop(preset(name))
    ports = {port: value for port, value in verilog_ports(top).items() if port.startswith(("m_axi", "s_axil", "irq"))}
    path = tmp_path / "control_top.v"
    path.write_text(verilog.convert(top, name="control_top", ports=ports, emit_src=False))
    run_cocotb([path], "control_top", "testbench.tb_axi", env={"LACUNA_PRESET": name})
