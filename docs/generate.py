"""Writes the pages of docs/ that say what the contract says: python docs/generate.py

Each page is a function from the contract to text, so that a test can tell whether a page is up to date.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hw.boards.catalogue import BOARDS  # noqa: E402 (found from the repository's root)
from hw.contract import commands, config, image, layouts, registers  # noqa: E402 (found from the repository's root)

DOCS = ROOT / "docs"
_GENERATED = "<!-- Written by docs/generate.py from hw/contract: change it there, then `make docs`. -->"


def registers_page() -> str:
    """The register table."""
    rows = [(f"`{register.address:#05x}`", f"`{register.name}`", register.access.value, f"{register.reset:#x}",
             _meaning(register)) for register in registers.REGISTERS.values()]
    parts = [
        "# Registers",
        _GENERATED,
        (f"AXI4-Lite, 32-bit registers in {registers.ADDRESS_BYTES} bytes of address space, described in "
         "`hw/contract/registers.py`. Addresses are byte addresses. Reading a register that is only written gives "
         "zero; writing one that is only read changes nothing."),
        _table(("address", "name", "access", "after reset", "meaning"), rows),
    ]
    for kind in (registers.Control, registers.Status, registers.Permission, registers.Error, registers.Window):
        bits = issubclass(kind, enum.IntFlag)
        parts += [f"## {kind.__name__}", (inspect.getdoc(kind) or "").strip(),
                  _table(("bit" if bits else "value", "name", "meaning"), _members(kind, bits))]
    return _page(parts)


def commands_page() -> str:
    """Command and record formats."""
    parts = [
        "# Commands and records",
        _GENERATED,
        _prose(inspect.getdoc(commands) or ""),
        (f"A command has {commands.COMMAND_BYTES} bytes, a record {commands.RECORD_BYTES}. The format version is "
         f"{config.FORMAT_VERSION}."),
        "## Engines and opcodes",
        _table(("opcode", "name", "engine"), [
            (f"`{opcode.value:#04x}`", f"`{opcode.name}`",
             f"{commands.ENGINE_OF[opcode].name.lower()} ({commands.ENGINE_OF[opcode].value})"
             if opcode in commands.ENGINE_OF else "sequencer") for opcode in commands.Opcode]),
        "## Flags", _table(("bit", "name", "meaning"), _members(commands.Flag, True)),
        "## Spaces", (inspect.getdoc(commands.Space) or "").strip(),
        _table(("value", "name"), [(str(space.value), f"`{space.name}`") for space in commands.Space]),
        "## Header of every command", _fields(commands.HEADER, 0),
    ]
    start = sum(field.bits for field in commands.HEADER) // 8
    for opcode, body in commands.BODY.items():
        parts += [f"## {opcode.name}", _fields(body, start) if body else "Nothing but the header."]
    parts += ["## Records", _table(("byte", "name"), [
        (str(4 * i), f"`{name}`") for i, name in enumerate(commands.RECORD_HEADER)])]
    for engine, counters in commands.COUNTERS.items():
        first = 4 * len(commands.RECORD_HEADER)
        parts += [f"### Counters of the {engine.name.lower()} engine", _table(("byte", "name", "meaning"), [
            (str(first + 4 * i), f"`{name}`", doc) for i, (name, doc) in enumerate(counters)])]
    return _page(parts)


def layouts_page() -> str:
    """How data lies in memory, and the program file."""
    return _page([
        "# Layouts and program image", _GENERATED,
        "## Layouts", _sections(inspect.getdoc(layouts) or ""),
        "## Program image", _prose(inspect.getdoc(image) or ""),
    ])


def configuration_page() -> str:
    """The presets and their derived sizes."""
    presets = config.PRESETS.values()
    sizes = [field.name for field in dataclasses.fields(config.Config) if field.name != "name"]
    derived = ["macs_per_cycle", "feature_words", "weight_words", "wave_pixels"]
    header = ("size", *(f"`{preset.name}`" for preset in presets))

    def rows(names: Iterable[str]) -> list[tuple[str, ...]]:
        return [(f"`{name}`", *(f"{getattr(preset, name):,}" for preset in presets)) for name in names]

    return _page([
        "# Configurations", _GENERATED,
        "One frozen, validated `Config` (`hw/contract/config.py`) holds every size. What each means:",
        _parameters(inspect.getdoc(config.Config) or ""),
        "## Presets", _table(header, rows(sizes)),
        "## Derived from them", _table(header, [
            *rows(derived), ("hash", *(f"`{preset.hash:#010x}`" for preset in presets))]),
    ])


def boards_page() -> str:
    """What builds of boards reported, from docs/boards/*.json."""
    reports = [json.loads(path.read_text()) for path in (DOCS / "boards" / f"{name}.json" for name in BOARDS)
               if path.exists()]
    rows, details = [], []
    for report in reports:
        used = report["resources"]
        cells = [_share(used, *names) for names in (("LUTs", "logic cells"), ("flip-flops",), ("block RAM",),
                                                    ("multipliers",))]
        speed = (" ".join(f"{clock['fmax_hz'] / 1e6:.1f}" for clock in report["clocks"])
                 or " ".join(f"not routed; placed: {clock['fmax_hz'] / 1e6:.1f}" for clock in report.get("placed", ()))
                 or "does not fit")
        rows.append((f"`{report['board']}`", report["title"], report["part"], f"`{report['preset']}`", *cells, speed,
                     f"{sum(report['seconds'].values()) / 60:,.0f}"))
        details += _board_details(report)
    if not reports:
        return _page(["# Boards: resources and timing", "No board has been built yet: `make boards`."])
    versions = {(name, version) for report in reports for name, version in report["tools"].items()}
    return _page([
        "# Boards: resources and timing",
        "<!-- Written by docs/generate.py from docs/boards/*.json, which `make boards` writes. -->",
        ("What builds of the boards reported: [how to build one](put_on_a_board.md). LUTs are nextpnr's count after "
         "packing, with those of carry chains and of LUT RAM; Fmax is the device clock's, after routing, or, where the "
         "router did not end, an estimate after placement; minutes are then those until it was stopped. "
         "Flip-flops of an iCE40 are in its logic cells."),
        _table(("board", "title", "part", "preset", "LUTs", "flip-flops", "block RAM", "multipliers", "Fmax (MHz)",
                "minutes"), rows),
        "Tools: " + ", ".join(f"{name} {version}" for name, version in sorted(versions)) + ".",
        *_inferences(reports),
        *details,
    ])


#: hls4ml's ResNet for image classification (RN08, a smaller network) in MLPerf Tiny v0.7, on a Pynq-Z2 at 100 MHz.
_HLS4ML_PER_S = 130.8


def _inferences(reports: Iterable[dict[str, Any]]) -> list[str]:
    """ResNet-8 at the clock that a build reached, with the cycles of docs/results.json."""
    networks = json.loads((DOCS / "results.json").read_text())["networks"]
    at = networks["header"].index("cycles, most")
    cycles = {row[1]: row[at] for row in networks["rows"] if row[0] == "ResNet-8"}
    rows = [(f"`{report['board']}`", f"`{report['preset']}`",
             f"{clock['fmax_hz'] / 1e6:.1f}" + ("" if report["clocks"] else " (placed, not routed)"),
             f"{cycles[report['preset']]:,}", f"{clock['fmax_hz'] / cycles[report['preset']]:,.1f}")
            for report in reports for clock in (report["clocks"] or report.get("placed", ()))[:1]
            if report["preset"] in cycles]
    if not rows:
        return []
    return [
        "## ResNet-8", _table(("board", "preset", "MHz", "cycles", "inferences per second"), [
            *rows, ("Pynq-Z2", "hls4ml RN08", "100.0", "", f"{_HLS4ML_PER_S}")]),
        ("At the Fmax of the build; cycles of the slowest of five images, [measured on the RTL](results.md#networks) "
         "with an external memory of 8 bytes per cycle. A board's SPI flash is slower than that: what a program takes "
         "there, `lacuna run --flash-bandwidth 0.0625` and `--weights resident` say. hls4ml's figure is the published "
         "one of MLPerf Tiny, for a smaller network of its own."),
    ]


def _share(used: dict[str, dict[str, int]], *names: str) -> str:
    for name in names:
        if name in used:
            numbers = used[name]
            return f"{numbers['used']:,} of {numbers['available']:,}"
    return ""


def _board_details(report: dict[str, Any]) -> list[str]:
    """The slowest paths and the cells by block of one build."""
    parts = [f"## {report['board']}"]
    seconds = ", ".join(f"{name} {value:,.0f} s" for name, value in report["seconds"].items())
    parts.append(f"{report['title']} with preset `{report['preset']}` and {report['memory_bytes'] >> 10} KiB of block "
                 f"RAM as external memory. Wall time on {report['processors']} processors: {seconds}.")
    path = report["slowest_path"]
    if path:
        parts += [(f"The slowest path takes {path['ns']} ns ({path['routing_ns']} ns of it in wires, {path['levels']} "
                   f"levels of logic), from `{path['from']}` to `{path['to']}`. Registers at which slow paths end, and "
                   "when their input arrives after the edge:"),
                  _table(("register", "ns"), [(f"`{end['register']}`", f"{end['ns']:.2f}")
                                              for end in report["slowest_ends"][:10]])]
    blocks = report["blocks"]
    parts += [("Cells by block after synthesis. The design is flattened: what was merged across blocks is counted in "
               "one of them."),
              _table(("block", *blocks["all"]), [(block, *(f"{count:,}" for count in cells.values()))
                                                 for block, cells in blocks.items()])]
    return parts


PAGES: dict[str, Callable[[], str]] = {
    "registers.md": registers_page,
    "commands.md": commands_page,
    "layouts.md": layouts_page,
    "configurations.md": configuration_page,
    "boards.md": boards_page,
}


# ---- text ------------------------------------------------------------------------------------------


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _fields(fields: Iterable[commands.Field], start: int) -> str:
    rows, at = [], start
    for field in fields:
        size = field.bits // 8
        rows.append((str(at), str(size), f"`{field.name}`", "int" if field.signed else "unsigned", field.doc))
        at += size
    return _table(("byte", "bytes", "name", "type", "meaning"), rows)


def _meaning(register: registers.Register) -> str:
    """A register's description, with the section that a bare type name stands for as a link."""
    return re.sub(r"\b(Control|Status|Permission)\b", lambda match: f"[{match[0]}](#{match[0].lower()})", register.doc)


def _members(kind: type[enum.IntEnum] | type[enum.IntFlag], bits: bool) -> list[tuple[str, str, str]]:
    """Value (or bit), name and the `#:` comment of each member, which only the source has."""
    comments = {}
    for line in inspect.getsource(kind).splitlines():
        match = re.match(r"\s+(\w+) = \S+(?:\s+#:\s*(.*))?$", line)
        if match:
            comments[match[1]] = match[2] or ""
    return [(str(member.value.bit_length() - 1 if bits else member.value), f"`{member.name}`",
             comments[member.name or ""]) for member in kind]


def _flowing(text: str) -> str:
    """Lines as one paragraph, in which an asterisk is a multiplication sign."""
    return " ".join(line.strip() for line in text.splitlines()).replace("*", r"\*")


def _prose(text: str) -> str:
    """A docstring's paragraphs; indented ones are shown as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        indented = all(line.startswith("    ") for line in paragraph.splitlines())
        paragraphs.append(f"```\n{inspect.cleandoc(paragraph)}\n```" if indented else _flowing(paragraph))
    return "\n\n".join(paragraphs)


def _sections(text: str) -> str:
    """A docstring of paragraphs that have a title line and an indented body."""
    parts = []
    for paragraph in text.split("\n\n"):
        title, _newline, body = paragraph.partition("\n")
        if body.startswith("    "):
            lines = [line.removeprefix("    ") for line in body.splitlines()]
            shown = "\n".join(lines)
            parts.append(f"### {title}\n\n" + (f"```\n{shown}\n```" if any(line.startswith("    ") for line in lines)
                                               else _flowing(body)))
        else:
            parts.append(_flowing(paragraph))
    return "\n\n".join(parts)


def _parameters(text: str) -> str:
    """The `name : meaning` lines of a Parameters section, as a list."""
    body = text.split("----------\n", 1)[1].partition("\n\n")[0]
    items = re.sub(r"\. (\w+) : ", r".\n\1 : ", re.sub(r"\n\s+", " ", body)).splitlines()
    return "\n".join(re.sub(r"^(\w+) : ", r"- `\1`: ", item) for item in items)


def main() -> None:
    """Write all pages that have changed."""
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"docs/{name} written")


if __name__ == "__main__":
    main()
