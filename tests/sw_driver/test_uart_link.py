"""The serial link through pyserial and a pseudo-terminal, with a simulated bridge at the other end."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lacuna
from hw.bridge.uart_bridge import ByteBridge
from hw.contract.config import PRESETS
from hw.contract.registers import ID, REGISTERS
from sw_driver.command_line import main
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import LinkError
from sw_driver.links.uart import open_uart
from sw_driver.links.uart_protocol import FrameReader, frame, reply_of, request_frame
from sw_driver.tflite.builder import TfliteBuilder
from testbench.bridge_simulation import CLOCK_HZ, SimulatedPort

pytest.importorskip("serial", reason="pyserial is not installed")


class Board:
    """The golden model behind a simulated bridge, on a pseudo-terminal at `path`."""

    def __init__(self) -> None:
        golden = GoldenLink(PRESETS["small"])
        bridge = ByteBridge(clock_hz=CLOCK_HZ, memory_base=0, memory_bytes=golden.memory_bytes)
        self._port = SimulatedPort(bridge, golden, np.random.default_rng(1), silence=30)
        self._file, self._other = os.openpty()
        self.path = os.ttyname(self._other)
        self._stop = False
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def _pump(self) -> None:
        while not self._stop:
            if select.select([self._file], [], [], 0 if self._port.to_device else 0.01)[0]:
                self._port.write(os.read(self._file, 4096))
            answer = self._port.read(16)
            if answer:
                os.write(self._file, answer)

    def unplug(self) -> None:
        self._stop = True
        self._thread.join()
        for file in (self._other, self._file):
            with contextlib.suppress(OSError):
                os.close(file)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    # The bridge is simulated: on a busy machine it takes seconds over what hardware does in microseconds.
    monkeypatch.setattr("sw_driver.links.uart.SILENCE_S", 3.0)
    opened = Board()
    yield opened
    opened.unplug()


def test_accesses_through_a_terminal(board: Board) -> None:
    """Bytes that a terminal would take for control characters included."""
    with lacuna.open(f"uart:{board.path}", preset="small") as device:
        link = device.link
        assert link.read_register(REGISTERS["ID"].address) == ID
        data = bytes(range(256))
        link.write_memory(4096, data)
        assert link.read_memory(4096, 256) == data
        assert not link.simulator


def test_cable_is_unplugged(board: Board) -> None:
    link = open_uart(f"{board.path}@9600")
    board.unplug()
    with pytest.raises(LinkError, match=f"The serial port {board.path} failed: .*; is its cable plugged in"):
        link.read_register(0)
    with pytest.raises(LinkError, match="closed"):
        link.read_register(0)


@pytest.mark.parametrize(("place", "text"), [
    ("/dev/does-not-exist", "The serial port /dev/does-not-exist can't be opened"),
    ("/dev/null@fast", "A serial port is PATH or PATH@BAUD, not '/dev/null@fast'"),
    ("@9600", "A serial port is PATH or PATH@BAUD"),
    ("", "A serial port is PATH or PATH@BAUD"),
])
def test_places_that_are_no_port(place: str, text: str) -> None:
    with pytest.raises(LinkError, match=text):
        open_uart(place)


def test_frames_that_come_in_pieces() -> None:
    reader = FrameReader()
    content = bytes([7, 0, 0x7E, 0x7D, 1, 2])
    line = b"noise" + frame(content) + frame(content)
    got = [part for byte in line for part in reader.feed(bytes([byte]))]
    replies = [reply_of(part) for part in got]
    assert replies[0] is None
    assert [(reply.sequence, reply.payload) for reply in replies[1:] if reply] == [(7, content[2:])] * 2
    reader.feed(bytes(10_000))
    reader.clear()
    assert len(reader.feed(frame(content))) == 1
    assert request_frame(1, 2)[0] == request_frame(1, 2)[-1] == 0x7E


def test_command_line_runs_a_model(board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder = TfliteBuilder()
    x = builder.add_input("x", (1, 4, 4, 3), scale=0.05, zero_point=3)
    weights = np.random.default_rng(1).integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    builder.add_output(builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3))
    (tmp_path / "model.tflite").write_bytes(builder.to_bytes())
    np.save(tmp_path / "x.npy", np.random.default_rng(2).integers(-128, 128, (1, 4, 4, 3)).astype(np.int8))
    status = main(["run", str(tmp_path / "model.tflite"), "--input", str(tmp_path / "x.npy"), "--preset", "small",
                   "--device", f"uart:{board.path}"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "Every output equals TFLite Micro's" in printed.out


@pytest.mark.parametrize("device", ["uart:", "uio:", "board", "rtl:", ""])
def test_devices_that_are_none(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "model.tflite", "--input", "x.npy", "--device", device])
    assert left.value.code == 2
    assert "must be rtl, golden, rtl:SOCKET, uart:PORT" in capsys.readouterr().err


def test_board_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 28, 28, 1), np.int8))
    model = Path(__file__).resolve().parents[2] / "models" / "digits.tflite"
    assert main(["run", str(model), "--input", str(tmp_path / "x.npy"), "--preset", "small",
                 "--device", "uart:/dev/none"]) == 1
    assert capsys.readouterr().err.startswith("lacuna: error: The serial port /dev/none can't be opened")
