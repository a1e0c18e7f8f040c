"""How tensors, weights, parameters and masks lie in memory. L is `Config.lanes`, Q `requantise_lanes`.

Feature maps, blocked (the rule)
    int8 [y][x][C/L][L]: word (y * width + x) * blocks + b holds channels b*L .. b*L + L-1 of pixel (y, x),
    channel b*L + i in byte i. Where C is not a multiple of L the last block's spare bytes hold the
    tensor's zero point: they are written so by whoever makes the tensor, and contribute nothing. (Behind a
    table they hold anything, and meet zero weights.)

Feature maps, packed (graph inputs with few channels)
    int8 [y][x][C] without spare bytes, padding written out as zero points, so that a kernel row of
    kernel_width * C bytes is contiguous. A row may be followed by spare bytes (its stride says so). A
    fetch reads L bytes from any byte address. The whole is padded with zero points to an entry.

Tiles of weights
    A tile holds the weights of L input channels x L output channels for one (ky, kx, input block); a
    "weight row" is one input channel's L output channels, int8, output channel i in byte i. Bit c of the
    tile's row map (L bits) is set when row c is not all zero. Rows whose bit is set are stored, in
    ascending c, two to a word of the weight store (first row in the low bytes); every tile starts at a
    new word, an odd count is filled with a row of zeros. A tile without rows takes no word.
    Packed layout: kx is 0 and the input blocks are the L-byte chunks of the kernel row, that is
    element (kx, c) of the row is byte kx * C + c.

Order of tiles in a CONV command
    for group in groups of B = 1 << unrolling output blocks:
        for ky: for kx: for input block: for output block in the group (the last group may have fewer)
    Words and maps follow one another in this order without gaps. A group's tiles are read once per wave.

Weights of a DEPTHWISE command
    For every output block, for every kernel row ky, for every line of taps g of it: two words of the weight
    store, four weight rows of L channels. A line has DEPTHWISE_TAPS (3) taps; a kernel row has
    ceil(kernel_width / 3) lines, and where that is more than its taps, the first line starts with rows of
    zeros: line g holds taps kx = 3 * g + j - unused for j = 0, 1, 2. The fourth row is zero.

Row maps
    little-endian L-bit values one after the other, 64 // L in each 64-bit entry, the first in the low bits.

Parameters
    One entry for Q output channels, of Config.parameter_entry_bytes: Q biases (int32), Q multipliers
    (int32, Q31, non-negative), Q shifts (int8, -31 to 7, positive is left), zeros to a multiple of 8. Entries
    follow the output channels; a block has L / Q of them. Channels past the last one have bias and multiplier 0.
    The table of a CONV command lies there, too, 8 * Q bytes in an entry, from its first byte on.

Decision masks
    One bit per output pixel. A row of pixels starts at a new 64-bit word: pixel (y, x) is bit x % 64 of
    word y * ceil(width / 64) + x // 64. A mask for a whole command is bit 0 of one word.

Waves
    A CONV command works through its groups one after the other; in each, through its active pixels in
    row-major order, in waves of up to P * T pixels, P = rows // B, T = pixels_per_row. Pixel j of a wave
    belongs to pixel group j % P, as its pixel j // P. Engine row r works on pixel group r // B and on
    output block r % B of the group.
"""

from __future__ import annotations

from hw.contract.config import MASK_WORD_BITS, Config

#: Bytes of the table of a TABLE command.
TABLE_BYTES = 256

#: Largest stride that a mask is dilated through.
DILATE_STRIDE_MAX = 2

#: Taps of a depthwise kernel that are worked on at once: neighbours in a kernel row.
DEPTHWISE_TAPS = 3

#: Most lines of taps of a kernel whose words are kept from an output pixel to the next (of undilated kernels).
DEPTHWISE_KEPT_LINES = 16

#: Words of the weight store that a line of taps takes.
DEPTHWISE_LINE_WORDS = 2


def table_entries(config: Config) -> int:
    """Parameter entries that the table of a CONV command takes."""
    return TABLE_BYTES // (8 * config.requantise_lanes)


def depthwise_lines(kernel_width: int) -> int:
    """Lines of taps of a kernel row."""
    return -(-kernel_width // DEPTHWISE_TAPS)


def blocks(channels: int, lanes: int) -> int:
    """Channel blocks (words per pixel) of a tensor."""
    return -(-channels // lanes)


def blocked_bytes(height: int, width: int, channels: int, lanes: int) -> int:
    """Bytes of a blocked feature map."""
    return height * width * blocks(channels, lanes) * lanes


def mask_row_words(width: int) -> int:
    """Mask words of one row of pixels."""
    return -(-width // MASK_WORD_BITS)


def align(value: int, multiple: int) -> int:
    """The next multiple at or after `value`."""
    return -(-value // multiple) * multiple


def feature_bank(word: int, banks: int) -> int:
    """The bank of the feature memory that holds `word`; the entry within it is word // banks.

    Two rules: neighbouring words never share a bank (an unaligned fetch reads both at once), and words
    4, 8, 16 or 32 apart, the distance of neighbouring pixels of deep feature maps, seldom do. Hence the
    skew by the next two digits of the address; with two banks only the first rule can be kept.
    """
    if banks == 2:
        return word & 1
    return (word + (word >> 2) - (word >> 4)) & 3


def tile_words(rows: int) -> int:
    """Weight store words of a tile with `rows` stored rows."""
    return -(-rows // 2)


def fits(config: Config, feature_words: int) -> bool:
    """Whether that many words fit the feature memory."""
    return feature_words <= config.feature_words
