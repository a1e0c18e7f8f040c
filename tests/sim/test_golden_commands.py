"""Compute commands of the golden model against plain Python loops written from the contract's words."""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
import pytest

from hw.contract.commands import Flag, Opcode, Space, fields
from hw.contract.config import Config, preset
from hw.contract.layouts import align
from sim.golden import conv, limits, vector
from sim.golden.memory import OnChip

SEED = int(os.environ.get("LACUNA_SEED") or np.random.default_rng().integers(1 << 32))
CONFIGS = [preset("nano"), preset("small"), preset("medium")]


@pytest.fixture
def rng(request):
    print(f"LACUNA_SEED={SEED}")
    return np.random.default_rng([SEED, *request.node.name.encode()])


# ---- numerics, with exact fractions ------------------------------------------------------------------


def round_half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)).__floor__())


def round_half_away(value: Fraction) -> int:
    return round_half_up(value) if value >= 0 else -round_half_up(-value)


def wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def scale(value: int, multiplier: int, shift: int) -> int:
    high = round_half_up(Fraction(wrap(value << max(shift, 0)) * multiplier, 1 << 31))
    return round_half_away(Fraction(high, 1 << max(-shift, 0)))


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def add_reference(a: int, b: int, v: dict[str, int], a_zero_point: int) -> int:
    total = scale((a - a_zero_point) << 20, v["a_multiplier"], v["a_shift"]) + \
        scale((b - v["b_zero_point"]) << 20, v["b_multiplier"], v["b_shift"])
    return clamp(scale(total, v["sum_multiplier"], v["sum_shift"]) + v["sum_zero_point"], v["sum_min"], v["sum_max"])


# ---- random commands ---------------------------------------------------------------------------------


def random_memory(rng, config: Config, zero_point: int) -> OnChip:
    memory = OnChip(config)
    for entries in memory.entries.values():
        entries[:] = rng.integers(0, 256, entries.shape)
    feature = memory.feature
    feature[:] = np.where(rng.random(feature.shape) < rng.choice([0, 0.3, 0.9]), zero_point, feature)
    if rng.random() < 0.5:
        memory.entries[Space.MASK][:] = np.packbits(rng.random((config.mask_words, 64)) < 0.2, axis=1)
    return memory


def clamp_range(rng) -> tuple[int, int]:
    low, high = sorted(int(n) for n in rng.integers(-128, 128, 2))
    return (low, high) if rng.random() < 0.5 else (-128, 127)


def addition_fields(rng) -> dict[str, int]:
    values = {f"{name}_multiplier": int(rng.integers(1 << 30, 1 << 31)) for name in ("a", "b", "sum")}
    values |= {f"{name}_shift": -int(rng.integers(0, 4)) for name in ("a", "b")}
    values["sum_shift"] = -int(rng.integers(14, 22))
    values |= {f"{name}_zero_point": int(rng.integers(-128, 128)) for name in ("b", "sum")}
    values["sum_min"], values["sum_max"] = clamp_range(rng)
    return values


def output_fields(rng, config: Config, base: int) -> dict[str, int]:
    width, blocks = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    pixel_stride = blocks + int(rng.integers(0, 2))
    row_stride = width * pixel_stride + int(rng.integers(0, 3))
    return {
        "output_y": int(rng.integers(0, 5)), "output_rows": int(rng.integers(1, 5)), "output_width": width,
        "output_blocks": blocks, "output_pixel_stride": pixel_stride, "output_row_stride": row_stride,
        # A stripe's base may lie before the memory, modulo 2**32.
        "output_base": (base - int(rng.integers(0, 2)) * row_stride) % (1 << 32),
        "mask_base": int(rng.integers(0, config.mask_words)),
    }


