"""The bits of each register, as bus tools and C compilers want them: derived from the register table."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re

from hw.contract.config import FORMAT_VERSION, Config
from hw.contract.registers import ID, REGISTERS, Access, Control, Permission, Register, Status

#: Registers that are multiples of 8: their lowest three bits stay zero.
_MULTIPLES_OF_8 = ("PROGRAM", "BASE", "SIZE")


@dataclasses.dataclass(frozen=True)
class BitField:
    """Bits `low` to `low + bits - 1` of a register. `reset` is their value after reset."""

    name: str
    low: int
    bits: int
    access: Access
    doc: str
    reset: int = 0

    @property
    def mask(self) -> int:
        """The field's bits in the register."""
        return ((1 << self.bits) - 1) << self.low


def flags_of(register: Register) -> type[enum.IntFlag] | None:
    """The flags that a register holds, where it holds flags."""
    if register.name == "CONTROL":
        return Control
    if register.name == "STATUS":
        return Status
    return Permission if register.name.endswith("_PERMISSION") else None


def bit_fields(register: Register, config: Config) -> list[BitField]:
    """The fields of a register of a device; none where all of its bits are zero for this configuration."""
    flags = flags_of(register)
    if flags is not None:
        docs = member_docs(flags)
        return [BitField(member.name or "", member.value.bit_length() - 1, 1, register.access,
                         docs[member.name or ""]) for member in flags]
    low, bits = _extent(register.name, config)
    if not bits:
        return []
    return [BitField(register.name, low, bits, register.access, register.doc,
                     reset_value(register, config) >> low)]


def _extent(name: str, config: Config) -> tuple[int, int]:
    """Lowest bit and number of bits of a register without flags."""
    if name.endswith("_BASE_HIGH"):
        return 0, max(0, config.axi_address_bits - 32)
    if name.endswith("_BASE"):
        return 3, min(32, config.axi_address_bits) - 3
    if name.rpartition("_")[2] in _MULTIPLES_OF_8:
        return 3, 29
    return 0, {"INTERRUPT_ENABLE": 1, "ERROR_CODE": 8}.get(name, 32)


def member_docs(kind: type[enum.Enum]) -> dict[str, str]:
    """The `#:` comment beside each member of a contract enumeration, which only its source has; "" without one."""
    docs = dict.fromkeys(kind.__members__, "")
    for line in inspect.getsource(kind).splitlines():
        match = re.match(r"\s+(\w+) = \S+\s+#:\s*(.*)$", line)
        if match:
            docs[match[1]] = match[2]
    return docs


def offsets() -> list[Register]:
    """The registers by ascending address."""
    return sorted(REGISTERS.values(), key=lambda register: register.address)


def reset_value(register: Register, config: Config) -> int:
    """What a register of a device reads after reset."""
    constants = {"ID": ID, "FORMAT": FORMAT_VERSION, "CONFIG": config.hash}
    if register.name.endswith("_COMMAND") and register.name != "ERROR_COMMAND":
        return 0xFFFF_FFFF  # idle
    return constants.get(register.name, register.reset)
