"""Address windows: the only parts of external memory that the device may touch."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data

from hw.contract.config import WINDOWS, Config


def window_layout(config: Config) -> data.StructLayout:
    """One window: first byte address, bytes, and the two Permission bits."""
    return data.StructLayout({
        "base": unsigned(config.axi_address_bits),
        "size": unsigned(32),
        "read": unsigned(1),
        "write": unsigned(1),
    })


def window_table(config: Config) -> data.ArrayLayout:
    """All windows, as the register block holds them and the masters read them."""
    return data.ArrayLayout(window_layout(config), WINDOWS)
