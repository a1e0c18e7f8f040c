"""The list of deliberate breaks fits the sources: run.py, which takes long, will find each of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_break_can_be_applied() -> None:
    spec = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("run.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    breaks = module.read_breaks()
    assert len(breaks) > 40
    for each in breaks:
        compile((ROOT / each.file).read_text().replace(each.old, each.new), each.file, "exec")
        assert all((ROOT / name).is_file() for name in each.tests if name.endswith(".py"))
        assert each.old != each.new
