"""AXI4 and AXI4-Lite as wiring signatures, and the names of their signals in Verilog.

Signals, widths and codes are those of the AMBA AXI and ACE protocol specification (ARM IHI 0022).
"""

from __future__ import annotations

import enum

from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.contract.config import Config
from hw.contract.registers import ADDRESS_BYTES

#: Bytes that no burst may cross a multiple of.
PAGE_BYTES = 4096

#: AxBURST of an incrementing burst, the only kind used here.
BURST_INCR = 1

#: AxCACHE used here: normal memory, not cacheable, bufferable.
CACHE_NORMAL = 0b0011


class Response(enum.IntEnum):
    """Values of RRESP and BRESP; bit 1 is set in the two errors."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def _address_channel(prefix: str, address_bits: int) -> dict[str, wiring.Member]:
    return {
        f"{prefix}id": Out(1),
        f"{prefix}addr": Out(address_bits),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}qos": Out(4),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


class AXI4Read(wiring.Signature):
    """The read channels of AXI4 (AR, R), seen from the master; IDs have one bit and are zero."""

    def __init__(self, config: Config):
        super().__init__({
            **_address_channel("ar", config.axi_address_bits),
            "rid": In(1),
            "rdata": In(config.axi_data_bits),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        })


class AXI4Write(wiring.Signature):
    """The write channels of AXI4 (AW, W, B), seen from the master; IDs have one bit and are zero."""

    def __init__(self, config: Config):
        super().__init__({
            **_address_channel("aw", config.axi_address_bits),
            "wdata": Out(config.axi_data_bits),
            "wstrb": Out(config.axi_data_bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        })


class AXI4(wiring.Signature):
    """All five channels of AXI4, seen from the master: the members of AXI4Write and AXI4Read together."""

    def __init__(self, config: Config):
        super().__init__({**dict(AXI4Write(config).members.items()), **dict(AXI4Read(config).members.items())})


class AXI4Lite(wiring.Signature):
    """AXI4-Lite with 32-bit data and the addresses of the register table, seen from the master."""

    def __init__(self):
        address_bits = (ADDRESS_BYTES - 1).bit_length()
        super().__init__({
            "awaddr": Out(address_bits),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(address_bits),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        })


def verilog_ports(component: wiring.Component) -> dict[str, tuple[Value, None]]:
    """`ports` for `amaranth.back.verilog.convert`, with the customary names: `m_axi_awaddr`, not `m_axi__awaddr`.

    Directions are left to Amaranth: what the component drives is an output.
    """
    return {"_".join(map(str, path)): (Value.cast(value), None)
            for path, _member, value in component.signature.flatten(component)}
