"""Reading FlatBuffers without trust: every offset and length is checked before it is followed.

The runtime of the `flatbuffers` package believes what it reads, and fails on damaged files in many ways
(struct.error, IndexError, endless or huge vectors). Format: flatbuffers.dev, "FlatBuffer Internals".
"""

from __future__ import annotations

import struct

import numpy as np

from sw_driver.graph import ModelError


class FlatBuffer:
    """A file's bytes.

    Parameters
    ----------
    data : the whole file.
    """

    def __init__(self, data: bytes):
        self.data = data

    def scalar(self, position: int, code: str) -> int | float | bool:
        """The little-endian scalar at a byte position; `code` as in `struct`. Raises ModelError outside the file."""
        if not 0 <= position <= len(self.data) - struct.calcsize(code):
            raise ModelError(f"the file is damaged or cut short: it has {len(self.data)} bytes and refers "
                             f"to byte {position}")
        return struct.unpack_from("<" + code, self.data, position)[0]

    def offset(self, position: int) -> int:
        """The position that the unsigned offset at `position` leads to."""
        step = int(self.scalar(position, "I"))
        if step == 0:
            raise ModelError(f"the file is damaged: the offset at byte {position} leads nowhere")
        return position + step

    def root(self) -> Table:
        """The root table."""
        return Table(self, self.offset(0))


class Table:
    """A table at a byte position. Raises ModelError when it doesn't lie in the file.

    Parameters
    ----------
    buffer, position : where it is.
    """

    def __init__(self, buffer: FlatBuffer, position: int):
        self._buffer = buffer
        self._position = position
        vtable = position - int(buffer.scalar(position, "i"))
        size = int(buffer.scalar(vtable, "H"))
        extent = int(buffer.scalar(vtable + 2, "H"))
        if size < 4 or size % 2 or vtable + size > len(buffer.data) or position + extent > len(buffer.data):
            raise ModelError(f"the file is damaged: no valid table at byte {position}")
        self._fields = struct.unpack_from(f"<{(size - 4) // 2}H", buffer.data, vtable + 4)
        if any(field >= extent for field in self._fields):
            raise ModelError(f"the file is damaged: the table at byte {position} has fields outside itself")

    def _field(self, number: int) -> int | None:
        if number >= len(self._fields) or self._fields[number] == 0:
            return None
        return self._position + self._fields[number]

    def has(self, number: int) -> bool:
        """Whether field `number` (counted from 0, in the schema's order) is there."""
        return self._field(number) is not None

    def integer(self, number: int, code: str, default: int = 0) -> int:
        """An integer field; `code` as in `struct`."""
        position = self._field(number)
        return default if position is None else int(self._buffer.scalar(position, code))

    def boolean(self, number: int, default: bool = False) -> bool:
        """A bool field."""
        return bool(self.integer(number, "B", int(default)))

    def real(self, number: int, default: float = 0.0) -> float:
        """A float field."""
        position = self._field(number)
        return default if position is None else float(self._buffer.scalar(position, "f"))

    def table(self, number: int) -> Table | None:
        """A table field, None when absent."""
        position = self._field(number)
        return None if position is None else Table(self._buffer, self._buffer.offset(position))

    def vector(self, number: int, dtype: str) -> np.ndarray | None:
        """A vector of scalars, None when absent: read-only, little-endian `dtype` such as 'i4'."""
        position = self._field(number)
        if position is None:
            return None
        start, count = self._extent(self._buffer.offset(position), np.dtype(dtype).itemsize)
        return np.frombuffer(self._buffer.data, np.dtype(dtype).newbyteorder("<"), count, start)

    def tables(self, number: int) -> list[Table]:
        """A vector of tables, empty when absent."""
        return [Table(self._buffer, position) for position in self._offsets(number)]

    def string(self, number: int) -> str:
        """A string field, '' when absent. Bytes that are not UTF-8 are replaced."""
        raw = self.vector(number, "u1")
        return "" if raw is None else raw.tobytes().decode("utf-8", errors="replace")

    def _offsets(self, number: int) -> list[int]:
        position = self._field(number)
        if position is None:
            return []
        start, count = self._extent(self._buffer.offset(position), 4)
        return [self._buffer.offset(start + 4 * i) for i in range(count)]

    def _extent(self, position: int, item_bytes: int) -> tuple[int, int]:
        count = int(self._buffer.scalar(position, "I"))
        if position + 4 + count * item_bytes > len(self._buffer.data):
            raise ModelError(f"the file is damaged or cut short: a vector of {count} x {item_bytes} bytes at byte "
                             f"{position} goes past the end at byte {len(self._buffer.data)}")
        return position + 4, count
