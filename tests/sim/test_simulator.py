"""Building and caching of simulations, the runner of cocotb benches, and what is said when tools are missing."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from hw.contract.config import PRESETS
from sim import session, simulator
from sim.simulator import BenchFailure, SimulatorError, ToolMissing

pytestmark = pytest.mark.rtl

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None,
                                  reason="Icarus Verilog is not installed (apt install iverilog)")
both = pytest.mark.parametrize("name", ["verilator", pytest.param("icarus", marks=needs_icarus)])

ADDER = """
module adder #(parameter STEP = 0) (input clk, input [7:0] a, input [7:0] b, output reg [8:0] s);
    always @(posedge clk) s <= a + b + STEP;
endmodule
"""

BENCH = """
import os
import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

async def add(dut):
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.a.value, dut.b.value = 200, 100
    for _ in range(3):
        await RisingEdge(dut.clk)
    return int(dut.s.value)

@cocotb.test()
async def adds(dut):
    assert await add(dut) == 300 + int(os.environ.get("STEP", "0"))

@cocotb.test()
async def adds_wrongly(dut):
    assert await add(dut) == 301
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """adder.v, with module tb_adder next to it, and a cache that is empty but for Verilator's runtime library."""
    (tmp_path / "adder.v").write_text(ADDER)
    (tmp_path / "tb_adder.py").write_text(BENCH)
    monkeypatch.syspath_prepend(tmp_path)
    runtime = simulator.build_root() / "runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    cache = tmp_path / "build"
    cache.mkdir()
    (cache / "runtime").symlink_to(runtime)
    monkeypatch.setenv("LACUNA_BUILD", str(cache))
    return tmp_path / "adder.v"


@both
def test_cocotb_bench(bench: Path, name: str) -> None:
    def run(test_filter: str | None, **options) -> str:
        return simulator.run_cocotb([bench], "adder", "tb_adder", simulator=name, test_filter=test_filter, **options)

    assert "adds" in run("adds$")
    with pytest.raises(BenchFailure, match=rf"(?s)tb_adder on adder \({name}\): 1 of 2 tests failed.*adds_wrongly"):
        run(None)
    with pytest.raises(BenchFailure, match="no test ran"):
        run("subtracts")
    run("adds$", parameters={"STEP": 5}, env={"STEP": "5"})
    waves = bench.with_name("adder.fst")
    run("adds$", waves=waves)
    assert waves.read_bytes()[0] == 0  # an FST header block


@both
def test_combinational_logic_that_no_event_wakes(bench: Path, name: str) -> None:
    """As Yosys writes it; in plain Icarus both results would stay x."""
    bench.with_name("asleep.v").write_text(textwrap.dedent("""
        module asleep(output reg [7:0] single, output reg [7:0] block);
          reg \\$auto$verilog_backend.cc:1:dump_module$1  = 0;
          wire [7:0] five;
          assign five = 8'd5;
          always @*
            single = five;
          always @* begin
            if (\\$auto$verilog_backend.cc:1:dump_module$1 ) begin end
            block = five;
          end
        endmodule
    """))
    bench.with_name("tb_asleep.py").write_text(textwrap.dedent("""
        import cocotb
        from cocotb.triggers import Timer
        @cocotb.test()
        async def is_awake(dut):
            await Timer(1, "ns")
            assert (int(dut.single.value), int(dut.block.value)) == (5, 5)
    """))
    simulator.run_cocotb([bench.with_name("asleep.v")], "asleep", "tb_asleep", simulator=name)


def test_bench_that_hangs(bench: Path) -> None:
    bench.with_name("tb_hangs.py").write_text(textwrap.dedent("""
        import time, cocotb
        @cocotb.test()
        async def hang(dut):
            time.sleep(1000)
    """))
    with pytest.raises(BenchFailure, match="still running after 1 s"):
        simulator.run_cocotb([bench], "adder", "tb_hangs", timeout=1)


@both
def test_cache(bench: Path, name: str) -> None:
    news: list[str] = []
    built = [simulator.build([bench], "adder", simulator=name, progress=news.append) for _ in range(2)]
    assert [item.cached for item in built] == [False, True]
    assert built[0].command == built[1].command
    assert len([text for text in news if "Translating" in text or "Icarus" in text]) == 1
    bench.write_text(ADDER + "\n")
    assert not simulator.build([bench], "adder", simulator=name).cached


@needs_icarus
def test_builders_at_the_same_time_share_one_build(bench: Path) -> None:
    cached: list[bool] = []
    builders = [threading.Thread(target=lambda: cached.append(
        simulator.build([bench], "adder", simulator="icarus").cached)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sorted(cached) == [False, True, True, True]


@both
def test_verilog_that_is_wrong(bench: Path, name: str) -> None:
    bench.write_text("module adder(input clk; endmodule")
    for _ in range(2):  # a failed build leaves nothing that looks like one
        with pytest.raises(SimulatorError, match=r"(?s)failed with exit status.*adder\.v:1"):
            simulator.build([bench], "adder", simulator=name)
    with pytest.raises(SimulatorError, match=r"nothing\.v does not exist"):
        simulator.build([bench.with_name("nothing.v")], "adder", simulator=name)


def test_missing_tools_are_named(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bench.parent))
    simulator.version_of.cache_clear()
    with pytest.raises(ToolMissing, match=r"needs g\+\+, make, perl, ar, not found on PATH; on Debian or Ubuntu: "
                                          r"apt install binutils g\+\+ make perl"):
        simulator.build([bench], "adder")
    with pytest.raises(ToolMissing, match="apt install iverilog"):
        simulator.build([bench], "adder", simulator="icarus")
    with pytest.raises(SimulatorError, match="the simulators are verilator, icarus"):
        simulator.build([bench], "adder", simulator="modelsim")
    simulator.version_of.cache_clear()


def test_netlist_is_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tree with a generator of its own; custom configurations go to it as JSON."""
    (tmp_path / "hw").mkdir()
    (tmp_path / "hw" / "__init__.py").touch()
    generator = tmp_path / "hw" / "verilog.py"
    generator.write_text(textwrap.dedent("""
        import sys, pathlib
        pathlib.Path("runs").open("a").write("x")
        if "--config" in sys.argv:
            print(pathlib.Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
        out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
        (out / "lacuna.v").write_text(" ".join(sys.argv[1:3]))
    """))
    monkeypatch.setattr(session, "ROOT", tmp_path)
    monkeypatch.setenv("LACUNA_BUILD", str(tmp_path / "build"))
    runs = tmp_path / "runs"
    first = session.netlist("small")
    assert first.read_text() == "--preset small"
    assert session.netlist(PRESETS["small"]) == first
    assert len(runs.read_text()) == 1
    other = session.netlist(session.dataclasses.replace(PRESETS["small"], pixels_per_row=4))
    assert other.read_text().startswith("--config")
    assert '"pixels_per_row": 4' in (other.parent / "generate.log").read_text()
    generator.write_text(generator.read_text() + "#")
    assert session.netlist("small") != first
    generator.write_text("raise SystemExit('no Amaranth today')")
    with pytest.raises(SimulatorError, match=r"(?s)Verilog of 'small' failed.*no Amaranth today"):
        session.netlist("small")


def test_the_driver_process_never_imports_amaranth() -> None:
    script = "import sys, sim.session, sw_driver.links.rtl; sys.exit('amaranth' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0
