"""What is delivered with the Verilog: it parses, compiles, and says what the contract says."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from hw.contract.config import FORMAT_VERSION, PRESETS
from hw.contract.registers import ID, REGISTERS, Access, Control, Error, Permission, Status, Window
from hw.delivery.__main__ import deliver
from hw.delivery.c_header import registers_header
from hw.delivery.flow_files import constraints, core_file, lint_waivers
from hw.delivery.integration_page import instantiation
from hw.delivery.interface import VerilogPort
from hw.delivery.register_fields import bit_fields, member_docs, offsets, reset_value
from hw.delivery.register_page import registers_page
from hw.delivery.systemrdl import registers_rdl
from hw.register_block import RegisterBlock
from sim import simulator
from testbench import axi_lite_access
from testbench.component_simulation import simulate

CONFIG = PRESETS["nano"]
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("delivery")
    for name, text in deliver(CONFIG).items():
        (directory / name).write_text(text)
    return directory


# ---- register map ----------------------------------------------------------------------------------


def expected_macros() -> dict[str, int]:
    macros = {"LACUNA_ID_VALUE": ID, "LACUNA_FORMAT_VERSION": FORMAT_VERSION}
    macros |= {f"LACUNA_REG_{name}": register.address for name, register in REGISTERS.items()}
    for prefix, kind in (("CONTROL", Control), ("STATUS", Status), ("PERMISSION", Permission), ("ERROR", Error),
                         ("WINDOW", Window)):
        macros |= {f"LACUNA_{prefix}_{name}": int(member) for name, member in kind.__members__.items()}
    return macros


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("g++", "c++11")])
def test_c_header_compiles_and_has_the_values_of_the_contract(compiler: str, standard: str, tmp_path: Path) -> None:
    (tmp_path / "lacuna_registers.h").write_text(registers_header())
    lines = ['#include "lacuna_registers.h"', '#include "lacuna_registers.h"', "#include <stdio.h>", "int main(void) {"]
    lines += [f'    printf("{name} %lu\\n", (unsigned long)({name}));' for name in expected_macros()]
    source = tmp_path / ("print.c" if compiler == "gcc" else "print.cpp")
    source.write_text("\n".join([*lines, "    return 0;", "}", ""]))
    program = tmp_path / "print"
    subprocess.run([compiler, f"-std={standard}", *STRICT, source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(printed[::2], map(int, printed[1::2]), strict=True)) == expected_macros()


def test_every_register_has_a_row() -> None:
    page = registers_page(CONFIG)
    for register in REGISTERS.values():
        assert f"| `{register.address:#05x}` | `{register.name}` | {register.access.value} |" in page
    assert f"`{CONFIG.hash:#010x}`" in page
    assert all(text in page for text in member_docs(Error).values())


def test_bit_fields_are_those_of_the_hardware() -> None:
    """All ones written to every writable register: what sticks are the fields. Before, all have their reset value."""
    block = RegisterBlock(CONFIG)

    async def testbench(ctx) -> None:
        for engine in range(4):
            ctx.set(block.control.running[engine], 0xFFFF_FFFF)
        for register in offsets():
            if register.access is not Access.WRITE:
                assert await axi_lite_access.read(ctx, block.bus, register.address) == (
                    reset_value(register, CONFIG), 0), register.name
        for register in offsets():
            mask = sum(field.mask for field in bit_fields(register, CONFIG))
            if register.access is Access.READ_WRITE:
                await axi_lite_access.write(ctx, block.bus, register.address, 0xFFFF_FFFF)
                assert await axi_lite_access.read(ctx, block.bus, register.address) == (mask, 0), register.name

    simulate(block, testbench)


def test_rdl_has_every_register_and_field() -> None:
    """The text, taken apart without its tools: balanced, every register at its offset, every field at its bits."""
    text = registers_rdl(CONFIG)
    assert text.count("{") == text.count("}")
    found = {name: int(address, 16)
             for name, address in re.findall(r"^    \} (\w+) @ (0x[0-9a-f]+);", text, re.MULTILINE)}
    assert found == {register.name: register.address for register in REGISTERS.values()}
    fields = re.findall(r"^        \} (\w+)\[(\d+):(\d+)\] = (\d+)'h([0-9A-F]+);", text, re.MULTILINE)
    expected = [(field.name, str(field.low + field.bits - 1), str(field.low), str(field.bits), f"{field.reset:X}")
                for register in offsets() for field in bit_fields(register, CONFIG)]
    assert [field for field in fields if field[0] != "ZERO"] == expected


def test_rdl_in_its_own_compiler(tmp_path: Path) -> None:
    systemrdl = pytest.importorskip("systemrdl", reason="systemrdl-compiler is not installed")
    (tmp_path / "registers.rdl").write_text(registers_rdl(CONFIG))
    compiler = systemrdl.RDLCompiler()
    compiler.compile_file(str(tmp_path / "registers.rdl"))
    registers = compiler.elaborate().top.registers()
    assert {node.inst_name: node.absolute_address for node in registers} == {
        register.name: register.address for register in REGISTERS.values()}


# ---- files for flows -------------------------------------------------------------------------------


def test_core_file_is_yaml_with_existing_filesets() -> None:
    text = core_file(CONFIG, "0.1.0")
    assert text.startswith("CAPI=2:\n")
    core = yaml.safe_load(text)
    assert core["name"] == "::lacuna:0.1.0"
    for target in core["targets"].values():
        assert target["toplevel"] == "lacuna"
        assert set(target["filesets"]) <= set(core["filesets"])


def test_constraints_are_comments_only() -> None:
    assert all(line.startswith("#") for line in constraints(CONFIG).splitlines())


def test_instantiation_names_every_port() -> None:
    ports = [VerilogPort("clk", "input", 1), VerilogPort("m_axi_awaddr", "output", 32)]
    assert instantiation(ports) == (
        "lacuna u_lacuna (\n    .clk          (soc_clk),\n    .m_axi_awaddr (soc_m_axi_awaddr)\n);")


def test_every_waiver_has_a_reason() -> None:
    lines = lint_waivers().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("lint_off"):
            assert before.startswith("// ")


@pytest.mark.slow
def test_manifest_describes_the_verilog(delivery: Path) -> None:
    manifest = json.loads((delivery / "manifest.json").read_text())
    verilog = (delivery / "lacuna.v").read_text()
    top = verilog[verilog.index("module lacuna("):]
    top = top[:top.index("endmodule")]
    declared = {name: (direction, int(high or 0) + 1) for direction, high, name in
                re.findall(r"^  (input|output) (?:reg )?(?:\[(\d+):0\] )?(\w+) ?;", top, re.MULTILINE)}
    assert {port["name"]: (port["direction"], port["width"]) for port in manifest["ports"]} == declared
    assert manifest["configuration"]["hash"] == f"{CONFIG.hash:#010x}"
    assert {file["name"] for file in manifest["files"]} == {
        path.name for path in delivery.iterdir()} - {"manifest.json"}
    for file in manifest["files"]:
        assert hashlib.sha256((delivery / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    feature = [memory for memory in manifest["memories"] if memory["path"] == "hw/feature_memory"]
    assert [memory["count"] * memory["depth"] * memory["width"] // 8 for memory in feature] == [CONFIG.feature_bytes]
    page = (delivery / "integration.md").read_text()
    assert all(f".{port['name']} " in page for port in manifest["ports"])


@pytest.mark.slow
@pytest.mark.rtl
def test_verilog_is_lint_clean(delivery: Path) -> None:
    root = simulator.verilator_root()
    done = subprocess.run([root / "bin" / "verilator_bin", "--lint-only", "-Wall", "--top-module", "lacuna",
                           "lacuna.vlt", "lacuna.v"], cwd=delivery, capture_output=True, text=True, check=False,
                          env={"VERILATOR_ROOT": str(root)})
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stdout + done.stderr
