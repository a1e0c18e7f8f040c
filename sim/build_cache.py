"""What is built once and kept: a cache of directories with locks, and the build steps that fill it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Called with a line of text whenever there is news about a build.
Progress = Callable[[str], None]


class SimulatorError(RuntimeError):
    """A simulator is missing, can't be built, or failed."""


def build_root() -> Path:
    """Where everything built is cached: $LACUNA_BUILD, or build/ in the repository."""
    return Path(os.environ.get("LACUNA_BUILD") or ROOT / "build").resolve()


def digest(*parts: object) -> str:
    """Cache key: 20 hexadecimal digits of a hash of the parts; paths count with their content."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:20]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` of the cache; another process that wants it waits."""
    path = build_root() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached_directory(kind: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The directory build/<kind>/<key>, and whether it was there already.

    `make` fills an empty directory, which takes its name only when `make` has succeeded: what a failed or
    interrupted build leaves behind is never taken for a result.
    """
    target = build_root() / kind / key
    if target.is_dir():
        return target, True
    with locked(f"{kind}-{key}"):
        if target.is_dir():
            return target, True
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{key}.*"):  # of a build that was killed: nobody else has the lock
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f"{key}.", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            make(made)
            made.rename(target)
    return target, False


def run_logged(command: Sequence[str | Path], log: Path, *, cwd: Path | None = None,
               env: Mapping[str, str] | None = None, line: Progress | None = None, what: str = "") -> None:
    """Run a build step in its own process group, its output to `log` and, line by line, to `line`.

    Raises SimulatorError with the log's tail when it fails. The group is gone when this returns or raises.
    """
    with log.open("a", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                                   start_new_session=True)
        try:
            assert process.stdout is not None
            for text in process.stdout:
                file.write(text)
                if line is not None:
                    line(text.rstrip())
            status = process.wait()
        except BaseException:
            kill_group(process)
            raise
    if status:
        raise SimulatorError(f"{what or command[0]} failed with exit status {status}:\n{tail(log)}")


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process started with start_new_session=True, and everything that it started."""
    with contextlib.suppress(ProcessLookupError):  # gone already
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log file."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
