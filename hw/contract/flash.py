"""A program in a board's flash: what `lacuna compile --flash-out` writes, and a host looks for before it runs it there.

    0      8 bytes   "LACUNA\\xffF"
    8      u32       format version
    12     u32       configuration hash
    16     u64       bytes of image
    24     32 bytes  SHA-256 of the image
    4096   image     `Program.image`: commands, weights, row maps and parameters

Little-endian. The header fills 4096 bytes, so that the image begins where a window may; its rest is 255, as erased.
"""

from __future__ import annotations

import hashlib
import struct

from hw.contract.image import Program

FLASH_MAGIC = b"LACUNA\xffF"
_HEADER = struct.Struct("<8sIIQ32s")

#: Bytes of the header that are read and compared; a multiple of 8.
HEADER_BYTES = _HEADER.size

#: Where the image begins.
IMAGE_OFFSET = 4096


def _header(program: Program) -> bytes:
    return _HEADER.pack(FLASH_MAGIC, program.format_version, program.config_hash, len(program.image),
                        hashlib.sha256(program.image).digest())


def flash_content(program: Program) -> bytes:
    """What is to be written to the flash, from the beginning of its part for programs on."""
    return _header(program).ljust(IMAGE_OFFSET, b"\xff") + program.image


def flash_bytes(program: Program) -> int:
    """Its length."""
    return IMAGE_OFFSET + len(program.image)


def difference(found: bytes, program: Program) -> str | None:
    """What the flash holds instead of `program`, in words, from its first HEADER_BYTES bytes; None: it is `program`."""
    if found == _header(program):
        return None
    magic, version, config_hash, length, _digest = _HEADER.unpack(found)
    if magic != FLASH_MAGIC:
        return "no program"
    if (version, config_hash) != (program.format_version, program.config_hash):
        return f"a program of format version {version} for configuration {config_hash:#010x}"
    return f"another program, of {length} bytes"
