"""What synthesis and simulation flows read: file list, FuseSoC core, constraints, lint waivers."""

from __future__ import annotations

import json

from hw.contract.config import Config
from hw.delivery.interface import CLOCK, RESET

TOP = "lacuna"

#: Messages of `verilator --lint-only -Wall` that the generator's style causes, and why none hides a fault here.
WAIVED = {
    "ASCRANGE": "vectors of one word are written [0:0] with either bound first",
    "CASEINCOMPLETE": "a case without a match keeps the value that was assigned before it",
    "DECLFILENAME": "all modules are in one file",
    "PROCASSINIT": "registers have an initial value and are assigned in a clocked process",
    "UNUSEDSIGNAL": "parts of buses and of memory read ports are not used",
    "WIDTHEXPAND": "operands are extended as Verilog defines it",
    "WIDTHTRUNC": "results are cut to their target as Verilog defines it",
}


def file_list() -> str:
    """`lacuna.f`: the sources, relative to its folder (Verilator and most simulators: -F)."""
    return "lacuna.v\n"


def core_file(config: Config, version: str) -> str:
    """`lacuna.core`: a FuseSoC core (CAPI2) with targets `default` and `lint`."""
    return f"""CAPI=2:
name: ::{TOP}:{version}
description: {json.dumps(f"Lacuna neural processor, configuration {config.name} ({config.hash:#010x})")}

filesets:
  rtl:
    files:
      - lacuna.v
    file_type: verilogSource
  lint:
    files:
      - lacuna.vlt
    file_type: vlt
  registers:
    files:
      - lacuna_registers.h: {{is_include_file: true, include_path: .}}
    file_type: user

targets:
  default:
    filesets: [rtl]
    toplevel: {TOP}
  lint:
    default_tool: verilator
    filesets: [lint, rtl]
    toplevel: {TOP}
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wall]
"""


def constraints(config: Config) -> str:
    """`lacuna.sdc`: what the design expects of timing, as comments; the integrator knows the numbers."""
    return f"""# Timing intent of Lacuna '{config.name}'. Comments only: periods and delays are the integrator's.
#
# One clock. Everything in the device is clocked by the rising edge of {CLOCK}; there are no generated or gated
# clocks, no latches, no multicycle and no false paths inside:
#   create_clock -name lacuna -period <ns> [get_ports {CLOCK}]
#
# Reset. {RESET} is synchronous to {CLOCK}, active high, and must be high for at least one edge after power-up. Where it
# comes from another clock domain, synchronise both of its edges outside.
#
# AXI4 (m_axi_*) and AXI4-Lite (s_axil_*) are synchronous to {CLOCK}. VALID outputs and payloads come from registers or
# from little logic; READY outputs may depend on inputs of the same cycle. As a start, leave half of the period to
# either side:
#   set_input_delay  -clock lacuna <period / 2> [get_ports {{m_axi_* s_axil_*}} -filter direction==in]
#   set_output_delay -clock lacuna <period / 2> [get_ports {{m_axi_* s_axil_*}} -filter direction==out]
# Where the interconnect is too slow for that, put a register slice between.
#
# Interrupt. irq is a level, from a register and an AND gate; an asynchronous receiver synchronises it:
#   set_false_path -from [get_ports irq]    ;# only there
"""


def lint_waivers() -> str:
    """`lacuna.vlt`: with it `verilator --lint-only -Wall lacuna.vlt lacuna.v` says nothing."""
    lines = ["`verilator_config", "// Style of the generator. Everything else, latches and loops included, stays on."]
    for name, reason in WAIVED.items():
        lines += [f"// {reason}", f'lint_off -rule {name} -file "*lacuna.v"']
    return "\n".join([*lines, ""])
