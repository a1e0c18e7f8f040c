"""The golden model as a device: registers, windows, errors, records, and the proofs about tokens."""

from __future__ import annotations

import numpy as np
import pytest

from hw.contract.commands import (
    COMMAND_BYTES,
    MAGIC,
    RECORD_BYTES,
    Engine,
    Flag,
    Opcode,
    Space,
    decode_records,
    encode,
)
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import ID, REGISTERS, Control, Error, Permission, Status, Window
from sim.golden import HazardError
from sim.tokens import TokenError, check_counts, largest_counts, read_program
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout, LinkError

CONFIG = preset("nano")
DATA = 4096  # offset of data in window IMAGE
BASES = {Window.IMAGE: 0x1000, Window.INPUT: 0x4000, Window.OUTPUT: 0x8000, Window.RECORD: 0xC000}
SIZES = {Window.IMAGE: 0x2000, Window.INPUT: 0x400, Window.OUTPUT: 0x400, Window.RECORD: 0x200}
TO = {engine: 1 << engine for engine in Engine}

LOAD = (Opcode.LOAD, {"window": Window.INPUT, "length": 64, "signal": TO[Engine.STORE]})
STORE = (Opcode.STORE, {"window": Window.OUTPUT, "length": 64, "wait_load": 1})
POOL = {"kernel_height": 1, "kernel_width": 2, "stride_y": 1, "stride_x": 2, "dilation_y": 1, "dilation_x": 1,
        "input_height": 1, "input_width": 16, "input_pixel_stride": 1, "output_rows": 1, "output_width": 8,
        "output_blocks": 1, "output_pixel_stride": 1, "output_base": 64, "output_min": -128, "output_max": 127}
CONV = {"kernel_height": 1, "kernel_width": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
        "input_height": 1, "input_width": 4, "input_pixel_stride": 1, "input_blocks": 1, "last_lanes": 4,
        "output_rows": 1, "output_width": 4, "output_blocks": 1, "output_pixel_stride": 1, "output_base": 64}
ADD = {"output_rows": 1, "output_width": 1, "output_blocks": 1}


def begin(commands: int, **changes: int) -> bytes:
    return encode(Opcode.BEGIN, {"magic": MAGIC, "format_version": FORMAT_VERSION, "config_hash": CONFIG.hash,
                                 "command_count": commands + 2, **changes})


def image_of(commands, **changes: int) -> bytes:
    body = b"".join(encode(opcode, values) for opcode, values in commands)
    return begin(len(commands), **changes) + body + encode(Opcode.END, {})


def value(link: GoldenLink, register: str) -> int:
    return link.read_register(REGISTERS[register].address)


def put(link: GoldenLink, register: str, number: int) -> None:
    link.write_register(REGISTERS[register].address, number)


def device(image: bytes, **options) -> GoldenLink:
    link = GoldenLink(CONFIG, memory_bytes=1 << 16, **options)
    for window, base in BASES.items():
        put(link, f"WINDOW{window}_BASE", base)
        put(link, f"WINDOW{window}_SIZE", SIZES[window])
        writes = window in (Window.OUTPUT, Window.RECORD)
        put(link, f"WINDOW{window}_PERMISSION", Permission.WRITE if writes else Permission.READ)
    put(link, "INTERRUPT_ENABLE", 1)
    link.write_memory(BASES[Window.IMAGE], image.ljust(SIZES[Window.IMAGE], b"\0"))
    return link


def start(link: GoldenLink) -> tuple[Error, int]:
    put(link, "CONTROL", Control.START)
    link.wait_interrupt(1000)
    return Error(value(link, "ERROR_CODE")), value(link, "ERROR_COMMAND")


def run(commands, **changes: int) -> GoldenLink:
    link = device(image_of(commands, **changes))
    assert start(link) == (Error.NONE, 0), link.last.error_text
    return link


def test_identity_and_reset_values():
    link = GoldenLink(CONFIG)
    assert [value(link, name) for name in ("ID", "FORMAT", "CONFIG")] == [ID, FORMAT_VERSION, CONFIG.hash]
    assert value(link, "STATUS") == 0
    assert value(link, "WATCHDOG") == 100_000
    assert value(link, "CONV_COMMAND") == 0xFFFF_FFFF
    put(link, "WINDOW1_BASE", 0xFFFF_FFFF)
    assert value(link, "WINDOW1_BASE") == 0xFFFF_FFF8
    with pytest.raises(LinkError, match="Register ID at 0x0 allows read only"):
        put(link, "ID", 5)
    with pytest.raises(LinkError, match="Register CONTROL at 0xc allows write only"):
        value(link, "CONTROL")
    with pytest.raises(LinkError, match="no register at 0x38"):
        link.read_register(0x38)
    with pytest.raises(InterruptTimeout, match="within 10 cycles"):
        link.wait_interrupt(10)
    with pytest.raises(LinkError, match="units of 8"):
        link.read_memory(4, 8)


