"""Division of a pool's sum by its number of taps, as a multiplication that Requantise can do exactly.

TFLite's reference AVERAGE_POOL computes (sum + count / 2) / count for a positive sum, (sum - count / 2) / count
otherwise, both divisions towards zero: the quotient T = sum / count rounded to nearest, halves away from zero
(an odd count has no halves). It sums int8 values, so |sum| <= 128 count.

Here, for counts c up to 2^J and j = bits of c - 1 (2^(j-1) < c <= 2^j), the sum goes to
MultiplyByQuantizedMultiplier as sum * 2^J, with the multiplier m = 2^(30+j) / c, rounded up to J + 9 significant
bits, and a right shift by E = J + j - 1. This is the same number. Let T > 0, N its rounded value. (For T < 0 the
same holds for the absolute values.)

m is at least the exact value, so the product h before rounding is at least T 2^E >= (N - 1/2) 2^E, which is an
integer and survives rounding: the result is at least N. And m is larger than exact by d < 2^(31-J-9), so h is
larger by at most 128 c 2^J d / 2^31 < c 2^-2, while T <= N + 1/2 - 1/(2c). The result is N as long as
2^E / (2c) - 128 c 2^J d / 2^31 > 1/2. If c = 2^j then d = 0, and 2^E / (2c) = 2^(J-2) > 1/2. Otherwise c < 2^j:
2^(J+j-2) / c - c 2^-2 >= 2^J (2^j / 4c - c / (4 * 2^j)) = 2^J (2^j - c) (2^j + c) / (4 c 2^j) > 2^J / (2 * 2^j)
>= 1/2.

For all values to fit, 128 * 2^J * 2^J <= 2^31: J is at most 12.
"""

from __future__ import annotations

from hw.contract.config import Config


def table_bits(config: Config) -> int:
    """J: the shift of sums, and log2 of the largest count, rounded up."""
    return (config.pool_area - 1).bit_length()


def stored_bits(config: Config) -> int:
    """Bits of a table entry: the significant bits of a multiplier without the first one, which is always set."""
    return table_bits(config) + 8


def reciprocals(config: Config) -> list[int]:
    """Table entries for counts 1 to pool_area: multiplier = (1 << stored_bits | entry) << (30 - stored_bits)."""
    bits = stored_bits(config)
    table = []
    for count in range(1, config.pool_area + 1):
        exponent = (count - 1).bit_length()
        multiplier = -(-(1 << (bits + exponent)) // count)
        assert multiplier >> bits == 1, f"Reciprocal of {count} needs more than {bits + 1} bits"
        table.append(multiplier - (1 << bits))
    return table
