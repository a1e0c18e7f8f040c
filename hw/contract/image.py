"""The program image: what the compiler makes, a file holds, and a device runs.

`Program.image` is the content of window IMAGE: the commands first, then weights, row maps and parameters. Where
weights are resident a second program follows the commands of the first: the loading program (`Program.loading`). It
runs first, and as long as its tag stands only the program at offset 0 runs, which requires it.

Around it stands what the driver needs to feed the device and to read its results. On disk:

    8 bytes    "LACUNA\\r\\n"   (a text-mode copy spoils it, and is noticed)
    5 x u32    format version, configuration hash, bytes of metadata, bytes of image, CRC-32
    metadata   JSON, UTF-8: the fields of Program but `image`
    image      bytes

The CRC-32 (zlib's) covers the first four u32, the metadata and the image.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from typing import Any

from hw.contract.config import FORMAT_VERSION, Config

FILE_MAGIC = b"LACUNA\r\n"
_HEADER = struct.Struct("<5I")


class ImageError(ValueError):
    """A program image that can't be used: damaged, of another version, or for another configuration."""


@dataclasses.dataclass
class Port:
    """A graph input or output. `tensor` is its index in the model; quantisation as in TFLite."""

    name: str
    tensor: int
    shape: list[int]
    dtype: str  # "int8" or "bool"
    scale: float
    zero_point: int


@dataclasses.dataclass
class Feed:
    """A region of window INPUT that the driver fills from graph input `input` before a run.

    layout "blocked": the tensor as height x width x channels, blocked, spare channels = zero_point.
    layout "packed": the same with pad_top, pad_bottom, pad_left, pad_right positions of zero_point written
    out around it, rows of `row_bytes` bytes (the spare ones zero_point), padded to `length` with zero_point.
    layout "mask": a [1, height, width, 1] bool tensor as a decision mask (see layouts), inverted first where
    `invert`, then transformed by each step of `demand`: the demand of a convolution on its input, given
    the demand on its output: {"kernel": [h, w], "stride": [y, x], "dilation": [y, x], "pad": [top, left],
    "size": [height, width] of that input}. An input position is demanded if some demanded output reads it.
    """

    input: str
    layout: str
    offset: int
    length: int
    height: int = 1
    width: int = 1
    channels: int = 1
    zero_point: int = 0
    row_bytes: int = 0
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0
    invert: bool = False
    demand: list[dict[str, list[int]]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Result:
    """A blocked feature map in window OUTPUT that holds model tensor `tensor` of `shape` after a run."""

    tensor: int
    shape: list[int]
    offset: int
    length: int
    height: int
    width: int
    channels: int


@dataclasses.dataclass
class HostStep:
    """An operator that the host runs on device results, in order: `op` is its TFLite name."""

    op: str
    name: str
    inputs: list[int]
    outputs: list[int]
    parameters: dict[str, Any]


@dataclasses.dataclass
class LayerCommand:
    """One compute command of a layer: its index in the program, and what its counters stand for.

    pixels : output pixels of the command, active or not.
    pixel_macs : multiply-accumulates of one output pixel over all the command's output channels,
        padding included (0 for layers without multiplications).
    last_lanes : valid output channels in the command's last output block.
    """

    index: int
    pixels: int
    pixel_macs: int
    last_lanes: int


@dataclasses.dataclass
class Layer:
    """A layer as it is reported: `op` is its TFLite name (fused operators joined by +)."""

    name: str
    op: str
    shape: list[int]
    engine: str  # "conv", "vector" or "host"
    macs: int
    commands: list[LayerCommand]
    output: int = -1  # model tensor that the layer makes


@dataclasses.dataclass
class Loading:
    """The program in the same image that brings resident weights: `offset` of its BEGIN, its commands, and the tag that
    it establishes."""

    offset: int
    command_count: int
    tag: int


@dataclasses.dataclass
class Program:
    """A compiled model for one configuration."""

    model: str
    preset: str
    config_hash: int
    image: bytes
    command_count: int
    input_bytes: int
    output_bytes: int
    inputs: list[Port]
    outputs: list[Port]
    feeds: list[Feed]
    results: list[Result]
    host_steps: list[HostStep]
    layers: list[Layer]
    loading: Loading | None = None
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def check(self, config: Config) -> None:
        """Raise ImageError unless the program was built for `config` and this format version."""
        if self.format_version != FORMAT_VERSION:
            raise ImageError(f"The program has format version {self.format_version}, this Lacuna reads "
                             f"{FORMAT_VERSION}; compile the model again")
        if self.config_hash != config.hash:
            raise ImageError(f"The program was compiled for configuration {self.preset!r} ({self.config_hash:#010x}), "
                             f"the device is {config.name!r} ({config.hash:#010x}); compile it for {config.name!r}")

    def to_bytes(self) -> bytes:
        """The file format above."""
        fields = dataclasses.asdict(self)
        del fields["image"]
        metadata = json.dumps(fields, separators=(",", ":")).encode()
        head = struct.pack("<4I", self.format_version, self.config_hash, len(metadata), len(self.image))
        crc = zlib.crc32(self.image, zlib.crc32(metadata, zlib.crc32(head)))
        return FILE_MAGIC + head + struct.pack("<I", crc) + metadata + self.image

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "program image") -> Program:
        """Read the file format above. Raises ImageError naming `source` and what is wrong with it."""
        start = len(FILE_MAGIC)
        if data[:start] != FILE_MAGIC:
            raise ImageError(f"{source} is not a Lacuna program image: it does not start with {FILE_MAGIC!r}")
        if len(data) < start + _HEADER.size:
            raise ImageError(f"{source} is cut off: {len(data)} bytes, its header alone has {start + _HEADER.size}")
        version, config_hash, metadata_bytes, image_bytes, crc = _HEADER.unpack_from(data, start)
        if version != FORMAT_VERSION:
            raise ImageError(f"{source} has format version {version}, this Lacuna reads {FORMAT_VERSION}; "
                             "compile the model again")
        body = start + _HEADER.size
        if len(data) != body + metadata_bytes + image_bytes:
            raise ImageError(f"{source} has {len(data)} bytes, its header says {body + metadata_bytes + image_bytes}; "
                             "it is cut off or damaged")
        if zlib.crc32(data[body:], zlib.crc32(data[start : start + 16])) != crc:
            raise ImageError(f"{source} is damaged: its check value does not match; compile the model again")
        fields = json.loads(data[body : body + metadata_bytes])
        if fields["config_hash"] != config_hash or fields["format_version"] != version:
            raise ImageError(f"{source} contradicts itself: header and metadata name different configurations")
        for key, kind in (("inputs", Port), ("outputs", Port), ("feeds", Feed), ("results", Result),
                          ("host_steps", HostStep)):
            fields[key] = [kind(**item) for item in fields[key]]
        fields["layers"] = [
            Layer(**{**item, "commands": [LayerCommand(**command) for command in item["commands"]]})
            for item in fields["layers"]
        ]
        fields["loading"] = None if fields["loading"] is None else Loading(**fields["loading"])
        return cls(image=data[body + metadata_bytes :], **fields)