def test_load_store_and_records():
    link = device(image_of([LOAD, STORE]))
    data = bytes(range(64))
    link.write_memory(BASES[Window.INPUT], data)
    assert start(link) == (Error.NONE, 0)
    assert link.read_memory(BASES[Window.OUTPUT], 64) == data
    assert value(link, "STATUS") == Status.DONE | Status.INTERRUPT
    assert value(link, "COMPLETED") == value(link, "DISPATCHED") == 2
    records = list(decode_records(link.read_memory(BASES[Window.RECORD], 2 * RECORD_BYTES)))
    assert [(r["command"], r["opcode"], r["beats"]) for r in records] == [(1, Opcode.LOAD, 8), (2, Opcode.STORE, 8)]
    assert records[0]["start"] < records[0]["end"] <= records[1]["start"] < records[1]["end"] < value(link, "CYCLES")
    put(link, "CONTROL", Control.ACKNOWLEDGE)
    assert value(link, "STATUS") == Status.DONE
    with pytest.raises(InterruptTimeout):
        link.wait_interrupt(10)


def test_on_chip_addresses_wrap_around():
    last = CONFIG.feature_words - 1
    link = device(image_of([(opcode, {**values, "address": last}) for opcode, values in (LOAD, STORE)]))
    link.write_memory(BASES[Window.INPUT], bytes(range(64)))
    assert start(link) == (Error.NONE, 0)
    assert link.read_memory(BASES[Window.OUTPUT], 64) == bytes(range(64))
    assert link.golden.memory.feature[[last, 0], 0].tolist() == [0, 4]


@pytest.mark.parametrize(("changes", "error"), [
    ({"magic": 1}, Error.BAD_IMAGE),
    ({"format_version": FORMAT_VERSION + 1}, Error.WRONG_FORMAT),
    ({"config_hash": CONFIG.hash ^ 1}, Error.WRONG_CONFIG),
    ({"command_count": 1}, Error.BAD_COMMAND),
])
def test_begin_is_checked(changes, error):
    link = device(image_of([LOAD, STORE], **changes))
    assert start(link) == (error, 0)
    assert value(link, "STATUS") == Status.ERROR | Status.INTERRUPT
    assert value(link, "DISPATCHED") == 0


def test_blank_memory_is_no_image():
    assert start(device(b"")) == (Error.BAD_IMAGE, 0)


BAD = [
    *[(Opcode.LOAD, {**LOAD[1], **change}, Error.BAD_COMMAND) for change in (
        {"window": 4}, {"space": 5}, {"length": 0}, {"length": 12}, {"offset": 4},
        {"space": Space.PARAMETER, "length": 24})],
    (Opcode.STORE, {**STORE[1], "wait_load": 0, "space": Space.WEIGHT}, Error.BAD_COMMAND),
    *[(Opcode.LOAD, {**LOAD[1], **change}, Error.WINDOW_READ) for change in (
        {"window": Window.OUTPUT}, {"offset": 0x400}, {"offset": 0x400 - 56}, {"offset": 0xFFFF_FFF8})],
    (Opcode.STORE, {**STORE[1], "wait_load": 0, "window": Window.INPUT}, Error.WINDOW_WRITE),
    *[(Opcode.CONV, {**CONV, **change}, Error.BAD_COMMAND) for change in (
        {"kernel_height": 0}, {"kernel_width": 17}, {"stride_y": 0}, {"dilation_x": 0}, {"input_blocks": 0},
        {"last_lanes": 0}, {"last_lanes": 3}, {"unrolling": 1}, {"output_rows": 0}, {"output_width": 0},
        {"output_blocks": 0}, {"flags": Flag.PACKED, "kernel_width": 2}, {"flags": Flag.PACKED, "pad_left": 1})],
    *[(Opcode.MAX_POOL, {**POOL, **change}, Error.BAD_COMMAND) for change in (
        {"kernel_height": 0}, {"kernel_height": 17, "kernel_width": 17}, {"stride_x": 0}, {"dilation_y": 2})],
    *[(Opcode.ADD, {**ADD, **change}, Error.BAD_COMMAND) for change in (
        {"output_blocks": 0}, {"a_shift": 1}, {"b_shift": -16}, {"sum_shift": 8}, {"sum_shift": -32},
        {"b_multiplier": 1 << 31}, {"flags": Flag.PACKED})],
    (Opcode.MAX_POOL, {**POOL, "input_width": 14}, Error.BAD_COMMAND),  # the last window is empty
    (Opcode.BEGIN, {}, Error.BAD_OPCODE),
]


