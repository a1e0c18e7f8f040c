"""Train the scenes networks: `python -m models.train_scenes [NAME ...]`. Needs the extra `train` (PyTorch, mlxtend).

    1. ungated and static networks: CROP_EPOCHS epochs, every training digit in a new scene in each of them, of which
       the 32 x 32 pixels around the digit are shown, clutter growing; then EPOCHS epochs of whole scenes
    2. from the ungated one after step 1, for the epochs of TUNING: each gated one, with the budget as a term of the
       loss, and the ungated one itself

Writes the float weights, batch normalisation folded, to scenes/<name>.npz; `python -m models.quantise_scenes` makes
the int8 TFLite files of them. The weights of the last epoch are taken; the held-out digits choose nothing.
"""

# PyTorch comes with the extra `train` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import digits_data
from models.digits_data import Digits, Images
from models.digits_network import IMAGE_SIZE
from models.scenes_data import FOLDER, Scenes, make_scenes, save_held_out
from models.scenes_network import MASK, NETWORKS, SCENE_SIZE, SCORE, UNGATED
from models.torch_network import TorchNetwork
from models.train_digits import augment

SEED = 11
BATCH = 64
CROP_EPOCHS, CROP_RATE = 36, 0.1
EPOCHS, LEARNING_RATE = 10, 0.05
TUNING_RATE = 0.02
WEIGHT_DECAY = 5e-4

#: Side of the crops that networks learn digits on before they learn to find them, and the share of these epochs
#: during which clutter grows from none to all of it.
CROP = 32
_CLEAN = 0.4

#: What the budget starts at, and the share of the steps during which it falls to its value.
_START, _FALL = 0.99, 0.5


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Epochs of step 2; budget, the share of active pixels aimed at, None without gates; weight of (share of active
    pixels - budget) squared beside the cross entropy."""

    epochs: int
    budget: float | None = None
    weight: float = 0.0


#: Step 2 of the ungated network and of those made of it. The smallest budget takes longer, and more force.
TUNING = {
    UNGATED: Tuning(8),
    "gated_50": Tuning(8, 0.5, 50.0),
    "gated_30": Tuning(8, 0.3, 50.0),
    "gated_20": Tuning(8, 0.2, 50.0),
    "gated_10": Tuning(16, 0.1, 200.0),
}

#: The ungated network after step 1, where the steps run one by one.
_BASE = "base"


def batches(training: Digits, epochs: int, seed: int, *, crops: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [64][1][64][64], 0 to 1, and labels [64]: in each epoch every digit once, in a scene of its own.

    With `crops`, images are the CROP x CROP pixels about the digit, and clutter grows during the first epochs.
    """
    torch_generator = torch.Generator().manual_seed(seed)
    generator = np.random.default_rng(seed)
    digits = torch.from_numpy(training.images.astype(np.float32) / 255).unsqueeze(1)
    for epoch in range(epochs):
        order = generator.permutation(len(training))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            moved = augment(digits[chosen], torch_generator).squeeze(1).numpy()
            ink = np.clip(np.rint(moved * 255), 0, 255).astype(np.uint8)
            clutter = min(1.0, (epoch + at / len(order)) / (_CLEAN * epochs)) if crops else 1.0
            scenes = make_scenes(ink, training.labels[chosen], training.images, generator, clutter)
            shown = _crops(scenes, generator) if crops else scenes.images
            images = torch.from_numpy(shown.astype(np.float32) / 255).unsqueeze(1)
            yield images.contiguous(memory_format=torch.channels_last), torch.from_numpy(scenes.labels.astype(np.int64))


def _crops(scenes: Scenes, generator: np.random.Generator) -> Images:
    """uint8 [n][CROP][CROP]: each digit's 28 x 28 pixels, at a random place of the crop."""
    spare = CROP - IMAGE_SIZE
    corners = np.clip(scenes.corners - generator.integers(0, spare + 1, scenes.corners.shape), 0, SCENE_SIZE - CROP)
    return np.stack([image[y : y + CROP, x : x + CROP] for image, (y, x) in zip(scenes.images, corners, strict=True)])


