"""Every size of the device: one frozen, validated `Config`, and the presets."""

from __future__ import annotations

import dataclasses
import hashlib

#: Version of the command set, the layouts and the program image. Any change to one of them raises it.
FORMAT_VERSION = 6

#: Largest kernel side of a convolution (design, section 4.2).
KERNEL_MAX = 16

#: Pixels in one word of a decision mask; also the width of a mask memory entry in bits.
MASK_WORD_BITS = 64

#: Address windows of the DMA (see `registers`): image, inputs, outputs, records.
WINDOWS = 4


class ConfigError(ValueError):
    """A configuration that no hardware can be built for."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes that a device is built with.

    Parameters
    ----------
    name : preset or user-given name; not part of the hash.
    rows : rows of the conv engine (R). Power of two.
    lanes : multiply-accumulate lanes of a row (L) = channels in a feature memory word. 4, 8 or 16.
    pixels_per_row : pixels a row accumulates at a time (T). Power of two.
    requantise_lanes : accumulators requantised per cycle (Q). Power of two, at most `lanes`.
    depthwise_lanes : lanes of a line of depthwise taps worked on per cycle. Power of two, at most `lanes`.
    fetch_ports : activation words fetched per cycle, 1 or 2; at most `rows`.
    feature_bytes : feature memory. feature_banks : its banks, 2 or 4.
    weight_bytes : weight store, compact tiles (see `layouts`).
    weight_maps : row maps that the map memory holds (one per tile).
    parameter_channels : output channels whose bias, multiplier and shift the parameter memory holds.
    mask_words : words of MASK_WORD_BITS pixels in the mask memory.
    activation_fifo : activation words queued in front of each row. Power of two.
    pool_area : largest window of a pooling layer, in pixels.
    axi_data_bits : data width of the AXI4 master; 64 is the only width so far.
    axi_address_bits : address width of the AXI4 master.
    burst_beats : longest burst, a power of two up to 256 beats; bursts end at multiples of it.
    reads_outstanding : read bursts under way at once.
    command_queue : commands that wait in front of each engine. Power of two.
    weights_per_cycle : compressed weights that the decoder makes in a cycle at best. Power of two, at most `lanes`.
    """

    name: str
    rows: int
    lanes: int
    pixels_per_row: int
    requantise_lanes: int
    depthwise_lanes: int
    fetch_ports: int
    feature_bytes: int
    feature_banks: int
    weight_bytes: int
    weight_maps: int
    parameter_channels: int
    mask_words: int
    activation_fifo: int = 8
    pool_area: int = 1024
    axi_data_bits: int = 64
    axi_address_bits: int = 32
    burst_beats: int = 32
    reads_outstanding: int = 4
    command_queue: int = 4
    weights_per_cycle: int = 4

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, limit: str) -> None:
            if not condition:
                raise ConfigError(f"Config {self.name!r}: {field} must be {limit}, not {getattr(self, field)!r}")

        for field in ("rows", "pixels_per_row", "feature_bytes", "weight_bytes", "weight_maps",
                      "parameter_channels", "mask_words", "activation_fifo", "command_queue", "requantise_lanes",
                      "depthwise_lanes"):
            require(_power_of_two(getattr(self, field)), field, "a positive power of two")
        require(self.rows <= 64, "rows", "at most 64")
        require(self.lanes in (4, 8, 16), "lanes", "4, 8 or 16")
        require(2 <= self.pixels_per_row <= 32, "pixels_per_row", "2 to 32")
        require(self.requantise_lanes <= self.lanes, "requantise_lanes", f"at most lanes ({self.lanes})")
        require(self.depthwise_lanes <= self.lanes, "depthwise_lanes", f"at most lanes ({self.lanes})")
        require(_power_of_two(self.weights_per_cycle) and self.weights_per_cycle <= self.lanes, "weights_per_cycle",
                f"a power of two, at most lanes ({self.lanes})")
        require(self.fetch_ports in (1, 2) and self.fetch_ports <= self.rows, "fetch_ports",
                "1 or 2, and at most rows")
        require(self.feature_banks in (2, 4), "feature_banks", "2 or 4")
        require(4096 <= self.feature_bytes <= 1 << 24, "feature_bytes", "4 KiB to 16 MiB")
        require(1024 <= self.weight_bytes <= 1 << 24, "weight_bytes", "1 KiB to 16 MiB")
        require(self.weight_maps * self.lanes >= 64, "weight_maps", "enough to fill a 64-bit entry")
        require(self.parameter_channels >= self.lanes, "parameter_channels", f"at least lanes ({self.lanes})")
        require(self.activation_fifo >= 4, "activation_fifo", "at least 4")
        require(16 <= self.pool_area <= 4096, "pool_area", "16 to 4096 pixels")
        require(self.axi_data_bits == 64, "axi_data_bits", "64")
        require(16 <= self.axi_address_bits <= 64, "axi_address_bits", "16 to 64")
        require(_power_of_two(self.burst_beats) and self.burst_beats <= 256, "burst_beats", "a power of two, 1 to 256")
        require(1 <= self.reads_outstanding <= 16, "reads_outstanding", "1 to 16")

    # ---- derived values -----------------------------------------------------------------------

    @property
    def macs_per_cycle(self) -> int:
        """Main multipliers: rows x lanes."""
        return self.rows * self.lanes

    @property
    def feature_words(self) -> int:
        """Entries of the feature memory, `lanes` bytes each."""
        return self.feature_bytes // self.lanes

    @property
    def weight_word_bytes(self) -> int:
        """Bytes of a weight store entry: two weight rows."""
        return 2 * self.lanes

    @property
    def weight_words(self) -> int:
        """Entries of the weight store."""
        return self.weight_bytes // self.weight_word_bytes

    @property
    def maps_per_entry(self) -> int:
        """Row maps in one 64-bit entry of the map memory."""
        return 64 // self.lanes

    @property
    def map_entries(self) -> int:
        """Entries of the map memory, 64 bits each."""
        return self.weight_maps // self.maps_per_entry

    @property
    def depthwise_cycles(self) -> int:
        """Cycles that a line of depthwise taps takes."""
        return self.lanes // self.depthwise_lanes

    @property
    def parameter_entry_bytes(self) -> int:
        """Bytes of a parameter entry in external memory: 9 per channel, Q channels, to a multiple of 8."""
        return -(-9 * self.requantise_lanes // 8) * 8

    @property
    def parameter_entries(self) -> int:
        """Entries of the parameter memory, Q channels each."""
        return self.parameter_channels // self.requantise_lanes

    @property
    def unrollings(self) -> tuple[int, ...]:
        """Spatial unrollings: output channel blocks worked on at once; rows // blocks pixels go beside them."""
        return tuple(1 << i for i in range(self.rows.bit_length()))

    @property
    def wave_pixels(self) -> int:
        """Most pixels in a wave: rows x pixels_per_row (fewer when channel blocks share the rows)."""
        return self.rows * self.pixels_per_row

    @property
    def weight_ways(self) -> int:
        """Most states of a compressed block: two for each weight that the decoder makes in a cycle."""
        return 2 * self.weights_per_cycle

    @property
    def table_entries(self) -> int:
        """Entries of a symbol table that the weight decoder writes in a cycle: two, for two block RAMs in each way,
        where it decodes fast beside building the table."""
        return 2 if self.weights_per_cycle > 4 else 1

    @property
    def hash(self) -> int:
        """32-bit hash of every size and of FORMAT_VERSION: what an image was built for."""
        fields = dataclasses.asdict(self)
        del fields["name"]
        text = f"{FORMAT_VERSION};" + ";".join(f"{key}={fields[key]}" for key in sorted(fields))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


_KIB = 1024

PRESETS: dict[str, Config] = {
    config.name: config
    for config in (
        Config("nano", rows=1, lanes=4, pixels_per_row=8, requantise_lanes=1, depthwise_lanes=1, fetch_ports=1,
               feature_bytes=32 * _KIB, feature_banks=4, weight_bytes=4 * _KIB, weight_maps=512,
               parameter_channels=128, mask_words=128, pool_area=256, weights_per_cycle=1),
        Config("small", rows=2, lanes=8, pixels_per_row=8, requantise_lanes=2, depthwise_lanes=4, fetch_ports=2,
               feature_bytes=64 * _KIB, feature_banks=4, weight_bytes=16 * _KIB, weight_maps=512,
               parameter_channels=256, mask_words=256, weights_per_cycle=2),
        Config("medium", rows=4, lanes=16, pixels_per_row=8, requantise_lanes=4, depthwise_lanes=8, fetch_ports=2,
               feature_bytes=128 * _KIB, feature_banks=4, weight_bytes=64 * _KIB, weight_maps=1024,
               parameter_channels=1024, mask_words=512, weights_per_cycle=4),
        Config("large", rows=8, lanes=16, pixels_per_row=8, requantise_lanes=8, depthwise_lanes=16, fetch_ports=2,
               feature_bytes=256 * _KIB, feature_banks=4, weight_bytes=128 * _KIB, weight_maps=2048,
               parameter_channels=2048, mask_words=1024, weights_per_cycle=16),
        Config("xlarge", rows=16, lanes=16, pixels_per_row=8, requantise_lanes=16, depthwise_lanes=16, fetch_ports=2,
               feature_bytes=512 * _KIB, feature_banks=4, weight_bytes=256 * _KIB, weight_maps=4096,
               parameter_channels=2048, mask_words=2048, weights_per_cycle=16),
    )
}


def preset(name: str) -> Config:
    """The preset called `name`. Raises ConfigError with the names that exist."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}") from None
