"""Results as tables for the terminal, for Markdown and for JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Section:
    """One table: key (in the JSON), title, what its figures mean, header and rows. Columns' titles may repeat."""

    key: str
    title: str
    note: str
    header: list[str]
    rows: list[list[Any]]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, title in enumerate(self.header):
            table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(_text, row))
        return table

    def markdown(self) -> str:
        """For the documentation."""
        lines = [self.header, ["---"] * len(self.header), *[[_text(cell) for cell in row] for row in self.rows]]
        return f"## {self.title}\n\n{self.note}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def json(self) -> dict[str, Any]:
        """What `from_json` makes the section of again."""
        return {"title": self.title, "note": self.note, "header": self.header, "rows": self.rows}

    @classmethod
    def from_json(cls, key: str, value: dict[str, Any]) -> Section:
        """A section as `json` gave it. Raises KeyError."""
        return cls(key, value["title"], value["note"], value["header"], value["rows"])


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
