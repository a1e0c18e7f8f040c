"""What the simulator process and its client say to each other over a local socket.

A message is a header of 24 bytes, little-endian: u32 code, u32 bytes of payload, u64 first, u64 second; then
the payload. The client sends a Request; the simulator answers every one with a Reply, in order, and no
simulated time passes between an answer and the next request.

    request          first    second   payload           reply OK: first, second or payload
    READ_REGISTER    address                             value
    WRITE_REGISTER   address  value
    READ_MEMORY      address  length                     payload: bytes
    WRITE_MEMORY     address           bytes
    WAIT_INTERRUPT   cycles                              cycles and (wall-clock) microseconds that passed;
                                                         Reply.TIMEOUT with the same: it did not come
    CONFIGURE                          JSON, see below
    INFORM                             JSON               payload: JSON, see below
    RESET                                                (a hardware reset; memory keeps its content)
    CLOSE                                                (the simulation ends)

Reply.ERROR carries a text. CONFIGURE takes any of: latency (cycles, 2 to 65535), bandwidth (bytes per
cycle: 8 / n), flash_bandwidth (the same for reads of window IMAGE, which then come from a memory of
their own; null: from the same memory as all else), flash_latency (of these, cycles), stall_seed (0: no
random stalls), read_errors and write_errors (true: addresses of the range answer with an error),
error_range ([first, last] byte address), waves (true or false: record from now on), waves_commands
([first, last] command index, or null: record while these are under way).
INFORM answers: name and version of the simulator, memory_bytes, cycles (since the simulation started),
run_cycles and run_s (spent in WAIT_INTERRUPT: simulated cycles and wall-clock seconds), label (of the
device, such as its preset), waves (whether this simulator can record them).

An address is the path of a Unix socket, or HOST:PORT where the path would not do.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct

_HEADER = struct.Struct("<IIQQ")


class Request(enum.IntEnum):
    """What a client asks for."""

    READ_REGISTER = 1
    WRITE_REGISTER = 2
    READ_MEMORY = 3
    WRITE_MEMORY = 4
    WAIT_INTERRUPT = 5
    CONFIGURE = 6
    INFORM = 7
    RESET = 8
    CLOSE = 9


class Reply(enum.IntEnum):
    """How it went."""

    OK = 0
    TIMEOUT = 1
    ERROR = 2


class Disconnected(ConnectionError):
    """The other side closed the connection."""


def send(connection: socket.socket, code: int, first: int = 0, second: int = 0, payload: bytes = b"") -> None:
    """Send one message. Raises OSError."""
    connection.sendall(_HEADER.pack(code, len(payload), first, second) + payload)


def receive(connection: socket.socket) -> tuple[int, int, int, bytes]:
    """Wait for one message: code, first, second, payload. Raises Disconnected, OSError."""
    code, length, first, second = _HEADER.unpack(_exactly(connection, _HEADER.size))
    return code, first, second, _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(length - len(data), 1 << 20))
        if not part:
            raise Disconnected("the connection was closed")
        data += part
    return bytes(data)


def _host_port(address: str) -> tuple[str, int] | None:
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() and "/" not in address else None


def connect(address: str) -> socket.socket:
    """A connection to the simulator that listens at `address`. Raises OSError."""
    target = _host_port(address)
    if target is not None:
        connection = socket.create_connection(target)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening socket, and the address that clients connect to (port 0 takes a free one). Raises OSError."""
    target = _host_port(address)
    if target is not None:
        listener = socket.create_server(target)
        host, port = listener.getsockname()[:2]
        return listener, f"{host}:{port}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        _remove_stale(address)
    listener.bind(address)
    listener.listen(1)
    return listener, address


def _remove_stale(address: str) -> None:
    """Remove the socket file of a simulator that is gone; leave one that is in use, so that bind refuses it."""
    import os

    try:
        connect(address).close()
    except ConnectionRefusedError:
        os.unlink(address)
