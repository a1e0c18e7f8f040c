"""`lacuna_registers.h`: the register table, its flags and codes, for C and C++."""

from __future__ import annotations

import enum

from hw.contract.commands import COMMAND_BYTES, RECORD_BYTES
from hw.contract.config import FORMAT_VERSION, MASK_WORD_BITS, WINDOWS
from hw.contract.registers import ADDRESS_BYTES, ID, Control, Error, Permission, Status, Window
from hw.delivery.register_fields import member_docs, offsets


def registers_header() -> str:
    """The header's text. It is the same for all configurations of a format version."""
    return "\n".join([
        "/* Registers of the Lacuna neural processor: 32 bits each, at byte offsets from its base address.",
        " * Written by hw/delivery/c_header.py from hw/contract/registers.py: change it there. */",
        "#ifndef LACUNA_REGISTERS_H",
        "#define LACUNA_REGISTERS_H",
        "",
        *_defines([
            ("LACUNA_ID_VALUE", f"0x{ID:08X}u", "what ID reads"),
            ("LACUNA_FORMAT_VERSION", f"{FORMAT_VERSION}u", "what FORMAT reads"),
            ("LACUNA_ADDRESS_BYTES", f"0x{ADDRESS_BYTES:X}u", "address space of the registers"),
            ("LACUNA_COMMAND_BYTES", f"{COMMAND_BYTES}u", "bytes of a command"),
            ("LACUNA_RECORD_BYTES", f"{RECORD_BYTES}u", "bytes of a record"),
            ("LACUNA_MASK_WORD_BITS", f"{MASK_WORD_BITS}u", "pixels in a word of a decision mask"),
            ("LACUNA_WINDOWS", f"{WINDOWS}u", "address windows"),
        ]),
        "",
        "/* Byte offsets. */",
        *_defines([(f"LACUNA_REG_{register.name}", f"0x{register.address:03X}u",
                    f"{register.access.value}: {register.doc}") for register in offsets()]),
        *_enumeration(Control, "LACUNA_CONTROL"),
        *_enumeration(Status, "LACUNA_STATUS"),
        *_enumeration(Permission, "LACUNA_PERMISSION"),
        *_enumeration(Error, "LACUNA_ERROR"),
        *_enumeration(Window, "LACUNA_WINDOW"),
        "",
        "#endif",
        "",
    ])


def _enumeration(kind: type[enum.IntEnum] | type[enum.IntFlag], prefix: str) -> list[str]:
    docs = member_docs(kind)
    title = (kind.__doc__ or "").strip().rstrip(".")
    return ["", f"/* {title}. */",
            *_defines([(f"{prefix}_{name}", f"{int(member)}u", docs[name])
                       for name, member in kind.__members__.items()])]


def _defines(rows: list[tuple[str, str, str]]) -> list[str]:
    names = max(len(name) for name, _value, _doc in rows)
    values = max(len(value) for _name, value, _doc in rows)
    return [f"#define {name:<{names}} {value:<{values}}{f' /* {doc} */' if doc else ''}".rstrip()
            for name, value, doc in rows]
