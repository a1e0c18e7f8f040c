"""Verilog of a device: `python -m hw.verilog --preset large --out DIR` writes DIR/lacuna.v.

`python -m hw.delivery` writes it with everything that an integrator needs beside it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from amaranth.back import verilog

from hw.bus.axi import verilog_ports
from hw.contract.config import Config, preset
from hw.top import Lacuna


def generate(config: Config, platform: Any = None) -> str:
    """The device's Verilog, top module `lacuna`, clock `clk`, synchronous reset `rst`.

    `platform` may have a method `get_memory(memory)`: it gets every `amaranth.lib.memory.Memory` of the device and
    returns the elaboratable that stands for it, for instance SRAM macros; `memory.elaborate(None)` leaves one as it is.
    """
    return convert(Lacuna(config), platform)


def convert(top: Lacuna, platform: Any = None) -> str:
    """The Verilog of a device that is there already; as `generate`."""
    return verilog.convert(top, name="lacuna", platform=platform, ports=verilog_ports(top), emit_src=False,
                           strip_internal_attrs=True)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """--preset NAME or --config FILE, for `config_of`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--preset", help="preset of hw.contract.config")
    which.add_argument("--config", type=Path, help="JSON file with the fields of a Config")


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that the options name. Raises ConfigError, OSError, ValueError."""
    return preset(arguments.preset) if arguments.preset else Config(**json.loads(arguments.config.read_text()))


def main() -> None:
    """Write the Verilog of a configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_options(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder to write lacuna.v to")
    arguments = parser.parse_args()
    text = generate(config_of(arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "lacuna.v").write_text(text)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
