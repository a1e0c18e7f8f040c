"""Imports run one way; the driver's process never loads Amaranth."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: What each part may import of ours, by prefix. The first prefix of this table that a module has is its part.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "hw.contract": ("hw.contract",),
    "hw.boards.catalogue": ("hw.contract", "hw.boards.catalogue"),
    "hw": ("hw",),
    "sim": ("hw.contract", "sim"),
    "sw_driver": ("hw.contract", "hw.boards.catalogue", "sim", "sw_driver"),
    "lacuna": ("hw.contract", "sim", "sw_driver"),
    "testbench": ("hw", "sim", "sw_driver", "testbench", "lacuna"),
    "models": ("hw.contract", "sim", "sw_driver", "lacuna", "models"),
    "benchmarks": ("hw.contract", "sim", "sw_driver", "lacuna", "models", "benchmarks"),
    "docs": ("hw.contract", "hw.boards.catalogue", "docs"),
    "tests": ("hw", "sim", "sw_driver", "testbench", "lacuna", "models", "benchmarks", "docs", "tests"),
}

#: Parts that must work without it.
WITHOUT_AMARANTH = ("hw.contract", "hw.boards.catalogue", "sim", "sw_driver", "lacuna", "models", "benchmarks", "docs")


def _modules() -> Iterator[tuple[str, Path]]:
    for part in sorted({name.split(".")[0] for name in MAY_IMPORT}):
        files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).rglob("*.py"))
        for path in files:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def _has_prefix(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def _imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and name of every module that a source text of `package` imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:  # `from hw import ports` imports hw.ports
                submodule = f"{base}.{alias.name}"
                file = ROOT.joinpath(*submodule.split("."))
                yield node.lineno, submodule if file.is_dir() or file.with_suffix(".py").exists() else base


def _violations(module: str, source: str, package: str) -> list[str]:
    part = next(prefix for prefix in MAY_IMPORT if _has_prefix(module, prefix))
    ours = {name.split(".")[0] for name in MAY_IMPORT}
    found = []
    for line, name in _imports(source, package):
        if name.split(".")[0] in ours:
            package_of_contract = name == "hw" and "hw.contract" in MAY_IMPORT[part]
            allowed = package_of_contract or any(_has_prefix(name, prefix) for prefix in MAY_IMPORT[part])
            if not allowed:
                found.append(f"{module}:{line}: {part} must not import {name}")
        elif name.split(".")[0] == "amaranth" and part in WITHOUT_AMARANTH:
            found.append(f"{module}:{line}: {part} must not import {name}")
    return found


def test_imports_run_one_way() -> None:
    modules = list(_modules())
    assert len(modules) > 10, "the modules were not found"
    violations = [
        violation for module, path in modules
        for violation in _violations(module, path.read_text(),
                                     module if path.name == "__init__.py" else module.rpartition(".")[0])
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(("module", "source", "found"), [
    ("hw.contract.config", "import sim.simulator", "hw.contract must not import sim.simulator"),
    ("sim.simulator", "def f():\n    from hw.ports import ReadPort", "sim must not import hw.ports"),
    ("sim.simulator", "from hw import ports", "sim must not import hw.ports"),
    ("sw_driver.graph", "import amaranth.hdl", "sw_driver must not import amaranth.hdl"),
    ("sw_driver.graph", "import tests.test_imports", "sw_driver must not import tests.test_imports"),
    ("sw_driver.graph", "from hw.contract import config", ""),
    ("sw_driver.links.golden", "from . import link", ""),
    ("hw.ports", "from amaranth import Signal\nfrom hw.contract import config", ""),
])
def test_the_rules_themselves(module: str, source: str, found: str) -> None:
    violations = _violations(module, source, module.rpartition(".")[0])
    assert [violation.split(": ", 1)[1] for violation in violations] == ([found] if found else [])


def test_the_driver_runs_without_amaranth() -> None:
    """Importing all of the driver, with the golden device, in a process of its own loads nothing of Amaranth."""
    names = [module for module, _path in _modules()
             if _has_prefix(module, "sw_driver") or _has_prefix(module, "lacuna") or _has_prefix(module, "sim")]
    assert names
    program = (f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
               "print(*[name for name in sys.modules if name.split('.')[0] == 'amaranth'])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
