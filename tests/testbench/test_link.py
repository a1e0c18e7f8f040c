"""Harness, external memory, bench, session and client together, on a stand-in device that copies memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hw.contract.registers import REGISTERS, Error
from sim import session, simulator
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.recorder import RecordingLink
from sw_driver.links.rtl import RtlLink, open_rtl

pytestmark = pytest.mark.rtl

STAND_IN = Path(__file__).with_name("stand_in.v")
SEED = int(os.environ.get("LACUNA_SEED", "1"))
PAGE = 4096

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None,
                                  reason="Icarus Verilog is not installed (apt install iverilog)")
both = pytest.mark.parametrize("name", ["verilator", pytest.param("icarus", marks=needs_icarus)])


def start(name: str = "verilator", **options) -> RtlLink:
    return open_rtl("small", simulator=name, verilog=STAND_IN, **options)


@pytest.fixture(scope="module")
def link() -> Iterator[RtlLink]:
    with start() as opened:
        yield opened


@pytest.fixture(autouse=True)
def plain_memory(request: pytest.FixtureRequest) -> None:
    """Give the shared link the default memory again, after what the test before did to it."""
    if "link" in request.fixturenames:
        shared = request.getfixturevalue("link")
        shared.configure(latency=20, bandwidth=8, flash_latency=20, flash_bandwidth=None,
                         stall_seed=0, read_errors=False, write_errors=False)
        shared.reset()


def register(link: RtlLink | RecordingLink, name: str, value: int | None = None) -> int:
    if value is None:
        return link.read_register(REGISTERS[name].address)
    link.write_register(REGISTERS[name].address, value)
    return value


def copy(link: RtlLink | RecordingLink, source: int, target: int, data: bytes, limit: int = 1_000_000) -> int:
    """Let the device copy `data`; returns the cycles that it took. Checks the copy unless the device failed."""
    link.write_memory(source, data)
    register(link, "WINDOW0_BASE", source)
    register(link, "WINDOW0_SIZE", len(data))
    register(link, "WINDOW2_BASE", target)
    register(link, "CONTROL", 1)
    link.wait_interrupt(limit)
    if not register(link, "ERROR_CODE"):
        assert link.read_memory(target, len(data)) == data
    return register(link, "CYCLES")


def bytes_of(length: int, seed: int = SEED) -> bytes:
    print(f"LACUNA_SEED={seed}")
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8).tobytes()


def processes() -> list[tuple[int, int, int, str]]:
    """Process, parent, group and state of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            found.append((int(path.parent.name), int(parent), int(group), state))
    return found


def gone(group: int, seconds: float = 10) -> bool:
    """Whether no process of the group is left within some seconds (zombies are nobody's)."""
    end = time.monotonic() + seconds
    while any(owner == group and state != "Z" for _process, _parent, owner, state in processes()):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---- registers, memory, interrupt -------------------------------------------------------------------


@both
def test_registers_memory_and_interrupt(name: str) -> None:
    with start(name) as link:
        assert register(link, "ID") == 0x414E434C
        register(link, "PROGRAM", 0)
        assert register(link, "WINDOW0_BASE", 0x12345678) == register(link, "WINDOW0_BASE")
        data = bytes_of(8 * 1001)
        link.write_memory(PAGE - 8, data)
        assert link.read_memory(PAGE - 8, len(data)) == data
        assert link.read_memory(PAGE - 16, 8) == bytes(8)
        assert link.read_memory(PAGE, 16) == data[8:24]
        assert link.read_memory(0, 0) == b""
        link.write_memory(link.memory_bytes - 8, b"last one")
        assert link.read_memory(link.memory_bytes - 8, 8) == b"last one"
        copy(link, 64, 1 << 20, bytes_of(2 * PAGE + 8))
        assert link.simulator["name"] == name
        assert link.simulator["cycles_per_second"] > 0


@needs_icarus
def test_both_simulators_take_the_same_cycles() -> None:
    cycles = []
    for name in simulator.SIMULATORS:
        with start(name, latency=33, bandwidth=2, stall_seed=SEED) as link:
            cycles.append([copy(link, 8, 1 << 20, bytes_of(PAGE)) for _ in range(3)])
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize(("address", "data"), [(4, bytes(8)), (0, bytes(7)), (32 << 20, bytes(8))])
def test_memory_accesses_that_do_not_fit(link: RtlLink, address: int, data: bytes) -> None:
    with pytest.raises(LinkError, match="multiples of 8 within the memory of 33554432 bytes"):
        link.write_memory(address, data)
    with pytest.raises(LinkError, match="multiples of 8"):
        link.read_memory(address, len(data))


