"""`python -m hw.boards --board NAME --out DIR` writes what synthesis and place and route of a board start from.

`lacuna build` does that, and the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hw.boards.catalogue import BOARDS
from hw.boards.platform_top import design_files


def main() -> None:
    """Write the files of a board."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--board", required=True, choices=list(BOARDS))
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    arguments = parser.parse_args()
    files = design_files(BOARDS[arguments.board])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (arguments.out / name).write_text(text)


if __name__ == "__main__":
    main()
