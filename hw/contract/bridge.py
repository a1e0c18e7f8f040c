"""What a host and the bridge on a board say to each other over a serial line, in either direction in frames.

A frame on the line is FLAG, its bytes, FLAG; two flags with nothing between them mean nothing. Within it a byte equal
to FLAG or ESCAPE is sent as ESCAPE and the byte with TOGGLE (as in RFC 1662). Its bytes, little-endian:

    request   u8 sequence, u8 code, u16 length, u32 address, payload, u32 CRC-32
    reply     u8 sequence, u8 status, payload, u32 CRC-32

The CRC-32 (zlib's) covers everything before it. The bridge answers every intact request, one at a time, with its
sequence. A damaged one it answers with Answer.DAMAGED and sequence 0, and one that comes while it is busy not at all;
the host then sends the same request again, with the same sequence. A write whose sequence is that of the request
before it is not carried out again, but answered again: nothing happens twice. HELLO forgets the sequence.

    request          length           address   payload    payload of the reply
    HELLO            0                0                    u32 PROTOCOL, u32 largest payload, u64 memory base,
                                                           u32 memory bytes, u32 clock in Hz,
                                                           u32 flash base, u32 flash bytes (0: none)
    READ_REGISTER    0                register             u32 value
    WRITE_REGISTER   4                register  u32 value
    READ_MEMORY      bytes            memory               the bytes
    WRITE_MEMORY     bytes            memory    the bytes
    POLL             0                0                    u32 interrupt line, u32 cycles (a counter that never stops)

The flash is the part of a board's flash that the device can read, as memory that can't be written.

Memory is accessed in units of 8 bytes: address and length are multiples of 8, length is not 0.
"""

from __future__ import annotations

import enum

#: Version of this protocol.
PROTOCOL = 2

FLAG = 0x7E
ESCAPE = 0x7D
TOGGLE = 0x20

#: Bytes of a request before its payload, of a reply before its payload, and of the check value.
REQUEST_HEADER = 8
REPLY_HEADER = 2
CRC_BYTES = 4

#: Largest payload that a bridge takes or gives.
PAYLOAD_MAX = 256

#: Bytes of the reply to HELLO.
HELLO_BYTES = 32


class Ask(enum.IntEnum):
    """Codes of requests."""

    HELLO = 0
    READ_REGISTER = 1
    WRITE_REGISTER = 2
    READ_MEMORY = 3
    WRITE_MEMORY = 4
    POLL = 5


class Answer(enum.IntEnum):
    """Status of replies."""

    OK = 0
    BUS_ERROR = 1  #: the register access was answered with an error
    MEMORY_ERROR = 2  #: the memory access was answered with an error
    BAD_REQUEST = 3  #: an intact request with an unknown code, or with a length or address that does not fit
    DAMAGED = 255  #: a frame whose check value does not match
