"""The memory plan that `lacuna compile --memory-plan` prints."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from hw.contract.image import Program
from sw_driver.command_line.layer_table import NAME_LIMIT, shortened


def memory_plan(program: Program) -> Table:
    """One row per feature map: bytes, the byte address in feature memory, the layers from which to which it is kept.

    Maps that share an address over the same layers are written in place of one another. One without an address does
    not fit: it lives in external memory, and comes on chip in stripes of rows.
    """
    report = program.report
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("feature map", "most in use at once")
    table.add_column("bytes", f"{report['feature_bytes_used']:,} of {report['feature_bytes']:,}", justify="right")
    for title in ("address", "first layer", "last layer"):
        table.add_column(title, justify="right", no_wrap=True)
    names = [layer.name for layer in program.layers]
    for item in report["feature_maps"]:
        address = item["byte_address"]
        table.add_row(
            escape(shortened(item["name"], NAME_LIMIT)), f"{item['bytes']:,}",
            "external" if address is None else f"{address:#08x}",
            *(f"{position} {escape(shortened(names[position], NAME_LIMIT))}"
              for position in (item["first_layer"], item["last_layer"])))
    return table
