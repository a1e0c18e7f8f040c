"""The driver in C: compiled strictly, run as a program of its own against the golden model and the RTL."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import lacuna
from hw.contract.config import PRESETS, Config
from hw.contract.image import Feed, HostStep, ImageError, Port, Program
from hw.contract.registers import REGISTERS, Control, Error
from hw.delivery.c_header import registers_header
from models.digits_data import as_input, load_samples
from sw_driver.c.export import SOURCES, ExportError, copy_driver, program_header
from sw_driver.command_line import main
from sw_driver.links import protocol
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout, Link
from sw_driver.links.serving import serve
from sw_driver.tensor_layouts import feed_bytes
from sw_driver.tflite.builder import TfliteBuilder

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.tflite"
HOST = Path(__file__).parent / "c_host" / "host.c"
SEED = int(os.environ.get("LACUNA_SEED", "1"))
SMALL = PRESETS["small"]
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow"]
STATUS = {name: i for i, name in enumerate(
    ("OK", "ACCESS_FAILED", "NO_DEVICE", "WRONG_FORMAT", "WRONG_CONFIG", "NO_MEMORY", "NOT_LOADED", "TIMEOUT",
     "DEVICE_ERROR", "STUCK"))}


def build(directory: Path, program: Program, config: Config) -> Path:
    """The host program with a compiled program in it."""
    (directory / "program.h").write_text(program_header(program, config, "program"))
    driver = [source for source in SOURCES if source.suffix == ".c"]
    subprocess.run(["gcc", "-std=gnu99", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES[0].parent}",
                    f"-I{directory}", HOST, *driver, "-o", directory / "host"], check=True)
    return directory / "host"


def run_host(host: Path, address: str, mode: str, data: bytes, memory_bytes: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([host, address, mode, str(memory_bytes)], input=data, capture_output=True, check=False,
                          timeout=300)


def run_on(link: Link, host: Path, mode: str, arrays: Sequence[np.ndarray],
           memory_bytes: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the host program against `link`, served from a thread."""
    listener, address = protocol.listen(str(host.parent / "socket"))

    def answer() -> None:
        connection, _peer = listener.accept()
        with connection:
            serve(link, connection)

    server = threading.Thread(target=answer)
    server.start()
    try:
        return run_host(host, address, mode, b"".join(array.tobytes() for array in arrays),
                        memory_bytes or link.memory_bytes)
    finally:
        server.join(10)
        listener.close()


# ---- compiling -------------------------------------------------------------------------------------


def test_registers_header_is_up_to_date() -> None:
    header = next(source for source in SOURCES if source.name == "lacuna_registers.h")
    assert header.read_text() == registers_header(), "write it anew with hw.delivery.c_header.registers_header"


@pytest.mark.parametrize("command", [
    ["gcc", "-std=c99", "-ffreestanding", "-Os"], ["gcc", "-std=c11", "-O2"], ["g++", "-x", "c++", "-std=c++11"]])
