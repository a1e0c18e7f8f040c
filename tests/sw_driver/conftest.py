"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sw_driver.command_line import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A call with a command that must fail in this process: its message, one error and no traceback."""
    def call(*arguments: object) -> str:
        assert main(list(map(str, arguments))) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("lacuna: error: ")
        assert "Traceback" not in captured.err + captured.out
        return captured.err

    return call
