"""How the bridge reaches external memory: a word at a time."""

from __future__ import annotations

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

#: Bytes of a word.
WORD_BYTES = 8

REQUEST = data.StructLayout({"address": 32, "write": 1, "data": 64})
RESPONSE = data.StructLayout({"data": 64, "error": 1})


class MemoryPort(wiring.Signature):
    """Seen from the bridge.

    Members
    -------
    request : a byte address (a multiple of 8), and whether `data` is written there.
    response : one for each request, also for writes, in order; always taken.
    """

    def __init__(self):
        super().__init__({
            "request": Out(stream.Signature(REQUEST)),
            "response": In(stream.Signature(RESPONSE, always_ready=True)),
        })


