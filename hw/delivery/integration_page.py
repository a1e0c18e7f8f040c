"""`integration.md`: how to put the device into a design. Ports, sizes and names are those of this very device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hw.contract.config import Config
from hw.contract.registers import ADDRESS_BYTES, Window
from hw.delivery.flow_files import TOP
from hw.delivery.interface import CLOCK, RESET, MemoryShape, VerilogPort
from hw.delivery.manifest import total_bits

_PURPOSE = {
    CLOCK: "clock, rising edge",
    RESET: "synchronous reset, active high",
    "irq": "interrupt, level, active high",
    "m_axi": "AXI4 to external memory: the device is the manager",
    "s_axil": "AXI4-Lite registers: the host is the manager",
}

_DIAGRAM = """
        +-----------------+
        |      host       |
        +-----------------+
          |             ^
          | AXI4-Lite   | irq
          v s_axil      |
        +-----------------+   m_axi, AXI4   +-----------------+
{clock:>5} ->|     lacuna      |---------------->| external memory |
{reset:>5} ->|                 |  {data:>3} bits       |                 |
        +-----------------+                 +-----------------+
"""


def integration_page(config: Config, ports: Sequence[VerilogPort], memories: Sequence[MemoryShape]) -> str:
    """The page in Markdown."""
    return "\n\n".join([
        f"# Lacuna `{config.name}` in your design",
        (f"Module `{TOP}` in `lacuna.v`, plain Verilog-2001. Configuration hash `{config.hash:#010x}`: register CONFIG "
         "reads it, and programs compiled for another configuration are refused."),
        "```" + _DIAGRAM.format(clock=CLOCK, reset=RESET, data=config.axi_data_bits) + "```",
        "## Ports",
        _table(("ports", "what"), (
            (f"`{group}_*`" if group in ("m_axi", "s_axil") else f"`{group}`", _PURPOSE[group])
            for group in dict.fromkeys(port.group for port in ports))),
        _table(("port", "direction", "bits"), ((f"`{port.name}`", port.direction, str(port.width)) for port in ports)),
        "## Minimal instantiation",
        "`soc_*` are the signals of your design, each as wide as its port.",
        f"```verilog\n{instantiation(ports)}\n```",
        "## What it asks of its surroundings",
        f"""\
- Everything is synchronous to `{CLOCK}`. `{RESET}` must be high for at least one rising edge after power-up.
- `{RESET}` forgets bursts that are under way: it must also reset what the AXI4 port is connected to. A soft reset \
(CONTROL) ends every burst that was begun.
- External memory: AXI4 with {config.axi_data_bits} data bits and {config.axi_address_bits} address bits, INCR bursts \
of up to {config.burst_beats} beats that end at multiples of their longest length and so cross no 4 KiB boundary, up \
to {config.reads_outstanding} read bursts under way, IDs of one bit that are always 0. Writes come only \
as whole words. The memory must be coherent with what the host \
wrote before it rings the doorbell.
- Registers: {ADDRESS_BYTES} bytes of address space, see `registers.md`, `registers.rdl`, `lacuna_registers.h`.
- The device accesses nothing outside the {len(Window)} address windows that software sets; after reset all are closed.
- Any bus error ends the program with an error code and the interrupt; a soft reset makes the device usable again.""",
        "## First steps of a bring-up",
        f"""\
1. Read ID, FORMAT and CONFIG and compare them with `manifest.json`.
2. Set the windows, write WATCHDOG, INTERRUPT_ENABLE and PROGRAM, then CONTROL.START; STATUS tells the rest.
   `lacuna.h` and `lacuna.c` do all of this in C, for a program that `lacuna compile --preset {config.name} \
--c-header` wrote.""",
        "## Memories",
        f"""\
{total_bits(memories) / 8192:.1f} KiB in all. Synchronous reads are registered, and infer block RAM in \
FPGA tools; asynchronous reads infer distributed RAM, or registers. Each is named after the source that makes it.""",
        _table(("memory", "count", "words", "bits", "synchronous reads", "asynchronous reads", "writes"), (
            (f"`{memory.path}`", *(str(value) for value in (memory.count, memory.depth, memory.width, memory.reads,
                                                            memory.asynchronous_reads, memory.writes)))
            for memory in memories)),
        """For SRAM macros there is one hook. Every memory is an `amaranth.lib.memory.Memory`, and Amaranth asks the \
platform for it: give `hw.verilog.generate(config, platform)` an object with a method `get_memory(memory)`. It gets \
the memory (`memory.depth`, `memory.shape`, `memory.read_ports`, `memory.write_ports`) and returns the elaboratable \
that stands for it, for instance an `Instance` of a macro wired to the signals of the ports. For memories that it \
leaves to inference it returns `memory.elaborate(None)`.""",
        "## Checks",
        """\
- `verilator --lint-only -Wall lacuna.vlt lacuna.v` says nothing; `lacuna.vlt` says what is waived, and why.
- `manifest.json` has the SHA-256 of every file, and the versions of the tools that wrote them.
- `lacuna.sdc` says what the design expects of timing; `lacuna.core` is for FuseSoC, `lacuna.f` for everything else.""",
    ]) + "\n"


def instantiation(ports: Sequence[VerilogPort]) -> str:
    """An instance of the module with every port connected to a signal `soc_<port>`."""
    width = max(len(port.name) for port in ports)
    lines = [f"    .{port.name:<{width}} (soc_{port.name})" for port in ports]
    return f"{TOP} u_{TOP} (\n" + ",\n".join(lines) + "\n);"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
