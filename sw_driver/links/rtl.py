"""The link to a simulated device: registers, memory and interrupt of the RTL, over a local socket."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from hw.contract.config import Config
from sim.build_cache import Progress, SimulatorError
from sim.session import Session, launch
from sw_driver.links import protocol
from sw_driver.links.link import InterruptTimeout, LinkError
from sw_driver.links.protocol import Reply, Request


class RtlLink:
    """A `Link` to a simulator that serves the protocol at `address`.

    Parameters
    ----------
    address : path of its Unix socket, or HOST:PORT.
    session : the simulator, when this link is to end it on `close`.

    Attributes
    ----------
    simulator : {"name", "version", "cycles_per_second"}; the speed is the mean over this link's waits for the
        interrupt so far. name, memory_base, memory_bytes : as in Link.

    Raises LinkError when there is no simulator. An exception in the middle of a request (Ctrl-C included)
    closes the link, and ends a simulator of its own: what the device was doing can't be known any more.
    """

    name = "rtl"
    flash_base = flash_bytes = 0
    memory_base = 0

    def __init__(self, address: str | Path, session: Session | None = None) -> None:
        self._session = session
        self._connection: socket.socket | None = None
        try:
            self._connection = protocol.connect(str(address))
        except OSError as error:
            self._give_up()
            raise LinkError(f"No simulator answers at {address}: {error.strerror or error}") from None
        information = self.inform()
        self.memory_bytes: int = information["memory_bytes"]
        self.simulator: dict[str, Any] = {
            "name": information["name"], "version": information["version"], "cycles_per_second": 0.0,
        }
        self._run_cycles = self._run_micros = 0

    # ---- Link ------------------------------------------------------------------------------------

    def read_register(self, address: int) -> int:
        """The 32-bit register at byte address `address`. Raises LinkError."""
        return self._request(Request.READ_REGISTER, address)[1]

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register. Raises LinkError."""
        self._request(Request.WRITE_REGISTER, address, value)

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes of external memory, in no simulated time. Raises LinkError."""
        return self._request(Request.READ_MEMORY, address, length)[3]

    def write_memory(self, address: int, data: bytes) -> None:
        """Write external memory, in no simulated time. Raises LinkError."""
        self._request(Request.WRITE_MEMORY, address, 0, bytes(data))

    def wait_interrupt(self, cycles: int) -> None:
        """Return when the interrupt line is high. Raises InterruptTimeout after `cycles` cycles, LinkError."""
        reply, waited, micros, _data = self._request(Request.WAIT_INTERRUPT, cycles)
        self._run_cycles += waited
        self._run_micros += micros
        if self._run_micros:
            self.simulator["cycles_per_second"] = 1e6 * self._run_cycles / self._run_micros
        if reply == Reply.TIMEOUT:
            raise InterruptTimeout(f"No interrupt within {cycles} cycles")

    def close(self) -> None:
        """End the connection; the simulator too where it is this link's own. Waves are written then."""
        if self._connection is not None:
            with contextlib.suppress(LinkError):  # it is gone already
                if self._session is not None:
                    self._request(Request.CLOSE)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # ---- simulation only -------------------------------------------------------------------------

    def configure(self, **options: Any) -> None:
        """Set latency, bandwidth, flash_latency, flash_bandwidth, stall_seed, read_errors, write_errors, error_range,
        waves or waves_commands.

        See sw_driver.links.protocol for their values. Raises LinkError for one that does not fit.
        """
        self._request(Request.CONFIGURE, payload=json.dumps(options).encode())

    def reset(self) -> None:
        """A hardware reset of the device; external memory keeps its content."""
        self._request(Request.RESET)

    def inform(self) -> dict[str, Any]:
        """Name, version, cycles, run_cycles, run_s and more of the simulation: see sw_driver.links.protocol."""
        return json.loads(self._request(Request.INFORM)[3])

    def __enter__(self) -> RtlLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- requests --------------------------------------------------------------------------------

    def _request(self, request: Request, first: int = 0, second: int = 0,
                 payload: bytes = b"") -> tuple[int, int, int, bytes]:
        """The reply: code, first, second and payload. Raises LinkError."""
        if self._connection is None:
            raise LinkError("The link to the simulator is closed; open the device again")
        try:
            protocol.send(self._connection, request, first, second, payload)
            reply, *values, data = protocol.receive(self._connection)
        except OSError as error:
            text = self._session.obituary() if self._session else f"The simulator is gone: {error}"
            self._give_up()
            raise LinkError(text) from None
        except BaseException:
            self._give_up()
            raise
        if reply == Reply.ERROR:
            raise LinkError(f"Simulator: {data.decode()}")
        return reply, values[0], values[1], data

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        session, self._session = self._session, None
        if session is not None:
            session.close(kill=True)


def open_rtl(config: str | Config = "large", *, simulator: str = "verilator", latency: int = 20, bandwidth: float = 8,
             flash_latency: int | None = None, flash_bandwidth: float | None = None, stall_seed: int = 0,
             memory_bytes: int | None = None, waves: str | Path | None = None,
             waves_commands: tuple[int, int] | None = None, verilog: Path | None = None,
             progress: Progress | None = None) -> RtlLink:
    """Start a simulated device and link to it; closing the link ends the simulator.

    Parameters
    ----------
    config : preset name or Config. simulator : "verilator" or "icarus".
    latency : of the external memory, cycles. bandwidth : bytes per cycle: 8, 4, 2, 1, 0.5 and so on.
    flash_bandwidth : bytes per cycle of a second memory, which holds the program image with its weights; by default
        it is in the same memory as all else. flash_latency : of that memory, cycles; `latency` by default.
    stall_seed : not 0: random stalls on the memory's channels.
    waves : FST file to record everything to; with waves_commands = (first, last), only while those commands
        (by index in the program) are under way.
    memory_bytes, verilog, progress : see `sim.session.launch`.

    Raises LinkError when the simulator can't be built or started; ConfigError for an unknown preset.
    """
    try:
        session = launch(config, simulator=simulator, memory_bytes=memory_bytes, waves=waves, verilog=verilog,
                         progress=progress)
    except SimulatorError as error:
        raise LinkError(str(error)) from error
    link = RtlLink(session.socket_path, session)
    try:
        options: dict[str, Any] = {"latency": latency, "bandwidth": bandwidth, "stall_seed": stall_seed,
                                   "flash_latency": latency if flash_latency is None else flash_latency,
                                   "flash_bandwidth": flash_bandwidth}
        if waves is not None and waves_commands is None:
            options["waves"] = True
        elif waves is not None:
            options["waves_commands"] = waves_commands
        link.configure(**options)
    except BaseException:
        link.close()
        raise
    return link
