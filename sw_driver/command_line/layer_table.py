"""The table of layers that `lacuna run` prints, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from sw_driver.result import LayerResult

#: Longest layer name in the table; converters make names of several hundred characters.
NAME_LIMIT = 32


def layer_table(layers: Sequence[LayerResult], total_cycles: int) -> Table:
    """One row per layer, and their sum.

    util. : multiply-accumulates issued / (cycles x multipliers). act. 0, weight 0, gated : shares of the layer's
    multiply-accumulates that were skipped for a zero activation, a row of zero weights, a pixel that is switched off.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("layer", "all layers", overflow="ellipsis")
    table.add_column("operator", overflow="ellipsis")
    table.add_column("output", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    macs = sum(layer.macs for layer in layers)
    for title, footer in (
        ("MACs", f"{macs:,}"),
        ("cycles", f"{total_cycles:,}"),
        ("util.", ""),
        ("act. 0", _share(sum(layer.skipped_activation for layer in layers), macs)),
        ("weight 0", _share(sum(layer.skipped_weight for layer in layers), macs)),
        ("gated", _share(sum(layer.gated for layer in layers), macs)),
    ):
        table.add_column(title, footer, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            escape(shortened(layer.name, NAME_LIMIT)), layer.op, "x".join(map(str, layer.shape)), layer.engine,
            f"{layer.macs:,}" if layer.macs else "", f"{layer.cycles:,}" if layer.engine != "host" else "",
            f"{layer.utilisation:.1%}" if layer.macs else "", _share(layer.skipped_activation, layer.macs),
            _share(layer.skipped_weight, layer.macs), _share(layer.gated, layer.macs),
        )
    return table


def layer_json(layer: LayerResult) -> dict[str, Any]:
    """A layer as in the JSON of `lacuna run`."""
    return {
        "name": layer.name, "op": layer.op, "engine": layer.engine, "cycles": layer.cycles, "macs": layer.macs,
        "macs_issued": layer.macs_issued, "skipped_activation": layer.skipped_activation,
        "skipped_weight": layer.skipped_weight, "gated": layer.gated, "utilisation": layer.utilisation,
    }


def shortened(name: str, limit: int) -> str:
    """The end of a long tensor name: converters put scopes in front, and names of fused tensors behind a semicolon."""
    first = name.partition(";")[0]
    return first if len(first) <= limit else "…" + first[-(limit - 1):]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