@pytest.mark.parametrize(("opcode", "values", "error"), BAD)
def test_bad_command_is_named_and_the_device_goes_on(opcode, values, error):
    link = device(image_of([LOAD, STORE, (opcode, values)]))
    assert start(link) == (error, 3)
    assert value(link, "STATUS") == Status.ERROR | Status.INTERRUPT
    assert value(link, "COMPLETED") == 2
    assert value(link, "DISPATCHED") == (2 if error is Error.BAD_OPCODE else 3)
    link.write_memory(BASES[Window.IMAGE], image_of([LOAD, STORE]))
    assert start(link) == (Error.NONE, 0)


def test_unknown_opcode_and_missing_end():
    image = bytearray(image_of([LOAD, STORE]))
    image[2 * COMMAND_BYTES] = 0x77
    assert start(device(bytes(image))) == (Error.BAD_OPCODE, 2)
    assert start(device(bytes(image_of([LOAD, STORE])[:-COMMAND_BYTES]))) == (Error.BAD_OPCODE, 3)
    link = device(image_of([LOAD, STORE], command_count=3))
    assert start(link) == (Error.BAD_OPCODE, 2)
    assert value(link, "ERROR_ADDRESS") == 2 * COMMAND_BYTES


def test_too_many_tokens():
    link = device(b"")
    put(link, f"WINDOW{Window.IMAGE}_SIZE", 1 << 15)
    put(link, f"WINDOW{Window.IMAGE}_BASE", 0)
    load = {"window": Window.IMAGE, "length": 8, "signal": TO[Engine.CONV]}
    put(link, f"WINDOW{Window.RECORD}_SIZE", 1 << 15)
    put(link, f"WINDOW{Window.RECORD}_BASE", 1 << 15)
    link.write_memory(0, image_of([(Opcode.LOAD, load)] * 250))
    assert start(link) == (Error.NONE, 0)
    image = image_of([(Opcode.LOAD, load), *[(Opcode.LOAD, {**load, "length": 16})] * 255])
    put(link, f"WINDOW{Window.IMAGE}_SIZE", len(image))
    put(link, f"WINDOW{Window.RECORD}_SIZE", (1 << 16) - len(image))
    put(link, f"WINDOW{Window.RECORD}_BASE", len(image))
    link.write_memory(0, image)
    assert start(link) == (Error.TOKEN_OVERFLOW, 256)
    with pytest.raises(TokenError, match="Up to 256 tokens from the load engine"):
        check_counts(read_program(image))


def test_bus_errors_and_record_window():
    link = device(image_of([LOAD, STORE]))
    put(link, f"WINDOW{Window.INPUT}_BASE", (1 << 16) - 24)
    assert start(link) == (Error.BUS_READ, 1)
    assert value(link, "ERROR_ADDRESS") == 1 << 16
    put(link, f"WINDOW{Window.INPUT}_BASE", 0xFFFF_FFF0)
    assert start(link) == (Error.WINDOW_READ, 1)
    assert value(link, "ERROR_ADDRESS") == 0
    link = device(image_of([LOAD, STORE]))
    put(link, f"WINDOW{Window.RECORD}_SIZE", RECORD_BYTES)
    assert start(link) == (Error.WINDOW_WRITE, 2)
    assert value(link, "COMPLETED") == 1


def test_soft_reset_clears_the_error():
    link = device(b"")
    start(link)
    put(link, "CONTROL", Control.SOFT_RESET)
    assert [value(link, name) for name in ("STATUS", "ERROR_CODE", "ERROR_COMMAND")] == [0, 0, 0]


def test_token_that_never_comes_trips_the_watchdog():
    commands = [LOAD, (Opcode.STORE, {**STORE[1], "wait_load": 2})]
    link = device(image_of(commands))
    assert start(link) == (Error.WATCHDOG, 2)
    put(link, "WATCHDOG", 0)
    put(link, "CONTROL", Control.START)
    assert value(link, "STATUS") == Status.BUSY
    with pytest.raises(TokenError, match=r"command 2 \(STORE\) waits for 2 token"):
        largest_counts(read_program(image_of(commands)))


# ---- hazards -------------------------------------------------------------------------------------------


def vector_load(**changes: int):
    return Opcode.LOAD, {**LOAD[1], "signal": TO[Engine.VECTOR], **changes}


def test_read_before_write_is_found():
    with pytest.raises(HazardError, match=r"command 2 \(STORE\) may read before the write of command 1 \(LOAD\) on "
                                          r"feature memory, entries 0 to 15"):
        run([LOAD, (Opcode.STORE, {**STORE[1], "wait_load": 0})])


