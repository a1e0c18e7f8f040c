"""Verilog of a device: `python -m hw.verilog --preset large --out DIR` writes DIR/lacuna.v."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from amaranth.back import verilog

from hw.bus.axi import verilog_ports
from hw.contract.config import Config, preset
from hw.top import Lacuna


def generate(config: Config) -> str:
    """The device's Verilog, top module `lacuna`, clock `clk`, synchronous reset `rst`."""
    top = Lacuna(config)
    return verilog.convert(top, name="lacuna", ports=verilog_ports(top), emit_src=False, strip_internal_attrs=True)


def main() -> None:
    """Write the Verilog of a preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True, help="preset of hw.contract.config")
    parser.add_argument("--out", required=True, type=Path, help="folder to write lacuna.v to")
    arguments = parser.parse_args()
    text = generate(preset(arguments.preset))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "lacuna.v").write_text(text)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