def test_driver_compiles_without_a_warning_and_needs_nothing(command: list[str], tmp_path: Path) -> None:
    source = next(source for source in SOURCES if source.suffix == ".c")
    subprocess.run([*command, *STRICT, "-c", source, "-o", tmp_path / "driver.o"], check=True)
    undefined = subprocess.run(["nm", "--undefined-only", tmp_path / "driver.o"], check=True, capture_output=True,
                               text=True).stdout
    names = {line.split()[-1] for line in undefined.splitlines()} - {"__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    assert names <= {"memcpy", "memset"}  # what a compiler may always ask for


def test_program_header_compiles_strictly(tmp_path: Path) -> None:
    program = lacuna.compile(DIGITS, preset="small")
    program.model = 'a "model" \\ with ??/ and */ in its näme'
    (tmp_path / "digits.h").write_text(program_header(program, SMALL, "digits"))
    (tmp_path / "use.c").write_text('#include "digits.h"\nconst lacuna_program *use(void);\n'
                                    "const lacuna_program *use(void) { return &digits; }\n")
    for compiler, standard in (("gcc", "c99"), ("g++", "c++11")):
        language = ["-x", "c++"] if compiler == "g++" else []
        subprocess.run([compiler, *language, f"-std={standard}", *STRICT, f"-I{SOURCES[0].parent}", "-c",
                        tmp_path / "use.c", "-o", tmp_path / "use.o"], check=True)


# ---- running ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    program = lacuna.compile(DIGITS, preset="small")
    return program, build(tmp_path_factory.mktemp("digits"), program, SMALL)


def images(count: int) -> list[np.ndarray]:
    return [image[np.newaxis] for image in as_input(load_samples()[1].images[:count])]


def logits_of(program: Program, inputs: Sequence[np.ndarray]) -> list[bytes]:
    """What the Python driver gets for the input of the final SOFTMAX."""
    step = next(step for step in program.host_steps if step.op == "SOFTMAX")
    plain = dataclasses.replace(program, host_steps=[], outputs=[
        dataclasses.replace(program.outputs[0], tensor=step.inputs[0])])
    with lacuna.open("golden", preset="small") as device:
        return [next(iter(device.run(plain, array).outputs.values())).tobytes() for array in inputs]


@pytest.mark.parametrize("mode", ["interrupt", "poll"])
def test_digits_on_the_golden_model(digits: tuple[Program, Path], mode: str) -> None:
    program, host = digits
    inputs = images(3)
    done = run_on(GoldenLink(SMALL), host, mode, inputs)
    assert done.returncode == STATUS["OK"], done.stderr
    assert done.stdout == b"".join(logits_of(program, inputs))


class Forgetful(GoldenLink):
    """Notes where each program starts; forgets the tag before the start with this number, as if someone else had used
    the device."""

    def __init__(self, forgets: int | None = None):
        super().__init__(SMALL)
        self.forgets = forgets
        self.starts: list[int] = []

    def write_register(self, address: int, value: int) -> None:
        if address == REGISTERS["CONTROL"].address and value & Control.START:
            if len(self.starts) == self.forgets:
                self.golden.tag = 0
            self.starts.append(self.read_register(REGISTERS["PROGRAM"].address))
        super().write_register(address, value)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    """A small network whose weights stay on chip."""
    builder = TfliteBuilder()
    rng = np.random.default_rng(3)
    x = builder.add_input("image", (1, 6, 7, 3), scale=0.05, zero_point=3)
    x = builder.add_conv_2d(x, rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8), None, 0.01, scale=0.05,
                            zero_point=3)
    builder.add_output(builder.add_conv_2d(x, rng.integers(-60, 60, (10, 1, 1, 8)).astype(np.int8), None, 0.01,
                                           scale=0.05, zero_point=0))
    program = lacuna.compile(builder.to_bytes(), preset="small", weights="resident")
    return program, build(tmp_path_factory.mktemp("resident"), program, SMALL)


@pytest.mark.parametrize("mode", ["interrupt", "poll"])
@pytest.mark.parametrize(("forgets", "starts"), [(None, "L000"), (2, "L00L00"), (1, None)])
def test_resident_weights(resident: tuple[Program, Path], mode: str, forgets: int | None, starts: str | None) -> None:
    """Loaded once; again, once, when the device says that they are not there; not when they were just loaded."""
    program, host = resident
    assert program.loading is not None
    rng = np.random.default_rng(SEED)
    inputs = [rng.integers(-128, 128, program.inputs[0].shape).astype(np.int8) for _ in range(3)]
    link = Forgetful(forgets)
    done = run_on(link, host, mode, inputs)
    if starts is None:
        assert done.returncode == STATUS["DEVICE_ERROR"]
        assert b"NOT_RESIDENT: the weights that the program requires are not on the device" in done.stderr
        assert link.starts == [program.loading.offset, 0]
        return
    assert done.returncode == STATUS["OK"], done.stderr
    assert link.starts == [program.loading.offset if letter == "L" else 0 for letter in starts]
    with lacuna.open("golden", preset="small") as device:
        assert done.stdout == b"".join(device.run(program, x).output.tobytes() for x in inputs)


@pytest.mark.slow
@pytest.mark.rtl
def test_digits_on_the_rtl(digits: tuple[Program, Path]) -> None:
    from sim.session import MEMORY_BYTES, launch

    program, host = digits
    inputs = images(2)
    with launch("small") as session:
        done = run_host(host, session.socket_path, "interrupt", b"".join(array.tobytes() for array in inputs),
                        MEMORY_BYTES["verilator"])
    assert done.returncode == STATUS["OK"], done.stderr
    assert done.stdout == b"".join(logits_of(program, inputs))


