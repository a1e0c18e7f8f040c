"""The four networks of MLPerf Tiny on one device: cycles, both engines' shares, and others' figures."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.measuring import SHARED_MODELS, Bench, Network
from benchmarks.tables import Section


class Model(NamedTuple):
    """A network and the estimate of Vela 5.2 for an Ethos-U55 with 128 multipliers, in cycles."""

    name: str
    folder: str
    ethos_u55_128: int


MODELS = (
    Model("ResNet-8 (image classification)", "ic", 184_083),
    Model("DS-CNN (keyword spotting)", "kws", 87_678),
    Model("MobileNetV1-0.25 (visual wake words)", "vww", 210_256),
    Model("autoencoder (anomaly detection)", "ad", 40_929),
)


def mlperf_tiny(bench: Bench) -> Section:
    """Cycles per inference, over all inputs; the engines' busy cycles are those of the slowest one."""
    rows: list[list[Any]] = []
    for model in MODELS:
        folder = SHARED_MODELS / model.folder
        for file in sorted(folder.glob("*.tflite")):
            network = Network(model.name, file, sorted((folder / "inputs").iterdir()))
            for folding in (True, False):
                runs = [bench.run(network.model, network.inputs(item), f"{model.folder}: {item.name}", folding=folding)
                        for item in network.files]
                slowest = max(runs, key=lambda run: run.cycles)
                busy = {engine: sum(span.cycles for span in slowest.timeline if span.engine == engine)
                        for engine in ("conv", "vector")}
                cycles = [run.cycles for run in runs]
                if folding:
                    least = min(cycles)
                    rows.append([model.name, len(runs), least, slowest.cycles, slowest.cycles, busy["conv"],
                                 busy["vector"], round(slowest.cycles / max(busy.values()), 3), model.ethos_u55_128,
                                 round(model.ethos_u55_128 / slowest.cycles, 2)])
                else:
                    rows[-1][4] = slowest.cycles
    return Section(
        "mlperf_tiny", "MLPerf Tiny",
        "Cycles from doorbell to interrupt, everything included, over all inputs; every output equals TFLite Micro's "
        "bit for bit. Unfolded: the most without folding of constant and unused channels. Busy: cycles in which an "
        "engine worked, in the slowest run; overlap: its cycles / the busier engine's. Ethos-U55-128: Vela 5.2's "
        "estimate, the same number of multipliers.",
        ["network", "inputs", "cycles, least", "cycles, most", "unfolded", "conv busy", "vector busy", "overlap",
         "Ethos-U55-128", "times faster"], rows)
