"""Where commands write to: the terminal, and files that are complete or not there at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from sw_driver.command_line.failure import Failure

#: Columns of tables that go to a file or a pipe.
WIDTH = 140


class _Console(Console):
    """Leaves a broken pipe to the caller; rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough where there is none."""
    console = _Console()
    return console if console.is_terminal else _Console(width=WIDTH)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: a reader sees the old file or the new one. Raises Failure."""
    if path.is_dir():
        raise Failure(f"{path} can't be written: it is a directory")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise Failure(f"{path} can't be written: {error.strerror}") from None
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, in one step. Raises Failure."""
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())


def require_writable(path: Path | None) -> None:
    """Raise Failure now if `path` could not be written later, before work is spent on what goes there."""
    if path is None:
        return
    if path.is_dir():
        raise Failure(f"{path} can't be written: it is a directory")
    if not path.parent.is_dir():
        raise Failure(f"{path} can't be written: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise Failure(f"{path} can't be written: no permission to write in {path.parent}")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
