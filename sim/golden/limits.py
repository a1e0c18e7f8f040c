"""What a command's fields may hold. The device answers BAD_COMMAND to anything else, before it does any of it."""

from __future__ import annotations

from collections.abc import Mapping

from hw.contract.commands import LEFT_SHIFT_MAX, OPERAND_SHIFT_MIN, Flag, Opcode, Space
from hw.contract.config import KERNEL_MAX, WINDOWS, Config
from hw.contract.registers import Error
from hw.contract.weight_format import BLOCK_BYTES_MAX, TAPS_MAX
from sim.golden.memory import DeviceError, entry_bytes


def _require(opcode: Opcode, values: Mapping[str, int], field: str, low: int, high: int | None = None) -> None:
    value = values[field]
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"{low} to {high}" if low != high else f"{low}"
        raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: {field} must be {limit}, not {value}",
                          values.get("offset", 0))


def _transfer(opcode: Opcode, values: Mapping[str, int], config: Config) -> None:
    _require(opcode, values, "window", 0, WINDOWS - 1)
    _require(opcode, values, "space", 0, Space.FEATURE if opcode is Opcode.STORE else max(Space))
    if opcode is Opcode.LOAD:
        _flags(opcode, values, Flag.COMPRESSED | Flag.WITHOUT_MAPS)
        if values["flags"] & Flag.COMPRESSED:
            _block(opcode, values, config)
            return
        _flags(opcode, values, Flag(0))
    _require(opcode, values, "length", 8)
    for field, unit in (("offset", 8), ("length", 8), ("length", entry_bytes(config, Space(values["space"])))):
        if values[field] % unit:
            raise DeviceError(Error.BAD_COMMAND,
                              f"{opcode.name}: {field} must be a multiple of {unit}, not {values[field]}",
                              values["offset"])


def _block(opcode: Opcode, values: Mapping[str, int], config: Config) -> None:
    _require(opcode, values, "space", Space.WEIGHT, Space.WEIGHT)
    for field in ("offset", "length"):
        if values[field] % 2:
            raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: {field} must be a multiple of 2, not "
                                                 f"{values[field]}", values["offset"])
    _require(opcode, values, "length", 2, BLOCK_BYTES_MAX - 1)
    _require(opcode, values, "taps", 1, TAPS_MAX)
    for field in ("input_blocks", "output_blocks"):
        _require(opcode, values, field, 1)
    _require(opcode, values, "unrolling", 0, config.rows.bit_length() - 1)
    for field in ("last_rows", "last_outputs"):
        _require(opcode, values, field, 1, config.lanes)
    for field, unit in (("parameter_offset", 8), ("parameter_length", config.parameter_entry_bytes)):
        if values[field] % unit:
            raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: {field} must be a multiple of {unit}, not "
                                                 f"{values[field]}", values["offset"])


def _output(opcode: Opcode, values: Mapping[str, int]) -> None:
    for field in ("output_rows", "output_width", "output_blocks"):
        _require(opcode, values, field, 1)


def _addition(opcode: Opcode, values: Mapping[str, int]) -> None:
    for name in ("a", "b", "sum"):
        _require(opcode, values, f"{name}_multiplier", 0, (1 << 31) - 1)
        smallest, largest = (-31, LEFT_SHIFT_MAX) if name == "sum" else (OPERAND_SHIFT_MIN, 0)
        _require(opcode, values, f"{name}_shift", smallest, largest)


def _flags(opcode: Opcode, values: Mapping[str, int], allowed: Flag) -> None:
    if values["flags"] & ~allowed.value:
        raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: flags may hold {allowed!r}, not {values['flags']:#x}",
                          values.get("offset", 0))
    if values["flags"] & Flag.WHOLE and not values["flags"] & Flag.GATED:
        raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: flags hold WHOLE without GATED")


def _window(opcode: Opcode, values: Mapping[str, int]) -> None:
    for field in ("input_height", "input_width", "stride_y", "stride_x"):
        _require(opcode, values, field, 1)


