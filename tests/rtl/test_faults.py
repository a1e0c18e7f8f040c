"""Whatever goes wrong, the device says so, and the next program runs exactly, without a hardware reset.

The same cases on the RTL and on the golden model; what only hardware has (time, a bus) follows on the RTL alone.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from hw.contract.commands import COMMAND_BYTES, RECORD_BYTES, Engine, Flag, Opcode, Space, decode, encode
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import REGISTERS, Control, Error, Permission, Status, Window
from sim import simulator
from sw_driver.compiler import compile_model
from sw_driver.device import Device, DeviceError, DeviceTimeout
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.rtl import RtlLink, open_rtl
from sw_driver.opening import open_device
from sw_driver.oracle import run_oracle
from sw_driver.tflite.builder import TfliteBuilder
from testbench.hand_made_programs import PERMISSIONS, PLACES, Command, Host, image_of
from testbench.random_graphs import random_graph

pytestmark = pytest.mark.rtl

SEED = int(os.environ.get("LACUNA_SEED", "1"))
PRESET = "nano"
CONFIG = preset(PRESET)
MEMORY_BYTES = 32 << 20
IDLE = 0xFFFF_FFFF
WATCHDOG = 3000


@pytest.fixture(scope="module")
def rtl() -> Iterator[RtlLink]:
    with open_rtl(CONFIG) as link:
        yield link


@pytest.fixture(scope="module")
def golden() -> GoldenLink:
    return GoldenLink(CONFIG, memory_bytes=MEMORY_BYTES, check=False)


@pytest.fixture(params=["rtl", "golden"])
def host(request: pytest.FixtureRequest) -> Host:
    """Either device, as the test before left it: nothing is reset here."""
    opened = Host(request.getfixturevalue(request.param), CONFIG)
    opened.write("WATCHDOG", WATCHDOG)
    return opened


@pytest.fixture
def rtl_host(rtl: RtlLink) -> Iterator[Host]:
    """The RTL, whose memory behaves as usual again afterwards."""
    opened = Host(rtl, CONFIG)
    opened.write("WATCHDOG", WATCHDOG)
    yield opened
    rtl.configure(latency=20, bandwidth=8, stall_seed=0, read_errors=False, write_errors=False)


class GoodProgram:
    """A gated network that uses every engine, its input, and what must come out."""

    def __init__(self) -> None:
        graph = random_graph(np.random.default_rng(8), "tiny", fits=CONFIG, gated=True)
        self.program = compile_model(graph.model, CONFIG)
        self.inputs = graph.inputs[0]
        with open_device("golden", CONFIG) as device:
            self.expected = device.run(self.program, self.inputs)
        opcodes = {record["opcode"] for record in self.expected.records}
        assert {Opcode.LOAD, Opcode.STORE, Opcode.CONV} < opcodes

    def check(self, host: Host) -> None:
        """Run it on a device that may have ended with an error; nothing but the doorbell comes before it."""
        result = Device(host.link, CONFIG).run(self.program, self.inputs)
        for name, want in self.expected.outputs.items():
            np.testing.assert_array_equal(result.outputs[name], want)
        assert len(result.records) == len(self.expected.records)


@pytest.fixture(scope="module")
def good() -> GoodProgram:
    return GoodProgram()


def expect_error(host: Host, error: Error, command: int, address: int | None = None) -> None:
    """The program placed last ends with this error; then the device is idle, and says nothing else."""
    assert host.run() == (error, command)
    assert host.read("STATUS") == Status.ERROR | Status.INTERRUPT
    if address is not None:
        assert host.read("ERROR_ADDRESS") == address
    for engine in Engine:
        assert host.read(f"{engine.name}_COMMAND") == IDLE
    host.write("CONTROL", Control.ACKNOWLEDGE)
    assert host.read("STATUS") == Status.ERROR
    assert host.read("ERROR_CODE") == error  # it stays


TO = {engine: 1 << engine for engine in Engine}
LOAD: dict[str, int] = {"window": Window.INPUT, "length": 64}
STORE: dict[str, int] = {"window": Window.OUTPUT, "length": 64}
CONV: dict[str, int] = {
    "kernel_height": 1, "kernel_width": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
    "input_height": 1, "input_width": 4, "input_pixel_stride": 1, "input_blocks": 1, "last_lanes": CONFIG.lanes,
    "output_rows": 1, "output_width": 4, "output_blocks": 1, "output_pixel_stride": 1, "output_base": 64,
    "output_min": -128, "output_max": 127}
POOL: dict[str, int] = {
    "kernel_height": 1, "kernel_width": 2, "stride_y": 1, "stride_x": 2, "dilation_y": 1, "dilation_x": 1,
    "input_height": 1, "input_width": 16, "input_pixel_stride": 1, "output_rows": 1, "output_width": 8,
    "output_blocks": 1, "output_pixel_stride": 1, "output_base": 64, "output_min": -128, "output_max": 127}
ADD: dict[str, int] = {"output_rows": 1, "output_width": 4, "output_blocks": 1, "output_pixel_stride": 1,
                       "output_base": 64, "sum_min": -128, "sum_max": 127}
DEPTHWISE = {**POOL, "kernel_width": 3}
DECIDE = {name: value for name, value in POOL.items() if name not in ("output_min", "output_max")}
DILATE = {**DECIDE, "stride_x": 1}
INPUT_BYTES = PLACES[Window.INPUT][1]

#: A command before the bad one on every engine, so that they are busy or were.
BEFORE: list[Command] = [(Opcode.LOAD, LOAD), (Opcode.CONV, CONV), (Opcode.ADD, ADD), (Opcode.STORE, STORE)]
BAD_AT = len(BEFORE) + 1


# ---- programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "error"), [
    ({"magic": 0x414E4342}, Error.BAD_IMAGE),
    ({"format_version": FORMAT_VERSION + 1}, Error.WRONG_FORMAT),
    ({"format_version": FORMAT_VERSION | 1 << 31}, Error.WRONG_FORMAT),
    ({"config_hash": CONFIG.hash ^ 1}, Error.WRONG_CONFIG),
    ({"config_hash": preset("small").hash}, Error.WRONG_CONFIG),
    ({"command_count": 0}, Error.BAD_COMMAND),
    ({"command_count": 1}, Error.BAD_COMMAND),
    ({"command_count": 0xFFFF_FFFF}, Error.BAD_COMMAND),
])
def test_image_of_another_device(host: Host, good: GoodProgram, begin: dict[str, int], error: Error) -> None:
    host.place(image_of(CONFIG, BEFORE, b"", **begin))
    expect_error(host, error, 0)
    assert host.read("DISPATCHED") == host.read("COMPLETED") == 0
    good.check(host)


@pytest.mark.parametrize(("image", "error", "command"), [
    (b"", Error.BAD_IMAGE, 0),
    (b"\xff" * COMMAND_BYTES * 4, Error.BAD_IMAGE, 0),
    (encode(Opcode.END, {}), Error.BAD_IMAGE, 0),
    (encode(Opcode.CONV, CONV), Error.BAD_IMAGE, 0),
    (image_of(CONFIG, BEFORE)[:-COMMAND_BYTES], Error.BAD_OPCODE, BAD_AT),  # no END
    (image_of(CONFIG, BEFORE, command_count=len(BEFORE)), Error.BAD_OPCODE, len(BEFORE) - 1),  # END too late
    (image_of(CONFIG, [*BEFORE, (Opcode.BEGIN, {})]), Error.BAD_OPCODE, BAD_AT),
    (image_of(CONFIG, BEFORE).replace(encode(Opcode.STORE, STORE), b"\x7f" * COMMAND_BYTES), Error.BAD_OPCODE, 4),
    (image_of(CONFIG, BEFORE).replace(encode(Opcode.STORE, STORE), b"\x00" * COMMAND_BYTES), Error.BAD_OPCODE, 4),
], ids=["blank", "ones", "end", "conv", "no-end", "late-end", "second-begin", "unknown", "zero"])
def test_image_that_is_none(host: Host, good: GoodProgram, image: bytes, error: Error, command: int) -> None:
    host.place(image)
    expect_error(host, error, command, command * COMMAND_BYTES)
    good.check(host)


def test_program_that_leaves_its_window(host: Host, good: GoodProgram) -> None:
    """Commands are fetched through window IMAGE, too, and its offset may not overflow."""
    host.place(image_of(CONFIG, BEFORE))
    base, _size = PLACES[Window.IMAGE]
    host.set_window(Window.IMAGE, base, 3 * COMMAND_BYTES, Permission.READ)
    assert host.run()[0] == Error.WINDOW_READ
    host.set_window(Window.IMAGE, base, PLACES[Window.IMAGE][1], Permission.WRITE)
    assert host.run() == (Error.WINDOW_READ, 0)
    host.set_window(Window.IMAGE, base, PLACES[Window.IMAGE][1], Permission.READ)
    for offset in (PLACES[Window.IMAGE][1], 0xFFFF_FF80, 0xFFFF_FFF8):
        host.write("PROGRAM", offset)
        assert host.run() == (Error.WINDOW_READ, 0)
    good.check(host)


# ---- commands -------------------------------------------------------------------------------------------------


def bad(opcode: Opcode, fields: Mapping[str, int], error: Error, changes: list[dict[str, int]]) -> list[Any]:
    return [pytest.param(opcode, {**fields, **change}, error,
                         id=f"{opcode.name}-" + "-".join(f"{name}={value:#x}" for name, value in change.items()))
            for change in changes]


FIELDS = [
    *bad(Opcode.LOAD, LOAD, Error.BAD_COMMAND, [
        {"window": 4}, {"window": 255}, {"space": 5}, {"space": 255}, {"length": 0}, {"length": 4}, {"length": 12},
        {"length": 63}, {"offset": 4}, {"offset": 0xFFFF_FFFF}, {"space": Space.PARAMETER, "length": 24}]),
    *bad(Opcode.STORE, STORE, Error.BAD_COMMAND, [
        {"window": 4}, {"space": Space.WEIGHT}, {"space": 255}, {"length": 0}, {"length": 12}, {"offset": 4}]),
    *bad(Opcode.LOAD, LOAD, Error.WINDOW_READ, [
        {"window": Window.OUTPUT}, {"window": Window.RECORD}, {"offset": INPUT_BYTES}, {"offset": INPUT_BYTES - 56},
        {"offset": 0xFFFF_FFF8}, {"offset": 0xFFFF_FFC0}, {"offset": 0x8000_0000},
        {"length": INPUT_BYTES + 8}, {"length": 0xFFFF_FFF8}, {"offset": 8, "length": 0xFFFF_FFF8},
        {"offset": 0xFFFF_FFF8, "length": 0xFFFF_FFF8}]),
    *bad(Opcode.STORE, STORE, Error.WINDOW_WRITE, [
        {"window": Window.INPUT}, {"window": Window.IMAGE}, {"offset": 0x1000}, {"offset": 0x1000 - 56},
        {"offset": 0xFFFF_FFF8}, {"length": 0x1008}, {"offset": 8, "length": 0xFFFF_FFF8}]),
    *bad(Opcode.CONV, CONV, Error.BAD_COMMAND, [
        {"kernel_height": 0}, {"kernel_height": 17}, {"kernel_width": 0}, {"kernel_width": 255}, {"stride_y": 0},
        {"stride_x": 0}, {"dilation_y": 0}, {"dilation_x": 0}, {"input_blocks": 0}, {"last_lanes": 0},
        {"last_lanes": CONFIG.lanes + 1}, {"last_lanes": CONFIG.lanes - 1}, {"unrolling": 1}, {"unrolling": 255},
        {"output_rows": 0}, {"output_width": 0}, {"output_blocks": 0}, {"input_height": 0}, {"input_width": 0},
        {"flags": Flag.PACKED, "kernel_width": 2}, {"flags": Flag.PACKED, "pad_left": 1},
        {"flags": Flag.PACKED, "pad_top": 1}, {"flags": 64}, {"flags": Flag.WHOLE}, {"flags": Flag.ADD, "a_shift": 1},
        {"flags": Flag.ADD, "sum_multiplier": 1 << 31}]),
    *bad(Opcode.MAX_POOL, POOL, Error.BAD_COMMAND, [
        {"kernel_height": 0}, {"kernel_height": 17, "kernel_width": 16}, {"stride_x": 0}, {"dilation_y": 2},
        {"input_height": 0}, {"output_width": 0}, {"input_width": 14}, {"flags": Flag.ADD}, {"flags": 16},
        {"flags": Flag.WHOLE}]),
    *bad(Opcode.AVERAGE_POOL, POOL, Error.BAD_COMMAND, [{"kernel_width": 0}, {"dilation_x": 0}, {"input_width": 14}]),
    *bad(Opcode.ADD, ADD, Error.BAD_COMMAND, [
        {"output_blocks": 0}, {"output_rows": 0}, {"a_shift": 1}, {"sum_shift": -32}, {"b_multiplier": 1 << 31},
        {"flags": Flag.PACKED}]),
    *bad(Opcode.MUL, ADD, Error.BAD_COMMAND, [
        {"output_width": 0}, {"sum_shift": 8}, {"sum_multiplier": 1 << 31}, {"flags": Flag.ADD}]),
    *bad(Opcode.MEAN, {**POOL, "multiplier": 1 << 30}, Error.BAD_COMMAND, [
        {"output_blocks": 0}, {"dilation_x": 2}, {"input_width": 14}, {"multiplier": 1 << 31}, {"shift": 8},
        {"shift": -32}, {"flags": Flag.PACKED}]),
    *bad(Opcode.DEPTHWISE, DEPTHWISE, Error.BAD_COMMAND, [
        {"kernel_height": 0}, {"kernel_height": 17}, {"kernel_width": 17}, {"stride_y": 0}, {"dilation_x": 0},
        {"input_height": 0}, {"output_rows": 0}, {"flags": Flag.PACKED}, {"flags": Flag.ADD}]),
    *bad(Opcode.DECIDE, DECIDE, Error.BAD_COMMAND, [
        {"output_blocks": 2}, {"invert": 2}, {"any_lane": 2}, {"flags": Flag.GATED}, {"kernel_width": 0},
        {"dilation_y": 2}, {"input_width": 14}]),
    *bad(Opcode.DILATE, DILATE, Error.BAD_COMMAND, [
        {"stride_y": 3}, {"stride_x": 0}, {"kernel_width": 17}, {"kernel_height": 0}, {"dilation_y": 0},
        {"flags": Flag.GATED}, {"output_rows": 0}, {"input_width": 0}]),
    *bad(Opcode.COMBINE, {"output_rows": 2, "output_width": 5, "output_blocks": 1}, Error.BAD_COMMAND, [
        {"output_blocks": 2}, {"output_rows": 0}, {"inverted": 8}, {"spread": 4}, {"flags": Flag.GATED}]),
]


@pytest.mark.parametrize(("opcode", "fields", "error"), FIELDS)
def test_bad_command(host: Host, good: GoodProgram, opcode: Opcode, fields: dict[str, int], error: Error) -> None:
    host.place(image_of(CONFIG, [*BEFORE, (opcode, fields)]))
    expect_error(host, error, BAD_AT, fields.get("offset", 0))
    good.check(host)


@pytest.mark.parametrize("window", [Window.INPUT, Window.OUTPUT])
@pytest.mark.parametrize(("change", "allowed"), [
    ({"size": 0}, False), ({"size": 56}, False), ({"size": 64}, True), ({"permission": 0}, False),
    ({"base": 0xFFFF_FFF8, "size": 64}, False),
], ids=["size-0", "size-56", "size-64", "permission-0", "end-of-the-address-space"])
def test_window(host: Host, good: GoodProgram, window: Window, change: dict[str, int], allowed: bool) -> None:
    host.place(image_of(CONFIG, BEFORE))
    base, size = PLACES[window]
    place = {"base": base, "size": size, "permission": PERMISSIONS[window], **change}
    host.set_window(window, **place)
    host.link.write_memory(PLACES[Window.OUTPUT][0], b"\xee" * 128)
    if allowed:
        assert host.run() == (Error.NONE, 0)
    elif window is Window.INPUT:
        expect_error(host, Error.WINDOW_READ, 1, 0)
    else:
        expect_error(host, Error.WINDOW_WRITE, 4, 0)
        assert host.link.read_memory(PLACES[Window.OUTPUT][0], 128) == b"\xee" * 128
    good.check(host)


def test_windows_deny_by_default() -> None:
    """Out of reset no window permits anything. On devices of its own."""
    with open_rtl(CONFIG) as link:
        for host in (Host(link, CONFIG), Host(GoldenLink(CONFIG), CONFIG)):
            assert all(host.read(f"WINDOW{i}_{part}") == 0 for i in Window for part in ("SIZE", "PERMISSION"))
            host.write("INTERRUPT_ENABLE", 1)
            assert host.run() == (Error.WINDOW_READ, 0)


@pytest.mark.parametrize("records", [0, 1, 3])
def test_records_have_a_window_too(host: Host, good: GoodProgram, records: int) -> None:
    loads: list[Command] = [(Opcode.LOAD, LOAD)] * 4
    host.place(image_of(CONFIG, loads))
    base, _size = PLACES[Window.RECORD]
    host.link.write_memory(base, b"\xee" * 4 * RECORD_BYTES)
    host.set_window(Window.RECORD, base, records * RECORD_BYTES + 32, Permission.WRITE)
    expect_error(host, Error.WINDOW_WRITE, records + 1, records * RECORD_BYTES)
    assert host.read("COMPLETED") == records
    assert host.link.read_memory(base, 4 * RECORD_BYTES)[records * RECORD_BYTES :] == (
        b"\xee" * (4 - records) * RECORD_BYTES)
    good.check(host)


@pytest.mark.parametrize(("window", "error", "command"), [
    (Window.IMAGE, Error.BUS_READ, 0), (Window.INPUT, Error.BUS_READ, 1), (Window.OUTPUT, Error.BUS_WRITE, 4),
    (Window.RECORD, Error.BUS_WRITE, 1)])
def test_no_memory_there(host: Host, good: GoodProgram, window: Window, error: Error, command: int) -> None:
    """DECERR: the window is past the end of external memory."""
    host.place(image_of(CONFIG, BEFORE))
    host.set_window(window, MEMORY_BYTES, 0x1000, PERMISSIONS[window])
    if window is Window.RECORD:  # which command completes first is a matter of time
        assert host.run()[0] == error
    else:
        expect_error(host, error, command, MEMORY_BYTES)
    good.check(host)


def test_a_load_that_fails_while_the_next_has_begun(host: Host, good: GoodProgram) -> None:
    """The error is the first one's, whose data don't come."""
    host.place(image_of(CONFIG, [(Opcode.LOAD, LOAD)] * 3))
    host.set_window(Window.INPUT, MEMORY_BYTES, 0x1000, PERMISSIONS[Window.INPUT])
    expect_error(host, Error.BUS_READ, 1, MEMORY_BYTES)
    good.check(host)


def test_token_that_never_comes(host: Host, good: GoodProgram) -> None:
    host.place(image_of(CONFIG, [*BEFORE, (Opcode.STORE, {**STORE, "wait_conv": 1})]))
    expect_error(host, Error.WATCHDOG, BAD_AT)
    good.check(host)


def test_too_many_tokens(host: Host, good: GoodProgram) -> None:
    """A counter holds 255 tokens."""
    load = (Opcode.LOAD, {**LOAD, "length": 8, "signal": TO[Engine.CONV]})
    host.place(image_of(CONFIG, [load] * 255))
    assert host.run() == (Error.NONE, 0)
    host.place(image_of(CONFIG, [load] * 300))
    expect_error(host, Error.TOKEN_OVERFLOW, 256)
    good.check(host)


def test_soft_reset_after_an_error(host: Host, good: GoodProgram) -> None:
    host.place(image_of(CONFIG, [(Opcode.CONV, {**CONV, "stride_x": 0})]))
    expect_error(host, Error.BAD_COMMAND, 1)
    host.write("CONTROL", Control.SOFT_RESET)
    for _ in range(100):
        if not host.read("STATUS"):
            break
    assert [host.read(name) for name in ("STATUS", "ERROR_CODE", "ERROR_COMMAND", "ERROR_ADDRESS")] == [0, 0, 0, 0]
    good.check(host)


def test_interrupt_that_is_not_enabled(host: Host, good: GoodProgram) -> None:
    host.place(image_of(CONFIG, BEFORE))
    host.write("INTERRUPT_ENABLE", 0)
    host.start()
    with pytest.raises(InterruptTimeout):
        host.link.wait_interrupt(5000)
    assert host.read("STATUS") == Status.DONE | Status.INTERRUPT
    host.write("INTERRUPT_ENABLE", 1)
    host.link.wait_interrupt(10)
    host.write("CONTROL", Control.ACKNOWLEDGE)
    with pytest.raises(InterruptTimeout):
        host.link.wait_interrupt(100)
    assert host.read("STATUS") == Status.DONE
    good.check(host)


def test_driver_tells_the_layer_of_a_bad_command(host: Host, good: GoodProgram) -> None:
    own = next(layer for layer in good.program.layers if layer.engine == "conv")
    index = own.commands[0].index
    image = bytearray(good.program.image)
    at = slice(index * COMMAND_BYTES, (index + 1) * COMMAND_BYTES)
    opcode, fields = decode(bytes(image[at]))
    image[at] = encode(opcode, {**fields, "stride_y": 0})
    device = Device(host.link, CONFIG)
    with pytest.raises(DeviceError, match=rf"BAD_COMMAND at command {index} \(CONV, layer '{own.name}'\)") as caught:
        device.run(dataclasses.replace(good.program, image=bytes(image)), good.inputs)
    assert (caught.value.code, caught.value.command) == (Error.BAD_COMMAND, index)
    good.check(host)


# ---- tags -----------------------------------------------------------------------------------------------------

TAG = 0x8000_0001
WEIGHTS: Command = (Opcode.LOAD, {**LOAD, "space": Space.WEIGHT})
WITH_TAGS = {
    "loads": image_of(CONFIG, [WEIGHTS], establishes=TAG),
    "requires": image_of(CONFIG, BEFORE, requires=TAG),
    "requires another": image_of(CONFIG, BEFORE, requires=TAG ^ 1),
    "plain": image_of(CONFIG, BEFORE),
    "fails": image_of(CONFIG, [WEIGHTS, (Opcode.LOAD, {**LOAD, "length": 63})], establishes=TAG),
    "requires and fails": image_of(CONFIG, [*BEFORE, (Opcode.LOAD, {**LOAD, "length": 63})], requires=TAG),
}
AT = {name: 0x800 * i for i, name in enumerate(WITH_TAGS)}


def place_tags(host: Host) -> None:
    """All of these programs, in one image."""
    host.place(b"".join(image.ljust(0x800, b"\0") for image in WITH_TAGS.values()))


def run_at(host: Host, name: str) -> tuple[Error, int]:
    host.write("PROGRAM", AT[name])
    return host.run()


def expect_refused(host: Host) -> None:
    """The program that requires TAG is refused before anything of it is done."""
    host.write("PROGRAM", AT["requires"])
    expect_error(host, Error.NOT_RESIDENT, 0, AT["requires"])
    assert host.read("DISPATCHED") == host.read("COMPLETED") == 0


def soft_reset(host: Host) -> None:
    host.write("CONTROL", Control.SOFT_RESET)
    while host.read("STATUS") & Status.BUSY:
        pass


def test_program_that_requires_what_is_not_there(host: Host, good: GoodProgram) -> None:
    """Nothing loaded; another tag; after an error while loading or running; after a reset; after another program."""
    place_tags(host)
    soft_reset(host)
    expect_refused(host)
    for between, end in (("requires another", (Error.NOT_RESIDENT, 0)), ("plain", (Error.NONE, 0)),
                         ("requires and fails", (Error.BAD_COMMAND, BAD_AT)), ("fails", (Error.BAD_COMMAND, 2))):
        assert run_at(host, "loads") == (Error.NONE, 0)
        for _ in range(2):
            assert run_at(host, "requires") == (Error.NONE, 0)
        assert run_at(host, between) == end
        expect_refused(host)
        expect_refused(host)  # that was an error, too
    assert run_at(host, "loads") == (Error.NONE, 0)
    soft_reset(host)
    expect_refused(host)
    assert run_at(host, "loads") == (Error.NONE, 0)
    good.check(host)  # another image's program
    place_tags(host)
    expect_refused(host)
    good.check(host)


def test_resets_while_programs_with_tags_run(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    """A soft or hardware reset at any time: what was being loaded, or was required, does not stand."""
    rng = np.random.default_rng(SEED + 4)
    print(f"LACUNA_SEED={SEED}")
    place_tags(rtl_host)
    for number in range(20):
        name = ("loads", "requires")[number % 2]
        if name == "requires":
            assert run_at(rtl_host, "loads") == (Error.NONE, 0)
        rtl_host.write("PROGRAM", AT[name])
        rtl_host.start()
        with pytest.raises(InterruptTimeout):
            rtl.wait_interrupt(int(rng.integers(1, 100)))
        if number % 5 == 4:
            rtl.reset()
            rtl_host.write("WATCHDOG", WATCHDOG)
            place_tags(rtl_host)
        else:
            soft_reset(rtl_host)
        expect_refused(rtl_host)
    good.check(rtl_host)


def resident_model() -> bytes:
    builder = TfliteBuilder()
    rng = np.random.default_rng(5)
    x = builder.add_input("image", (1, 6, 7, 4), scale=0.05, zero_point=3)
    weights = rng.integers(-60, 60, (8, 3, 3, 4)).astype(np.int8)
    weights[:, 1, 1, 2:] = 0
    x = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=-3)
    x = builder.add_depthwise_conv_2d(x, rng.integers(-60, 60, (1, 3, 3, 8)).astype(np.int8), None, 0.01, scale=0.05,
                                      zero_point=4)
    builder.add_output(builder.add_conv_2d(x, rng.integers(-60, 60, (4, 1, 1, 8)).astype(np.int8), None, 0.01,
                                           scale=0.05, zero_point=0))
    return builder.to_bytes()


def test_resident_weights_survive_runs_and_nothing_else(host: Host, good: GoodProgram) -> None:
    """Exact with weights of runs before; loaded again behind the driver's back, or after an error."""
    model = resident_model()
    program = compile_model(model, CONFIG, weights="resident")
    assert program.loading is not None
    device = Device(host.link, CONFIG)
    rng = np.random.default_rng(SEED + 5)
    print(f"LACUNA_SEED={SEED}")

    def check(*, loads: bool) -> None:
        x = rng.integers(-128, 128, program.inputs[0].shape).astype(np.int8)
        result = device.run(program, x)
        np.testing.assert_array_equal(result.output, run_oracle(model, [x])[0])
        assert (result.loading is not None) is loads

    check(loads=True)
    for _ in range(4):
        check(loads=False)
    soft_reset(host)
    check(loads=True)
    check(loads=False)
    good.check(host)
    device._written = None  # the other driver wrote another image
    check(loads=True)
    damaged = bytearray(program.image)
    index = program.layers[1].commands[0].index
    damaged[index * COMMAND_BYTES + 20] = 0
    with pytest.raises(DeviceError, match="BAD_COMMAND"):
        device.run(dataclasses.replace(program, image=bytes(damaged)), np.zeros(program.inputs[0].shape, np.int8))
    check(loads=True)
    check(loads=False)


