"""The link to a board over a serial line, through the bridge of hw.bridge; the protocol is in hw.contract.bridge."""

from __future__ import annotations

import struct
from typing import Any, Protocol

from hw.contract.bridge import HELLO_BYTES, PROTOCOL, Answer, Ask
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.uart_protocol import REPLY_LINE_BYTES, FrameReader, UartReply, reply_of, request_frame

DEFAULT_BAUD = 115_200

#: How often a request is sent before the link is given up.
TRIES = 8

#: Seconds of silence after which a request is sent again.
SILENCE_S = 0.25

#: Bytes from the line, in full replies, after which a request is sent again: noise must not hold it up for ever.
_NOISE_REPLIES = 4

_HELLO = struct.Struct("<IIQIIII")

_PURPOSE = {
    Answer.BUS_ERROR: "the device answered the register access with an error",
    Answer.MEMORY_ERROR: "external memory answered with an error",
    Answer.BAD_REQUEST: "the bridge has no such request",
}


class SerialPort(Protocol):
    """What is used of `serial.Serial`: a read ends early, or empty, after its time-out."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        ...

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send all of `data`."""
        ...

    def reset_input_buffer(self) -> None:
        """Throw away what came."""
        ...

    def close(self) -> None:
        """Close the port."""
        ...


class UartLink:
    """A `Link` over a serial port, which it closes.

    A request that is not answered, or whose answer is damaged, is sent again, up to TRIES times; the bridge carries
    nothing out twice. What can't be said is a LinkError, never a wrong value.

    Parameters
    ----------
    port : open, with a time-out for reads. place : its name, for messages.

    Attributes
    ----------
    retries : requests that were sent again. clock_hz : of the device. name, simulator, memory_base, memory_bytes,
        flash_base, flash_bytes : as in Link.

    Raises LinkError when no bridge answers.
    """

    name = "uart"

    def __init__(self, port: SerialPort, place: str = "the serial port"):
        self._port: SerialPort | None = port
        self._place = place
        self._sequence = 0
        self._reader = FrameReader()
        self.retries = 0
        self.simulator: dict[str, Any] = {}
        try:
            self._receive_rest()
            payload = self._request(Ask.HELLO, expected=HELLO_BYTES)
            (version, self._payload_max, self.memory_base, self.memory_bytes, self.clock_hz, self.flash_base,
             self.flash_bytes) = _HELLO.unpack(payload)
            if version != PROTOCOL:
                raise LinkError(f"The bridge at {place} speaks version {version} of the protocol, this driver "
                                f"{PROTOCOL}; build the board from the same version of Lacuna")
        except BaseException:
            self.close()
            raise

    # ---- Link ------------------------------------------------------------------------------------

    def read_register(self, address: int) -> int:
        """The 32-bit register at byte address `address`. Raises LinkError."""
        return int.from_bytes(self._request(Ask.READ_REGISTER, address, expected=4), "little")

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register. Raises LinkError."""
        self._request(Ask.WRITE_REGISTER, address, 4, value.to_bytes(4, "little"))

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes of external memory. Raises LinkError."""
        self._require_place(address, length)
        data = bytearray()
        while len(data) < length:
            part = min(self._payload_max, length - len(data))
            data += self._request(Ask.READ_MEMORY, address + len(data), part, expected=part)
        return bytes(data)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write external memory. Raises LinkError."""
        self._require_place(address, len(data))
        for at in range(0, len(data), self._payload_max):
            part = bytes(data[at : at + self._payload_max])
            self._request(Ask.WRITE_MEMORY, address + at, len(part), part)

    def wait_interrupt(self, cycles: int) -> None:
        """Return when the interrupt line is high. Raises InterruptTimeout after `cycles` cycles, LinkError."""
        raised, before = self._poll()
        passed = 0
        while not raised and passed < cycles:
            raised, now = self._poll()
            passed += now - before & 0xFFFF_FFFF
            before = now
        if not raised:
            raise InterruptTimeout(f"No interrupt within {cycles} cycles")

    def close(self) -> None:
        """Close the port."""
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def __enter__(self) -> UartLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- requests --------------------------------------------------------------------------------

    def _poll(self) -> tuple[bool, int]:
        """The interrupt line, and the bridge's counter of cycles."""
        line, cycles = struct.unpack("<II", self._request(Ask.POLL, expected=8))
        return bool(line), cycles

    def _require_place(self, address: int, length: int) -> None:
        end = self.memory_base + self.memory_bytes
        in_flash = self.flash_base <= address and address + length <= self.flash_base + self.flash_bytes
        if address % 8 or length % 8 or not (in_flash or (self.memory_base <= address and address + length <= end)):
            raise LinkError(f"External memory has bytes {self.memory_base:#x} to {end - 1:#x} in units of 8, not "
                            f"{length} bytes at {address:#x}")

    def _request(self, code: Ask, address: int = 0, length: int = 0, payload: bytes = b"",
                 expected: int = 0) -> bytes:
        """The payload of the reply, of `expected` bytes. Raises LinkError."""
        if self._port is None:
            raise LinkError(f"The link over {self._place} is closed; open the device again")
        self._sequence = self._sequence + 1 & 0xFF
        data = request_frame(self._sequence, code, address, length, payload)
        try:
            reply = self._exchange(data)
        except OSError as error:  # serial.SerialException is one
            self.close()
            raise LinkError(f"The serial port {self._place} failed: {error}; is its cable plugged in?") from None
        except BaseException:
            self.close()  # an answer may be under way that nobody takes
            raise
        if reply is None:
            self.close()
            raise LinkError(f"No answer to {code.name} over {self._place} in {TRIES} tries; check the cable, the baud "
                            "rate, and that the board is configured and out of reset")
        if reply.status is not Answer.OK:
            raise LinkError(f"{code.name} of address {address:#x} over {self._place}: {_PURPOSE[reply.status]}")
        if len(reply.payload) != expected:
            raise LinkError(f"{code.name} over {self._place} was answered with {len(reply.payload)} bytes, not "
                            f"{expected}; build board and driver from the same version of Lacuna")
        return reply.payload

    def _exchange(self, data: bytes) -> UartReply | None:
        """Send a request until it is answered; None when it never is. Raises OSError."""
        assert self._port is not None
        for attempt in range(TRIES):
            if attempt:
                self.retries += 1
            self._port.write(data)
            reply = self._receive()
            if reply is not None:
                return reply
        return None

    def _receive(self) -> UartReply | None:
        """The reply to the last request; None when there was silence, noise, or a complaint. Raises OSError."""
        assert self._port is not None
        taken = 0
        while taken < _NOISE_REPLIES * REPLY_LINE_BYTES:
            data = self._port.read(max(1, self._port.in_waiting))
            if not data:
                break
            taken += len(data)
            for content in self._reader.feed(data):
                reply = reply_of(content)
                if reply is None or reply.status is Answer.DAMAGED:
                    return None
                if reply.sequence == self._sequence:
                    return reply
        self._reader.clear()
        return None

    def _receive_rest(self) -> None:
        """Throw away what an earlier user of the line left behind. Raises LinkError."""
        assert self._port is not None
        try:
            self._port.reset_input_buffer()
        except OSError as error:
            raise LinkError(f"The serial port {self._place} failed: {error}") from None


def open_uart(place: str) -> UartLink:
    """Open a link over a serial port: its path, or PATH@BAUD (115,200 by default).

    Raises LinkError when the port can't be opened or no bridge answers, and for a baud rate that is no number.
    """
    path, at, rate = place.rpartition("@")
    if not at:
        path, rate = place, str(DEFAULT_BAUD)
    if not path or not rate.isdecimal() or not int(rate):
        raise LinkError(f"A serial port is PATH or PATH@BAUD, not {place!r}")
    try:
        import serial
    except ModuleNotFoundError:
        raise LinkError("Serial ports need the package pyserial; install it with: pip install pyserial") from None
    try:
        port = serial.Serial(path, int(rate), timeout=SILENCE_S, write_timeout=10, exclusive=True)
    except (OSError, ValueError) as error:
        raise LinkError(f"The serial port {path} can't be opened: {error}") from None
    return UartLink(port, path)
