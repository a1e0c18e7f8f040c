"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from hw.contract.config import PRESETS

#: The preset of the comparison with Ethos-U55-128.
DEFAULT_PRESET = "large"


def add_preset(parser: argparse.ArgumentParser) -> None:
    """--preset NAME."""
    parser.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET,
                        help=f"size of the device (default: {DEFAULT_PRESET})")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """--json FILE."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"also write {what} to FILE as JSON")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = natural(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def command_range(text: str) -> tuple[int, int]:
    """A:B, the commands from A to B, both included."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"must be A:B, two command indices with A <= B, not {text!r}")
    return int(first), int(last)
