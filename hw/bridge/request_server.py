"""Requests in frames, carried out on AXI4-Lite registers and external memory: hw.contract.bridge in hardware.

    symbols --> header and buffer --CRC--> carry out --> reply --> symbols
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import crc, data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.bridge.memory_port import WORD_BYTES, MemoryPort
from hw.bridge.uart_framing import SYMBOL
from hw.bus.axi import AXI4Lite
from hw.contract.bridge import (
    CRC_BYTES,
    HELLO_BYTES,
    PAYLOAD_MAX,
    PROTOCOL,
    REQUEST_HEADER,
    Answer,
    Ask,
)

_HEADER = data.StructLayout({"sequence": 8, "code": 8, "length": 16, "address": 32})
_FRAME_MAX = REQUEST_HEADER + PAYLOAD_MAX + CRC_BYTES


class RequestServer(wiring.Component):
    """Serves one request at a time.

    Parameters
    ----------
    memory_base, memory_bytes : external memory that a host may use; multiples of 8.
    clock_hz : of this device's clock. flash_base, flash_bytes : memory that can't be written; 0 bytes: none.

    Members
    -------
    i, o : symbols of requests and replies. Symbols that come during a request are ignored, frame by frame.
    registers : AXI4-Lite, seen from the bridge. memory : external memory. irq : the device's interrupt line.
    """

    def __init__(self, *, memory_base: int, memory_bytes: int, clock_hz: int, flash_base: int = 0,
                 flash_bytes: int = 0):
        self.hello = (PROTOCOL | PAYLOAD_MAX << 32, memory_base, memory_bytes | clock_hz << 32,
                      flash_base | flash_bytes << 32)
        assert WORD_BYTES * len(self.hello) == HELLO_BYTES
        super().__init__({
            "i": In(stream.Signature(SYMBOL)),
            "o": Out(stream.Signature(SYMBOL)),
            "registers": Out(AXI4Lite()),
            "memory": Out(MemoryPort()),
            "irq": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.check = check = crc.catalog.CRC32_ETHERNET(data_width=8).create()
        m.submodules.buffer = buffer = Memory(shape=unsigned(64), depth=PAYLOAD_MAX // WORD_BYTES, init=[])
        put, get = buffer.write_port(granularity=8), buffer.read_port()
        m.d.comb += [get.en.eq(1), self.i.ready.eq(1)]

        header = Signal(_HEADER)
        count = Signal(range(_FRAME_MAX + 2))  # bytes of the frame, one too many at most
        lost = Signal()  # a part of the frame came while a request was carried out
        status = Signal(8)
        reply_bytes = Signal(range(PAYLOAD_MAX + 1))
        at = Signal(range(PAYLOAD_MAX + WORD_BYTES))  # byte of the payload that is worked on
        cycles = Signal(32)
        m.d.sync += cycles.eq(cycles + 1)
        irq = Signal()
        m.d.sync += irq.eq(self.irq)

        #: What the last request was, so that a write that comes again is not carried out again.
        last = Signal(data.StructLayout({"valid": 1, "sequence": 8, "status": 8}))
        again = Signal()
        m.d.comb += again.eq(last.valid & (last.sequence == header.sequence))

        word = Signal(64)  # what is put into the buffer
        put_word = Signal()
        m.d.comb += [
            put.addr.eq(at[3:]),
            put.data.eq(word),
            put.en.eq(put_word.replicate(WORD_BYTES)),
            get.addr.eq(at[3:]),
        ]

        # Of the frame so far, each from a register, a cycle after the other: a frame is judged when both have settled.
        payload = Signal(range(_FRAME_MAX + 2))
        whole_words, fits = Signal(), Signal()
        intact, has_length = Signal(), Signal()
        m.d.sync += [
            payload.eq(count - (REQUEST_HEADER + CRC_BYTES)),
            has_length.eq((count >= REQUEST_HEADER + CRC_BYTES) & (count <= _FRAME_MAX)),
            whole_words.eq((header.length[:3] == 0) & (header.address[:3] == 0) & (header.length != 0)
                           & (header.length <= PAYLOAD_MAX)),
        ]
        with m.Switch(header.code):
            with m.Case(Ask.WRITE_REGISTER):
                m.d.sync += fits.eq((header.length == 4) & (payload == 4))
            with m.Case(Ask.READ_MEMORY):
                m.d.sync += fits.eq(whole_words & (payload == 0))
            with m.Case(Ask.WRITE_MEMORY):
                m.d.sync += fits.eq(whole_words & (payload == header.length))
            with m.Case(Ask.HELLO, Ask.READ_REGISTER, Ask.POLL):
                m.d.sync += fits.eq((header.length == 0) & (payload == 0))
            with m.Default():
                m.d.sync += fits.eq(0)

        registers, memory = self.registers, self.memory
        register_address = header.address[:len(registers.awaddr)]
        register_exists = header.address[len(registers.awaddr):] == 0
        for_register = (header.code == Ask.READ_REGISTER) | (header.code == Ask.WRITE_REGISTER)
        m.d.comb += [
            registers.araddr.eq(register_address),
            registers.awaddr.eq(register_address),
            registers.wdata.eq(get.data[:32]),
            registers.wstrb.eq(0xF),
            memory.request.payload.write.eq(header.code == Ask.WRITE_MEMORY),
            memory.request.payload.data.eq(get.data),
        ]

        # `at` has stood still for a cycle when memory is asked.
        last_word = Signal()
        m.d.sync += [
            memory.request.payload.address.eq(header.address + at),
            last_word.eq(at + WORD_BYTES == header.length),
        ]

        # Of a reply: of the byte at `at`, which stood still for two cycles.
        payload_byte, last_byte = Signal(8), Signal()
        m.d.sync += [
            payload_byte.eq(get.data.word_select(at[:3], 8)),
            last_byte.eq(at + 1 == reply_bytes),
        ]

        def answer(result, length=0) -> None:
            m.d.sync += [status.eq(result), reply_bytes.eq(length), at.eq(0)]
            m.next = "OPEN"

        # Checked a cycle after it came or went.
        checked, check_valid, check_start = Signal(8), Signal(), Signal()
        m.d.sync += [check.start.eq(check_start), check.valid.eq(check_valid), check.data.eq(checked)]

        def send(byte, *, counts=True):
            m.d.comb += [self.o.valid.eq(1), self.o.payload.byte.eq(byte)]
            if counts:
                m.d.comb += [checked.eq(byte), check_valid.eq(self.o.ready)]
            return self.o.ready

        with m.FSM() as fsm:
            with m.State("RECEIVE"):
                byte = self.i.payload.byte
                m.d.comb += [
                    checked.eq(byte),
                    check_valid.eq(self.i.valid & ~self.i.payload.flag),
                    word.eq(byte.replicate(WORD_BYTES)),
                    put.addr.eq((count - REQUEST_HEADER)[3:]),
                ]
                with m.If(self.i.valid & ~self.i.payload.flag):
                    with m.If(count < _FRAME_MAX + 1):
                        m.d.sync += count.eq(count + 1)
                    with m.If(count < REQUEST_HEADER):
                        m.d.sync += header.eq(Cat(header.as_value()[8:], byte))
                    with m.Elif(count < REQUEST_HEADER + PAYLOAD_MAX):
                        m.d.comb += put.en.eq(1 << (count - REQUEST_HEADER)[:3])
                with m.Elif(self.i.valid):
                    m.d.comb += check_start.eq(1)
                    m.d.sync += [lost.eq(0), at.eq(0)]
                    with m.If((count != 0) & ~lost):
                        m.next = "MEASURE"
                    with m.Else():
                        m.d.sync += count.eq(0)
            with m.State("MEASURE"):
                m.d.sync += intact.eq(check.match_detected)
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += count.eq(0)
                with m.If(~intact | ~has_length):
                    m.d.sync += header.sequence.eq(0)
                    answer(Answer.DAMAGED)
                with m.Elif(~fits):
                    answer(Answer.BAD_REQUEST)
                with m.Elif(again & ((header.code == Ask.WRITE_REGISTER) | (header.code == Ask.WRITE_MEMORY))):
                    answer(last.status)
                with m.Else():
                    m.d.sync += [last.valid.eq(header.code != Ask.HELLO), last.sequence.eq(header.sequence)]
                    m.next = "CARRY_OUT"

            with m.State("CARRY_OUT"):
                with m.Switch(header.code):
                    with m.Case(Ask.HELLO):
                        m.next = "HELLO"
                    with m.Case(Ask.READ_REGISTER):
                        m.next = "READ_ADDRESS"
                    with m.Case(Ask.WRITE_REGISTER):
                        m.next = "WRITE_ADDRESS"
                    with m.Case(Ask.POLL):
                        m.d.comb += [word.eq(Cat(irq, Const(0, 31), cycles)), put_word.eq(1)]
                        answer(Answer.OK, 8)
                    with m.Default():
                        m.next = "MEMORY_REQUEST"
                with m.If(for_register & ~register_exists):
                    m.d.sync += last.status.eq(Answer.BUS_ERROR)
                    answer(Answer.BUS_ERROR)

            with m.State("HELLO"):
                with m.Switch(at[3:]):
                    for i, value in enumerate(self.hello):
                        with m.Case(i):
                            m.d.comb += word.eq(value)
                m.d.comb += put_word.eq(1)
                m.d.sync += at.eq(at + WORD_BYTES)
                with m.If(at == HELLO_BYTES - WORD_BYTES):
                    answer(Answer.OK, HELLO_BYTES)

            # ---- registers --------------------------------------------------------------------------------------
            with m.State("READ_ADDRESS"):
                m.d.comb += registers.arvalid.eq(1)
                with m.If(registers.arready):
                    m.next = "READ_DATA"
            with m.State("READ_DATA"):
                m.d.comb += [registers.rready.eq(1), word.eq(registers.rdata), put_word.eq(registers.rvalid)]
                with m.If(registers.rvalid):
                    failed = registers.rresp[1]
                    answer(Mux(failed, Answer.BUS_ERROR, Answer.OK), Mux(failed, 0, 4))
            with m.State("WRITE_ADDRESS"):
                m.d.comb += registers.awvalid.eq(1)
                with m.If(registers.awready):
                    m.next = "WRITE_DATA"
            with m.State("WRITE_DATA"):
                m.d.comb += registers.wvalid.eq(1)
                with m.If(registers.wready):
                    m.next = "WRITE_RESPONSE"
            with m.State("WRITE_RESPONSE"):
                m.d.comb += registers.bready.eq(1)
                with m.If(registers.bvalid):
                    result = Mux(registers.bresp[1], Answer.BUS_ERROR, Answer.OK)
                    m.d.sync += last.status.eq(result)
                    answer(result)

            # ---- memory: get.data is the word at `at`, which stood still in the cycle before ----------------------
            with m.State("MEMORY_REQUEST"):
                m.d.comb += memory.request.valid.eq(1)
                with m.If(memory.request.ready):
                    m.next = "MEMORY_RESPONSE"
            with m.State("MEMORY_RESPONSE"):
                response = memory.response
                m.d.comb += word.eq(response.payload.data)
                with m.If(response.valid):
                    m.d.comb += put_word.eq(header.code == Ask.READ_MEMORY)
                    m.d.sync += at.eq(at + WORD_BYTES)
                    m.next = "MEMORY_NEXT"
                    with m.If(response.payload.error):
                        m.d.sync += last.status.eq(Answer.MEMORY_ERROR)
                        answer(Answer.MEMORY_ERROR)
                    with m.Elif(last_word):
                        m.d.sync += last.status.eq(Answer.OK)
                        answer(Answer.OK, Mux(header.code == Ask.READ_MEMORY, header.length, 0))
            with m.State("MEMORY_NEXT"):
                m.next = "MEMORY_REQUEST"

            # ---- reply ------------------------------------------------------------------------------------------
            with m.State("OPEN"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.flag.eq(1), check_start.eq(1)]
                with m.If(self.o.ready):
                    m.next = "SEQUENCE"
            with m.State("SEQUENCE"):
                with m.If(send(header.sequence)):
                    m.next = "STATUS"
            with m.State("STATUS"):
                with m.If(send(status)):
                    m.next = "PAYLOAD"
                    with m.If(reply_bytes == 0):
                        m.next = "CHECKED"
            with m.State("PAYLOAD"):
                with m.If(send(payload_byte)):
                    m.d.sync += at.eq(at + 1)
                    m.next = "PAYLOAD_READ"
                    with m.If(last_byte):
                        m.d.sync += at.eq(0)
                        m.next = "CHECKED"
            with m.State("PAYLOAD_READ"):
                m.next = "PAYLOAD_NEXT"
            with m.State("PAYLOAD_NEXT"):
                m.next = "PAYLOAD"
            with m.State("CHECKED"):
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(send(check.crc.word_select(at[:2], 8), counts=False)):
                    m.d.sync += at.eq(at + 1)
                    with m.If(at == CRC_BYTES - 1):
                        m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.flag.eq(1), check_start.eq(1)]
                with m.If(self.o.ready):
                    m.d.sync += [at.eq(0), count.eq(0)]
                    m.next = "RECEIVE"
        with m.If(~fsm.ongoing("RECEIVE") & self.i.valid):
            m.d.sync += lost.eq(~self.i.payload.flag)
        return m
