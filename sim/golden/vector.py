"""The commands of the vector engine in NumPy: ADD, MUL, AVERAGE_POOL, MAX_POOL, MEAN."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Flag, Opcode
from hw.contract.config import Config
from hw.contract.layouts import TABLE_BYTES
from hw.contract.registers import Error
from sim.golden.addressing import active_pixels, input_taps, operand_words, output_words
from sim.golden.memory import DeviceError, OnChip
from sim.golden.numerics import Addition, average, requantise

_CHUNK_ELEMENTS = 1 << 22


def through_table(values: Mapping[str, int], memory: OnChip, results: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 results as the table of a command replaces them; as they are where it has none."""
    if not values["flags"] & Flag.TABLE:
        return results
    store = memory.weight_rows.reshape(-1, memory.config.weight_word_bytes)
    words = TABLE_BYTES // memory.config.weight_word_bytes
    table = store[(values["table_base"] + np.arange(words)) % store.shape[0]].reshape(-1)
    return table[results.astype(np.uint8)]


def multiply(values: Mapping[str, int], memory: OnChip, config: Config) -> dict[str, int]:
    """Execute a MUL command; returns its counters."""
    y, x = active_pixels(values, memory.mask_bits)
    a, b = (memory.feature[operand_words(values, name, y, x, config.feature_words)].astype(np.int64)
            - values[f"{name}_zero_point"] for name in ("a", "b"))
    results = requantise(a * b, 0, values["sum_multiplier"], values["sum_shift"], values["sum_zero_point"],
                         values["sum_min"], values["sum_max"]).astype(np.int8)
    words = output_words(values, y, x, config.feature_words)
    memory.feature[words] = through_table(values, memory, results)
    return {"active_pixels": len(y), "words_read": 2 * words.size, "words_written": words.size}


def add(values: Mapping[str, int], memory: OnChip, config: Config) -> dict[str, int]:
    """Execute an ADD command; returns its counters."""
    y, x = active_pixels(values, memory.mask_bits)
    a = memory.feature[operand_words(values, "a", y, x, config.feature_words)]
    b = memory.feature[operand_words(values, "b", y, x, config.feature_words)]
    addition = Addition(**{name: values[name] for name in (
        "a_zero_point", "a_multiplier", "a_shift", "b_zero_point", "b_multiplier", "b_shift",
        "sum_zero_point", "sum_multiplier", "sum_shift", "sum_min", "sum_max")})
    words = output_words(values, y, x, config.feature_words)
    memory.feature[words] = through_table(values, memory, addition.compute(a, b).astype(np.int8))
    return {"active_pixels": len(y), "words_read": 2 * words.size, "words_written": words.size}


def pool(opcode: Opcode, values: Mapping[str, int], memory: OnChip, config: Config) -> dict[str, int]:
    """Execute an AVERAGE_POOL, MAX_POOL or MEAN command; returns its counters."""
    y, x = active_pixels(values, memory.mask_bits)
    blocks = values["output_blocks"]
    address, valid = input_taps(values, y, x)
    count = valid.sum(axis=1)
    if len(y) and not count.all():
        where = int(np.flatnonzero(count == 0)[0])
        raise DeviceError(Error.BAD_COMMAND, f"{opcode.name}: the window of output pixel ({y[where]}, {x[where]}) "
                                             "holds no input pixel")
    results = np.empty((len(y), blocks, config.lanes), dtype=np.int8)
    step = max(1, _CHUNK_ELEMENTS // (address.shape[1] * blocks * config.lanes))
    for at in range(0, len(y), step):
        part = slice(at, at + step)
        word = (address[part, :, None] + np.arange(blocks)) % config.feature_words
        inputs = memory.feature[word].astype(np.int64)  # [pixels, taps, blocks, lanes]
        inside = valid[part, :, None, None]
        if opcode is Opcode.MAX_POOL:
            pooled = np.where(inside, inputs, -128).max(axis=1)
        elif opcode is Opcode.MEAN:
            pooled = requantise(np.where(inside, inputs, 0).sum(axis=1), values["bias"], values["multiplier"],
                                values["shift"], values["output_zero_point"], -128, 127)
        else:
            pooled = average(np.where(inside, inputs, 0).sum(axis=1), count[part, None, None])
        results[part] = np.clip(pooled, values["output_min"], values["output_max"])
    words = output_words(values, y, x, config.feature_words)
    memory.feature[words] = through_table(values, memory, results)
    return {"active_pixels": len(y), "words_read": int(count.sum()) * blocks, "words_written": words.size}
