"""Quantise the scenes networks: `python -m models.quantise_scenes [NAME ...]`. Needs neither PyTorch nor mlxtend.

Reads the float weights scenes/<name>.npz, writes scenes/<name>.tflite and the sample scenes as pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.digits_data import Images, load_samples
from models.digits_network import CLASSES
from models.quantise import build
from models.scenes_data import FOLDER, held_out_scenes, load_held_out, make_scenes
from models.scenes_network import NETWORKS
from sw_driver.tflite.builder import TfliteBuilder

#: Training scenes that scales are found on, and their seed.
CALIBRATION_SCENES = 32
_CALIBRATION_SEED = 65

#: Pictures of held-out scenes, one of each digit: scene_0.png to scene_9.png.
PICTURES = FOLDER / "inputs"


def model_path(name: str) -> Path:
    """The TFLite file of a network."""
    return FOLDER / f"{name}.tflite"


def float_weights(name: str) -> dict[str, NDArray[np.float32]]:
    """What `train_scenes` wrote (float16 values) for `models.float_reference.forward`."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        return {key: stored[key].astype(np.float32) for key in stored.files}


def calibration_scenes() -> Images:
    """uint8 [n][64][64]: scenes of training digits."""
    calibration, _held_out = load_samples()
    chosen = calibration.take(np.arange(CALIBRATION_SCENES))
    generator = np.random.default_rng(_CALIBRATION_SEED)
    return make_scenes(chosen.images, chosen.labels, calibration.images, generator).images


def quantised(name: str) -> TfliteBuilder:
    """The int8 model of a network."""
    return build(NETWORKS[name], float_weights(name), calibration_scenes())


def save_pictures() -> None:
    """Write PICTURES: of each digit the first of the held-out scenes."""
    scenes = held_out_scenes(load_held_out())
    for digit in range(CLASSES):
        first = int(np.flatnonzero(scenes.labels == digit)[0])
        Image.fromarray(scenes.images[first]).save(PICTURES / f"scene_{digit}.png")


def main() -> None:
    """Write the models named, or all, and the pictures."""
    parser = argparse.ArgumentParser(prog="python -m models.quantise_scenes",
                                     description="Quantise the scenes networks and write the models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    for name in parser.parse_args().names or NETWORKS:
        path = model_path(name)
        quantised(name).save(path)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")
    save_pictures()


if __name__ == "__main__":
    main()
