"""Devices by name: the golden model, the RTL simulation, a simulator that runs already, a board."""

from __future__ import annotations

from typing import Any

from hw.contract.config import Config, preset as preset_named
from sw_driver.device import Device

#: What `open_device` takes for `where`.
PLACES = ("golden", "rtl", "rtl:SOCKET", "uart:PORT", "uio:DEVICE")


def open_device(where: str = "rtl", preset: str | Config = "large", **options: Any) -> Device:
    """Open a device; use it in a `with` statement, which closes it and ends what was started for it.

    Parameters
    ----------
    where : "golden", the model in NumPy; "rtl", a simulation of the hardware, built if it is not there yet;
        "rtl:SOCKET", a simulator that serves that socket (a path, or HOST:PORT); "uart:PORT" or "uart:PORT@BAUD", a
        board on a serial port; "uio:DEVICE", a device in this system's address space (see links.memory_mapped).
    preset : name of a preset, or a Config.
    options : for "golden" those of GoldenLink, for "rtl" those of links.rtl.open_rtl (simulator, latency, waves, ...).

    Raises ValueError for another place, ConfigError for an unknown preset, LinkError when the device can't be
    reached or built, DeviceError when it is not what was asked for.
    """
    config = preset if isinstance(preset, Config) else preset_named(preset)
    if where == "golden":
        from sw_driver.links.golden import GoldenLink
        return Device(GoldenLink(config, **options), config)
    if where == "rtl":
        from sw_driver.links.rtl import open_rtl
        return Device(open_rtl(config, **options), config)
    if where.startswith("rtl:"):
        from sw_driver.links.rtl import RtlLink
        return Device(RtlLink(where.removeprefix("rtl:"), **options), config)
    if where.startswith("uart:"):
        from sw_driver.links.uart import open_uart
        return Device(open_uart(where.removeprefix("uart:"), **options), config)
    if where.startswith("uio:"):
        from sw_driver.links.memory_mapped import open_uio
        return Device(open_uio(where.removeprefix("uio:"), **options), config)
    raise ValueError(f"A device is one of {', '.join(PLACES)}, not {where!r}")