def test_no_time_passes_between_requests(link: RtlLink) -> None:
    before = link.inform()["cycles"]
    link.write_memory(0, bytes(PAGE))
    link.read_memory(0, PAGE)
    time.sleep(0.05)
    assert link.inform()["cycles"] == before


def test_interrupt_that_does_not_come(link: RtlLink) -> None:
    before = link.inform()["cycles"]
    with pytest.raises(InterruptTimeout, match="within 1234 cycles"):
        link.wait_interrupt(1234)
    assert link.inform()["cycles"] == before + 1234
    with pytest.raises(InterruptTimeout):
        link.wait_interrupt(0)
    copy(link, 0, PAGE, bytes_of(64))
    link.wait_interrupt(0)  # it is still raised


def test_python_sleeps_through_the_run(link: RtlLink) -> None:
    """Python at a clock edge takes 5 us and more: 10 s for this wait, and not the second that it may take."""
    before = link.inform()["run_s"]
    with pytest.raises(InterruptTimeout):
        link.wait_interrupt(1_000_000)
    assert link.inform()["run_s"] - before < 4


# ---- the external memory ---------------------------------------------------------------------------


def test_bandwidth_and_latency_cost_what_they_say(link: RtlLink) -> None:
    beats = 512
    data = bytes_of(8 * beats)
    cycles = {}
    for latency, bandwidth in ((20, 8), (20, 4), (20, 1), (20, 0.5), (200, 8)):
        link.configure(latency=latency, bandwidth=bandwidth)
        cycles[latency, bandwidth] = copy(link, 0, 1 << 20, data)
    for bandwidth in (8, 4, 1, 0.5):  # each byte is read and written
        assert 1 <= cycles[20, bandwidth] / (2 * 8 * beats / bandwidth) < 1.15
    assert cycles[200, 8] > cycles[20, 8] + 360


def test_first_beat_comes_after_the_latency(link: RtlLink) -> None:
    data = bytes_of(8)
    link.configure(latency=20)
    base = copy(link, 0, PAGE, data)
    link.configure(latency=21)
    assert copy(link, 0, PAGE, data) == base + 2  # once for the read, once for the write's response


def test_flash_is_a_port_of_its_own(link: RtlLink) -> None:
    """Reads of window IMAGE come at the flash's pace, in spite of and beside what is written meanwhile."""
    beats = 512
    data = bytes_of(8 * beats)
    fast = copy(link, 0, 1 << 20, data)
    cycles = {}
    for latency, flash, bandwidth in ((20, 8, 8), (20, 4, 8), (20, 4, 4), (20, 1, 8), (20, 0.5, 4), (200, 8, 8)):
        link.configure(flash_latency=latency, flash_bandwidth=flash, bandwidth=bandwidth)
        cycles[latency, flash, bandwidth] = copy(link, 0, 1 << 20, data)
    for (latency, flash, _bandwidth), found in cycles.items():
        if latency == 20:
            assert 1 <= found / (8 * beats / flash) < 1.2
    assert cycles[20, 8, 8] < fast / 1.5  # reads and writes no longer share
    assert cycles[20, 4, 4] < 1.1 * cycles[20, 4, 8]
    assert cycles[200, 8, 8] > cycles[20, 8, 8] + 150
    link.configure(flash_bandwidth=None)
    assert copy(link, 0, 1 << 20, data) == fast


def test_flash_latency_to_the_first_beat(link: RtlLink) -> None:
    data = bytes_of(8)
    base = copy(link, 0, PAGE, data)
    link.configure(flash_bandwidth=8, flash_latency=20)
    assert copy(link, 0, PAGE, data) == base
    link.configure(flash_latency=21)
    assert copy(link, 0, PAGE, data) == base + 1
    link.configure(flash_latency=2)
    assert copy(link, 0, PAGE, data) == base - 18


def test_random_stalls_repeat_from_their_seed(link: RtlLink) -> None:
    data = bytes_of(PAGE)
    cycles = []
    for seed in (SEED, SEED, SEED + 1, 0):
        link.configure(stall_seed=seed)
        link.reset()
        cycles.append(copy(link, 8, 1 << 20, data))
    assert cycles[0] == cycles[1] != cycles[2]
    assert cycles[3] < min(cycles)  + 1


