"""What the documentation says is so: generated pages are up to date, links lead somewhere, code in it is real."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")])


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["registers.md", "commands.md", "layouts.md", "configurations.md", "boards.md"])
def test_generated_page_is_up_to_date(name: str) -> None:
    pages = _generator().PAGES
    assert (ROOT / "docs" / name).read_text() == pages[name](), "run `make docs`"


def test_every_generated_page_is_tested() -> None:
    assert set(_generator().PAGES) == {"registers.md", "commands.md", "layouts.md", "configurations.md",
                                        "boards.md"}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        link = "".join(target)
        if re.match(r"[a-z]+:", link):
            continue
        file, _hash, anchor = link.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{page.name} links to {link}"


def test_public_names_are_those_of_the_readme() -> None:
    """The Python of the README parses, and uses only names that `lacuna` has."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    lacuna = importlib.import_module("lacuna")
    used = {node.attr for block in blocks for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lacuna"}
    assert used
    for name in used:
        assert hasattr(lacuna, name), f"lacuna.{name} is in the README and not in lacuna.py"


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in (page.read_text() for page in PAGES):
        for name in re.findall(r"`make ([a-z]+)`|^    make ([a-z]+)", text, re.MULTILINE):
            assert "".join(name) in targets
