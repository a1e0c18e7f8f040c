"""The commands that make decision masks, in NumPy: DECIDE, DILATE and COMBINE."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Opcode, Space
from hw.contract.config import MASK_WORD_BITS, Config
from hw.contract.layouts import mask_row_words
from hw.contract.registers import Error
from sim.golden.addressing import all_pixels, input_taps, mask_words
from sim.golden.memory import DeviceError, OnChip


def target_words(opcode: Opcode, values: Mapping[str, int], config: Config) -> NDArray[np.int64]:
    """Mask words that a DECIDE, DILATE or COMBINE command writes: [rows, words of a row]."""
    if opcode is Opcode.DECIDE:
        return mask_words(values, config.mask_words)
    if opcode is Opcode.COMBINE:
        return mask_words({**values, "mask_base": values["target_base"]}, config.mask_words)
    row_words = mask_row_words(values["input_width"])
    words = values["target_base"] + np.arange(values["input_height"] * row_words)
    return (words % config.mask_words).reshape(-1, row_words)


def _write(memory: OnChip, words: NDArray[np.int64], bits: NDArray[np.bool_]) -> None:
    padded = np.zeros((bits.shape[0], words.shape[1] * MASK_WORD_BITS), dtype=bool)
    padded[:, : bits.shape[1]] = bits
    memory.entries[Space.MASK][words] = np.packbits(padded, axis=1, bitorder="little").reshape(*words.shape, -1)


def decide(values: Mapping[str, int], memory: OnChip, config: Config) -> dict[str, int]:
    """Execute a DECIDE command; returns its counters."""
    y, x = all_pixels(values)
    address, valid = input_taps(values, y, x)
    if not valid.any(axis=1).all():
        raise DeviceError(Error.BAD_COMMAND, "DECIDE: a window holds no input pixel")
    inputs = memory.feature[address % config.feature_words].astype(np.int64)
    largest = np.where(valid[:, :, None], inputs, -129).max(axis=1)  # [pixels, lanes]
    bits = (largest != values["bound"]).any(axis=1) if values["any_lane"] else largest[:, 0] >= values["bound"]
    bits = bits ^ bool(values["invert"])
    _write(memory, target_words(Opcode.DECIDE, values, config), bits.reshape(values["output_rows"], -1))
    return {"active_pixels": int(bits.sum()), "words_read": int(valid.sum()), "words_written": 0}


def source_words(values: Mapping[str, int], config: Config) -> list[NDArray[np.int64]]:
    """Mask words of the two masks that a COMBINE command reads: [rows, words of a row] each."""
    result = []
    for number, base in enumerate(("mask_base", "other_base")):
        words = mask_words({**values, "mask_base": values[base]}, config.mask_words)
        result.append(np.full_like(words, words[0, 0]) if values["spread"] >> number & 1 else words)
    return result


def combine(values: Mapping[str, int], memory: OnChip, config: Config) -> dict[str, int]:
    """Execute a COMBINE command, word by word: its result may lie where a mask that it reads does."""
    sources = source_words(values, config)
    targets = target_words(Opcode.COMBINE, values, config)
    width, active = values["output_width"], 0
    for row, column in np.ndindex(targets.shape):
        operands = []
        for number, source in enumerate(sources):
            bits = memory.mask_bits[source[row, column]]
            bits = np.repeat(bits[:1], MASK_WORD_BITS) if values["spread"] >> number & 1 else bits
            operands.append(bits ^ bool(values["inverted"] >> number & 1))
        result = (operands[0] & operands[1]) ^ bool(values["inverted"] >> 2 & 1)
        result[max(0, width - column * MASK_WORD_BITS) :] = False
        _write(memory, targets[row : row + 1, column : column + 1], result[None])
        active += int(result.sum())
    return {"active_pixels": active, "words_read": 0, "words_written": 0}


def dilate(values: Mapping[str, int], memory: OnChip, config: Config) -> tuple[dict[str, int], int]:
    """Execute a DILATE command; returns its counters and the cycles of its steps."""
    height, width, rows = values["input_height"], values["input_width"], values["output_rows"]
    words = mask_words(values, config.mask_words)
    mask = memory.mask_bits[words].reshape(rows, -1)[:, : values["output_width"]]
    active_y, active_x = np.nonzero(mask)
    bits = np.zeros((height, width), dtype=bool)
    for ky in range(values["kernel_height"]):
        y = active_y * values["stride_y"] - values["pad_top"] + ky * values["dilation_y"]
        for kx in range(values["kernel_width"]):
            x = active_x * values["stride_x"] - values["pad_left"] + kx * values["dilation_x"]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            bits[y[inside], x[inside]] = True
    _write(memory, target_words(Opcode.DILATE, values, config), bits)
    return {"active_pixels": 0, "words_read": 0, "words_written": 0}, dilate_steps(values)


def dilate_steps(values: Mapping[str, int]) -> int:
    """Cycles of the steps of a DILATE command: see `hw.vector_engine.dilate`."""
    height, row_words = values["input_height"], mask_row_words(values["input_width"])
    walked = [_walk(values, word) for word in range(row_words)]
    last_place = np.arange(height) + values["pad_top"] - (values["kernel_height"] - 1) * values["dilation_y"]
    source, rest = np.divmod(last_place, values["stride_y"])
    late = int(((rest == 0) & (source >= 0) & (source < values["output_rows"])).sum())  # their last row is waited for
    fills = sum(fill for _, fill in walked)
    fill_steps = (values["kernel_height"] - 1) * values["dilation_y"] + 2
    # A word is begun, in two steps, walked and written; the last one of a row is trimmed, in two steps.
    steps = height * (sum(steps for steps, _ in walked) + 3 * row_words + 2 + fills * fill_steps) + late * fills
    return values["pad_top"] + 1 + steps


def _walk(values: Mapping[str, int], word: int) -> tuple[int, int]:
    """Steps of the window over a row of source bits, for one word of the target; source words gathered for it."""
    wide = values["stride_x"] == 2
    last_byte = (values["output_width"] - 1) // 8
    at = 8 * word + 7 + (values["pad_left"] + 7) // 8
    left, bits_left, taps = MASK_WORD_BITS + -values["pad_left"] % 8, 8, values["kernel_width"]
    steps, fills = 0, 0
    loaded = there = False
    while True:
        steps += 1
        load = not loaded
        if left == 0 and taps == 1:
            return steps, fills
        if loaded and left >= 8 and bits_left == 8:
            left -= 8
            load = True
        elif loaded:
            load = bits_left == 1
            bits_left = (bits_left - 2) % 8 + 1
            left, taps = (values["dilation_x"] - 1, taps - 1) if left == 0 else (left - 1, taps)
        if load:
            place = at // 2 if wide else at
            loaded = there or not 0 <= place <= last_byte
            if not loaded:
                there, fills = True, fills + 1
            else:
                there &= not (place % 8 == 0 and (not wide or at % 2 == 0))
                at -= 1