def fit(network: TorchNetwork, training: Digits, tuning: Tuning, rate: float, seed: int, *,
        crops: bool = False) -> None:
    """SGD with Nesterov momentum; the learning rate warms up, then falls as a cosine.

    With a budget, weight * (share of active pixels in the batch - budget)^2 is added to the loss. The budget falls
    to its value from one that leaves the blocks almost as they are, so that they need not be learnt again.
    """
    epochs, budget = tuning.epochs, tuning.budget
    per_epoch = len(training) // BATCH
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch, pct_start=0.1)
    sums = np.zeros(3)
    start = time.monotonic()
    for step, (images, labels) in enumerate(batches(training, epochs, seed, crops=crops), start=1):
        tensors = network.tensors(images)
        loss = functional.cross_entropy(tensors["logits"], labels)
        right = (tensors["logits"].argmax(dim=1) == labels).double().mean().item()
        sums += loss.item(), right, tensors[MASK].mean().item() if budget is not None else 1.0
        if budget is not None:
            left = max(0.0, 1 - step / (_FALL * epochs * per_epoch))
            allowed = budget + (_START - budget) * left
            loss = loss + tuning.weight * torch.square(tensors[MASK].mean() - allowed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % per_epoch == 0:
            cross_entropy, accuracy, density = sums / per_epoch
            print(f"epoch {step // per_epoch:3} of {epochs}: cross entropy {cross_entropy:.4f}, {accuracy:.2%} right, "
                  f"{density:.1%} of the pixels, {time.monotonic() - start:.0f} s", flush=True)
            sums[:] = 0


def pretrained(name: str, training: Digits) -> TorchNetwork:
    """Step 1 for a network without gates."""
    torch.manual_seed(SEED)
    network = TorchNetwork(NETWORKS[name]).to(memory_format=torch.channels_last).train()
    fit(network, training, Tuning(CROP_EPOCHS), CROP_RATE, SEED, crops=True)
    with torch.no_grad():  # the average is over so many times more pixels, most of them without a digit
        network.weighted["logits"].weight.mul_((SCENE_SIZE // CROP) ** 2)
    fit(network, training, Tuning(EPOCHS), LEARNING_RATE, SEED)
    return network


def tuned(name: str, base: dict[str, Tensor], training: Digits) -> TorchNetwork:
    """Step 2 for a network, from the ungated one of step 1."""
    torch.manual_seed(SEED + 1)
    network = TorchNetwork(NETWORKS[name]).to(memory_format=torch.channels_last)
    network.load_state_dict(base, strict=False)
    network.train()
    if TUNING[name].budget is not None:
        _start_decision(network, training)
    fit(network, training, TUNING[name], TUNING_RATE, SEED + 1)
    return network


@torch.no_grad()
def _start_decision(network: TorchNetwork, training: Digits) -> None:
    """Shift the scores, of random weights and normalised, so that about the share _START of the pixels is active."""
    images, _labels = next(batches(training, 1, SEED + 2))
    scores = network.tensors(images)[SCORE].flatten()
    norm = network.normalised[SCORE]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.bias.fill_(-torch.quantile(scores, 1 - _START).item())


def _base_of(kept: Path | None, training: Digits) -> dict[str, Tensor]:
    """The ungated network after step 1, from the file that keeps it where there is one."""
    if kept is not None and kept.exists():
        return torch.load(kept)
    print(f"{_BASE}:", flush=True)
    base = pretrained(UNGATED, training).state_dict()
    if kept is not None:
        torch.save(base, kept)
    return base


def main() -> None:
    """Train the networks named, or all; write their float weights."""
    parser = argparse.ArgumentParser(prog="python -m models.train_scenes", description="Train the scenes networks.")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"of {', '.join(NETWORKS)}; '{_BASE}': step 1 of the ungated one only, kept in --base")
    parser.add_argument("--base", type=Path, help="file of step 1's ungated network: read where it exists, else made")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums then have one order: the same weights on every run on this kind of machine
    training, held_out = digits_data.load()
    save_held_out(held_out)
    wanted = arguments.names or list(NETWORKS)
    own = [name for name in wanted if name.startswith("static")]
    base = _base_of(arguments.base, training) if len(own) < len(wanted) else {}
    for name in wanted:
        if name == _BASE:
            continue
        print(f"{name}:", flush=True)
        network = pretrained(name, training) if name in own else tuned(name, base, training)
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, allow_pickle=False,
                            **{key: value.astype(np.float16) for key, value in network.folded().items()})
        print(f"written: {path.name}")


if __name__ == "__main__":
    main()
