"""`Device`: runs programs over a link, whatever is behind it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from hw.contract.commands import (
    COMMAND_BYTES,
    ENGINE_OF,
    RECORD_BYTES,
    CommandError,
    Engine,
    Opcode,
    decode,
    decode_records,
)
from hw.contract.config import FORMAT_VERSION, PRESETS, Config
from hw.contract.flash import HEADER_BYTES, IMAGE_OFFSET, difference, flash_bytes
from hw.contract.image import Loading, Port, Program
from hw.contract.layouts import align
from hw.contract.registers import ID, REGISTERS, Control, Error, Permission, Status, Window
from sim.cycle_model import expected_command
from sw_driver.host_operators import run_host_step
from sw_driver.links.link import InterruptTimeout, Link
from sw_driver.result import LoadingResult, RunResult, layer_results
from sw_driver.tensor_layouts import feed_bytes, result_array

#: The interrupt is given up after so many times the cycles that the cycle model expects of a dense run with all
#: commands one after the other, for slow external memories; the device's own watchdog comes first.
TIMEOUT_FACTOR = 20
TIMEOUT_CYCLES = 1_000_000

#: How much longer a program in flash may take: a beat comes from it every 128 cycles, or after a command.
_FLASH_FACTOR = 16

#: Reads of STATUS after a soft reset before the device is called dead.
_RESET_POLLS = 10_000

#: Windows start at multiples of this in external memory.
_WINDOW_ALIGNMENT = 4096


class DeviceError(RuntimeError):
    """The device can't run this, or stopped with an error.

    Attributes
    ----------
    code : `Error.NONE` unless the device itself reported one. command : index of the command, or -1.
    """

    def __init__(self, message: str, code: Error = Error.NONE, command: int = -1):
        super().__init__(message)
        self.code = code
        self.command = command


class DeviceTimeout(DeviceError):
    """The interrupt did not come; the message holds the device's state."""


class InputError(ValueError):
    """An array that does not fit the model's input."""


