"""Any link, served over a local socket in the protocol of a simulator: for other processes, in whatever language."""

from __future__ import annotations

import contextlib
import json
import socket

from sw_driver.links import protocol
from sw_driver.links.link import InterruptTimeout, Link, LinkError
from sw_driver.links.protocol import Disconnected, Reply, Request


def serve(link: Link, connection: socket.socket) -> None:
    """Answer a client's requests with `link` until it closes or goes. Raises OSError.

    CONFIGURE and RESET, which are for simulators, are refused.
    """
    with contextlib.suppress(Disconnected):
        while True:
            code, first, second, payload = protocol.receive(connection)
            try:
                reply = _answer(link, code, first, second, payload)
            except LinkError as error:
                reply = (Reply.ERROR, 0, 0, str(error).encode())
            protocol.send(connection, *reply)
            if code == Request.CLOSE:
                return


def _answer(link: Link, code: int, first: int, second: int, payload: bytes) -> tuple[Reply, int, int, bytes]:
    match code:
        case Request.READ_REGISTER:
            return Reply.OK, link.read_register(first), 0, b""
        case Request.WRITE_REGISTER:
            link.write_register(first, second)
        case Request.READ_MEMORY:
            return Reply.OK, 0, 0, link.read_memory(first, second)
        case Request.WRITE_MEMORY:
            link.write_memory(first, payload)
        case Request.WAIT_INTERRUPT:
            try:
                link.wait_interrupt(first)
            except InterruptTimeout:
                return Reply.TIMEOUT, first, 0, b""
        case Request.INFORM:
            simulator = {"name": link.name, "version": "", **link.simulator}
            information = {"name": simulator["name"], "version": simulator["version"], "label": link.name,
                           "memory_bytes": link.memory_bytes, "cycles": 0, "run_cycles": 0, "run_s": 0.0,
                           "waves": False}
            return Reply.OK, 0, 0, json.dumps(information).encode()
        case Request.CLOSE:
            pass
        case _:
            raise LinkError(f"Request {code} is for simulators; this is link {link.name!r}")
    return Reply.OK, 0, 0, b""
