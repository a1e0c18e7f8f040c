"""The activation fetch: for each wave and each kernel step, one activation word for every pixel of the wave.

    kernel step (ky, kx, input block) x pixels of the wave, `fetch_ports` at a time
        -> input table -> address -> bounds -> feature memory -> non-zero map -> the rows of the pixel group

Positions outside the feature map are padding: they are not fetched, and not even sent, unless the word
is a row's last for the tile and so carries a flag.

Pixel j of a wave belongs to the rows whose number is j modulo the pixel groups. With two ports and more than one
group, port 0 therefore serves the even rows, port 1 the odd ones; a single group is served by port 0 alone.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.contract.config import KERNEL_MAX, Config
from hw.conv_engine.bits import count_ones
from hw.conv_engine.pixel_walker import INPUT_WAVES, Wave, WindowStart, byte_address_bits
from hw.conv_engine.row import ActivationWord, pixel_bits
from hw.ports import ByteReadPort


class FetchTag(data.StructLayout):
    """What is known of a word that is asked for.

    exists : there is one. fetch : it is read; else it is padding, sent for its flags. rows : that it goes to. pixel,
    tile_last, wave_last : of ActivationWord. word_last : it holds the last channels of its pixel. last_group, others :
    its wave's group is the command's last; output blocks of that group, the command's last one not counted.
    """

    def __init__(self, config: Config):
        super().__init__({
            "exists": 1, "fetch": 1, "rows": config.rows, "pixel": pixel_bits(config), "tile_last": 1, "wave_last": 1,
            "word_last": 1, "last_group": 1, "others": range(config.rows + 1),
        })


class ActivationFetch(wiring.Component):
    """Fetches a command's activations and sends them to the rows.

    Members
    -------
    packed, kernel_height, kernel_width, input_blocks, last_lanes, input_height, input_width, dilation_y,
        dilation_x, zero_point, unrolling : from the command, stable while not idle.
    step_y, step_x, step_block : input address from a kernel row, column, input block to the next.
    table : the walker's writes to the input table; table_single : the command walked has a single pixel group.
    wave : one item per wave. freed : a wave's table slot is free, all its words are under way.
    ports : the feature memory.
    word_valid, word : for each row. word_taken : for each row, a word left its FIFO.
    nonzero, nonzero_last : non-zero activations sent to rows that work on other than the command's last output block,
        on that: counter increments.
    idle : between waves; no word is on its way to a row, or in its FIFO. moved : positions were visited in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        address = byte_address_bits(config)
        index = (config.wave_pixels - 1).bit_length()
        ports = {f"port_{i}": Out(ByteReadPort(config, FetchTag(config).size)) for i in range(config.fetch_ports)}
        super().__init__({
            "packed": In(1),
            "kernel_height": In(range(KERNEL_MAX + 1)),
            "kernel_width": In(range(KERNEL_MAX + 1)),
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
            "table_single": In(1),
            "table_slot": In(range(INPUT_WAVES)),
            "table_index": In(index),
            "table_data": In(WindowStart(config)),
            "wave": In(stream.Signature(Wave(config))),
            "freed": Out(1),
            **ports,
            "word_valid": Out(config.rows),
            "word": Out(ActivationWord(config)).array(config.rows),
            "word_taken": In(config.rows),
            "nonzero": Out(range(max(config.rows, config.fetch_ports) * config.lanes + 1)),
            "nonzero_last": Out(range(config.fetch_ports * config.lanes + 1)),
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

        # ---- input table: the pixels of a wave, one memory for each port ----------------------------------
        groups = Signal(rows_log2 + 1)  # pixel groups
        groups_log2 = Signal(range(rows_log2 + 1))
        m.d.comb += [
            groups.eq(rows >> self.unrolling),
            groups_log2.eq(rows_log2 - self.unrolling),
        ]
        starts = []
        pair = Signal(index_bits)  # first pixel of this cycle
        single = Signal()  # of the wave in hand: there is one pixel group
        table_slot = Signal(range(INPUT_WAVES))
        place_bits = index_bits - (ports - 1)
        place = Signal(place_bits)  # where the pixels of this cycle are in the memories
        for i in range(ports):
            memory = Memory(shape=unsigned(WindowStart(config).size), depth=INPUT_WAVES << place_bits, init=[])
            m.submodules[f"input_table_{i}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            if ports == 1:
                mine, write_place = 1, self.table_index
            else:  # pixel j is in memory j % 2; those of a single group, few, are all in memory 0
                mine = Mux(self.table_single, i == 0, self.table_index[0] == i)
                write_place = Mux(self.table_single, self.table_index[:place_bits], self.table_index[1:])
            m.d.comb += [
                write.addr.eq(Cat(write_place[:place_bits], self.table_slot)),
                write.data.eq(self.table_data),
                write.en.eq(self.table_valid & mine),
                read.addr.eq(Cat(place, table_slot)),
            ]
            starts.append(read.data)

        # ---- the wave in hand -----------------------------------------------------------------------------
        taken = self.wave.payload
        wave_valid, wave_ended = Signal(), Signal()
        pixels = Signal.like(taken.pixels)
        scanned = Signal(range(config.wave_pixels + 1))  # positions visited: at least one for each pixel group
        final_pair = Signal(index_bits)  # the last value of `pair`
        final_round = Signal(index_bits)  # the first position that is a row's last
        members = Signal(rows)  # rows with an output block
        last_group, others = Signal(), Signal(range(rows + 1))
        visited, last_position = Signal.like(scanned), Signal(index_bits)
        taken_single = Signal()
        m.d.comb += [
            taken_single.eq(self.unrolling == rows_log2),
            self.wave.ready.eq(~wave_valid | wave_ended),
            self.freed.eq(wave_ended),
            visited.eq(Mux(taken.pixels < groups, groups, taken.pixels)),
            last_position.eq(visited - 1),
        ]
        with m.If(self.wave.ready):
            m.d.sync += [
                wave_valid.eq(self.wave.valid),
                pixels.eq(taken.pixels),
                scanned.eq(visited),
                final_pair.eq(last_position if ports == 1 else Cat(last_position[0] & taken_single, last_position[1:])),
                single.eq(taken_single),
                final_round.eq(visited - groups),
                members.eq(Cat((Const(row, rows_log2 + 1) >> groups_log2) < taken.blocks for row in range(rows))),
                last_group.eq(taken.last_group),
                others.eq(taken.blocks - taken.last_group),
            ]

        # ---- kernel steps x pixels ------------------------------------------------------------------------
        block = Signal(16, init=1)  # from 1 on, as kx and ky
        kx, ky = (Signal(range(KERNEL_MAX + 1), init=1, name=name) for name in ("kx", "ky"))
        dx, dy = (Signal((KERNEL_MAX - 1).bit_length() + 8, name=name) for name in ("dx", "dy"))
        offset_block, offset_x, offset_y = Signal(address_bits), Signal(address_bits), Signal(address_bits)
        block_last, x_last, y_last, pair_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            block_last.eq(block == self.input_blocks),
            x_last.eq(kx == self.kernel_width),
            y_last.eq(ky == self.kernel_height),
            pair_last.eq(pair == final_pair),
        ]
        advance = Signal()  # the pixels of this cycle move on
        with m.If(advance):
            m.d.sync += [pair.eq(pair + (1 if ports == 1 else Mux(single, 1, 2))), place.eq(place + 1)]
            with m.If(pair_last):
                m.d.sync += [pair.eq(0), place.eq(0), block.eq(block + 1),
                             offset_block.eq(offset_block + self.step_block)]
                with m.If(block_last):
                    next_x = Signal(address_bits)
                    m.d.comb += next_x.eq(offset_x + self.step_x)
                    m.d.sync += [block.eq(1), kx.eq(kx + 1), dx.eq(dx + self.dilation_x),
                                 offset_x.eq(next_x), offset_block.eq(next_x)]
                    with m.If(x_last):
                        next_y = Signal(address_bits)
                        m.d.comb += next_y.eq(offset_y + self.step_y)
                        m.d.sync += [kx.eq(1), dx.eq(0), ky.eq(ky + 1), dy.eq(dy + self.dilation_y),
                                     offset_y.eq(next_y), offset_x.eq(next_y), offset_block.eq(next_y)]
                        with m.If(y_last):
                            m.d.comb += wave_ended.eq(1)
                            m.d.sync += [ky.eq(1), dy.eq(0), offset_y.eq(0), offset_x.eq(0), offset_block.eq(0),
                                         table_slot.eq(table_slot + 1)]

        # ---- stage 1: the table's entry, the kernel step --------------------------------------------------
        move = Signal()  # all stages before the requests move
        busy_1, busy_2 = Signal(), Signal()
        m.d.comb += [advance.eq(wave_valid & move), self.moved.eq(advance)]
        tag_layout = FetchTag(config)
        step_1 = Signal(data.StructLayout({"offset": address_bits, "dx": len(dx), "dy": len(dy)}), reset_less=True)
        with m.If(move):
            m.d.sync += [
                busy_1.eq(wave_valid), step_1.offset.eq(offset_block), step_1.dx.eq(dx), step_1.dy.eq(dy),
                busy_2.eq(busy_1),
            ]
        request_layout = data.StructLayout({"tag": tag_layout, "address": address_bits})
        bounded = []  # for each port: whether there is a word to send, and its request
        for i in range(ports):
            pixel_index = Signal(index_bits, name=f"pixel_index_{i}")
            tag, tile_last = Signal(tag_layout, name=f"tag_{i}"), Signal(name=f"tile_last_{i}")
            m.d.comb += [
                pixel_index.eq(pair | i),  # two at once, `pair` is even
                tag.exists.eq((pixel_index < scanned) & ~single if i else 1),
                tag.fetch.eq(pixel_index < pixels),
                tag.pixel.eq(pixel_index >> groups_log2),
                tile_last.eq(pixel_index >= final_round),
                tag.tile_last.eq(tile_last),
                tag.wave_last.eq(tile_last & block_last & x_last & y_last),
                tag.word_last.eq(block_last),
                tag.last_group.eq(last_group),
                tag.others.eq(others),
            ]
            for row in range(rows):
                if ports == 2 and i == 1 and row % 2 == 0:
                    continue  # tag.rows is zero there
                here = Signal(name=f"pixel_{i}_of_row_{row}")
                m.d.comb += [
                    here.eq(((pixel_index ^ row) & (groups - 1))[:rows_log2] == 0 if rows > 1 else 1),
                    tag.rows[row].eq(here & members[row]),
                ]
            tag_1, tag_2 = (Signal(tag_layout, name=f"tag_{step}_{i}", reset_less=True) for step in (1, 2))
            start_1 = Signal(WindowStart(config), name=f"start_1_{i}", reset_less=True)

            # ---- stage 2: address and position ------------------------------------------------------------
            y, x = (Signal(signed(19), name=f"{axis}_{i}", reset_less=True) for axis in "yx")
            position = Signal(address_bits, name=f"position_{i}", reset_less=True)
            with m.If(move):
                m.d.sync += [
                    tag_1.eq(tag),
                    start_1.eq(starts[i]),
                    tag_2.eq(tag_1),
                    y.eq(start_1.y + step_1.dy),
                    x.eq(start_1.x + step_1.dx),
                    position.eq(start_1.address + step_1.offset),
                ]

            # ---- bounds -----------------------------------------------------------------------------------
            inside = Signal(name=f"inside_{i}")
            useful = Signal(name=f"useful_{i}")
            request = Signal(request_layout, name=f"request_{i}")
            m.d.comb += [
                inside.eq(tag_2.fetch & (y >= 0) & (y < self.input_height) & (x >= 0) & (x < self.input_width)),
                useful.eq(busy_2 & tag_2.exists & (inside | tag_2.tile_last)),
                request.tag.eq(tag_2),
                request.tag.fetch.eq(inside),
                request.address.eq(Mux(self.packed, position, position << lane_bits)),
            ]
            bounded.append((useful, request))

        # ---- requests, when all rows of the pixel group have room; what does not fit is kept aside --------
        aside_valid = Signal()
        gone = Signal()  # no word waits any more
        m.d.comb += move.eq(~aside_valid)
        room = Signal(rows)
        sent_now = [[] for _ in range(rows)]
        last_exist = Signal(lanes)  # channels of a kernel row's last word that exist
        m.d.comb += last_exist.eq(Cat(i < self.last_lanes[:lane_bits + 1] for i in range(lanes)))
        waits, stays, arrivals = [], [], []
        for i, (useful, request) in enumerate(bounded):
            port = getattr(self, f"port_{i}")
            waiting = Signal(name=f"waiting_{i}")  # a word that has not gone yet
            going = Signal(name=f"going_{i}")
            allowed = Signal(name=f"allowed_{i}")
            aside_useful = Signal(name=f"aside_useful_{i}")
            wanted, aside = (Signal(request_layout, name=f"{name}_{i}", reset_less=True)
                             for name in ("wanted", "aside"))
            served = [row for row in range(rows) if ports == 1 or i == 0 or row % 2]
            m.d.comb += [
                allowed.eq(waiting & ~Cat(wanted.tag.rows[row] & ~room[row] for row in served).any()),
                port.request.valid.eq(allowed),
                port.request.payload.address.eq(wanted.address),
                port.request.payload.read.eq(wanted.tag.fetch),
                port.request.payload.tag.eq(wanted.tag),
                going.eq(allowed & port.request.ready),
            ]
            with m.If(gone):
                m.d.sync += [waiting.eq(Mux(aside_valid, aside_useful, useful)),
                             wanted.eq(Mux(aside_valid, aside, request))]
            with m.Elif(going):
                m.d.sync += waiting.eq(0)
            with m.If(move):
                m.d.sync += [aside.eq(request), aside_useful.eq(useful)]
            waits.append(waiting)
            stays.append(waiting & ~going)
            for row in served:
                sent_now[row].append(going & wanted.tag.rows[row])
            arrivals.append((port, data.View(tag_layout, port.tag)))
        m.d.comb += gone.eq(~Cat(stays).any())
        with m.If(gone):
            m.d.sync += aside_valid.eq(0)
        with m.Elif(move):
            m.d.sync += aside_valid.eq(Cat(useful for useful, _request in bounded).any())

        credits_back = Signal(rows)
        m.d.comb += self.idle.eq(
            credits_back.all() & ~(wave_valid | busy_1 | busy_2 | aside_valid | Cat(waits).any()))
        for row in range(rows):
            credit = Signal(range(config.activation_fifo + 1), init=config.activation_fifo, name=f"credit_{row}")
            sent = Signal(name=f"sent_{row}")
            m.d.comb += [sent.eq(Cat(sent_now[row]).any()), room[row].eq(credit != 0),
                         credits_back[row].eq(credit == config.activation_fifo)]
            less = Signal(name=f"credit_{row}_less")
            m.d.comb += less.eq(sent & ~self.word_taken[row])
            m.d.sync += credit.eq(credit + Cat(sent ^ self.word_taken[row], less.replicate(len(credit) - 1)))

        # ---- arrival: which channels are not the zero point, and exist ------------------------------------
        words = []
        for i, (port, tag) in enumerate(arrivals):
            differs = Signal(lanes, name=f"differs_{i}")
            word = Signal(ActivationWord(config), name=f"arriving_{i}", reset_less=True)
            word_rows = Signal(rows, name=f"arriving_rows_{i}")
            m.d.comb += differs.eq(Cat(
                port.data.word_select(lane, 8) != self.zero_point.as_unsigned() for lane in range(lanes)))
            exist = Signal(lanes, name=f"exist_{i}")  # the channels of the word that exist
            m.d.comb += exist.eq(Mux(tag.fetch & port.data_valid, Mux(tag.word_last, last_exist, -1), 0))
            m.d.sync += [
                word_rows.eq(Mux(port.data_valid, tag.rows, 0)),
                word.data.eq(port.data),
                word.nonzero.eq(differs & exist),
                word.pixel.eq(tag.pixel),
                word.tile_last.eq(tag.tile_last),
                word.wave_last.eq(tag.wave_last),
            ]
            words.append((word, word_rows))
        sources = words
        if ports == 2:  # with a single group, the odd rows work on port 0 words, too
            odd_word, odd_rows = Signal(ActivationWord(config)), Signal(rows)
            m.d.comb += [odd_word.eq(Mux(single, words[0][0], words[1][0])),
                         odd_rows.eq(Mux(single, words[0][1], words[1][1]))]
            sources = [words[0], (odd_word, odd_rows)]
        for row in range(rows):
            word, word_rows = sources[row % ports]
            m.d.comb += [self.word_valid[row].eq(word_rows[row]), self.word[row].eq(word)]

        # ---- counters: a wave's words go to a row of each of its output blocks ----------------------------
        counted = []  # on other output blocks than the command's last, on that
        for i, (_port, tag) in enumerate(arrivals):
            count = count_ones(m, words[i][0].nonzero, f"nonzero_{i}")
            ones = Signal(range(lanes + 1), name=f"ones_{i}")
            last_group_1, last_group_2 = Signal(name=f"last_group_1_{i}"), Signal(name=f"last_group_2_{i}")
            others_1, others_2 = (Signal.like(tag.others, name=f"others_{stage}_{i}") for stage in (1, 2))
            m.d.sync += [
                last_group_1.eq(tag.last_group), last_group_2.eq(last_group_1),
                others_1.eq(tag.others), others_2.eq(others_1),
                ones.eq(Mux(single, 0, count) if i else count),
            ]
            counted.append((sum(Mux(bit, ones, 0) << k for k, bit in enumerate(others_2)), Mux(last_group_2, ones, 0)))
        m.d.sync += [
            self.nonzero.eq(sum(others for others, _last in counted)),
            self.nonzero_last.eq(sum(last for _others, last in counted)),
        ]
        return m
