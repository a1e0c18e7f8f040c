"""Symbol tables of the weight format: how a weight's 256 values share the code space.

A table cuts the values into bins of 1 << k neighbouring ones. A bin has a frequency out of FREQUENCIES; a weight
is coded as its bin (entropy coded) and its k-bit offset in the bin (as it is). Wide bins where the distribution is
smooth keep tables short, and their cost small beside layers of a few hundred weights.

Two kinds of table are written in a stream, and STANDARD ones are known to every device. In both kinds the bins
follow one another in a fixed order, each described by k (KIND_BITS), the binary exponent e of its frequency
(EXPONENT_BITS; EMPTY: nothing is in this bin) and the e bits below its leading one, the highest first.

symmetric   bins of magnitudes 1, 2, ... up to 127; every one stands for two symbols of that frequency, the positive
            bin first. The zero comes last and has what is left.
general     bins of values -128, -127, ... up to 127. The frequencies' sum is FREQUENCIES.

A bin that starts at 127 or below and reaches past it is the last one.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from math import log2

#: log2 of the frequencies' sum. 9 bits lose 0.1 to 0.3 percent on real layers.
FREQUENCY_BITS = 9
FREQUENCIES = 1 << FREQUENCY_BITS

KIND_BITS = 3  #: of a bin's log2 width
EXPONENT_BITS = 4  #: of its frequency's exponent
EMPTY = 15  #: the exponent of a bin without weights


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A symbol: weights base .. base + (1 << extra) - 1; codes start .. start + frequency - 1."""

    base: int
    extra: int
    frequency: int
    start: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bin as it is described: log2 of its width, and the frequency of (each of) its symbols."""

    extra: int
    frequency: int

    @property
    def bits(self) -> int:
        """Bits of its description."""
        return KIND_BITS + EXPONENT_BITS + max(0, self.frequency.bit_length() - 1)

    @property
    def code(self) -> int:
        """Its description, `bits` bits, the first to be read lowest."""
        exponent = self.frequency.bit_length() - 1 if self.frequency else EMPTY
        code = self.extra | exponent << KIND_BITS
        if self.frequency:
            for bit in range(exponent):
                code |= (self.frequency >> exponent - 1 - bit & 1) << KIND_BITS + EXPONENT_BITS + bit
        return code


class TableError(ValueError):
    """Bins that are no table: their frequencies don't add up."""


def symbols(bins: Sequence[Bin], symmetric: bool) -> list[Symbol]:
    """The symbols of a table, in the order of their codes. Raises TableError if the frequencies don't add up."""
    found: list[Symbol] = []
    start = 0
    value = 1 if symmetric else -128
    for item in bins:
        if value > 127:
            raise TableError("bins go on after the value 127")
        sides = (value, -value - (1 << item.extra) + 1) if symmetric else (value,)
        for base in sides:
            if item.frequency:
                found.append(Symbol(base, item.extra, item.frequency, start))
                start += item.frequency
        value += 1 << item.extra
    if value <= 127:
        raise TableError(f"the bins end at {value}, before 127")
    if start > FREQUENCIES or (not symmetric and start != FREQUENCIES):
        raise TableError(f"the frequencies' sum is {start}, not {FREQUENCIES}")
    if start < FREQUENCIES:
        found.append(Symbol(0, 0, FREQUENCIES - start, start))
    if len(found) < 2:
        raise TableError("a table has at least two symbols")
    return found


# ---- fitting --------------------------------------------------------------------------------------------


def fit(histogram: Sequence[int], symmetric: bool, bin_bits: float = 8.0) -> list[Bin]:
    """Bins that code weights with this histogram in few bits, their description included.

    histogram : 256 counts, of weights -128 .. 127. Bins of the smallest cost by dynamic programming over where they
    end, then frequencies by greedy refinement. Raises TableError if the weights have less than two symbols.
    """
    if symmetric:
        counts = [histogram[128 + v] + histogram[128 - v] for v in range(1, 128)]
        zero = histogram[128]
        counts.append(histogram[0])  # magnitude 128
        limit, sides = 127, 2
    else:
        counts, zero, limit, sides = list(histogram), 0, 256, 1
    widths = _partition(counts, limit, sides, sum(counts) + zero, bin_bits)
    totals, at = [], 0
    for extra in widths:
        totals.append(sum(counts[at : at + (1 << extra)]))
        at += 1 << extra
    frequencies = _frequencies(totals, zero, sides)
    return [Bin(extra, frequency) for extra, frequency in zip(widths, frequencies, strict=True)]


def _partition(counts: Sequence[int], limit: int, sides: int, total: int, bin_bits: float) -> list[int]:
    """log2 widths of the bins; the last may reach past `limit`, as far as there are counts."""
    cumulative = [0]
    for count in counts:
        cumulative.append(cumulative[-1] + count)
    covered = len(counts)
    best = [0.0] + [float("inf")] * covered
    choice = [(0, 0)] * (covered + 1)
    for at in range(limit):
        for extra in range(1 << KIND_BITS):
            end = at + (1 << extra)
            inside = min(end, covered)
            count = cumulative[inside] - cumulative[at]
            cost = best[at] + (KIND_BITS + EXPONENT_BITS if not count else
                               bin_bits + count * (extra + log2(sides * total / count)))
            if cost < best[inside]:
                best[inside], choice[inside] = cost, (at, extra)
    ends = [end for end in range(limit, covered + 1) if all(count == 0 for count in counts[end:])]
    end = min(ends, key=lambda end: best[end])
    widths = []
    while end:
        end, extra = choice[end]
        widths.append(extra)
    return widths[::-1]


def _frequencies(totals: Sequence[int], zero: int, sides: int) -> list[int]:
    """Frequencies of the bins: each side of a bin has it; the zero has the rest."""
    frequencies = [1 if total else 0 for total in totals]
    if sum(sides for total in totals if total) + (zero > 0) < 2:
        raise TableError("these weights have less than two symbols")
    left = FREQUENCIES - sides * sum(frequencies) - (zero > 0)
    zero_frequency = int(zero > 0)

    def gain(count: int, frequency: int, cost: int) -> float:
        return count * log2((frequency + 1) / frequency) / cost

    heap = [(-gain(total, 1, sides), i) for i, total in enumerate(totals) if total]
    if zero or sides == 2:
        heap.append((-gain(zero, 1, 1) if zero else 0.0, -1))
    heapq.heapify(heap)
    while left > 0:
        _gain, i = heapq.heappop(heap)
        if i < 0:
            left -= 1
            zero_frequency += 1
            heapq.heappush(heap, (-gain(zero, zero_frequency, 1), -1))
        elif left >= sides:
            left -= sides
            frequencies[i] += 1
            heapq.heappush(heap, (-gain(totals[i], frequencies[i], sides), i))
    return frequencies


def cost(histogram: Sequence[int], table: Iterable[Symbol]) -> float:
    """Bits that weights with this histogram take with a table; infinite if one of them has no symbol."""
    bits, coded = 0.0, 0
    for symbol in table:
        low = max(0, symbol.base + 128)
        count = sum(histogram[low : max(0, symbol.base + 128 + (1 << symbol.extra))])
        coded += count
        bits += count * (symbol.extra + FREQUENCY_BITS - log2(symbol.frequency))
    return bits if coded == sum(histogram) else float("inf")
