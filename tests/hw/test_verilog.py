"""The generated Verilog is clean, what is waived is needed and little, and generating it twice gives the same."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hw.contract.config import preset
from sim.session import netlist
from testbench.lint import WAIVERS, verilator_lint

ROOT = Path(__file__).resolve().parents[2]

#: Mistakes that must be reported in spite of the waivers: rule, body of a module with `clk`, `a`, `b`, `y`.
MISTAKES = {
    "UNDRIVEN": "wire [7:0] half; assign half[3:0] = a[3:0]; assign y = half;",
    "MULTIDRIVEN": "reg [7:0] twice; always @(posedge clk) twice <= a; always @(negedge clk) twice <= b; "
                   "assign y = twice;",
    "LATCH": "reg [7:0] held; always @* if (a[0]) held = b; assign y = held;",
    "WIDTHTRUNC": "assign y = {a, b};",
    "UNSIGNED": "assign y = {8{a >= 8'd0}};",
    "CMPCONST": "assign y = {8{a <= 8'd255}};",
    "SELRANGE": "assign y = {8{a[9]}};",
    "PINMISSING": "part part (.i(a)); assign y = b;",
    "ASCRANGE": "wire [0:7] reversed; assign reversed = a; assign y = reversed;",
}


@pytest.mark.rtl
@pytest.mark.parametrize("name", ["nano", "small"])
def test_the_verilog_passes_lint(name: str) -> None:
    assert verilator_lint(netlist(name)) == []


@pytest.mark.rtl
def test_no_rule_is_waived_without_need() -> None:
    waived = set(re.findall(r"^lint_off -rule (\w+)", WAIVERS.read_text(), re.MULTILINE))
    assert {rule for rule, _message in verilator_lint(netlist("nano"), waivers=None)} == waived


def test_every_waiver_has_its_reason() -> None:
    lines = WAIVERS.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("lint_off"):
            assert before.startswith("// ") and before.endswith("."), line
            assert '-file "*lacuna.v"' in line, "a waiver is for the generated file only"


@pytest.mark.parametrize("rule", MISTAKES)
def test_mistakes_are_reported_in_spite_of_the_waivers(rule: str, tmp_path: Path) -> None:
    verilog = tmp_path / "lacuna.v"
    verilog.write_text("module lacuna (input clk, input [7:0] a, input [7:0] b, output [7:0] y);\n"
                       f"{MISTAKES[rule]}\nendmodule\n"
                       "module part (input [7:0] i, output [7:0] o); assign o = i; endmodule\n")
    assert rule in {found for found, _message in verilator_lint(verilog)}


@pytest.mark.rtl
def test_generating_again_gives_the_same_text(tmp_path: Path) -> None:
    # Simulators are cached by this text. String hashes, and with them the order of sets, differ between processes.
    subprocess.run([sys.executable, "-m", "hw.verilog", "--preset", "nano", "--out", tmp_path], check=True,
                   env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "lacuna.v").read_text() == netlist("nano").read_text()


@pytest.mark.rtl
def test_the_ports_have_their_customary_names() -> None:
    config = preset("nano")
    text = netlist("nano").read_text()
    top = text[text.index("module lacuna("):]
    top = top[: top.index("endmodule")]
    ports = {name: int(high or 0) + 1 for high, name in re.findall(r"^  (?:in|out)put (?:\[(\d+):0\] )?(\w+);", top,
                                                                    re.MULTILINE)}
    assert {"clk": 1, "rst": 1, "irq": 1}.items() <= ports.items()
    for name in ("araddr", "awaddr"):
        assert ports[f"m_axi_{name}"] == config.axi_address_bits
    for name in ("rdata", "wdata"):
        assert ports[f"m_axi_{name}"] == config.axi_data_bits
        assert ports[f"s_axil_{name}"] == 32
    assert {name.partition("_")[0] for name in ports} == {"clk", "rst", "irq", "m", "s"}