# ---- the RTL alone: time and the bus ------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "kind", "offset", "error", "command"), [
    (Window.IMAGE, "read", 8, Error.BUS_READ, 0),
    (Window.IMAGE, "read", 2 * COMMAND_BYTES + 120, Error.BUS_READ, 2),
    (Window.INPUT, "read", 56, Error.BUS_READ, 1),
    (Window.INPUT, "read", 0, Error.BUS_READ, 1),
    (Window.OUTPUT, "write", 0, Error.BUS_WRITE, 4),
    (Window.OUTPUT, "write", 56, Error.BUS_WRITE, 4),
    (Window.RECORD, "write", 3 * RECORD_BYTES + 8, Error.BUS_WRITE, 4),
])
def test_bus_error(rtl_host: Host, rtl: RtlLink, good: GoodProgram, window: Window, kind: str, offset: int,
                   error: Error, command: int) -> None:
    """SLVERR on one word; the store comes last, so that it is the fourth record."""
    first = PLACES[window][0] + offset
    for stall_seed in (0, SEED, SEED + 1):
        rtl.configure(stall_seed=stall_seed, error_range=[first, first + 7], read_errors=kind == "read",
                      write_errors=kind == "write")
        before: list[Command] = [
            (Opcode.LOAD, {**LOAD, "signal": TO[Engine.CONV]}),
            (Opcode.CONV, {**CONV, "wait_load": 1, "signal": TO[Engine.VECTOR]}),
            (Opcode.ADD, {**ADD, "wait_conv": 1, "signal": TO[Engine.STORE]}),
            (Opcode.STORE, {**STORE, "wait_vector": 1})]
        rtl_host.place(image_of(CONFIG, before))
        expect_error(rtl_host, error, command)
        assert first - 64 * 8 < rtl_host.read("ERROR_ADDRESS") <= first  # a write tells its burst
        rtl.configure(read_errors=False, write_errors=False)
        good.check(rtl_host)


