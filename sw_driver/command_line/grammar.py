"""What can be said on the command line. Plain argparse: it works, and is quick, whatever else is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any, NoReturn

from hw.boards.catalogue import BOARDS
from hw.contract.config import PRESETS

EXIT_USAGE = 2

#: The preset of the comparison with Ethos-U55-128.
DEFAULT_PRESET = "large"

DEVICES = ("rtl", "golden")

#: Beginnings of devices with an address after them.
ADDRESSED_DEVICES = ("rtl:", "uart:", "uio:")
SIMULATORS = ("verilator", "icarus")

#: How the compiler lays weights out.
WEIGHTS = ("compressed", "raw", "resident")

#: Limits of the simulated external memory: latency in cycles, and bytes per cycle when it is not slowed down.
LATENCIES = range(2, 65536)
BANDWIDTH_MAX = 8

_EPILOG = "LACUNA_DEBUG=1 in the environment adds a traceback to errors."


class _Parser(argparse.ArgumentParser):
    """Errors in the form that all of Lacuna's errors have."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"lacuna: error: {message}; see {self.prog} --help\n")


def version() -> str:
    """Lacuna's version; "(not installed)" when it runs from a folder that pip does not know."""
    try:
        return importlib.metadata.version("lacuna")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def parser() -> argparse.ArgumentParser:
    """The parser; `command` in its result names the module of this package whose `handle` carries it out."""
    top = _Parser(prog="lacuna", epilog=_EPILOG,
                  description="Run int8 TFLite networks on the Lacuna neural processor, exact to the bit.")
    top.add_argument("--version", action="version", version=f"lacuna {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True,
                                  parser_class=_Parser)
    for add in (_add_run, _add_check, _add_compile, _add_prune, _add_verilog, _add_build, _add_doctor):
        add(commands)
    return top


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="run a model, with a table per layer, and compare it with TFLite Micro",
        description="Run a model on the simulated hardware or the golden model. Prints a table of layers and compares "
                    "every output with TFLite Micro. Exit status 1 if an output differs.")
    run.add_argument("model", metavar="MODEL", type=Path, help="int8 TFLite file, or a program of `lacuna compile`")
    run.add_argument("--input", action="append", required=True, metavar="[NAME=]FILE", dest="inputs",
                     help=".npy, raw .bin, or a picture for image models. Repeated: one run each. For a model with "
                          "several inputs: NAME=FILE once for each of them, one run")
    _add_preset(run)
    _add_weights(run)
    run.add_argument("--device", type=_device, default="rtl", metavar="DEVICE",
                     help="rtl: simulated hardware; golden: the NumPy model, with predicted cycles; rtl:SOCKET: a "
                          "simulator that runs already; uart:PORT[@BAUD]: a board on a serial port; uio:/dev/uioN: a "
                          "device in this system's address space (default: rtl)")
    _add_json(run, "the results")
    run.add_argument("--reference", type=Path, metavar="MODEL",
                     help="TFLite file to compare a compiled program with; a TFLite MODEL is compared with itself")
    _add_folding(run)
    run.add_argument("--flash", action="store_true",
                     help="run the program from the board's flash, where `lacuna compile --flash-out` and "
                          "openFPGALoader put it; with --device uart:PORT")
    simulation = run.add_argument_group("simulation", "with --device rtl")
    simulation.add_argument("--simulator", choices=SIMULATORS, default="verilator",
                            help="icarus is slow, for small presets (default: verilator)")
    simulation.add_argument("--latency", type=_latency, default=20, metavar="CYCLES",
                            help="of the external memory (default: 20)")
    simulation.add_argument("--bandwidth", type=_bandwidth, default=float(BANDWIDTH_MAX), metavar="BYTES",
                            help="of the external memory per cycle: 8, 4, 2, 1, 0.5, ... (default: 8); a model is "
                                 "compiled for it")
    simulation.add_argument("--flash-bandwidth", type=_bandwidth, metavar="BYTES",
                            help="of a second memory that holds the program with its weights, per cycle (default: it "
                                 "is in the same memory as all else)")
    simulation.add_argument("--flash-latency", type=_latency, metavar="CYCLES",
                            help="of the second memory (default: as --latency)")
    simulation.add_argument("--waves", type=Path, metavar="FILE", help="record all signals to FILE (FST); slower")
    simulation.add_argument("--waves-commands", type=_command_range, metavar="A:B",
                            help="record only while the commands A to B of the program run")


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check", help="what in a model runs where, what doesn't and why",
        description="Say for every operator of a model where it would run, and everything that can't run, with limit "
                    "and remedy. Exit status 1 if there is any.")
    check.add_argument("model", metavar="MODEL", type=Path, help="int8 TFLite file")
    _add_preset(check)
    _add_json(check, "the findings")


