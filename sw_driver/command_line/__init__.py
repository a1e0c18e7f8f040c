"""The command `lacuna`: each subcommand is a module; here every error becomes one clear message."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from sw_driver.command_line.grammar import parser

#: Set to 1, errors come with a traceback.
DEBUG_VARIABLE = "LACUNA_DEBUG"

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


class _Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception, so that simulators are ended on the way out."""

    def __init__(self, number: int):
        self.number = number


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 1: failed, or an output that is not exact. 2: wrong usage. 130: interrupted.
    """
    options = parser().parse_args(arguments)
    before = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        # Imported only now: what a command needs may be missing, and doctor must be able to say so.
        command = importlib.import_module(f"{__name__}.{options.command}")
        status = command.handle(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except _Terminated as reason:
        _say(f"ended by {signal.Signals(reason.number).name}")
        return 128 + reason.number
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing can be printed any more, not even by the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exc()
    if isinstance(error, ModuleNotFoundError):
        _say(f"error: {error}; the environment is not complete: see lacuna doctor, and run make")
        return EXIT_FAILURE
    from sw_driver.command_line.failure import is_expected

    if is_expected(error):
        _say(f"error: {error}")
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        _say(f"internal error: {type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno}); "
             "this is a mistake in Lacuna, not in your input. Please report it with the command line and the output of "
             f"{DEBUG_VARIABLE}=1 lacuna ... and of lacuna doctor")
    return EXIT_FAILURE


def _say(message: str) -> None:
    print(f"lacuna: {message}", file=sys.stderr)
