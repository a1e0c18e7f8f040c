"""The activation fetch: for each wave and each kernel step, one activation word for every pixel of the wave.

    kernel step (ky, kx, input block) x pixels of the wave, `fetch_ports` at a time
        -> input table -> address, bounds -> feature memory -> non-zero map -> the rows of the pixel group

Positions outside the feature map are padding: they are not fetched, and not even sent, unless the word
is a row's last for the tile and so carries a flag.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.conv_engine.pixel_walker import INPUT_WAVES, Wave, WindowStart, byte_address_bits
from hw.conv_engine.row import ActivationWord, pixel_bits
from hw.ports import ByteReadPort


class FetchTag(data.StructLayout):
    """What is known of a word that is asked for.

    exists : there is one. fetch : it is read; else it is padding, sent for its flags. rows : that it goes to. pixel,
    tile_last, wave_last : of ActivationWord. word_last : it holds the last channels of its pixel.
    """

    def __init__(self, config: Config):
        super().__init__({
            "exists": 1, "fetch": 1, "rows": config.rows, "pixel": pixel_bits(config), "tile_last": 1, "wave_last": 1,
            "word_last": 1,
        })


class ActivationFetch(wiring.Component):
    """Fetches a command's activations and sends them to the rows.

    Members
    -------
    packed, kernel_height, kernel_width, input_blocks, last_lanes, input_height, input_width, dilation_y,
        dilation_x, zero_point, unrolling : from the command, stable while not idle.
    step_y, step_x, step_block : input address from a kernel row, column, input block to the next.
    table : the walker's writes to the input table.
    wave : one item per wave, taken when all its words are under way; the table slot is then free.
    ports : the feature memory.
    word_valid, word : for each row. word_taken : for each row, a word left its FIFO.
    idle : between waves; no word is on its way to a row, or in its FIFO. moved : positions were visited in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        address = byte_address_bits(config)
        index = (config.wave_pixels - 1).bit_length()
        ports = {f"port_{i}": Out(ByteReadPort(config, FetchTag(config).size)) for i in range(config.fetch_ports)}
        super().__init__({
            "packed": In(1),
            "kernel_height": In(8),
            "kernel_width": In(8),
            "input_blocks": In(16),
            "last_lanes": In(8),
            "input_height": In(16),
            "input_width": In(16),
            "dilation_y": In(8),
            "dilation_x": In(8),
            "step_y": In(address),
            "step_x": In(address),
            "step_block": In(address),
            "zero_point": In(signed(8)),
            "unrolling": In(range(len(config.unrollings))),
            "table_valid": In(1),
            "table_slot": In(range(INPUT_WAVES)),
            "table_index": In(index),
            "table_data": In(WindowStart(config)),
            "wave": In(stream.Signature(Wave(config))),
            **ports,
            "word_valid": Out(config.rows),
            "word": Out(ActivationWord(config)).array(config.rows),
            "word_taken": In(config.rows),
            "idle": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, lanes, ports = config.rows, config.lanes, config.fetch_ports
        index_bits = (config.wave_pixels - 1).bit_length()
        address_bits = byte_address_bits(config)
        lane_bits = (lanes - 1).bit_length()
        rows_log2 = (rows - 1).bit_length()
        wave = self.wave.payload

        # ---- input table: the pixels of a wave, one memory for each port ----------------------------------
        port_shift = ports - 1  # pixel j is in memory j % ports
        starts = []
        pair = Signal(index_bits)  # first pixel of this cycle
        table_slot = Signal(range(INPUT_WAVES))
        for i in range(ports):
            memory = Memory(shape=unsigned(WindowStart(config).size),
                            depth=INPUT_WAVES * config.wave_pixels // ports, init=[])
            m.submodules[f"input_table_{i}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            mine = 1 if ports == 1 else self.table_index[0] == i
            m.d.comb += [
                write.addr.eq(Cat(self.table_index[port_shift:], self.table_slot)),
                write.data.eq(self.table_data),
                write.en.eq(self.table_valid & mine),
                read.addr.eq(Cat(pair[port_shift:], table_slot)),
            ]
            starts.append(read.data)
        if ports == 2:  # visited one by one, a pixel may be in either memory; two at once, `pair` is even
            starts[0] = Mux(pair[0], starts[1], starts[0])

        # ---- kernel steps x pixels ------------------------------------------------------------------------
        groups = Signal(rows_log2 + 1)  # pixel groups
        groups_log2 = Signal(range(rows_log2 + 1))
        scanned = Signal(range(config.wave_pixels + 1))  # positions visited: at least one for each pixel group
        m.d.comb += [
            groups.eq(rows >> self.unrolling),
            groups_log2.eq(rows_log2 - self.unrolling),
            scanned.eq(Mux(wave.pixels < groups, groups, wave.pixels)),
        ]
        at_once = Signal(2)  # with one pixel group, a row can take only one word per cycle
        m.d.comb += at_once.eq(1 if ports == 1 else Mux(groups == 1, 1, 2))
        block, kx, ky = Signal(16), Signal(8), Signal(8)
        dx, dy = Signal(16), Signal(16)
        offset_block, offset_x, offset_y = Signal(address_bits), Signal(address_bits), Signal(address_bits)
        block_last, x_last, y_last, pair_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            block_last.eq(block == self.input_blocks - 1),
            x_last.eq(kx == self.kernel_width - 1),
            y_last.eq(ky == self.kernel_height - 1),
            pair_last.eq(pair + at_once >= scanned),
        ]
        advance = Signal()  # the pixels of this cycle move on
        with m.If(advance):
            m.d.sync += pair.eq(pair + at_once)
            with m.If(pair_last):
                m.d.sync += [pair.eq(0), block.eq(block + 1), offset_block.eq(offset_block + self.step_block)]
                with m.If(block_last):
                    next_x = Signal(address_bits)
                    m.d.comb += next_x.eq(offset_x + self.step_x)
                    m.d.sync += [block.eq(0), kx.eq(kx + 1), dx.eq(dx + self.dilation_x),
                                 offset_x.eq(next_x), offset_block.eq(next_x)]
                    with m.If(x_last):
                        next_y = Signal(address_bits)
                        m.d.comb += next_y.eq(offset_y + self.step_y)
                        m.d.sync += [kx.eq(0), dx.eq(0), ky.eq(ky + 1), dy.eq(dy + self.dilation_y),
                                     offset_y.eq(next_y), offset_x.eq(next_y), offset_block.eq(next_y)]
                        with m.If(y_last):
                            m.d.comb += self.wave.ready.eq(1)
                            m.d.sync += [ky.eq(0), dy.eq(0), offset_y.eq(0), offset_x.eq(0), offset_block.eq(0),
                                         table_slot.eq(table_slot + 1)]

        # ---- stage 1: the table's entry, the kernel step --------------------------------------------------
        move = Signal()  # stages 1 and 2 move
        busy_1 = Signal()
        m.d.comb += [advance.eq(self.wave.valid & move), self.moved.eq(advance)]
        with m.If(move):
            m.d.sync += busy_1.eq(self.wave.valid)
        tag_layout = FetchTag(config)
        step_1 = Signal(data.StructLayout({"offset": address_bits, "dx": 16, "dy": 16}))
        with m.If(move):
            m.d.sync += [step_1.offset.eq(offset_block), step_1.dx.eq(dx), step_1.dy.eq(dy)]
        requests = []
        for i in range(ports):
            port = getattr(self, f"port_{i}")
            pixel_index = Signal(index_bits + 1, name=f"pixel_index_{i}")
            group = Signal(max(1, rows_log2), name=f"group_{i}")
            tag = Signal(tag_layout, name=f"tag_{i}")
            dummy = Signal(name=f"dummy_{i}")
            m.d.comb += [
                pixel_index.eq(pair + i),
                dummy.eq(pixel_index >= wave.pixels),
                group.eq(pixel_index & (groups - 1)),
                tag.exists.eq((pixel_index < scanned) & (i < at_once)),
                tag.fetch.eq(~dummy),
                tag.pixel.eq(pixel_index >> groups_log2),
                tag.tile_last.eq(pixel_index + groups >= scanned),
                tag.wave_last.eq(tag.tile_last & block_last & x_last & y_last),
                tag.word_last.eq(block_last),
            ]
            for row in range(rows):
                block_in_group = Signal(max(1, rows_log2), name=f"block_{i}_{row}")
                m.d.comb += [
                    block_in_group.eq(row & ((1 << self.unrolling) - 1)),
                    tag.rows[row].eq(((row >> self.unrolling) == group) & (block_in_group < wave.blocks)),
                ]
            tag_1 = Signal(tag_layout, name=f"tag_1_{i}")
            start_1 = Signal(WindowStart(config), name=f"start_1_{i}")
            with m.If(move):
                m.d.sync += [tag_1.eq(tag), start_1.eq(starts[i])]

            # ---- stage 2: address and bounds --------------------------------------------------------------
            y, x = Signal(signed(19), name=f"y_{i}"), Signal(signed(19), name=f"x_{i}")
            position = Signal(address_bits, name=f"position_{i}")
            inside = Signal(name=f"inside_{i}")
            useful = Signal(name=f"useful_{i}")
            m.d.comb += [
                y.eq(start_1.y + step_1.dy),
                x.eq(start_1.x + step_1.dx),
                position.eq(start_1.address + step_1.offset),
                inside.eq(tag_1.fetch & (y >= 0) & (y < self.input_height) & (x >= 0) & (x < self.input_width)),
                useful.eq(busy_1 & tag_1.exists & (inside | tag_1.tile_last)),
            ]
            waiting = Signal(name=f"waiting_{i}")  # stage 2 holds a word that has not gone yet
            going = Signal(name=f"going_{i}")
            tag_2 = Signal(tag_layout, name=f"tag_2_{i}")
            address_2 = Signal(address_bits, name=f"address_2_{i}")
            with m.If(move):
                m.d.sync += [
                    waiting.eq(useful),
                    tag_2.eq(tag_1),
                    tag_2.fetch.eq(inside),
                    address_2.eq(Mux(self.packed, position, position << lane_bits)),
                ]
            with m.Elif(going):
                m.d.sync += waiting.eq(0)
            requests.append((port, waiting, going, tag_2, address_2))
        stay = Signal()
        m.d.comb += [
            stay.eq(Cat(waiting & ~going for _port, waiting, going, _tag, _address in requests).any()),
            move.eq(~stay),
        ]

        # ---- requests, when all rows of the pixel group have room -----------------------------------------
        room = Signal(rows)
        sent_now = [[] for _ in range(rows)]
        arrivals = []
        for i, (port, waiting, going, tag_2, address_2) in enumerate(requests):
            allowed = Signal(name=f"allowed_{i}")
            m.d.comb += [
                allowed.eq(waiting & ~(tag_2.rows & ~room).any()),
                port.request.valid.eq(allowed),
                port.request.payload.address.eq(address_2),
                port.request.payload.read.eq(tag_2.fetch),
                port.request.payload.tag.eq(tag_2),
                going.eq(allowed & port.request.ready),
            ]
            for row in range(rows):
                sent_now[row].append(going & tag_2.rows[row])
            arrivals.append((port, data.View(tag_layout, port.tag)))
        credits_back = Signal(rows)
        m.d.comb += self.idle.eq(
            credits_back.all()
            & ~(self.wave.valid | busy_1 | Cat(waiting for _port, waiting, *_rest in requests).any()))
        for row in range(rows):
            credit = Signal(range(config.activation_fifo + 1), init=config.activation_fifo, name=f"credit_{row}")
            sent = Signal(name=f"sent_{row}")
            m.d.comb += [sent.eq(Cat(sent_now[row]).any()), room[row].eq(credit != 0),
                         credits_back[row].eq(credit == config.activation_fifo)]
            m.d.sync += credit.eq(credit + self.word_taken[row] - sent)

        # ---- arrival: which channels are not the zero point, and exist ------------------------------------
        last_exist = Signal(lanes)
        m.d.comb += last_exist.eq((1 << self.last_lanes[:lane_bits + 1]) - 1)
        words = []
        for i, (port, tag) in enumerate(arrivals):
            differs = Signal(lanes, name=f"differs_{i}")
            word = Signal(ActivationWord(config), name=f"arriving_{i}")
            word_rows = Signal(rows, name=f"arriving_rows_{i}")
            m.d.comb += differs.eq(Cat(
                port.data.word_select(lane, 8) != self.zero_point.as_unsigned() for lane in range(lanes)))
            m.d.sync += [
                word_rows.eq(Mux(port.data_valid, tag.rows, 0)),
                word.data.eq(port.data),
                word.nonzero.eq(Mux(tag.fetch, differs & Mux(tag.word_last, last_exist, -1), 0)),
                word.pixel.eq(tag.pixel),
                word.tile_last.eq(tag.tile_last),
                word.wave_last.eq(tag.wave_last),
            ]
            words.append((word, word_rows))
        for row in range(rows):
            if ports == 1:
                chosen = words[0][0].as_value()
            else:
                chosen = Mux(words[1][1][row], words[1][0].as_value(), words[0][0].as_value())
            m.d.comb += [
                self.word_valid[row].eq(Cat(word_rows[row] for _word, word_rows in words).any()),
                self.word[row].eq(chosen),
            ]
        return m
