"""A board top in Amaranth's simulator, seen as a serial port: for small presets and few bytes, it is slow."""

from __future__ import annotations

from collections import deque

from amaranth.sim import Simulator

from hw.boards.board_top import BoardTop


class BoardPort:
    """Implements `sw_driver.links.uart.SerialPort`.

    Simulated time passes only while the host reads.

    Parameters
    ----------
    board : is driven through `rx` and `tx` alone. silence : cycles without a byte after which a read gives up.

    Attributes
    ----------
    busy_seen : the light was on at least once. error : the light is on. cycles : simulated so far.
    """

    def __init__(self, board: BoardTop, *, silence: int = 4000) -> None:
        self.board = board
        self.silence = silence
        self.to_board: deque[int] = deque()
        self.from_board = bytearray()
        self.busy_seen = self.error = False
        self.cycles = 0
        self._quiet = 0
        self._simulator = Simulator(board)
        self._simulator.add_clock(1e-6)
        for process in (self._send, self._receive, self._watch):
            self._simulator.add_testbench(process, background=True)

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        return len(self.from_board)

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes, fewer when there is silence."""
        self._quiet = 0
        while len(self.from_board) < size and self._quiet < self.silence:
            self._simulator.advance()
        data = bytes(self.from_board[:size])
        del self.from_board[:size]
        return data

    def write(self, data: bytes) -> int:
        """Send bytes."""
        self.to_board.extend(data)
        return len(data)

    def reset_input_buffer(self) -> None:
        """Throw away what came."""
        self.from_board.clear()

    def close(self) -> None:
        """Nothing to do."""

    async def _send(self, ctx) -> None:
        while True:
            if not self.to_board:
                await ctx.tick()
                continue
            bits = 0x200 | self.to_board.popleft() << 1
            for i in range(10):
                ctx.set(self.board.rx, bits >> i & 1)
                await ctx.tick().repeat(self.board.bridge.divisor)

    async def _receive(self, ctx) -> None:
        divisor = self.board.bridge.divisor
        while True:
            await ctx.tick()
            if ctx.get(self.board.tx):
                continue
            await ctx.tick().repeat(divisor + divisor // 2 - 1)
            byte = 0
            for i in range(8):
                byte |= ctx.get(self.board.tx) << i
                await ctx.tick().repeat(divisor)
            assert ctx.get(self.board.tx), "a byte without its stop bit"
            self.from_board.append(byte)
            self._quiet = 0

    async def _watch(self, ctx) -> None:
        async for _clock, _reset, busy, error in ctx.tick().sample(self.board.busy, self.board.error):
            self.cycles += 1
            self._quiet = 0 if self.to_board else self._quiet + 1
            self.busy_seen |= bool(busy)
            self.error = bool(error)
