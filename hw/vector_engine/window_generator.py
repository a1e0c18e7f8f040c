"""Where an output pixel reads and writes: its window of valid taps, and its addresses."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.ports import word_address_bits
from hw.register_slice import RegisterSlice
from hw.vector_engine.pixel_generator import ITEM_LAYOUT
from hw.vector_engine.settings import CORNER_BITS, POSITION_BITS, Settings


class Window(data.StructLayout):
    """An output pixel: the words of its first valid tap (a, b) and of its result, block 0; its valid taps.

    For DEPTHWISE: a is the word of its first tap, valid or not, in the channel block that it is the turn of; row and
    column are the place of this tap. new_row : the first pixel of a row. parity, first_pass : of the pixel's pass.
    """

    def __init__(self, config: Config):
        address_bits = word_address_bits(config)
        super().__init__({
            "a": unsigned(address_bits),
            "b": unsigned(address_bits),
            "output": unsigned(address_bits),
            "rows": unsigned(8),
            "columns": unsigned(8),
            "row": signed(CORNER_BITS),
            "column": signed(CORNER_BITS),
            "new_row": 1,
            "parity": 1,
            "first_pass": 1,
        })


class WindowGenerator(wiring.Component):
    """Turns rows and pixels into windows, one item per cycle.

    A row fixes the row part of every address, a pixel adds its column part: both need the same products, so four
    multiplier blocks do it all: position of the window, and address within a, b and output.

    Members
    -------
    settings : Settings, stable while busy.
    item : stream of ITEM_LAYOUT. window : stream of Window.
    start : a command begins.
    busy : an item is under way. active : a window of the first pass was taken in this cycle.
    empty_window : a window without any input pixel came up: the command is malformed.
    """

    #: Steps that an item passes: position, corners, clipping, product, sum.
    _STAGES = 5

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "settings": In(Settings(config)),
            "start": In(1),
            "item": In(stream.Signature(ITEM_LAYOUT)),
            "window": Out(stream.Signature(Window(config))),
            "busy": Out(1),
            "active": Out(1),
            "empty_window": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        settings = self.settings
        address_bits = word_address_bits(self.config)
        advance = Signal()
        # Whether there is room comes from a register: all stages hang on it.
        m.submodules.slice = slice_ = RegisterSlice(Window(self.config))
        wiring.connect(m, slice_.o, wiring.flipped(self.window))
        window = slice_.i
        m.d.comb += [
            advance.eq(~window.valid | window.ready),
            self.item.ready.eq(advance),
            self.active.eq(window.valid & window.ready & window.payload.first_pass),
        ]

        def step(value: Value, shape=None, *, name: str, reset_less: bool = True) -> Signal:
            """A register that moves with the others."""
            register = Signal(Value.cast(value).shape() if shape is None else shape, name=name, reset_less=reset_less)
            with m.If(advance):
                m.d.sync += register.eq(value)
            return register

        valid = [self.item.valid]
        is_row = [self.item.payload.is_row]
        index = [self.item.payload.index]
        passes = [Cat(self.item.payload.parity, self.item.payload.first_pass)]
        for i in range(1, self._STAGES):
            valid.append(step(valid[-1], name=f"valid_{i}", reset_less=False))
            is_row.append(step(is_row[-1], name=f"is_row_{i}"))
            passes.append(step(passes[-1], name=f"pass_{i}"))
        for i in range(1, self._STAGES - 1):
            index.append(step(index[-1], name=f"index_{i}"))

        def of_axis(rows: Value, columns: Value, windowless: int, name: str) -> tuple[Signal, Signal]:
            """What a command says of rows and of columns, from registers: where it has no windows, the same of all."""
            def kept(value: Value, axis: str) -> Signal:
                chosen = Mux(settings.windowless, windowless, value)
                register = Signal(chosen.shape(), name=f"{name}_of_{axis}", reset_less=True)
                m.d.sync += register.eq(chosen)
                return register

            return kept(rows, "rows"), kept(columns, "columns")

        stride_y, stride_x = of_axis(settings.stride_y, settings.stride_x, 1, "stride")
        pad_top, pad_left = of_axis(settings.pad_top, settings.pad_left, 0, "pad")
        reach_y, reach_x = of_axis(settings.kernel_height - settings.pad_top,
                                   settings.kernel_width - settings.pad_left, 1, "reach")
        height, width = of_axis(settings.input_height, settings.input_width, 1 << POSITION_BITS, "size")

        # 1: position of the window in the padded input.
        stride = Mux(is_row[0], stride_y, stride_x)
        position = step(index[0] * stride, name="position")
        # 2: its corners in the input, which may lie outside.
        corner = signed(len(position) + 2)
        first = step(position - Mux(is_row[1], pad_top, pad_left), corner, name="first")
        end = step(position + Mux(is_row[1], reach_y, reach_x), corner, name="end")
        # 3: the part inside.
        size = Mux(is_row[2], height, width)
        clipped_first = Mux(first < 0, 0, first)
        taps = step(Mux(end > size, size, end) - clipped_first, unsigned(8), name="taps")
        # Addresses are modulo the memory: the low bits of a negative corner do.
        start = step(Mux(settings.depthwise, first, clipped_first)[:POSITION_BITS], name="start")
        negative = step((first < 0) & settings.depthwise, name="start_negative")
        m.d.comb += self.empty_window.eq(valid[2] & ((end <= 0) | (first >= size)) & ~settings.depthwise)
        # 4 and 5: addresses. `taps` waits for them.
        taps = step(taps, name="taps_of_product")
        place = step(step(first, name="place"), name="place_of_product")
        row_place = Signal(corner, reset_less=True)
        new_row = Signal()
        rows = Signal(8, reset_less=True)
        m.d.comb += [
            window.valid.eq(valid[4] & ~is_row[4]),
            window.payload.rows.eq(rows),
            window.payload.columns.eq(taps),
            window.payload.row.eq(_cut(row_place)),
            window.payload.column.eq(_cut(place)),
            window.payload.new_row.eq(new_row),
            window.payload.parity.eq(passes[4][0]),
            window.payload.first_pass.eq(passes[4][1]),
        ]
        with m.If(advance):
            with m.If(valid[4]):
                m.d.sync += new_row.eq(is_row[4])
            with m.If(valid[4] & is_row[4]):
                m.d.sync += [rows.eq(taps), row_place.eq(place)]
        block = self._block(m, advance & valid[4] & ~is_row[4], passes[4][0])
        signed_start = Cat(start, negative).as_signed()
        for name, at in (("a", signed_start), ("b", index[3]), ("output", index[3])):
            stride = Mux(is_row[3], settings[f"{name}_row_stride"], settings[f"{name}_pixel_stride"])
            product = step(at * stride, unsigned(address_bits), name=f"{name}_product")
            row_part = Signal(address_bits, name=f"{name}_row", reset_less=True)
            with m.If(advance):
                with m.If(valid[4] & is_row[4]):
                    m.d.sync += row_part.eq(settings[f"{name}_base"] + product)
            m.d.comb += window.payload[name].eq(row_part + product + block)

        m.d.comb += self.busy.eq(Cat(self.window.valid, *valid[1:]).any())
        return m

    def _block(self, m: Module, pixel: Value, parity: Value) -> Value:
        """The channel block of the pass that a pixel belongs to; 0 where there is one pass only."""
        block, of_parity = Signal(16), Signal()
        changed = Signal()
        m.d.comb += changed.eq(of_parity != parity)
        with m.If(self.start):
            m.d.sync += [block.eq(0), of_parity.eq(0)]
        with m.Elif(pixel & changed):
            m.d.sync += [block.eq(block + 1), of_parity.eq(parity)]
        now = Signal(16)
        m.d.comb += now.eq(block + changed)
        return now


def _cut(corner: Value) -> Value:
    """A corner in CORNER_BITS: far behind any input it stays there."""
    far = corner[CORNER_BITS - 2 :].any()
    return Cat(corner[: CORNER_BITS - 2], far, corner[-1]).as_signed()
