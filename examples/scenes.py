"""Find and read a digit in a cluttered scene: `.venv/bin/python examples/scenes.py`, or `make demo`.

The network decides on the device which pixels it looks closer at. For each picture this prints what the network
found, where it looked (also as a PNG), and the cycles beside those of the same network without gates. Every result
is compared with TFLite Micro's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

import lacuna
from hw.contract.commands import Opcode
from sw_driver.oracle import run_oracle

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models" / "scenes"
UNGATED = MODELS / "ungated.tflite"
SIZE = 64

#: The map that the decision is made on; it is brought back beside the result, to show where it is at least zero.
SCORE = "score"

#: From paper to ink, where the terminal has no colours.
SHADES = " ░▒▓█"

#: Which of the ten pictures are run where none are given.
DEFAULT_PICTURES = slice(None, None, 3)


class Seen(NamedTuple):
    """A run: the result, the mask of active pixels (bool [32][32]; None without gates), whether all is exact."""

    result: lacuna.RunResult
    mask: np.ndarray | None
    exact: bool


def run(device: lacuna.Device, model: Path, pixels: np.ndarray) -> Seen:
    """Run a picture, uint8 [64][64]. The mask is what the device's scores say; that as many pixels were active as it
    has is part of `exact`."""
    inputs = {"input": (pixels.astype(np.int16) - 128).astype(np.int8).reshape(1, SIZE, SIZE, 1)}
    gated = model != UNGATED
    program = lacuna.compile(model, preset=device.config, also=[SCORE] if gated else [])
    result = device.run(program, inputs)
    probabilities, *scores = result.outputs.values()
    exact = np.array_equal(probabilities, run_oracle(model, inputs)[0])
    if not gated:
        return Seen(result, None, exact)
    zero_point = next(port.zero_point for port in program.outputs if port.name == SCORE)
    mask = scores[0][0, :, :, 0] >= zero_point
    counted = sum(record["active_pixels"] for record in result.records if record["opcode"] == Opcode.DECIDE)
    return Seen(result, mask, exact and counted == mask.sum())


def in_terminal(colours: np.ndarray, coloured: bool) -> Text:
    """uint8 [height][width][3] in the terminal, two pixels in a character; without colours, as shades."""
    text = Text()
    for upper, lower in zip(colours[::2].astype(int), colours[1::2].astype(int), strict=True):
        for a, b in zip(upper, lower, strict=True):
            if coloured:
                text.append("▀", style=f"rgb({a[0]},{a[1]},{a[2]}) on rgb({b[0]},{b[1]},{b[2]})")
            else:
                text.append(SHADES[(a[0] + b[0]) * len(SHADES) // 511])
        text.append("\n")
    return text


def overlay(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [64][64][3]: the picture, dark and blue where the network did not look."""
    inside = np.kron(mask, np.ones((2, 2), bool))[..., np.newaxis]
    grey = np.repeat(pixels[..., np.newaxis], 3, axis=2).astype(np.float32)
    return np.where(inside, grey, grey * (0.25, 0.25, 0.6) + (0, 0, 30)).astype(np.uint8)


def shrink(colours: np.ndarray) -> np.ndarray:
    """uint8 [64][64][3] as [32][32][3]: means of 2 x 2."""
    return colours.reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8)


def digit(seen: Seen) -> str:
    """What the network says."""
    stored = next(iter(seen.result.outputs.values()))[0].astype(int)
    probabilities = (stored + 128) / 256  # scale 1/256, zero point -128
    found = int(probabilities.argmax())
    return f"a {found}, probability {probabilities[found]:.1%}"


def show(console: Console, path: Path, pixels: np.ndarray, gated: Seen, dense: Seen, written: Path) -> None:
    """Print a picture's results beside it, and write the mask's PNG."""
    assert gated.mask is not None
    picture = overlay(pixels, gated.mask)
    Image.fromarray(picture).resize((8 * SIZE, 8 * SIZE), Image.Resampling.NEAREST).save(written)
    macs = [sum(layer.macs - layer.gated for layer in seen.result.layers) for seen in (gated, dense)]
    lines = Text.from_markup(
        f"[bold]{path.name}[/]\n"
        f"gated     {digit(gated)}\n"
        f"          {gated.result.cycles:,} cycles, {macs[0]:,} MACs, {gated.mask.mean():.1%} of the pixels looked at\n"
        f"ungated   {digit(dense)}\n"
        f"          {dense.result.cycles:,} cycles, {macs[1]:,} MACs\n"
        f"{dense.result.cycles / gated.result.cycles:.2f} times fewer cycles, "
        f"{macs[1] / macs[0]:.2f} times fewer MACs\n"
        f"TFLite Micro: {'equal bit for bit' if gated.exact and dense.exact else '[red]DIFFERENT[/]'}\n"
        f"mask: {written}")
    coloured = console.color_system is not None
    pictures = Table.grid(padding=(0, 2))
    pictures.add_row(in_terminal(shrink(np.repeat(pixels[..., np.newaxis], 3, axis=2)), coloured),
                     in_terminal(shrink(picture), coloured))
    console.print(pictures)
    console.print(lines, highlight=False, soft_wrap=True)
    console.print()


def main() -> int:
    """Run every picture given, or some in the repository. Returns 1 where a result is not exact."""
    parser = argparse.ArgumentParser(description="Find and read a digit in a cluttered scene.")
    parser.add_argument("pictures", nargs="*", type=Path, help="64 x 64 pixels, light ink on dark paper")
    parser.add_argument("--model", type=Path, default=MODELS / "gated_10.tflite",
                        help="a gated network of models/scenes")
    parser.add_argument("--preset", default="large", choices=list(lacuna.PRESETS))
    parser.add_argument("--device", default="rtl", choices=["rtl", "golden"])
    parser.add_argument("--masks", type=Path, default=ROOT / "build" / "demo", metavar="DIR", help="where PNGs go")
    options = parser.parse_args()
    options.masks.mkdir(parents=True, exist_ok=True)
    console = Console()
    exact = True
    with console.status("Opening the device (the simulator is built once)") as status:
        given = {"progress": status.update} if options.device == "rtl" else {}
        with lacuna.open(options.device, preset=options.preset, **given) as device:
            for path in options.pictures or sorted((MODELS / "inputs").glob("*.png"))[DEFAULT_PICTURES]:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("L"))
                if pixels.shape != (SIZE, SIZE):
                    parser.error(f"{path}: the picture must have {SIZE} x {SIZE} pixels, not {pixels.shape[1]} x "
                                 f"{pixels.shape[0]}")
                status.update(f"Running {path.name} on {options.device}")
                gated, dense = run(device, options.model, pixels), run(device, UNGATED, pixels)
                show(console, path, pixels, gated, dense, options.masks / f"{path.stem}_mask.png")
                exact = exact and gated.exact and dense.exact
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