def test_bus_that_does_not_answer(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    """The watchdog ends the wait; the bus's late answers end before the next program does."""
    rtl_host.write("WATCHDOG", 500)
    for latency, command in ((40_000, 0), (40_000, 0)):
        rtl_host.place(image_of(CONFIG, BEFORE))
        rtl.configure(latency=latency)
        expect_error(rtl_host, Error.WATCHDOG, command)
        assert rtl_host.read("CYCLES") < 3 * 500 + 100
    rtl.configure(latency=20)
    rtl_host.write("WATCHDOG", 100_000)
    good.check(rtl_host)


def test_watchdog_leaves_long_commands_alone(rtl_host: Host, good: GoodProgram) -> None:
    """A convolution of many thousand cycles, one that multiplies nothing, an empty mask: all of them make progress."""
    rtl_host.write("WATCHDOG", 300)
    large = {**CONV, "kernel_height": 16, "kernel_width": 16, "input_height": 32, "input_width": 32,
             "input_row_stride": 32, "output_rows": 17, "output_width": 17, "output_row_stride": 17,
             "output_base": 4096}
    pool = {**POOL, "kernel_height": 16, "kernel_width": 16, "stride_x": 1, "input_height": 32, "input_width": 32,
            "input_row_stride": 32, "output_rows": 17, "output_width": 17, "output_row_stride": 17,
            "output_base": 4096}
    empty = {**CONV, "flags": Flag.GATED, "input_width": 4096, "output_width": 4096, "output_rows": 2}
    zeros: list[Command] = [(Opcode.LOAD, {**LOAD, "space": Space.MASK, "length": 1024, "signal": TO[Engine.CONV]})]
    no_rows: Command = (Opcode.LOAD, {**LOAD, "space": Space.MAP, "length": 128, "signal": TO[Engine.CONV]})
    rtl_host.place(image_of(CONFIG, [*zeros, (Opcode.CONV, {**empty, "wait_load": 1}), (Opcode.CONV, large),
                                     (Opcode.AVERAGE_POOL, pool), no_rows, (Opcode.CONV, {**large, "wait_load": 1})]))
    rtl_host.link.write_memory(PLACES[Window.INPUT][0], bytes(1024))
    assert rtl_host.run() == (Error.NONE, 0)
    assert rtl_host.read("CYCLES") > 10_000
    good.check(rtl_host)


def test_soft_reset_in_the_middle_of_a_run(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    rng = np.random.default_rng(SEED)
    print(f"LACUNA_SEED={SEED}")
    device = Device(rtl, CONFIG)
    for number in range(25):
        rtl.configure(stall_seed=int(rng.integers(0, 1000)), latency=int(rng.choice([2, 20, 100])))
        with pytest.raises(DeviceTimeout) as caught:  # which ends in a soft reset
            device.run(good.program, good.inputs, timeout_cycles=int(rng.integers(1, good.expected.cycles // 2)))
        if number == 0:
            assert all(name in str(caught.value) for name in ("STATUS", "DISPATCHED", "CYCLES", "conv"))
        assert rtl_host.read("STATUS") == 0
        assert all(rtl_host.read(f"{engine.name}_COMMAND") == IDLE for engine in Engine)
        good.check(rtl_host)


def test_hardware_reset_in_the_middle_of_a_run(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    """Of device and bus, while every engine works: registers are as after power-up, and the next program is exact."""
    rng = np.random.default_rng(SEED + 3)
    print(f"LACUNA_SEED={SEED}")
    long: list[Command] = [(Opcode.LOAD, {**LOAD, "length": INPUT_BYTES}), (Opcode.CONV, CONV), (Opcode.ADD, ADD),
                           (Opcode.STORE, {**STORE, "length": PLACES[Window.OUTPUT][1]})]
    for _ in range(15):
        rtl.configure(stall_seed=int(rng.integers(0, 1000)), latency=int(rng.choice([2, 20, 100])))
        rtl_host.place(image_of(CONFIG, long))
        rtl_host.start()
        with pytest.raises(InterruptTimeout):
            rtl.wait_interrupt(int(rng.integers(1, 600)))
        rtl.reset()
        for name in ("STATUS", "CYCLES", "COMPLETED", "ERROR_CODE", "INTERRUPT_ENABLE", "WATCHDOG"):
            assert rtl_host.read(name) == REGISTERS[name].reset
        assert all(rtl_host.read(f"WINDOW{i}_PERMISSION") == 0 for i in Window)
        assert all(rtl_host.read(f"{engine.name}_COMMAND") == IDLE for engine in Engine)
        good.check(rtl_host)


def test_doorbell_while_busy(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    good.check(rtl_host)
    cycles = rtl_host.read("CYCLES")
    rtl_host.start()
    for _ in range(5):
        with pytest.raises(InterruptTimeout):
            rtl.wait_interrupt(cycles // 8)
        rtl_host.start()
    assert rtl_host.read("STATUS") == Status.BUSY
    assert rtl_host.finish() == (Error.NONE, 0)
    assert rtl_host.read("CYCLES") == cycles
    assert rtl_host.read("COMPLETED") == good.program.command_count - 2


def test_registers_and_memory_survive_any_write(rtl_host: Host, good: GoodProgram) -> None:
    """Random values in every register, CONTROL included, while programs run: the next one is exact."""
    rng = np.random.default_rng(SEED + 1)
    print(f"LACUNA_SEED={SEED}")
    writable = [register for register in REGISTERS.values() if register.access.value != "read"]
    for _ in range(20):
        for _write in range(15):
            register = writable[int(rng.integers(len(writable)))]
            rtl_host.write(register.name, int(rng.integers(1 << 32)) if rng.random() < 0.5 else int(rng.integers(8)))
        rtl_host.write("WATCHDOG", WATCHDOG)
        rtl_host.write("CONTROL", Control.SOFT_RESET)
        for _poll in range(10_000):
            if not rtl_host.read("STATUS") & Status.BUSY:
                break
        good.check(rtl_host)


def test_damaged_images(rtl_host: Host, rtl: RtlLink, good: GoodProgram) -> None:
    """Random bytes in a program's image: it ends, soon, well or with an error; never does the device hang."""
    rng = np.random.default_rng(SEED + 2)
    print(f"LACUNA_SEED={SEED}")
    device = Device(rtl, CONFIG)
    ends: list[Error] = []
    for number in range(60):
        rtl_host.write("WATCHDOG", 2000)
        image = bytearray(good.program.image)
        size = good.program.command_count * COMMAND_BYTES if number % 4 else len(image)
        for at in rng.integers(COMMAND_BYTES, size, int(rng.integers(1, 4))):
            image[at] = rng.integers(256) if rng.random() < 0.5 else image[at] ^ 1 << int(rng.integers(8))
        rtl.configure(stall_seed=int(rng.integers(0, 1000)))
        try:
            device.run(dataclasses.replace(good.program, image=bytes(image)), good.inputs, timeout_cycles=40_000_000)
            ends.append(Error.NONE)
        except DeviceTimeout as error:
            raise AssertionError(f"LACUNA_SEED={SEED}, image {number}: {error}") from None
        except DeviceError as error:
            ends.append(error.code)
        if number % 5 == 0:
            good.check(rtl_host)
    good.check(rtl_host)
    assert len(set(ends)) >= 4, ends


# ---- the simulator's process --------------------------------------------------------------------------------------


def test_simulator_that_is_killed(good: GoodProgram) -> None:
    link = open_rtl(CONFIG)
    device = Device(link, CONFIG)
    assert link._session is not None
    group = link._session.pid
    assert group
    os.killpg(group, signal.SIGKILL)
    with pytest.raises(LinkError, match=r"The simulator \(verilator .*\) was killed by SIGKILL"):
        device.run(good.program, good.inputs)
    with pytest.raises(LinkError, match="open the device again"):
        device.run(good.program, good.inputs)
    device.close()


CHILD = """
import lacuna, numpy
from testbench.random_graphs import random_graph
program = lacuna.compile(random_graph(numpy.random.default_rng(8), "tiny", fits=lacuna.PRESETS["nano"]).model, "nano")
inputs = random_graph(numpy.random.default_rng(8), "tiny", fits=lacuna.PRESETS["nano"]).inputs[0]
with lacuna.open("rtl", preset="nano") as device:
    device.run(program, inputs)
    print(device.link._session.pid, flush=True)
    while True:
        device.run(program, inputs)
"""


def test_ctrl_c_leaves_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", CHILD], cwd=simulator.ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout is not None
    group = int(process.stdout.readline())
    os.killpg(group, 0)  # it is there
    process.send_signal(signal.SIGINT)
    _out, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