def _convolution(opcode: Opcode, values: Mapping[str, int], config: Config) -> None:
    packed = bool(values["flags"] & Flag.PACKED)
    _window(opcode, values)
    _require(opcode, values, "kernel_height", 1, KERNEL_MAX)
    _require(opcode, values, "kernel_width", 1, 1 if packed else KERNEL_MAX)
    for field in ("dilation_y", "dilation_x", "input_blocks"):
        _require(opcode, values, field, 1)
    _require(opcode, values, "last_lanes", 1 if packed else config.lanes, config.lanes)
    _require(opcode, values, "unrolling", 0, config.rows.bit_length() - 1)
    if packed:
        _require(opcode, values, "pad_top", 0, 0)
        _require(opcode, values, "pad_left", 0, 0)
    if values["flags"] & Flag.ADD:
        _addition(opcode, values)
    _output(opcode, values)


def _pool(opcode: Opcode, values: Mapping[str, int], config: Config) -> None:
    _window(opcode, values)
    for field in ("kernel_height", "kernel_width"):
        _require(opcode, values, field, 1)
    for field in ("dilation_y", "dilation_x"):
        _require(opcode, values, field, 1, 1)
    area = values["kernel_height"] * values["kernel_width"]
    if area > config.pool_area:
        raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: kernel_height x kernel_width must be at most "
                                             f"{config.pool_area}, not {area}")
    _output(opcode, values)


def _depthwise(opcode: Opcode, values: Mapping[str, int]) -> None:
    _window(opcode, values)
    for field in ("kernel_height", "kernel_width"):
        _require(opcode, values, field, 1, KERNEL_MAX)
    for field in ("dilation_y", "dilation_x"):
        _require(opcode, values, field, 1)
    _output(opcode, values)


def check(opcode: Opcode, values: Mapping[str, int], config: Config) -> None:
    """Raise DeviceError(BAD_COMMAND) that names the field, its value and its limit."""
    if opcode in (Opcode.LOAD, Opcode.STORE):
        _transfer(opcode, values, config)
    elif opcode is Opcode.CONV:
        _flags(opcode, values, Flag.GATED | Flag.PACKED | Flag.ADD | Flag.TABLE | Flag.ORDERED | Flag.WHOLE)
        _convolution(opcode, values, config)
    elif opcode in (Opcode.ADD, Opcode.MUL):
        _flags(opcode, values, Flag.GATED | Flag.TABLE | Flag.WHOLE)
        _addition(opcode, values)
        _output(opcode, values)
    elif opcode in (Opcode.AVERAGE_POOL, Opcode.MAX_POOL, Opcode.MEAN):
        _flags(opcode, values, Flag.GATED | Flag.TABLE | Flag.WHOLE)
        _pool(opcode, values, config)
        if opcode is Opcode.MEAN:
            _require(opcode, values, "multiplier", 0, (1 << 31) - 1)
            _require(opcode, values, "shift", -31, LEFT_SHIFT_MAX)
    elif opcode is Opcode.DECIDE:
        _flags(opcode, values, Flag(0))
        _pool(opcode, values, config)
        _require(opcode, values, "output_blocks", 1, 1)
        _require(opcode, values, "invert", 0, 1)
        _require(opcode, values, "any_lane", 0, 1)
    elif opcode is Opcode.DILATE:
        _flags(opcode, values, Flag(0))
        _depthwise(opcode, values)
        for field in ("stride_y", "stride_x"):
            _require(opcode, values, field, 1, 2)
    elif opcode is Opcode.COMBINE:
        _flags(opcode, values, Flag(0))
        _output(opcode, values)
        _require(opcode, values, "output_blocks", 1, 1)
        _require(opcode, values, "inverted", 0, 7)
        _require(opcode, values, "spread", 0, 3)
    elif opcode is Opcode.DEPTHWISE:
        _flags(opcode, values, Flag.GATED | Flag.TABLE | Flag.WHOLE)
        _depthwise(opcode, values)
