"""Breaks the design on purpose and looks whether a test fails: `python tests/mutations/run.py [WORD ...]`.

breaks.toml lists the breaks. Each is applied to a copy of the working tree, in which its tests then run; the
working tree itself is never touched. With words, only the breaks whose name or file contains one of them.

Every set of tests first runs on an unbroken copy: a test that fails there proves nothing. The exit status is 0
when every break was noticed ("killed").
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BREAKS = Path(__file__).with_name("breaks.toml")

#: Seconds that the tests of one break may take; a break that makes a test hang is noticed, too.
TIMEOUT = 900

#: pytest's exit status when tests ran and some failed.
TESTS_FAILED = 1


class Break(NamedTuple):
    """One deliberate break: `old` becomes `new` in `file`, and `tests` (arguments of pytest) must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_breaks() -> list[Break]:
    """The breaks of breaks.toml. Raises ValueError for one that can't be applied to the working tree."""
    found = [Break(item["name"], item["file"], item["old"], item["new"], tuple(item["tests"]))
             for item in tomllib.loads(BREAKS.read_text())["break"]]
    for each in found:
        times = (ROOT / each.file).read_text().count(each.old)
        if times != 1:
            raise ValueError(f"Break {each.name!r}: {each.old!r} occurs {times} times in {each.file}, not once; "
                             f"bring {BREAKS.name} up to date")
    return found


def copy_tree(target: Path) -> None:
    """Copy what git knows or does not ignore."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def run_tests(tree: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """pytest's exit status and the line that tells the first failure; 124 when it takes too long."""
    build = tree.parent / "build"
    if not build.exists():  # share what does not depend on the design
        runtime = Path(os.environ.get("LACUNA_BUILD") or ROOT / "build") / "runtime"
        if runtime.is_dir():
            shutil.copytree(runtime, build / "runtime")
    environment = {**os.environ, "PYTHONPATH": str(tree), "LACUNA_BUILD": str(build), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("LACUNA_SEED", "1")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line", *tests]
    process = subprocess.Popen(command, cwd=tree, env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        output = process.communicate(timeout=TIMEOUT)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        return 124, f"no end within {TIMEOUT} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return process.returncode, failures[0] if failures else output.strip().splitlines()[-1]


def judge(each: Break, scratch: Path) -> tuple[str, str]:
    """Whether the break was noticed: "killed", "survived" or "invalid", and by which test."""
    tree = scratch / "tree"
    path = tree / each.file
    original = path.read_text()
    broken = original.replace(each.old, each.new)
    try:
        compile(broken, each.file, "exec")
        path.write_text(broken)
        status, line = run_tests(tree, each.tests)
    except SyntaxError as error:
        return "invalid", str(error)
    finally:
        path.write_text(original)
    if status in (TESTS_FAILED, 124):
        return "killed", line
    return ("survived" if status == 0 else "invalid"), line


def main() -> int:
    """Run the breaks; prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only breaks whose name or file contains one of these")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests unbroken first")
    options = parser.parse_args()
    breaks = [each for each in read_breaks()
              if not options.words or any(word in each.name or word in each.file for word in options.words)]
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lacuna-mutations-") as name:
        scratch = Path(name)
        copy_tree(scratch / "tree")
        if not options.no_baseline:
            for tests in dict.fromkeys(each.tests for each in breaks):
                status, line = run_tests(scratch / "tree", tests)
                print(f"{'unbroken':<9}{' '.join(tests)}: {line}", flush=True)
                if status:
                    print("These tests fail without any break: nothing can be said", file=sys.stderr)
                    return 1
        for each in breaks:
            started = time.monotonic()
            verdict, line = judge(each, scratch)
            verdicts.append(verdict)
            print(f"{verdict:<9}{each.name:<75}{time.monotonic() - started:5.0f} s  {line}", flush=True)
    print(f"{verdicts.count('killed')} of {len(verdicts)} breaks killed, {verdicts.count('survived')} survived, "
          f"{verdicts.count('invalid')} invalid")
    return int(verdicts.count("killed") != len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