def test_several_inputs_outputs_and_a_mask(tmp_path: Path) -> None:
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    builder = TfliteBuilder()
    shape = (1, 6, 7, 10)
    x = builder.add_input("x", shape, scale=0.05, zero_point=3)
    mask = builder.add_input("mask", (1, 6, 7, 1), "bool")
    weights = rng.integers(-60, 60, (10, 3, 3, 10)).astype(np.int8)
    y = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3, name="branch")
    y = builder.add_conv_2d(y, weights, None, 0.01, scale=0.05, zero_point=3, name="second")
    y = builder.add_select_v2(mask, y, x, name="select")
    builder.add_output(y)
    builder.add_output(builder.add_max_pool_2d(y, 2, name="pool"))
    program = lacuna.compile(builder.to_bytes(), preset="small")
    assert any(feed.layout == "mask" for feed in program.feeds)
    arrays = {"x": rng.integers(-128, 128, shape).astype(np.int8), "mask": rng.random((1, 6, 7, 1)) < 0.2}
    with lacuna.open("golden", preset="small") as device:
        expected = device.run(program, arrays).outputs
    host = build(tmp_path, program, SMALL)
    done = run_on(GoldenLink(SMALL), host, "interrupt", [arrays[port.name] for port in program.inputs])
    assert done.returncode == STATUS["OK"], done.stderr
    assert done.stdout == b"".join(expected[port.name].tobytes() for port in program.outputs)


# ---- layouts ---------------------------------------------------------------------------------------