def test_write_before_read_is_found():
    pool = Opcode.MAX_POOL, {**POOL, "wait_load": 1}
    with pytest.raises(HazardError, match=r"command 3 \(LOAD\) may write before the read of command 2 \(MAX_POOL\) on "
                                          r"feature memory, entries 8 to 15"):
        run([vector_load(), pool, vector_load(address=8)])
    signalling = Opcode.MAX_POOL, {**pool[1], "signal": TO[Engine.LOAD]}
    run([vector_load(), signalling, vector_load(address=8, wait_vector=1)])
    run([vector_load(), pool, vector_load(address=16)])


def test_order_through_a_third_engine_counts():
    pool = Opcode.MAX_POOL, {**POOL, "wait_load": 1, "signal": TO[Engine.STORE]}
    store = Opcode.STORE, {**STORE[1], "wait_load": 0, "wait_vector": 1, "address": 64, "length": 32,
                           "signal": TO[Engine.LOAD]}
    run([vector_load(), pool, store, vector_load(wait_store=1)])
    with pytest.raises(HazardError, match="may write before the read of command 2"):
        run([vector_load(), pool, store, vector_load()])


def test_tokens_are_taken_in_order():
    """The second token of the load engine comes from its second signalling command, not from any earlier one."""
    loads = [vector_load(), vector_load(address=16), vector_load(address=32)]
    pools = [(Opcode.MAX_POOL, {**POOL, "wait_load": 1, "input_base": 16 * i}) for i in range(3)]
    run(loads + pools)
    with pytest.raises(HazardError, match=r"command 4 .* may read before the write of command 3"):
        run([*loads, (Opcode.MAX_POOL, {**POOL, "wait_load": 2, "input_base": 32})])
    assert largest_counts(read_program(image_of(loads + pools)))[Engine.LOAD, Engine.VECTOR] == 3


@pytest.mark.parametrize(("space", "memory"), [
    (Space.WEIGHT, "weight"), (Space.MAP, "map"), (Space.PARAMETER, "parameter"), (Space.MASK, "mask")])
def test_conv_waits_for_weights_maps_parameters_masks(space, memory):
    others = sorted({Space.MAP, Space.WEIGHT, Space.PARAMETER, Space.MASK} - {space})
    loads = [(Opcode.LOAD, {"window": Window.IMAGE, "space": each, "offset": DATA, "length": 64,
                            "signal": TO[Engine.CONV] if each in (others[-1], space) else 0})
             for each in [*others, space]]
    missing = f"command 5 .CONV. may read before the write of command 4 .* on {memory} memory"
    for tokens, error in ((1, missing), (2, "")):
        commands = [*loads, (Opcode.CONV, {**CONV, "flags": Flag.GATED, "wait_load": tokens})]
        link = device(image_of(commands).ljust(DATA, b"\0") + b"\xff" * 64)
        if error:
            with pytest.raises(HazardError, match=error):
                start(link)
        else:
            assert start(link) == (Error.NONE, 0)


def test_command_that_overwrites_its_own_input():
    with pytest.raises(HazardError, match=r"command 1 \(MAX_POOL\) overwrites feature memory word 7"):
        run([(Opcode.MAX_POOL, {**POOL, "output_base": 7, "output_width": 1, "input_base": 6})])
    with pytest.raises(HazardError, match="writes some feature memory word twice"):
        run([(Opcode.MAX_POOL, {**POOL, "output_pixel_stride": 0})])


def test_windows_are_memory_too():
    image = image_of([(Opcode.STORE, {**STORE[1], "wait_load": 0}),
                      (Opcode.LOAD, {**LOAD[1], "window": Window.OUTPUT, "offset": 56, "address": 100})])
    link = device(image)
    put(link, f"WINDOW{Window.OUTPUT}_PERMISSION", Permission.READ | Permission.WRITE)
    with pytest.raises(HazardError, match=r"command 2 \(LOAD\) may access before the access of command 1 \(STORE\) on "
                                          r"window 2, bytes 56 to 63"):
        start(link)


def test_gated_convolution_counts_whole_for_hazards():
    """The mask is data: what a masked-off pixel would write is protected as well."""
    image = image_of([(Opcode.CONV, {**CONV, "flags": Flag.GATED}),
                      (Opcode.STORE, {**STORE[1], "wait_load": 0, "address": 66})])
    link = device(image)
    assert np.count_nonzero(link.golden.memory.mask_bits) == 0
    with pytest.raises(HazardError, match=r"command 2 \(STORE\) may read before the write of command 1 \(CONV\)"):
        start(link)