class Device:
    """A device behind a link.

    Parameters
    ----------
    link : how to reach it; closed with the device.
    config : what it must have been built with. None: whichever preset it says.

    Attributes
    ----------
    from_flash : programs are not written to external memory, but must be in the device's flash; may be set.

    Raises DeviceError when what answers is not a Lacuna device of this version and configuration.
    """

    def __init__(self, link: Link, config: Config | None = None):
        self.link = link
        self.from_flash = False
        self._written: bytes | None = None  # the image in external memory
        self._tag = 0  # that stands on the device, as far as is known; 0: none
        self._dirty = False
        try:
            self.config = self._identify(config)
        except BaseException:
            link.close()
            raise

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the link, and what was started for it."""
        self.link.close()

    # ---- running ------------------------------------------------------------------------------

    def run(self, program: Program, inputs: Mapping[str, np.ndarray] | np.ndarray,
            timeout_cycles: int | None = None) -> RunResult:
        """Run a program once. Where its weights are resident, its loading program runs first, unless they are there.

        Parameters
        ----------
        program : compiled for this device's configuration.
        inputs : an array for every graph input, by name; or the array itself for a single input.
        timeout_cycles : how long to wait for the interrupt; by default a generous estimate.

        Raises ImageError for a program of another configuration or version, InputError for arrays that don't fit,
        DeviceError where the program does not fit or is not in the flash, or the device stops with an error,
        DeviceTimeout when it does not stop at all. After any of these the next run works.
        """
        program.check(self.config)
        arrays = _match_inputs(program.inputs, inputs)
        if self._dirty:
            self.reset()
        self._dirty = True
        bases = self._place(program)
        for feed in program.feeds:
            self.link.write_memory(bases[Window.INPUT] + feed.offset,
                                   feed_bytes(feed, arrays[feed.input], self.config.lanes))
        self._write("INTERRUPT_ENABLE", 1)
        loading = None
        if program.loading is not None and self._tag != program.loading.tag:
            loading = self._load(program, program.loading, bases, timeout_cycles)
        try:
            wall_s = self._execute(program, None, timeout_cycles)
        except DeviceError as error:
            # Someone else used the device: once more, from the start.
            if error.code is not Error.NOT_RESIDENT or program.loading is None or loading is not None:
                raise
            loading = self._load(program, program.loading, bases, timeout_cycles)
            wall_s = self._execute(program, None, timeout_cycles)
        self._dirty = False
        return self._collect(program, arrays, bases, wall_s, loading)

    def _load(self, program: Program, loading: Loading, bases: Mapping[Window, int],
              timeout_cycles: int | None) -> LoadingResult:
        """Run the loading program."""
        wall_s = self._execute(program, loading, timeout_cycles)
        return LoadingResult(self._read("CYCLES"), wall_s, self._records(bases))

    def _execute(self, program: Program, loading: Loading | None, timeout_cycles: int | None) -> float:
        """Start the program, or its loading program, and wait for its end; returns the seconds that took."""
        self._tag = 0
        self._dirty = True
        self._write("PROGRAM", 0 if loading is None else loading.offset)
        cycles = timeout_cycles
        if cycles is None:
            cycles = expected_cycles(program, self.config, loading) * (_FLASH_FACTOR if self.from_flash else 1)
        started = time.perf_counter()
        self._write("CONTROL", Control.START)
        self._wait(cycles)
        wall_s = time.perf_counter() - started
        self._write("CONTROL", Control.ACKNOWLEDGE)
        self._require_done(program, loading)
        self._tag = 0 if program.loading is None else program.loading.tag
        return wall_s

    def reset(self) -> None:
        """Soft reset. Raises DeviceError when the device stays busy."""
        self._tag = 0
        self._write("CONTROL", Control.SOFT_RESET)
        for _poll in range(_RESET_POLLS):
            if not self._read("STATUS") & Status.BUSY:
                self._dirty = False
                return
        raise DeviceError(f"The device is still busy {_RESET_POLLS} reads of STATUS after a soft reset: {self.state()}")

    def state(self) -> str:
        """The registers that tell what the device is doing, for error messages."""
        status = Status(self._read("STATUS") & 0xF)
        idle = 0xFFFF_FFFF
        running = []
        for engine in Engine:
            index = self._read(f"{engine.name}_COMMAND")
            running.append(f"{engine.name.lower()} {'idle' if index == idle else f'command {index}'}")
        return (f"STATUS {status!r}, {', '.join(running)}, DISPATCHED {self._read('DISPATCHED')}, "
                f"COMPLETED {self._read('COMPLETED')}, CYCLES {self._read('CYCLES')}")

    # ---- steps of a run -----------------------------------------------------------------------

    def _identify(self, config: Config | None) -> Config:
        identity, version, config_hash = self._read("ID"), self._read("FORMAT"), self._read("CONFIG")
        if identity != ID:
            raise DeviceError(f"There is no Lacuna device behind link {self.link.name!r}: its ID register holds "
                              f"{identity:#010x}, not {ID:#010x}")
        if version != FORMAT_VERSION:
            raise DeviceError(f"The device reads format version {version}, this driver writes {FORMAT_VERSION}; build "
                              "both from the same version of Lacuna")
        if config is None:
            known = [preset for preset in PRESETS.values() if preset.hash == config_hash]
            if not known:
                raise DeviceError(f"The device's configuration {config_hash:#010x} is no preset; give its Config")
            return known[0]
        if config.hash != config_hash:
            raise DeviceError(f"The device was built with configuration {config_hash:#010x}, {config.name!r} is "
                              f"{config.hash:#010x}; open it with its own configuration")
        return config

    def _place(self, program: Program) -> dict[Window, int]:
        """Set the windows, and write the image unless it is there already; returns the windows' addresses."""
        sizes = {Window.IMAGE: len(program.image), Window.INPUT: program.input_bytes,
                 Window.OUTPUT: program.output_bytes, Window.RECORD: record_bytes(program)}
        permissions = {Window.IMAGE: Permission.READ, Window.INPUT: Permission.READ,
                       Window.OUTPUT: Permission.WRITE, Window.RECORD: Permission.WRITE}
        if program.report.get("reads_output"):  # maps that are spilled there come back
            permissions[Window.OUTPUT] |= Permission.READ
        bases, at = {}, align(self.link.memory_base, _WINDOW_ALIGNMENT)
        if self.from_flash:
            self._require_flashed(program)
            bases[Window.IMAGE] = self.link.flash_base + IMAGE_OFFSET
        for window, size in sizes.items():
            if window in bases:
                continue
            bases[window] = at
            at = align(at + size, _WINDOW_ALIGNMENT)
        if at > self.link.memory_base + self.link.memory_bytes:
            image = 0 if self.from_flash else sizes[Window.IMAGE]
            raise DeviceError(f"The program needs {at - self.link.memory_base} bytes of external memory (image "
                              f"{image}, inputs {sizes[Window.INPUT]}, outputs {sizes[Window.OUTPUT]}, records "
                              f"{sizes[Window.RECORD]}), the device has {self.link.memory_bytes}")
        for window, size in sizes.items():
            name = f"WINDOW{int(window)}_"
            self._write(name + "BASE", bases[window] & 0xFFFF_FFFF)
            self._write(name + "BASE_HIGH", bases[window] >> 32)
            self._write(name + "SIZE", align(size, 8))
            self._write(name + "PERMISSION", permissions[window])
        if not self.from_flash and self._written != program.image:
            self._written = None
            self.link.write_memory(bases[Window.IMAGE], program.image)
            self._written = program.image
        return bases

    def _require_flashed(self, program: Program) -> None:
        """Raise DeviceError unless the program is what the flash holds."""
        available, needed = self.link.flash_bytes, flash_bytes(program)
        if not available:
            raise DeviceError(f"The device behind link {self.link.name!r} has no flash to run a program from")
        if needed > available:
            raise DeviceError(f"The program needs {needed} bytes of flash, the device has {available} for programs")
        found = difference(self.link.read_memory(self.link.flash_base, HEADER_BYTES), program)
        if found is not None:
            raise DeviceError(f"The flash does not hold this program, but {found}; write it with `lacuna compile "
                              "--flash-out` and openFPGALoader")

    def _wait(self, cycles: int) -> None:
        try:
            self.link.wait_interrupt(cycles)
        except InterruptTimeout:
            state = self.state()
            self.reset()
            raise DeviceTimeout(f"The device did not finish within {cycles} cycles: {state}") from None

    def _require_done(self, program: Program, loading: Loading | None) -> None:
        status = self._read("STATUS")
        if status & Status.ERROR:
            number, index = self._read("ERROR_CODE"), self._read("ERROR_COMMAND")
            address = self._read("ERROR_ADDRESS")
            code = Error(number) if number in set(Error) else Error.NONE
            name = code.name if code else f"code {number}"
            self.reset()
            where = describe_command(program, index, loading)
            raise DeviceError(f"The device stopped with {name} at {where}, address or offset {address:#x}", code, index)
        if not status & Status.DONE:
            raise DeviceError(f"The device raised its interrupt without being done: {self.state()}")

    def _collect(self, program: Program, arrays: Mapping[str, np.ndarray], bases: Mapping[Window, int],
                 wall_s: float, loading: LoadingResult | None) -> RunResult:
        values = {port.tensor: arrays[port.name] for port in program.inputs}
        for result in program.results:
            data = self.link.read_memory(bases[Window.OUTPUT] + result.offset, align(result.length, 8))
            values[result.tensor] = result_array(result, data, self.config.lanes)
        for step in program.host_steps:
            values[step.outputs[0]] = run_host_step(step, values)
        records = self._records(bases)
        return RunResult({port.name: values[port.tensor] for port in program.outputs}, self._read("CYCLES"), wall_s,
                         layer_results(program, records, self.config), records, loading)

    def _records(self, bases: Mapping[Window, int]) -> list[dict[str, int]]:
        completed = self._read("COMPLETED")
        return list(decode_records(self.link.read_memory(bases[Window.RECORD], completed * RECORD_BYTES)
                                   if completed else b""))

    # ---- registers ----------------------------------------------------------------------------

    def _read(self, name: str) -> int:
        return self.link.read_register(REGISTERS[name].address)

    def _write(self, name: str, value: int) -> None:
        self.link.write_register(REGISTERS[name].address, int(value))


