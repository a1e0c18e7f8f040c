"""A compiled program as C, for the driver in lacuna.h."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hw.contract.config import Config
from hw.contract.image import Feed, Loading, Port, Program, Result
from sw_driver.device import expected_cycles

#: The driver's own files, to be compiled with the program.
SOURCES = tuple(Path(__file__).with_name(name) for name in ("lacuna.h", "lacuna.c", "lacuna_registers.h"))

#: Keywords of C, and what such a variable would hide.
_RESERVED = frozenset([
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "main", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
])

_LAYOUTS = {"blocked": "LACUNA_BLOCKED", "packed": "LACUNA_PACKED", "mask": "LACUNA_MASK"}


class ExportError(ValueError):
    """A program that the C driver can't run, or a name that C does not allow."""


@dataclasses.dataclass(frozen=True)
class _Output:
    """A graph output, and the device's result that it is, up to its shape and a SOFTMAX."""

    port: Port
    result: Result
    softmax: bool
    scale: float


def program_header(program: Program, config: Config, name: str) -> str:
    """A C header that defines `static const lacuna_program <name>` with all of its data.

    Raises ImageError for a program of another configuration, ExportError for a name that is no C identifier and for a
    program with an output that the device does not compute.
    """
    program.check(config)
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in _RESERVED:
        raise ExportError(f"{name!r} is no name for a variable in C: give the file a name of letters, digits and "
                          "underscores that starts with a letter")
    outputs = [_output(program, port) for port in program.outputs]
    loading = program.loading
    offset, count = (loading.offset, loading.command_count) if loading else (0, 0)
    guard = f"LACUNA_PROGRAM_{name.upper()}_H"
    inputs = {port.name: i for i, port in enumerate(program.inputs)}
    lines = [
        f"/* {_comment(program.model)}, compiled for configuration {_comment(program.preset)}. Written by",
        " * lacuna compile. It defines data: include it in one source file. */",
        f"#ifndef {guard}", f"#define {guard}", "", '#include "lacuna.h"', "",
        f"static const uint8_t {name}_image[{len(program.image)}] = {{", *_byte_lines(program.image), "};", "",
        *_tensors(f"{name}_inputs", [_tensor(port, port.scale, port.zero_point, False) for port in program.inputs]),
        *_tensors(f"{name}_outputs", [_output_tensor(output) for output in outputs]),
        *_demands(name, program.feeds),
        *_array("lacuna_feed", f"{name}_feeds", [_feed(name, i, feed, inputs) for i, feed in
                                                 enumerate(program.feeds)]),
        *_array("lacuna_result", f"{name}_results", [
            _braces(i, output.result.offset, output.result.height, output.result.width, output.result.channels)
            for i, output in enumerate(outputs)]),
        f"static const lacuna_program {name} = {{",
        f"    {_string(program.model)}, {_string(program.preset)},",
        f"    {program.format_version}u, 0x{program.config_hash:08X}u, {config.lanes}u,",
        f"    {program.command_count}u, {program.input_bytes}u, {program.output_bytes}u, {len(program.image)}u,",
        (f"    {int(bool(program.report.get('reads_output')))}u, {_timeout(program, config)}u,"),
        f"    {offset}u, {count}u, {_timeout(program, config, loading) if loading else 0}u, {name}_image,",
        (f"    {len(program.inputs)}u, {len(outputs)}u, {len(program.feeds)}u, {len(outputs)}u,"),
        f"    {name}_inputs, {name}_outputs, {name}_feeds, {name}_results,",
        "};", "", "#endif", "",
    ]
    return "\n".join(lines)


def copy_driver(directory: Path) -> None:
    """Put the driver's files into a directory. Raises OSError."""
    for source in SOURCES:
        shutil.copyfile(source, directory / source.name)


def _timeout(program: Program, config: Config, loading: Loading | None = None) -> int:
    """Cycles; a 32-bit register counts them."""
    return min(expected_cycles(program, config, loading), 0xF000_0000)


# ---- outputs ---------------------------------------------------------------------------------------


def _output(program: Program, port: Port) -> _Output:
    """Follow an output back through the host's steps to a result of the device. Raises ExportError."""
    made_by = {step.outputs[0]: step for step in program.host_steps}
    results = {result.tensor: result for result in program.results}
    tensor, softmax, scale = port.tensor, False, port.scale
    while tensor not in results:
        step = made_by.get(tensor)
        if step is None:
            raise ExportError(f"Output {port.name!r} is a view of an input: the device has nothing to compute for it; "
                              "drop it from the model")
        if step.op == "SOFTMAX":
            if softmax:
                raise ExportError(f"Output {port.name!r} is a SOFTMAX of a SOFTMAX, which the C driver does not know; "
                                  "end the model before the first")
            softmax, scale = True, float(step.parameters["scale"])
        elif step.op != "RESHAPE":
            raise ExportError(f"Output {port.name!r} needs {step.op} on the host, which the C driver does not have; "
                              "end the model before it")
        tensor = step.inputs[0]
    return _Output(port, results[tensor], softmax, scale)


def _output_tensor(output: _Output) -> str:
    # The zero point of a SOFTMAX's input is not in the program; SOFTMAX does not depend on it.
    return _tensor(output.port, output.scale, 0 if output.softmax else output.port.zero_point, output.softmax)


# ---- text ------------------------------------------------------------------------------------------


def _tensor(port: Port, scale: float, zero_point: int, softmax: bool) -> str:
    number = np.format_float_scientific(np.float32(scale), unique=True, trim="0")
    return _braces(_string(port.name), int(np.prod(port.shape, dtype=np.int64)), f"{number}f", zero_point, int(softmax))


def _feed(name: str, index: int, feed: Feed, inputs: dict[str, int]) -> str:
    return _braces(
        inputs[feed.input], _LAYOUTS[feed.layout], feed.offset, feed.length, feed.row_bytes, feed.height, feed.width,
        feed.channels, feed.pad_top, feed.pad_bottom, feed.pad_left, feed.pad_right, feed.zero_point, int(feed.invert),
        len(feed.demand), f"{name}_demand_{index}" if feed.demand else "NULL")


def _demands(name: str, feeds: Iterable[Feed]) -> list[str]:
    keys = ("kernel", "stride", "dilation", "pad", "size")
    lines: list[str] = []
    for index, feed in enumerate(feeds):
        if feed.demand:
            rows = [_braces(*(value for key in keys for value in step[key])) for step in feed.demand]
            lines += _array("lacuna_demand", f"{name}_demand_{index}", rows)
    return lines


def _tensors(name: str, rows: list[str]) -> list[str]:
    return _array("lacuna_tensor", name, rows)


def _array(kind: str, name: str, rows: list[str]) -> list[str]:
    return [f"static const {kind} {name}[{len(rows)}] = {{", *(f"    {row}," for row in rows), "};", ""]


def _braces(*values: Any) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def _byte_lines(data: bytes) -> list[str]:
    return ["    " + ",".join(map(str, data[i : i + 32])) + "," for i in range(0, len(data), 32)]


def _string(text: str) -> str:
    """A C string literal: what is not plain ASCII as octal escapes of its UTF-8."""
    plain = "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
                    for byte in text.encode())
    return f'"{plain}"'


def _comment(text: str) -> str:
    """Text within a comment; nothing in it ends the comment or the line."""
    return re.sub(r"[^ -~]|[*/\\]", "_", text)
