"""A board top in Amaranth's simulator, seen as a serial port: for small presets and few bytes, it is slow."""

from __future__ import annotations

from hw.boards.board_top import BoardTop
from testbench.serial_line import SerialLine


class BoardPort(SerialLine):
    """A serial port with a board behind it.

    Parameters
    ----------
    board : is driven through `rx` and `tx` alone. silence : as in SerialLine.

    Attributes
    ----------
    busy_seen : the light was on at least once. error : the light is on.
    """

    def __init__(self, board: BoardTop, *, silence: int = 4000) -> None:
        super().__init__(board, silence)
        self.board = board
        self.busy_seen = self.error = False
        for process in (self._send, self._receive, self._watch):
            self._simulator.add_testbench(process, background=True)

    async def _send(self, ctx) -> None:
        await self._line_in(ctx, self.board.rx, self.board.bridge.divisor)

    async def _receive(self, ctx) -> None:
        await self._line_out(ctx, self.board.tx, self.board.bridge.divisor)

    async def _watch(self, ctx) -> None:
        async for _clock, _reset, busy, error in ctx.tick().sample(self.board.busy, self.board.error):
            self._passed()
            self.busy_seen |= bool(busy)
            self.error = bool(error)