def record_bytes(program: Program) -> int:
    """Of window RECORD: enough for either of its programs."""
    return RECORD_BYTES * max(program.command_count, program.loading.command_count if program.loading else 0)


def expected_cycles(program: Program, config: Config, loading: Loading | None = None) -> int:
    """Cycles after which a run of the program, or of its loading program, is given up."""
    total = sum(expected_command(opcode, values, config, density=1.0, active=1.0)
                for opcode, values in _commands(program, loading).values() if opcode in ENGINE_OF)
    return TIMEOUT_FACTOR * total + TIMEOUT_CYCLES


def _commands(program: Program, loading: Loading | None = None) -> dict[int, tuple[Opcode, dict[str, int]]]:
    """The commands by index. What can't be decoded is left out: the device is the judge of that."""
    offset, count = (0, program.command_count) if loading is None else (loading.offset, loading.command_count)
    result = {}
    for index in range(count):
        at = offset + index * COMMAND_BYTES
        try:
            result[index] = decode(program.image[at : at + COMMAND_BYTES])
        except CommandError:
            continue
    return result


def describe_command(program: Program, index: int, loading: Loading | None = None) -> str:
    """A command for error messages: its index, what it does, and the layer it belongs to."""
    commands = _commands(program, loading)
    what = commands[index][0].name if index in commands else "unreadable"
    if loading is not None:
        return f"command {index} ({what}) of the program that loads the weights"
    layer = _layer_of(program, index, what)
    return f"command {index} ({what}{f', layer {layer!r}' if layer else ''})"


