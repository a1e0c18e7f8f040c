"""Division of a pool's sum by its number of taps, as a multiplication that Requantise can do exactly.

TFLite's reference AVERAGE_POOL computes (sum + count / 2) / count for a positive sum, (sum - count / 2) / count
otherwise, both divisions towards zero: the quotient T = sum / count rounded to nearest, halves away from zero
(an odd count has no halves). It sums int8 values, so |sum| <= 128 count.

Here, for counts c up to 2^J and j = bits of c - 1 (2^(j-1) < c <= 2^j), the sum goes to Requantise with the multiplier
m, which is 2^(30+j) / c rounded up to J + 9 significant bits, to the next one where it is exact (c = 2^j), and with
the shift 1 - j, to be rounded once, halves up: floor(T' + 1/2), T' = sum m / 2^(30+j). This is the same number.

m is larger than 2^(30+j) / c >= 2^30 by at most a unit of its last place, 2^(30-J-8), so T' = T (1 + d) with
0 < d <= 2^-(J+8). If T is half an integer, T' is a little farther away from zero, and rounds away from zero, as it
must. Otherwise T is no nearer than 1 / (2c) to such a half, and |T'| must stay below the next one: |T| d <= 128 d <=
2^-(J+1) <= 1 / (2c) does, with equality only if d = 2^-(J+8) and |T| = 128; then T is an integer, 1/2 away from the
next half, and c > 1, or 128 d < 1/2.
"""

from __future__ import annotations

from hw.contract.config import Config


def table_bits(config: Config) -> int:
    """J: log2 of the largest count, rounded up."""
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
        multiplier = (1 << (bits + exponent)) // count + 1
        assert multiplier >> bits == 1, f"Reciprocal of {count} needs more than {bits + 1} bits"
        table.append(multiplier - (1 << bits))
    return table
