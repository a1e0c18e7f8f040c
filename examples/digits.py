"""Read handwritten digits on the processor: `.venv/bin/python examples/digits.py`.

Prints each picture with what the network took it for, how sure it is, and the cycles of every layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import lacuna

MODELS = Path(__file__).resolve().parents[1] / "models"
SHADES = np.array(list(" ░▒▓█"))


def picture_lines(pixels: np.ndarray) -> list[str]:
    """uint8 [28][28] as 14 lines of text: a character is two pixels high."""
    rows = pixels.reshape(14, 2, 28).mean(axis=1)
    return ["".join(row) for row in SHADES[(rows * (len(SHADES) - 1) / 255).round().astype(int)]]


def result_lines(result: lacuna.RunResult) -> list[str]:
    """What the network says, then a line per layer."""
    probabilities = (result.output[0].astype(int) + 128) / 256  # scale 1/256, zero point -128
    digit = int(probabilities.argmax())
    lines = [f"a {digit}, probability {probabilities[digit]:.1%}, {result.cycles:,} cycles"]
    for layer in result.layers:
        if layer.engine != "host":
            line = f"  {layer.name:<16}{layer.cycles:>8,} cycles"
            if layer.macs:
                line += f"  {1 - layer.macs_issued / layer.macs:4.0%} of {layer.macs:,} MACs skipped"
            lines.append(line)
    return lines


def main() -> None:
    """Run every picture given, or those in the repository, one for each digit."""
    parser = argparse.ArgumentParser(description="Read handwritten digits on the processor.")
    parser.add_argument("pictures", nargs="*", type=Path, help="28 x 28 pixels, light ink on dark paper, as MNIST")
    parser.add_argument("--preset", default="small", choices=list(lacuna.PRESETS))
    parser.add_argument("--device", default="rtl", choices=["rtl", "golden"])
    arguments = parser.parse_args()

    program = lacuna.compile(MODELS / "digits.tflite", preset=arguments.preset)
    with lacuna.open(arguments.device, preset=arguments.preset) as device:
        for path in arguments.pictures or sorted((MODELS / "digits_inputs").glob("*.png")):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"))
            if pixels.shape != (28, 28):
                parser.error(f"{path}: the picture must have 28 x 28 pixels, not {pixels.shape[1]} x {pixels.shape[0]}")
            x = (pixels.astype(np.int16) - 128).astype(np.int8).reshape(1, 28, 28, 1)
            left, right = picture_lines(pixels), result_lines(device.run(program, {"input": x}))
            print(path.name)
            for line in range(max(len(left), len(right))):
                shown = left[line] if line < len(left) else ""
                print(f"  {shown:28}  {right[line] if line < len(right) else ''}".rstrip())


if __name__ == "__main__":
    main()