def is_active(memory: OnChip, v: dict[str, int], y: int, x: int) -> bool:
    if not v["flags"] & Flag.GATED:
        return True
    word = v["mask_base"] + (y - v["output_y"]) * -(-v["output_width"] // 64) + x // 64
    entry = memory.entries[Space.MASK][word % memory.config.mask_words]
    return bool(int.from_bytes(entry.tobytes(), "little") >> (x % 64) & 1)


def pixels(v: dict[str, int]):
    for y in range(v["output_y"], v["output_y"] + v["output_rows"]):
        for x in range(v["output_width"]):
            yield y, x


def taps(v: dict[str, int], y: int, x: int):
    """Index and input position of the taps inside the input."""
    for ky in range(v["kernel_height"]):
        for kx in range(v["kernel_width"]):
            row = y * v["stride_y"] - v["pad_top"] + ky * v["dilation_y"]
            column = x * v["stride_x"] - v["pad_left"] + kx * v["dilation_x"]
            if 0 <= row < v["input_height"] and 0 <= column < v["input_width"]:
                yield ky, kx, row, column


def window_fields(rng, config: Config, v: dict[str, int], blocks: int, packed: bool) -> dict[str, int]:
    """Input geometry such that every output pixel has a tap inside."""
    values = {
        "kernel_height": int(rng.integers(1, 5)), "kernel_width": 1 if packed else int(rng.integers(1, 5)),
        "stride_y": int(rng.integers(1, 4)), "stride_x": int(rng.integers(1, 4)),
        "dilation_y": 1, "dilation_x": 1,
        "pad_top": 0, "pad_left": 0,
    }
    if not packed:
        values["pad_top"] = int(rng.integers(0, values["kernel_height"]))
        values["pad_left"] = int(rng.integers(0, values["kernel_width"]))
    last_row = (v["output_y"] + v["output_rows"] - 1) * values["stride_y"] - values["pad_top"]
    last_column = (v["output_width"] - 1) * values["stride_x"] - values["pad_left"]
    values["input_height"] = max(last_row, 0) + 1 + int(rng.integers(0, 4))
    values["input_width"] = max(last_column, 0) + 1 + int(rng.integers(0, 4))
    if packed:
        values["input_pixel_stride"] = int(rng.integers(1, 5))
        values["input_row_stride"] = values["input_width"] * values["input_pixel_stride"] + int(rng.integers(0, 20))
        values["input_base"] = int(rng.integers(0, config.feature_bytes))
    else:
        values["input_pixel_stride"] = blocks + int(rng.integers(0, 2))
        values["input_row_stride"] = values["input_width"] * values["input_pixel_stride"] + int(rng.integers(0, 3))
        values["input_base"] = int(rng.integers(0, config.feature_words))
    return values


def random_conv(rng, config: Config) -> dict[str, int]:
    packed = bool(rng.random() < 0.3)
    v: dict[str, int] = {field.name: 0 for field in fields(Opcode.CONV)}
    v["flags"] = int(rng.choice([0, Flag.GATED])) | (Flag.PACKED if packed else 0) | int(rng.choice([0, Flag.ADD]))
    v |= output_fields(rng, config, 0)
    v["input_blocks"] = int(rng.integers(1, 4))
    v |= window_fields(rng, config, v, v["input_blocks"], packed)
    v["dilation_y"], v["dilation_x"] = (int(n) for n in rng.integers(1, 4, 2))
    v["last_lanes"] = int(rng.integers(1, config.lanes + 1)) if packed else config.lanes
    v["unrolling"] = int(rng.integers(0, config.rows.bit_length()))
    v["input_zero_point"], v["output_zero_point"] = (int(n) for n in rng.integers(-128, 128, 2))
    v["output_min"], v["output_max"] = clamp_range(rng)
    v |= addition_fields(rng)
    v["b_base"] = v["output_base"] if rng.random() < 0.5 else int(rng.integers(0, config.feature_words))
    v["weight_base"] = int(rng.integers(0, config.weight_words))
    v["map_base"] = int(rng.integers(0, config.weight_maps))
    v["parameter_base"] = int(rng.integers(0, config.parameter_entries))
    limits.check(Opcode.CONV, v, config)
    return v


def place_weights(rng, config: Config, memory: OnChip, v: dict[str, int]) -> dict[tuple[int, int, int, int], list]:
    """Random tiles in the memories, in the contract's order; returns (ky, kx, input block, output block) -> rows."""
    lanes, tiles = config.lanes, {}
    word, index = v["weight_base"], v["map_base"]
    density = rng.choice([0, 0.5, 1])
    group = 1 << v["unrolling"]
    for first in range(0, v["output_blocks"], group):
        for ky in range(v["kernel_height"]):
            for kx in range(v["kernel_width"]):
                for block in range(v["input_blocks"]):
                    for output in range(first, min(first + group, v["output_blocks"])):
                        stored = rng.random(lanes) < density
                        rows = rng.integers(-128, 128, (lanes, lanes)) * stored[:, None]
                        tiles[ky, kx, block, output] = rows.tolist()
                        bit = index * lanes
                        maps = memory.entries[Space.MAP].reshape(-1)
                        for c in range(lanes):
                            at = (bit + c) % (8 * maps.size)
                            maps[at // 8] = int(maps[at // 8]) & ~(1 << at % 8) | int(stored[c]) << at % 8
                        kept = [rows[c] for c in range(lanes) if stored[c]]
                        kept += [np.zeros(lanes, int)] * (len(kept) % 2)
                        for pair in range(len(kept) // 2):
                            memory.entries[Space.WEIGHT][word % config.weight_words] = \
                                np.concatenate(kept[2 * pair : 2 * pair + 2]).astype(np.int8).view(np.uint8)
                            word += 1
                        index += 1
    return tiles


def place_parameters(rng, config: Config, memory: OnChip, v: dict[str, int]) -> list[tuple[int, int, int]]:
    """Random bias, multiplier and shift per output channel, in the parameter memory and as a list."""
    q, channels = config.requantise_lanes, []
    for entry in range(v["output_blocks"] * config.lanes // q):
        bias = rng.integers(-(1 << 20), 1 << 20, q)
        multiplier = rng.integers(1 << 30, 1 << 31, q)
        shift = rng.choice([-12, -9, -5, -1, 0, 2], q)
        data = bias.astype("<i4").tobytes() + multiplier.astype("<i4").tobytes() + shift.astype(np.int8).tobytes()
        assert align(len(data), 8) == config.parameter_entry_bytes
        at = (v["parameter_base"] + entry) % config.parameter_entries
        memory.entries[Space.PARAMETER][at] = np.frombuffer(data.ljust(config.parameter_entry_bytes, b"\0"), np.uint8)
        channels += zip(bias.tolist(), multiplier.tolist(), shift.tolist(), strict=True)
    return channels


def conv_reference(config: Config, memory: OnChip, v: dict[str, int], tiles, channels):
    """Feature memory after the command, and the counters."""
    lanes, flat = config.lanes, memory.feature.reshape(-1).tolist()
    packed = v["flags"] & Flag.PACKED
    after = flat.copy()
    counters: dict[str, int] = dict.fromkeys(
        ("active_pixels", "issued", "issued_last", "skipped_weight", "skipped_weight_last"), 0)
    for y, x in pixels(v):
        if not is_active(memory, v, y, x):
            continue
        counters["active_pixels"] += 1
        for output in range(v["output_blocks"]):
            suffix = "_last" if output == v["output_blocks"] - 1 else ""
            accumulators = [0] * lanes
            for ky, kx, row, column in taps(v, y, x):
                at = v["input_base"] + row * v["input_row_stride"] + column * v["input_pixel_stride"]
                for block in range(v["input_blocks"]):
                    byte = at + block * lanes if packed else (at + block) * lanes
                    valid = v["last_lanes"] if block == v["input_blocks"] - 1 else lanes
                    for c in range(valid):
                        activation = flat[(byte + c) % len(flat)] - v["input_zero_point"]
                        weights = tiles[ky, kx, block, output][c]
                        map_bit = (v["map_base"] + tiles_before(v, ky, kx, block, output)) * lanes + c
                        entry = memory.entries[Space.MAP].reshape(-1)
                        stored = int(entry[map_bit // 8 % entry.size]) >> map_bit % 8 & 1
                        if activation == 0:
                            continue
                        counters[("issued" if stored else "skipped_weight") + suffix] += 1
                        accumulators = [s + activation * w for s, w in zip(accumulators, weights, strict=True)]
            word = v["output_base"] + y * v["output_row_stride"] + x * v["output_pixel_stride"] + output
            b_word = v["b_base"] + y * v["output_row_stride"] + x * v["output_pixel_stride"] + output
            for i in range(lanes):
                bias, multiplier, shift = channels[output * lanes + i]
                result = clamp(scale(wrap(accumulators[i] + bias), multiplier, shift) + v["output_zero_point"],
                               v["output_min"], v["output_max"])
                if v["flags"] & Flag.ADD:
                    result = add_reference(result, flat[(b_word * lanes + i) % len(flat)], v, v["output_zero_point"])
                after[(word * lanes + i) % len(flat)] = result
    return after, counters


def tiles_before(v: dict[str, int], ky: int, kx: int, block: int, output: int) -> int:
    """Position of a tile in the order of the contract."""
    group = 1 << v["unrolling"]
    depth = v["kernel_height"] * v["kernel_width"] * v["input_blocks"]
    first = output // group * group
    in_group = min(group, v["output_blocks"] - first)
    inner = (ky * v["kernel_width"] + kx) * v["input_blocks"] + block
    return first * depth + inner * in_group + output - first


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_convolution(rng, config):
    for _ in range(12 if config.lanes < 16 else 3):
        v = random_conv(rng, config)
        memory = random_memory(rng, config, v["input_zero_point"])
        tiles = place_weights(rng, config, memory, v)
        channels = place_parameters(rng, config, memory, v)
        after, counters = conv_reference(config, memory, v, tiles, channels)
        done = conv.run(v, memory, config)
        np.testing.assert_array_equal(memory.feature.reshape(-1), after, err_msg=str(v))
        assert done.counters == counters, v
        assert done.work.issue.sum() == counters["issued"] + counters["issued_last"]


def test_convolution_wraps_its_accumulator(rng):
    """Accumulators and the bias addition are int32; float64 products must not leak through."""
    config = preset("nano")
    memory = OnChip(config)
    v = {field.name: 0 for field in fields(Opcode.CONV)}
    v |= {"input_height": 1, "input_width": 1, "kernel_height": 1, "kernel_width": 1, "stride_y": 1, "stride_x": 1,
          "dilation_y": 1, "dilation_x": 1, "input_blocks": 1, "last_lanes": 4, "output_rows": 1, "output_width": 1,
          "output_blocks": 1, "output_base": 1, "output_min": -128, "output_max": 127}
    memory.feature[0] = [127, 0, 0, 0]
    tiles = place_weights(rng, config, memory, v)
    tiles[0, 0, 0, 0] = [[127, 127, 127, -128], *[[0] * 4] * 3]
    memory.entries[Space.MAP][0] = 1
    memory.weight_rows[0] = tiles[0, 0, 0, 0][0]
    channels = [((1 << 31) - 1, 1 << 30, -23), (0, 1 << 30, -6), (-(1 << 31), 1 << 30, -23), (-(1 << 31), 1 << 30, -23)]
    for i, (bias, multiplier, shift) in enumerate(channels):
        data = np.array([bias, multiplier], "<i4").tobytes() + np.array([shift], np.int8).tobytes()
        memory.entries[Space.PARAMETER][i, :9] = np.frombuffer(data, np.uint8)
    after, _ = conv_reference(config, memory, v, tiles, channels)
    conv.run(v, memory, config)
    np.testing.assert_array_equal(memory.feature.reshape(-1), after)
    assert memory.feature[1].tolist() == [-128, 126, -128, 127]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_add(rng, config):
    for _ in range(20):
        v: dict[str, int] = {field.name: 0 for field in fields(Opcode.ADD)}
        v["flags"] = int(rng.choice([0, Flag.GATED]))
        v |= output_fields(rng, config, int(rng.integers(0, config.feature_words))) | addition_fields(rng)
        v["a_zero_point"] = int(rng.integers(-128, 128))
        for name in ("a", "b"):
            v[f"{name}_base"] = int(rng.integers(0, 1 << 32))
            v[f"{name}_row_stride"], v[f"{name}_pixel_stride"] = (int(n) for n in rng.integers(0, 60, 2))
        if rng.random() < 0.3:  # in place
            v |= {f"a_{part}": v[f"output_{part}"] for part in ("base", "row_stride", "pixel_stride")}
        limits.check(Opcode.ADD, v, config)
        memory = random_memory(rng, config, 0)
        flat, lanes = memory.feature.reshape(-1).tolist(), config.lanes
        after, active = flat.copy(), 0
        for y, x in pixels(v):
            if not is_active(memory, v, y, x):
                continue
            active += 1
            for i in range(v["output_blocks"] * lanes):
                at = {name: ((v[f"{name}_base"] + y * v[f"{name}_row_stride"] + x * v[f"{name}_pixel_stride"]) * lanes
                             + i) % len(flat) for name in ("a", "b", "output")}
                after[at["output"]] = add_reference(flat[at["a"]], flat[at["b"]], v, v["a_zero_point"])
        counters = vector.add(v, memory, config)
        np.testing.assert_array_equal(memory.feature.reshape(-1), after, err_msg=str(v))
        words = active * v["output_blocks"]
        assert counters == {"active_pixels": active, "words_read": 2 * words, "words_written": words}


@pytest.mark.parametrize("opcode", [Opcode.AVERAGE_POOL, Opcode.MAX_POOL], ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_pool(rng, config, opcode):
    for _ in range(20):
        v: dict[str, int] = {field.name: 0 for field in fields(opcode)}
        v["flags"] = int(rng.choice([0, Flag.GATED]))
        v |= output_fields(rng, config, int(rng.integers(0, config.feature_words)))
        v |= window_fields(rng, config, v, v["output_blocks"], packed=False)
        v["output_min"], v["output_max"] = clamp_range(rng)
        limits.check(opcode, v, config)
        memory = random_memory(rng, config, -128)
        flat, lanes = memory.feature.reshape(-1).tolist(), config.lanes
        after, active, read = flat.copy(), 0, 0
        for y, x in pixels(v):
            if not is_active(memory, v, y, x):
                continue
            active += 1
            at = [v["input_base"] + row * v["input_row_stride"] + column * v["input_pixel_stride"]
                  for _, _, row, column in taps(v, y, x)]
            read += len(at) * v["output_blocks"]
            for i in range(v["output_blocks"] * lanes):
                window = [flat[(word * lanes + i) % len(flat)] for word in at]
                value = max(window) if opcode is Opcode.MAX_POOL else round_half_away(Fraction(sum(window), len(at)))
                word = v["output_base"] + y * v["output_row_stride"] + x * v["output_pixel_stride"]
                after[(word * lanes + i) % len(flat)] = clamp(value, v["output_min"], v["output_max"])
        counters = vector.pool(opcode, v, memory, config)
        np.testing.assert_array_equal(memory.feature.reshape(-1), after, err_msg=str(v))
        assert counters == {"active_pixels": active, "words_read": read,
                            "words_written": active * v["output_blocks"]}
