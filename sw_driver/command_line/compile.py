"""`lacuna compile`: a model becomes a program image."""

from __future__ import annotations

import argparse

from sw_driver.command_line.output import require_writable, write_file, write_json
from sw_driver.compiler import compile_model


def handle(options: argparse.Namespace) -> int:
    """Compile, write, say what was written."""
    require_writable(options.output)
    require_writable(options.json)
    program = compile_model(options.model, options.preset)
    data = program.to_bytes()
    write_file(options.output, data)
    if options.json is not None:
        write_json(options.json, {
            "model": str(options.model),
            "preset": options.preset,
            "config_hash": program.config_hash,
            "file_bytes": len(data),
            "image_bytes": len(program.image),
            "commands": program.command_count,
            "layers": [{"name": layer.name, "op": layer.op, "engine": layer.engine, "shape": layer.shape,
                        "macs": layer.macs, "commands": len(layer.commands)} for layer in program.layers],
            "report": program.report,
        })
    print(f"{options.output}: {len(data):,} bytes, {program.command_count} commands, {len(program.layers)} layers, "
          f"for preset {options.preset}")
    return 0