def test_many_copies_under_random_stalls(link: RtlLink) -> None:
    rng = np.random.default_rng(SEED)
    print(f"LACUNA_SEED={SEED}")
    for _ in range(40):
        link.configure(stall_seed=int(rng.integers(1, 1 << 32)), latency=int(rng.integers(2, 60)),
                       bandwidth=8 / int(rng.integers(1, 6)), flash_latency=int(rng.integers(2, 60)),
                       flash_bandwidth=(None, 8, 4, 1)[rng.integers(4)])
        data = rng.integers(0, 256, 8 * int(rng.integers(1, 700)), dtype=np.uint8).tobytes()
        copy(link, 8 * int(rng.integers(0, 2000)), (1 << 20) + 8 * int(rng.integers(0, 2000)), data)


def test_injected_errors(link: RtlLink) -> None:
    data = bytes_of(PAGE)
    link.configure(error_range=[PAGE + 800, PAGE + 807], read_errors=True, write_errors=False)
    copy(link, PAGE, 4 * PAGE, data)
    assert register(link, "ERROR_CODE") == Error.BUS_READ
    copy(link, 0, PAGE, data)  # writes there are fine
    assert register(link, "ERROR_CODE") == Error.NONE
    link.configure(read_errors=False, write_errors=True)
    copy(link, 0, PAGE, data)
    assert register(link, "ERROR_CODE") == Error.BUS_WRITE
    copy(link, PAGE + 808, 4 * PAGE, data)
    assert register(link, "ERROR_CODE") == Error.NONE
    link.configure(write_errors=False)
    register(link, "WINDOW2_BASE", link.memory_bytes)  # outside the memory
    register(link, "CONTROL", 1)
    link.wait_interrupt(10_000)
    assert register(link, "ERROR_CODE") == Error.BUS_WRITE


def test_broken_axi_rule_is_reported(link: RtlLink) -> None:
    register(link, "PROGRAM", 1)
    with pytest.raises(LinkError, match="broke a rule of AXI4: a read burst that is not INCR of whole words within"):
        copy(link, PAGE - 8, 2 * PAGE, bytes_of(64))


def test_register_error_response(link: RtlLink) -> None:
    with pytest.raises(LinkError, match="response 2 for the register at 0x10000"):
        link.read_register(0x10000)
    assert register(link, "ID") == 0x414E434C


@pytest.mark.parametrize(("options", "text"), [
    ({"latency": 1}, "latency must be 2 to 65535 cycles, not 1"),
    ({"bandwidth": 3}, "bandwidth must be 8 / n bytes per cycle"),
    ({"flash_latency": 0}, "flash_latency must be 2 to 65535 cycles, not 0"),
    ({"flash_bandwidth": 3}, "flash_bandwidth must be 8 / n bytes per cycle"),
    ({"bandwidth": 16}, "bandwidth must be 8 / n bytes per cycle"),
    ({"waves": True}, "started without waves"),
    ({"colour": 1}, "no option 'colour'"),
])
def test_options_that_do_not_fit(link: RtlLink, options: dict, text: str) -> None:
    with pytest.raises(LinkError, match=text):
        link.configure(**options)


# ---- waves ------------------------------------------------------------------------------------------


def recorded_cycles(path: Path) -> int:
    """Cycles between the first and last time stamp of an FST file (two big-endian u64 in its header block)."""
    kind, _length, first, last = struct.unpack(">BQQQ", path.read_bytes()[:25])
    assert kind == 0
    return (last - first) // 10_000


@both
def test_waves_of_everything(tmp_path: Path, name: str) -> None:
    waves = tmp_path / "all.fst"
    with start(name, waves=waves) as link:
        cycles = copy(link, 0, PAGE, bytes_of(1024))
    assert recorded_cycles(waves) > cycles


@both
def test_waves_of_a_window_of_commands(tmp_path: Path, name: str) -> None:
    data = bytes_of(64 * 32 * 8 - 8)  # the stand-in counts a command every 32 words
    with start(name, waves=tmp_path / "window.fst", waves_commands=(20, 23)) as link:
        whole = copy(link, 0, 1 << 20, data)
    if name == "verilator":  # Icarus always starts its file at time 0
        assert 4 * 64 <= recorded_cycles(tmp_path / "window.fst") < whole // 4
    with start(name, waves=tmp_path / "all.fst") as link:
        assert copy(link, 0, 1 << 20, data) == whole  # being watched does not change the cycles
    assert (tmp_path / "window.fst").stat().st_size < (tmp_path / "all.fst").stat().st_size / 2


