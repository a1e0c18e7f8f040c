"""Frames on a serial line, as the host makes and reads them: hw.contract.bridge in software."""

from __future__ import annotations

import dataclasses
import struct
import zlib

from hw.contract.bridge import CRC_BYTES, ESCAPE, FLAG, PAYLOAD_MAX, REPLY_HEADER, TOGGLE, Answer

_STATUS = frozenset(map(int, Answer))
_REQUEST = struct.Struct("<BBHI")

#: Most bytes that a reply takes on the line: every one escaped, and a flag at either end.
REPLY_LINE_BYTES = 2 * (REPLY_HEADER + PAYLOAD_MAX + CRC_BYTES) + 2


@dataclasses.dataclass(frozen=True)
class UartReply:
    """An intact reply."""

    sequence: int
    status: Answer
    payload: bytes


def frame(content: bytes) -> bytes:
    """The bytes on the line of a frame with `content`, to which its check value is added."""
    checked = content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")
    escaped = bytearray([FLAG])
    for byte in checked:
        escaped += bytes((ESCAPE, byte ^ TOGGLE)) if byte in (FLAG, ESCAPE) else bytes((byte,))
    escaped.append(FLAG)
    return bytes(escaped)


def request_frame(sequence: int, code: int, address: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    """The bytes on the line of a request; `code` as in `Ask`."""
    return frame(_REQUEST.pack(sequence, code, length, address) + payload)


def reply_of(content: bytes) -> UartReply | None:
    """The reply in the bytes between two flags, escapes undone; None when it is damaged."""
    if len(content) < REPLY_HEADER + CRC_BYTES:
        return None
    checked, crc = content[:-CRC_BYTES], content[-CRC_BYTES:]
    if zlib.crc32(checked) != int.from_bytes(crc, "little") or checked[1] not in _STATUS:
        return None
    return UartReply(checked[0], Answer(checked[1]), checked[REPLY_HEADER:])


class FrameReader:
    """Takes bytes from the line in any portions, and gives the contents of frames.

    A frame that is longer than any reply is dropped.
    """

    def __init__(self) -> None:
        self._content = bytearray()
        self._escaped = False

    def clear(self) -> None:
        """Forget a frame that is not complete."""
        self._content.clear()
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes]:
        """The contents of the frames that these bytes complete, check values included; they may be damaged."""
        complete = []
        for byte in data:
            if byte == FLAG:
                if self._content:
                    complete.append(bytes(self._content))
                self.clear()
            elif byte == ESCAPE:
                self._escaped = True
            else:
                self._content.append(byte ^ TOGGLE if self._escaped else byte)
                self._escaped = False
                del self._content[REPLY_LINE_BYTES:]
        return complete


