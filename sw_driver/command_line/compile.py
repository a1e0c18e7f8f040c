"""`lacuna compile`: a model becomes a program image."""

from __future__ import annotations

import argparse

from hw.contract.config import preset
from hw.contract.flash import flash_bytes, flash_content
from sw_driver.c.export import program_header
from sw_driver.command_line.memory_plan import memory_plan
from sw_driver.command_line.output import require_writable, wide_console, write_file, write_json
from sw_driver.compiler import compile_model
from sw_driver.compiler.channel_folding import folding_summary


def handle(options: argparse.Namespace) -> int:
    """Compile, write, say what was written. Without a file to write, say what would be."""
    require_writable(options.output)
    require_writable(options.json)
    require_writable(options.c_header)
    require_writable(options.flash_out)
    program = compile_model(options.model, options.preset, folding=options.folding, weights=options.weights,
                            bandwidth=options.bandwidth)
    data = program.to_bytes()
    header = "" if options.c_header is None else program_header(program, preset(options.preset), options.c_header.stem)
    if options.output is not None:
        write_file(options.output, data)
    if options.c_header is not None:
        write_file(options.c_header, header.encode())
    if options.flash_out is not None:
        write_file(options.flash_out, flash_content(program))
    if options.json is not None:
        write_json(options.json, {
            "model": str(options.model),
            "preset": options.preset,
            "config_hash": program.config_hash,
            "file_bytes": len(data),
            "image_bytes": len(program.image),
            "commands": program.command_count,
            "loading_commands": 0 if program.loading is None else program.loading.command_count,
            "layers": [{"name": layer.name, "op": layer.op, "engine": layer.engine, "shape": layer.shape,
                        "macs": layer.macs, "commands": len(layer.commands)} for layer in program.layers],
            "report": program.report,
        })
    print(f"{options.output or 'program'}: {len(data):,} bytes, {program.command_count} commands, "
          f"{len(program.layers)} layers, for preset {options.preset}")
    total = program.report["weights_total"]
    if total["raw_bytes"]:
        print(f"weights: {total['weight_bytes']:,} bytes in the image, {total['raw_bytes']:,} in the model, entropy "
              f"{total['entropy_bytes']:,.0f}; {total['rows_skipped']:,} of {total['rows']:,} weight rows are zero")
    residency = program.report["residency"]
    if residency is not None:
        print(f"resident: the weights of {residency['layers']} layers; those of {residency['streamed_layers']} others "
              f"are loaded for every run, {residency['streamed_bytes']:,} bytes")
        print(f"resident: {residency['loading_bytes']:,} bytes are loaded once, by a program of "
              f"{residency['loading_commands']} commands; they take {residency['store_bytes']:,} of "
              f"{residency['store_bytes_limit']:,} bytes of the weight store, {residency['map_bytes']:,} of "
              f"{residency['map_bytes_limit']:,} of the map memory, {residency['parameter_bytes']:,} of "
              f"{residency['parameter_bytes_limit']:,} of the parameter memory")
    summary = folding_summary(program.report["folding"])
    if summary:
        print(summary)
    if options.memory_plan:
        wide_console().print(memory_plan(program))
    if options.c_header is not None:
        print(f"{options.c_header}: the program as `lacuna_program {options.c_header.stem}`")
    if options.flash_out is not None:
        print(f"{options.flash_out}: {flash_bytes(program):,} bytes for a board's flash")
    return 0