def random_feed(rng: np.random.Generator, name: str) -> tuple[Feed, Port]:
    height, width, channels = (int(value) for value in rng.integers(1, 12, 3))
    layout = str(rng.choice(["blocked", "packed", "mask"]))
    if layout == "mask":
        width = int(rng.integers(1, 140))
        steps, size = [], (height, width)
        for _ in range(int(rng.integers(0, 3))):
            step = {key: [int(value) for value in rng.integers(1, high, 2)]
                    for key, high in (("kernel", 4), ("stride", 3), ("dilation", 3))}
            step["pad"] = [int(value) for value in rng.integers(0, 3, 2)]
            size = tuple(int(value * stride + rng.integers(0, 2)) for value, stride in
                         zip(size, step["stride"], strict=True))
            step["size"] = list(size)
            steps.append(step)
        length = size[0] * -(-size[1] // 64) * 8 + 8 * int(rng.integers(2))
        return (Feed(name, layout, 0, length, height, width, 1, invert=bool(rng.integers(2)), demand=steps),
                Port(name, 0, [1, height, width, 1], "bool", 1.0, 0))
    zero_point = int(rng.integers(-128, 128))
    port = Port(name, 0, [1, height, width, channels], "int8", 0.5, zero_point)
    if layout == "blocked":
        length = height * width * -(-channels // 8) * 8
        return Feed(name, layout, 0, length, height, width, channels, zero_point), port
    top, bottom, left, right = (int(value) for value in rng.integers(0, 4, 4))
    row_bytes = (left + width + right) * channels + int(rng.integers(0, 5))
    length = -(-(top + height + bottom) * row_bytes // 8) * 8 + 8 * int(rng.integers(2))
    return Feed(name, layout, 0, length, height, width, channels, zero_point, row_bytes, top, bottom, left, right), port


def test_feeds_are_those_of_the_python_driver(digits: tuple[Program, Path], tmp_path: Path) -> None:
    """Random feeds in all layouts: the bytes in window INPUT equal those that tensor_layouts makes."""
    print(f"LACUNA_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    for turn in range(4):
        feeds, ports, offset = [], [], 0
        for i in range(8):
            feed, port = random_feed(rng, f"input {i}")
            feed.offset = offset
            offset += -(-feed.length // 64) * 64
            feeds.append(feed)
            ports.append(port)
        program = dataclasses.replace(digits[0], feeds=feeds, inputs=ports, input_bytes=offset)
        arrays = [rng.integers(-128, 128, port.shape).astype(np.int8) if port.dtype == "int8"
                  else rng.random(port.shape) < 0.3 for port in ports]
        directory = tmp_path / str(turn)
        directory.mkdir()
        link = GoldenLink(SMALL)
        done = run_on(link, build(directory, program, SMALL), "feeds", arrays)
        assert done.returncode == STATUS["OK"], done.stderr
        base = link.read_register(0x90)
        for feed, array in zip(feeds, arrays, strict=True):
            got = link.read_memory(base + feed.offset, feed.length)
            assert got == feed_bytes(feed, array, SMALL.lanes), feed


# ---- what goes wrong -------------------------------------------------------------------------------


class Faulty(GoldenLink):
    """Answers some registers with other values; never raises its interrupt where it `hangs`."""

    def __init__(self, answers: dict[int, int] | None = None, hangs: bool = False):
        super().__init__(SMALL)
        self.answers = answers or {}
        self.hangs = hangs

    def read_register(self, address: int) -> int:
        return self.answers.get(address, super().read_register(address))

    def wait_interrupt(self, cycles: int) -> None:
        if self.hangs:
            raise InterruptTimeout("never")
        super().wait_interrupt(cycles)


@pytest.mark.parametrize(("link", "status", "text"), [
    (Faulty({0x00: 1}), "NO_DEVICE", b"there is no Lacuna device"),
    (Faulty({0x04: 99}), "WRONG_FORMAT", b"different format versions"),
    (Faulty({0x08: 99}), "WRONG_CONFIG", b"compile it for this device"),
    (Faulty({0x10: 1}), "STUCK", b"stays busy"),
    (Faulty(hangs=True), "TIMEOUT", b"did not finish in time"),
])
def test_device_that_is_not_right(digits: tuple[Program, Path], link: Faulty, status: str, text: bytes) -> None:
    done = run_on(link, digits[1], "interrupt", images(1))
    assert done.returncode == STATUS[status], done.stderr
    assert text in done.stderr
    assert done.stdout == b""


def test_errors_of_the_device_are_named(digits: tuple[Program, Path], tmp_path: Path) -> None:
    program = dataclasses.replace(digits[0], image=bytes(8) + digits[0].image[8:])
    done = run_on(GoldenLink(SMALL), build(tmp_path, program, SMALL), "interrupt", images(1))
    assert done.returncode == STATUS["DEVICE_ERROR"]
    assert f"BAD_IMAGE: the program does not start with BEGIN (error {int(Error.BAD_IMAGE)}, command 0".encode() in (
        done.stderr)


def test_too_little_memory(digits: tuple[Program, Path]) -> None:
    done = run_on(GoldenLink(SMALL), digits[1], "interrupt", images(1), memory_bytes=4096)
    assert done.returncode == STATUS["NO_MEMORY"]


def test_connection_that_breaks(digits: tuple[Program, Path]) -> None:
    class Breaks(GoldenLink):
        def write_memory(self, address: int, data: bytes) -> None:
            super().write_memory(address + 4, data)  # refused: not a multiple of 8

    done = run_on(Breaks(SMALL), digits[1], "interrupt", images(1))
    assert done.returncode == STATUS["ACCESS_FAILED"]


@pytest.mark.parametrize("name", ["", "2nd", "a-b", "while", "näme"])
def test_names_that_c_does_not_allow(digits: tuple[Program, Path], name: str) -> None:
    with pytest.raises(ExportError, match="no name for a variable"):
        program_header(digits[0], SMALL, name)


def test_programs_that_c_can_not_run(digits: tuple[Program, Path]) -> None:
    program = digits[0]
    with pytest.raises(ImageError, match="compile it for 'nano'"):
        program_header(program, PRESETS["nano"], "digits")
    tensor = program.outputs[0].tensor
    twice = HostStep("SOFTMAX", "again", [tensor], [9999], {"scale": 1.0, "beta": 1.0, "shape": [1, 10]})
    again = dataclasses.replace(program, host_steps=[*program.host_steps, twice],
                                outputs=[dataclasses.replace(program.outputs[0], tensor=9999)])
    with pytest.raises(ExportError, match="SOFTMAX of a SOFTMAX"):
        program_header(again, SMALL, "digits")
    view = dataclasses.replace(program, outputs=[dataclasses.replace(program.outputs[0], tensor=9999)])
    with pytest.raises(ExportError, match="view of an input"):
        program_header(view, SMALL, "digits")


# ---- the command line ------------------------------------------------------------------------------


def test_compile_writes_the_header(tmp_path: Path) -> None:
    header = tmp_path / "my_digits.h"
    arguments = ["compile", str(DIGITS), "--preset", "small", "-o", str(tmp_path / "digits.lacuna"), "--c-header"]
    assert main([*arguments, str(header)]) == 0
    assert "static const lacuna_program my_digits = {" in header.read_text()
    assert main([*arguments, str(tmp_path / "2.h")]) == 1
    assert not (tmp_path / "2.h").exists()


def test_driver_is_copied(tmp_path: Path) -> None:
    copy_driver(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lacuna.h", "lacuna.c", "lacuna_registers.h"}