# ---- processes --------------------------------------------------------------------------------------


def test_close_leaves_nothing() -> None:
    link = start()
    own = link._session
    assert own is not None
    group, directory = own.pid, Path(own.socket_path).parent
    assert directory.is_dir()
    link.close()
    link.close()
    assert group and gone(group, 0)
    assert not directory.exists()
    with pytest.raises(LinkError, match="closed; open the device again"):
        register(link, "ID")


def test_simulator_that_dies() -> None:
    link = start()
    assert link._session is not None
    group = link._session.pid
    assert group
    os.killpg(group, signal.SIGSEGV)
    with pytest.raises(LinkError, match=r"(?s)The simulator \(verilator 5.* was killed by SIGSEGV"):
        link.wait_interrupt(100)
    assert gone(group)


def test_nobody_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"No simulator answers at .*nobody"):
        RtlLink(tmp_path / "nobody")


@pytest.mark.parametrize("address", [None, "127.0.0.1:0"])
def test_clients_one_after_the_other(address: str | None) -> None:
    with session.launch("small", verilog=STAND_IN, socket_path=address, keep=True) as server:
        with RtlLink(server.socket_path) as first:
            first.write_memory(0, b"a letter")
        with RtlLink(server.socket_path) as second:
            assert second.read_memory(0, 8) == b"a letter"
        group = server.pid
    assert group and gone(group)


def child(text: str) -> subprocess.Popen:
    prelude = f"""
        from pathlib import Path
        from sw_driver.links.rtl import open_rtl
        link = open_rtl("small", verilog=Path({str(STAND_IN)!r}))
        print(link._session.pid, flush=True)
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", script], cwd=simulator.ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("number", "what"), [(signal.SIGINT, "wait"), (signal.SIGKILL, "wait"),
                                              (signal.SIGINT, "idle"), (signal.SIGKILL, "idle")])
def test_nothing_is_left_when_the_client_is_ended(number: signal.Signals, what: str) -> None:
    process = child("link.wait_interrupt(10**12)" if what == "wait" else "import time; time.sleep(1000)")
    assert process.stdout is not None
    group = int(process.stdout.readline())
    time.sleep(0.2)
    assert not gone(group, 0.1)
    process.send_signal(number)
    errors = process.communicate(timeout=20)[1]
    assert gone(group)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors


def test_what_a_killed_client_leaves_is_swept_up() -> None:
    process = child("print(Path(link._session.socket_path).parent, flush=True); import time; time.sleep(1000)")
    assert process.stdout is not None
    process.stdout.readline()
    left = Path(process.stdout.readline().strip())
    with start() as link:
        assert left.is_dir()  # in use
        process.kill()
        process.communicate()
        assert left.is_dir()
        with start():
            assert not left.exists()
        link.read_memory(0, 8)


def test_nothing_is_left_when_the_client_raises() -> None:
    process = child("raise SystemExit(3)")
    out, _errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert gone(int(out))


def test_started_alone_for_others_to_attach(tmp_path: Path) -> None:
    address = tmp_path / "link"
    server = subprocess.Popen([sys.executable, "-m", "sim.session", "--socket", str(address), "--verilog",
                               str(STAND_IN)], cwd=simulator.ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    assert server.stdout is not None
    assert "Ctrl-C ends it" in server.stdout.readline()
    with RtlLink(address) as link:
        copy(link, 0, PAGE, bytes_of(64))
    with RtlLink(address) as link:
        assert link.inform()["label"] == "large"
    groups = [group for _process, parent, group, _state in processes() if parent == server.pid]
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 130
    assert groups
    assert all(gone(group) for group in groups)


# ---- without cocotb ---------------------------------------------------------------------------------


def test_bare_run_takes_the_same_cycles() -> None:
    with start() as link:
        recorder = RecordingLink(link)
        for length in (64, PAGE, 1000 * 8):
            copy(recorder, 8, 1 << 20, bytes_of(length))
        waited = link.inform()["run_cycles"]
    bare = session.run_bare(STAND_IN, recorder.requests)
    assert bare.run_cycles == waited
    assert bare.cycles_per_second > 0
