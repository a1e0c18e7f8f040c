"""`registers.md`: the register map of one device, bit by bit."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from hw.contract.config import Config
from hw.contract.registers import ADDRESS_BYTES, Error, Window
from hw.delivery.register_fields import bit_fields, member_docs, offsets, reset_value


def registers_page(config: Config) -> str:
    """The page in Markdown."""
    parts = [
        f"# Registers of Lacuna `{config.name}`",
        (f"AXI4-Lite, 32-bit registers in {ADDRESS_BYTES} bytes of address space. Byte strobes are honoured. A read of "
         "a register that is only written, a write of one that is only read, and an access to an address without a "
         "register are answered with SLVERR and do nothing."),
        _table(("offset", "name", "access", "after reset", "meaning"), (
            (f"`{register.address:#05x}`", f"`{register.name}`", register.access.value,
             f"`{reset_value(register, config):#010x}`", register.doc) for register in offsets())),
        "## Bits",
        "Bits that are not listed read as zero and ignore what is written.",
        _table(("register", "bits", "field", "meaning"), (
            (f"`{register.name}`", _bits(field.low, field.bits), f"`{field.name}`", field.doc)
            for register in offsets() for field in bit_fields(register, config))),
    ]
    for kind in (Error, Window):
        parts += [f"## {kind.__name__}", (kind.__doc__ or "").strip(), _values(kind)]
    return "\n\n".join(parts) + "\n"


def _bits(low: int, bits: int) -> str:
    return str(low) if bits == 1 else f"{low + bits - 1}:{low}"


def _values(kind: type[enum.IntEnum]) -> str:
    docs = member_docs(kind)
    return _table(("value", "name", "meaning"), (
        (str(int(member)), f"`{name}`", docs[name]) for name, member in kind.__members__.items()))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
