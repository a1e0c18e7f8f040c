"""`manifest.json`: what was built, with what, and how it looks from outside."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hw.contract.config import FORMAT_VERSION, Config
from hw.contract.registers import ADDRESS_BYTES
from hw.delivery.flow_files import TOP
from hw.delivery.interface import CLOCK, RESET, MemoryShape, VerilogPort


def manifest(config: Config, ports: Iterable[VerilogPort], memories: Iterable[MemoryShape],
             files: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """The manifest's text. `files` are those it lists, by name, with their text; `versions` of the tools, by name."""
    value: dict[str, Any] = {
        "name": "lacuna",
        "top": TOP,
        "configuration": {**dataclasses.asdict(config), "hash": f"{config.hash:#010x}"},
        "format_version": FORMAT_VERSION,
        "clock": {"port": CLOCK, "edge": "rising"},
        "reset": {"port": RESET, "kind": "synchronous", "active": "high"},
        "interrupt": {"port": "irq", "kind": "level", "active": "high"},
        "buses": [
            {"prefix": "m_axi", "protocol": "AXI4", "role": "manager", "data_bits": config.axi_data_bits,
             "address_bits": config.axi_address_bits, "id_bits": 1, "burst_beats": config.burst_beats,
             "reads_outstanding": config.reads_outstanding},
            {"prefix": "s_axil", "protocol": "AXI4-Lite", "role": "subordinate", "data_bits": 32,
             "address_bits": (ADDRESS_BYTES - 1).bit_length()},
        ],
        "ports": [dataclasses.asdict(port) for port in ports],
        "memories": [dataclasses.asdict(memory) for memory in memories],
        "tools": dict(versions),
        "files": [{"name": name, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
                  for name, text in sorted(files.items())],
    }
    return json.dumps(value, indent=2) + "\n"


def total_bits(memories: Sequence[MemoryShape]) -> int:
    """Bits in all memories together."""
    return sum(memory.count * memory.depth * memory.width for memory in memories)
