"""What the clients of the bus see: transfers of any length inside a window."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import ERROR_LAYOUT

#: Bytes of a beat: every offset and length is a multiple of it.
BEAT_BYTES = 8

#: A transfer: `offset` bytes from the base of `window`, `length` bytes (at least BEAT_BYTES, multiples of it).
TRANSFER_LAYOUT = data.StructLayout({
    "window": unsigned(8),
    "offset": unsigned(32),
    "length": unsigned(32),
})


class ReadClient(wiring.Signature):
    """Seen from the client that reads.

    Members
    -------
    request : the transfer wanted. The next one may be requested as soon as this one is accepted.
    data : its beats, in the order of the requests.
    error : the transfer was outside its window or the bus failed; the sequencer stops everything.
    """

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(TRANSFER_LAYOUT)),
            "data": In(stream.Signature(unsigned(config.axi_data_bits))),
            "error": In(ERROR_LAYOUT),
        })


class WriteClient(wiring.Signature):
    """Seen from the client that writes.

    Members
    -------
    request : the transfer wanted. The next one may be requested as soon as this one is accepted.
    data : its beats, in the order of the requests; taken when its bursts are on the bus.
    done : one cycle, once for each transfer: its last burst has been answered.
    error : the transfer was outside its window or the bus failed; the sequencer stops everything.
    """

    def __init__(self, config: Config):
        super().__init__({
            "request": Out(stream.Signature(TRANSFER_LAYOUT)),
            "data": Out(stream.Signature(unsigned(config.axi_data_bits))),
            "done": In(1),
            "error": In(ERROR_LAYOUT),
        })