def _add_compile(commands: Any) -> None:
    compile_ = commands.add_parser("compile", help="compile a model for a preset",
                                   description="Compile a TFLite model into a program image for one preset.")
    compile_.add_argument("model", metavar="MODEL", type=Path, help="int8 TFLite file")
    _add_preset(compile_)
    _add_weights(compile_)
    compile_.add_argument("--bandwidth", type=_bandwidth, default=float(BANDWIDTH_MAX), metavar="BYTES",
                          help="of the external memory per cycle that is reckoned with: 8, 4, 2, 1, 0.5, ...; the "
                               "program runs with any (default: 8)")
    compile_.add_argument("-o", "--output", type=Path, metavar="OUT.lacuna", help="program image to write")
    compile_.add_argument("--c-header", type=Path, metavar="OUT.h",
                          help="also write the program as C data for the C driver (lacuna.h); the variable is called "
                               "like the file")
    compile_.add_argument("--flash-out", type=Path, metavar="OUT.bin",
                          help="also write what a board's flash must hold to run the program from there")
    compile_.add_argument("--memory-plan", action="store_true",
                          help="print where every feature map lies, and from which layer to which")
    _add_json(compile_, "what the compiler did")
    _add_folding(compile_)


def _add_prune(commands: Any) -> None:
    prune = commands.add_parser(
        "prune", help="set the smallest weights of a model to zero",
        description="Set a share of each layer's weights to zero, the smallest first, and write the model. Says what "
                    "that saves, and what it changes in the outputs. Nothing is trained again.")
    prune.add_argument("model", metavar="MODEL", type=Path, help="int8 TFLite file")
    prune.add_argument("--share", type=_share, required=True, metavar="SHARE",
                       help="of each layer's weights, or rows, that will be zero: above 0, below 1")
    prune.add_argument("--rows", action="store_true",
                       help="whole weight rows, which then take no time and no bytes: the weights from one input "
                            "channel, at one tap of the kernel, to as many output channels as the preset has lanes "
                            "(depthwise convolutions stay as they are: they have no such rows)")
    prune.add_argument("-o", "--output", type=Path, required=True, metavar="PRUNED.tflite", help="model to write")
    prune.add_argument("--input", action="append", default=[], metavar="[NAME=]FILE", dest="inputs",
                       help="as for lacuna run: compare outputs and predicted cycles of the two models on it")
    _add_preset(prune)
    _add_json(prune, "what changed")


def _add_verilog(commands: Any) -> None:
    verilog = commands.add_parser("verilog", help="write the hardware as Verilog",
                                  description="Write the hardware of a preset as Verilog.")
    _add_preset(verilog)
    verilog.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write into")


def _add_build(commands: Any) -> None:
    build = commands.add_parser(
        "build", help="build a board's bitstream with open tools",
        description="Build the bitstream of a board with Yosys and nextpnr, and say what it takes and how fast it "
                    "runs. Exit status 1 if it doesn't fit or misses its clock. Takes minutes for small boards, an "
                    "hour for large ones.",
        epilog="Boards: " + "; ".join(f"{board.name}: {board.title} ({board.part}) with preset {board.preset}"
                                      for board in BOARDS.values()))
    build.add_argument("--board", choices=list(BOARDS), required=True, help="which board")
    build.add_argument("--out", type=Path, metavar="DIR",
                       help="directory for the bitstream and all files on the way to it (default: build/boards/NAME)")
    _add_json(build, "the tables")


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="what is installed, what is missing, how to get it",
        description="Look at everything that Lacuna needs. Exit status 1 if something is missing without which it "
                    "can't simulate.")
    doctor.add_argument("--quiet", action="store_true", help="say only what is missing")


def _add_preset(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET,
                         help=f"size of the device (default: {DEFAULT_PRESET})")


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", choices=WEIGHTS, default=WEIGHTS[0],
                         help="compressed: decoded by the device, where that takes fewer bytes; raw: as they are; "
                              "resident: compressed, and loaded once for many runs, as far as they fit the chip "
                              f"(default: {WEIGHTS[0]})")


def _add_folding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-folding", dest="folding", action="store_false",
                         help="compute channels that are constant or that nobody reads, too (shows what folding saves)")


def _add_json(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help=f"also write {what} to FILE as JSON")


def _device(text: str) -> str:
    if text not in DEVICES and not any(text.startswith(start) and text != start for start in ADDRESSED_DEVICES):
        raise argparse.ArgumentTypeError("must be rtl, golden, rtl:SOCKET, uart:PORT, uart:PORT@BAUD or "
                                         f"uio:/dev/uioN, not {text!r}")
    return text


def _latency(text: str) -> int:
    if not text.isdecimal() or int(text) not in LATENCIES:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {LATENCIES.start} to {LATENCIES.stop - 1}, not {text!r}")
    return int(text)


def _bandwidth(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= BANDWIDTH_MAX or BANDWIDTH_MAX % value:
        raise argparse.ArgumentTypeError(f"must be {BANDWIDTH_MAX} / n for a whole number n, not {text!r}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1, such as 0.5 for half, not {text!r}")
    return value


def _command_range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"must be A:B, two command indices with A <= B, not {text!r}")
    return int(first), int(last)
