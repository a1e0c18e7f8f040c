"""`registers.rdl`: the register map in SystemRDL 2.0 (Accellera), for bus and documentation tools."""

from __future__ import annotations

from hw.contract.config import Config
from hw.contract.registers import ADDRESS_BYTES, Access, Error, Register
from hw.delivery.register_fields import BitField, bit_fields, member_docs, offsets

_SOFTWARE = {Access.READ: "r", Access.WRITE: "w", Access.READ_WRITE: "rw"}


def registers_rdl(config: Config) -> str:
    """The text: an address map `lacuna` with 32-bit registers at their offsets."""
    docs = member_docs(Error)
    lines = [
        f"// Registers of Lacuna '{config.name}', configuration {config.hash:#010x}. Generated.",
        "enum lacuna_error {",
        *(f"    {name} = 8'd{int(member)} {{ desc = {_text(docs[name])}; }};" for name, member in
          Error.__members__.items()),
        "};",
        "",
        "addrmap lacuna {",
        '    name = "Lacuna neural processor";',
        f"    desc = {_text(f'AXI4-Lite, {ADDRESS_BYTES} bytes of address space.')};",
        "    default regwidth = 32;",
        "    default accesswidth = 32;",
        "    addressing = compact;",
        "    lsb0;",
    ]
    for register in offsets():
        lines += ["", *(f"    {line}" for line in _register(register, config))]
    return "\n".join([*lines, "};", ""])


def _register(register: Register, config: Config) -> list[str]:
    fields = bit_fields(register, config) or [
        BitField("ZERO", 0, 32, Access.READ, "This configuration has none of these bits.")]
    return ["reg {", f"    desc = {_text(register.doc)};",
            *(f"    {line}" for field in fields for line in _field(field)),
            f"}} {register.name} @ {register.address:#05x};"]


def _field(field: BitField) -> list[str]:
    hardware = "r" if field.access is not Access.READ else "w"
    lines = [f"sw = {_SOFTWARE[field.access]};", f"hw = {hardware};", f"desc = {_text(field.doc)};"]
    if field.access is Access.WRITE:
        lines.append("singlepulse;")
    if field.name == "ERROR_CODE":
        lines.append("encode = lacuna_error;")
    return ["field {", *(f"    {line}" for line in lines),
            f"}} {field.name}[{field.low + field.bits - 1}:{field.low}] = {field.bits}'h{field.reset:X};"]


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
