"""Pins: everything direct is pinned exactly, and the lock file agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Extras that are not in the lock file: training, which nobody needs who uses the model in the repository.
NOT_LOCKED = ("train",)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_canonical(name): version for name, version in pairs}


def _requirements() -> list[tuple[str, str]]:
    extras = PROJECT["optional-dependencies"]
    found = [("", requirement) for requirement in PROJECT["dependencies"]]
    return found + [(extra, requirement) for extra, requirements in extras.items() for requirement in requirements]


@pytest.mark.parametrize(("extra", "requirement"), _requirements())
def test_direct_requirements_are_pinned_and_locked(extra: str, requirement: str) -> None:
    if requirement.startswith("lacuna["):
        return
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)", requirement)
    assert match, f"{requirement} is not an exact pin"
    if extra not in NOT_LOCKED:
        assert _lock().get(_canonical(match[1])) == match[2], "run `make lock`"


def test_every_pin_has_its_reason() -> None:
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if re.match(r'\s*(requires = \[)?"[\w.-]+(\[\w+\])?==', line):
            assert re.search(r"[\],]\s+# \w", line), f"no reason beside {line.strip()}"