def _layer_of(program: Program, index: int, what: str) -> str:
    """The name of a compute command's layer; for a LOAD the next one in the program, for a STORE the last before."""
    owners = {own.index: layer.name for layer in program.layers for own in layer.commands}
    if index in owners:
        return owners[index]
    nearest = {"LOAD": min((own for own in owners if own > index), default=-1),
               "STORE": max((own for own in owners if own < index), default=-1)}.get(what, -1)
    return owners.get(nearest, "")


def _match_inputs(ports: list[Port], inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
    """The array of each port, checked. Raises InputError."""
    if not isinstance(inputs, Mapping):
        if len(ports) != 1:
            raise InputError(f"The model has {len(ports)} inputs, give a dictionary with "
                             f"{', '.join(repr(port.name) for port in ports)}")
        inputs = {ports[0].name: inputs}
    arrays: dict[str, np.ndarray] = {}
    for name, array in inputs.items():
        port = ports[_position(ports, name)]
        if port.name in arrays:
            raise InputError(f"There are two arrays for input {port.name!r}")
        array = np.asarray(array)
        if array.dtype.name != port.dtype or list(array.shape) != list(port.shape):
            raise InputError(f"Input {port.name!r} must be {port.dtype} {_shape(port.shape)}, not {array.dtype.name} "
                             f"{_shape(array.shape)}")
        arrays[port.name] = array
    missing = [port.name for port in ports if port.name not in arrays]
    if missing:
        raise InputError(f"There is no array for the model's input {', '.join(map(repr, missing))}")
    return arrays


def _shape(shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _position(ports: list[Port], name: str) -> int:
    """A port by its name, by 'input' where there is only one, by 'input_<position>', or without its ':0'."""
    names = [port.name for port in ports]
    if name in names:
        return names.index(name)
    if name == "input" and len(ports) == 1:
        return 0
    digits = name.removeprefix("input_")
    if digits != name and digits.isdecimal() and int(digits) < len(ports):
        return int(digits)
    stems = [known.rsplit(":", 1)[0] for known in names]
    if stems.count(name) == 1:
        return stems.index(name)
    raise InputError(f"The model has no input {name!r}; its inputs are {', '.join(map(repr, names))}")
