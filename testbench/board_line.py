"""A simulated board whose serial line is a pseudo-terminal, and a line with faults between it and a host.

    with SimulatedBoard(PRESETS["nano"]) as board, FaultyLine(board.path, rng) as line:
        link = open_uart(line.path)
"""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import tempfile
import threading
import tty
from collections.abc import Callable
from pathlib import Path

import numpy as np
from amaranth.back import verilog

from hw.boards.board_top import BoardTop
from hw.bus.axi import verilog_ports
from hw.contract.config import Config
from sim import simulator
from sim.build_cache import ROOT
from testbench.flash_chip import BoardWithFlash

_MAIN = "testbench/board_line.cpp"


class SimulatedBoard:
    """A board top on Verilator, in a process of its own; a context manager.

    Parameters
    ----------
    config : of the device. divisor : clock cycles per bit of the line. memory_bytes : as in BoardTop.
    flash : content of the flash from FLASH_OFFSET on, its part for programs; None: there is no flash.

    Attributes
    ----------
    path : of its serial port. pid : of its process.

    Raises SimulatorError when it can't be built or started.
    """

    def __init__(self, config: Config, *, divisor: int = 4, memory_bytes: int = 1 << 17,
                 flash: bytes | None = None):
        baud = 1_000_000
        sizes = {"clock_hz": divisor * baud, "baud": baud, "memory_bytes": memory_bytes}
        top = BoardTop(config, **sizes) if flash is None else BoardWithFlash(config, flash, **sizes)
        with tempfile.TemporaryDirectory(prefix="lacuna-board-") as scratch:
            path = Path(scratch) / "board_top.v"
            path.write_text(verilog.convert(top, name="board_top", ports=verilog_ports(top), emit_src=False))
            simulation = simulator.build([path], "board_top", cocotb=False, main=ROOT / _MAIN)
        self._process = subprocess.Popen([*simulation.command, str(divisor)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.path = self._process.stdout.readline().strip()
        self.pid = self._process.pid
        if not self.path:
            raise simulator.SimulatorError(f"The simulated board ended with status {self._process.wait()}")

    def close(self) -> None:
        """End the simulation."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> SimulatedBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclasses.dataclass
class Fault:
    """A fault on the line: what happened to which byte, and what came of it.

    `to_board` : the direction. kind : "dropped", "flipped" or "repeated". outcome : "retried", "none" (the frame was
    intact still), or "error"; "open" while it is not known.
    """

    to_board: bool
    kind: str
    byte: int
    outcome: str = "open"


KINDS = ("dropped", "flipped", "repeated")


class FaultyLine:
    """Hands bytes on between a host and a board's serial port, and damages one now and then; a context manager.

    One fault at a time: the next is due only when `gap` bytes have passed, so that each can be told what came of it.

    Parameters
    ----------
    board : path of the board's serial port. rng : says when, in which direction, and what.
    retries : tells how often the host has sent a request again so far.
    gap : bytes, at least a request and its answer of the largest size.

    Attributes
    ----------
    path : of the host's serial port. faults : so far. limit : no more of them than this. cut : nothing passes.
    """

    def __init__(self, board: str, rng: np.random.Generator, retries: Callable[[], int] = lambda: 0, gap: int = 700):
        self._rng, self.retries, self._gap = rng, retries, gap
        self.faults: list[Fault] = []
        self.limit = 0
        self.cut = False
        self._passed = gap  # bytes since the last fault
        self._due = (False, 1)  # direction of the next one, and bytes until then
        self._retries_before = 0
        self._host, self._slave = os.openpty()
        self._board = os.open(board, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._slave)
        tty.setraw(self._board)
        self.path = os.ttyname(self._slave)
        self._wake, self._end = os.pipe()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def settle(self, outcome: str) -> None:
        """Say what came of the last fault, where that is not known yet."""
        if self.faults and self.faults[-1].outcome == "open":
            self.faults[-1].outcome = outcome

    def _pass_on(self) -> None:
        while True:
            ready, _, _ = select.select([self._host, self._board, self._wake], [], [])
            if self._wake in ready:
                return
            for source, target in ((self._host, self._board), (self._board, self._host)):
                if source in ready:
                    data = os.read(source, 4096)
                    out = b"".join(self._one(byte, source == self._host) for byte in data)
                    while out and not self.cut:
                        out = out[os.write(target, out) :]

    def _one(self, byte: int, to_board: bool) -> bytes:
        """What becomes of a byte."""
        self._passed += 1
        if self._passed >= self._gap and self.faults and self.faults[-1].outcome == "open":
            self.settle("retried" if self.retries() > self._retries_before else "none")
        if self._passed < self._gap or len(self.faults) >= self.limit:
            return bytes([byte])
        direction, left = self._due
        if direction != to_board:
            return bytes([byte])
        if left > 1:
            self._due = (direction, left - 1)
            return bytes([byte])
        kind = KINDS[int(self._rng.integers(3))]
        self.faults.append(Fault(to_board, kind, byte))
        self._retries_before = self.retries()
        self._passed = 0
        direction = bool(self._rng.integers(2))
        self._due = (direction, int(self._rng.integers(1, 300 if direction else 30)))
        return {"dropped": b"", "repeated": bytes([byte, byte]),
                "flipped": bytes([byte ^ 1 << int(self._rng.integers(8))])}[kind]

    def close(self) -> None:
        """Unplug the cable, at both ends."""
        if self._thread.is_alive():
            os.write(self._end, b"\0")
            self._thread.join()
            for file in (self._host, self._slave, self._board, self._wake, self._end):
                os.close(file)

    def __enter__(self) -> FaultyLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
