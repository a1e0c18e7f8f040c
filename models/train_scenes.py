"""Train the scenes networks: `python -m models.train_scenes [NAME ...]`. Needs the extra `train` (PyTorch, mlxtend).

    1. ungated and static networks: CROP_EPOCHS epochs, every training digit in a new scene in each of them, of which
       the 32 x 32 pixels around the digit are shown, clutter growing; then EPOCHS epochs of whole scenes
    2. TUNING_EPOCHS more epochs: ungated and static networks each from its own step 1; gated ones from the ungated
       network's step 1, with the budget as a term of the loss

So every network sees as many scenes as every other. Writes the float weights, batch normalisation folded, to
scenes/<name>.npz; `python -m models.quantise_scenes` makes the int8 TFLite files of them. The weights of the last
epoch are taken; the held-out digits choose nothing.
"""

# PyTorch comes with the extra `train` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator

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
TUNING_EPOCHS, TUNING_RATE = 16, 0.02
WEIGHT_DECAY = 5e-4

#: Side of the crops that networks learn digits on before they learn to find them, and the share of these epochs
#: during which clutter grows from none to all of it.
CROP = 32
_CLEAN = 0.4

#: What the budget starts at, and the share of the steps during which it falls to its value.
_START, _FALL = 0.99, 0.5


@dataclasses.dataclass(frozen=True)
class Budget:
    """`share` of active pixels aimed at; `force` times (share in the batch - `share`)^2 joins the cross entropy."""

    share: float
    force: float


#: Budgets of the gated networks. The smaller, the more force it takes.
GATED = {
    "gated_50": Budget(0.5, 50.0),
    "gated_30": Budget(0.3, 50.0),
    "gated_20": Budget(0.2, 100.0),
    "gated_10": Budget(0.1, 200.0),
}


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


def fit(network: TorchNetwork, training: Digits, epochs: int, rate: float, seed: int, *, budget: Budget | None = None,
        crops: bool = False) -> None:
    """SGD with Nesterov momentum; the learning rate warms up, then falls as a cosine.

    The budget falls to its share from one that leaves the blocks almost as they are, so that they need not be learnt
    again.
    """
    per_epoch = len(training) // BATCH
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch, pct_start=0.1)
    sums = np.zeros(3)
    start = time.process_time()
    for step, (images, labels) in enumerate(batches(training, epochs, seed, crops=crops), start=1):
        tensors = network.tensors(images)
        loss = functional.cross_entropy(tensors["logits"], labels)
        right = (tensors["logits"].argmax(dim=1) == labels).double().mean().item()
        sums += loss.item(), right, tensors[MASK].mean().item() if budget is not None else 1.0
        if budget is not None:
            left = max(0.0, 1 - step / (_FALL * epochs * per_epoch))
            allowed = budget.share + (_START - budget.share) * left
            loss = loss + budget.force * torch.square(tensors[MASK].mean() - allowed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % per_epoch == 0:
            cross_entropy, accuracy, density = sums / per_epoch
            print(f"{network.network.title}: epoch {step // per_epoch:3} of {epochs}: cross entropy "
                  f"{cross_entropy:.4f}, {accuracy:.2%} right, {density:.1%} of the pixels, "
                  f"{time.process_time() - start:.0f} s of processor time", flush=True)
            sums[:] = 0


def _of_training(name: str, seed: int) -> tuple[TorchNetwork, Digits]:
    """A new network, in training mode, and the training digits, for a process of its own."""
    torch.set_num_threads(1)  # sums then have one order: the same weights on every run on this kind of machine
    torch.manual_seed(seed)
    return TorchNetwork(NETWORKS[name]).to(memory_format=torch.channels_last).train(), digits_data.load()[0]


def pretrained(name: str) -> dict[str, np.ndarray]:
    """Step 1 for a network without gates; its state."""
    network, training = _of_training(name, SEED)
    fit(network, training, CROP_EPOCHS, CROP_RATE, SEED, crops=True)
    with torch.no_grad():  # the average is over so many times more pixels, most of them without a digit
        network.weighted["logits"].weight.mul_((SCENE_SIZE // CROP) ** 2)
    fit(network, training, EPOCHS, LEARNING_RATE, SEED)
    return {key: value.numpy() for key, value in network.state_dict().items()}


def tuned(name: str, base: dict[str, np.ndarray]) -> str:
    """Step 2 for a network, from the state that step 1 left; writes its weights and returns the file's name."""
    network, training = _of_training(name, SEED + 1)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in base.items()}, strict=False)
    if name in GATED:
        _start_decision(network, training)
    fit(network, training, TUNING_EPOCHS, TUNING_RATE, SEED + 1, budget=GATED.get(name))
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, allow_pickle=False,
                        **{key: value.astype(np.float16) for key, value in network.folded().items()})
    return path.name


@torch.no_grad()
def _start_decision(network: TorchNetwork, training: Digits) -> None:
    """Shift the scores, of random weights and normalised, so that about the share _START of the pixels is active."""
    images, _labels = next(batches(training, 1, SEED + 2))
    scores = network.tensors(images)[SCORE].flatten()
    norm = network.normalised[SCORE]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.bias.fill_(-torch.quantile(scores, 1 - _START).item())


def train(names: list[str], jobs: int) -> None:
    """Both steps for the networks named, `jobs` networks at a time; each in a process, so that none waits."""
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        # The one that most networks start from goes first.
        bases = {UNGATED if name in GATED else name for name in names}
        steps = {pool.submit(pretrained, base): base for base in sorted(bases, key=lambda base: base != UNGATED)}
        writing = [
            pool.submit(tuned, name, step.result())
            for step in concurrent.futures.as_completed(steps)
            for name in names if steps[step] == (UNGATED if name in GATED else name)
        ]
        for written in concurrent.futures.as_completed(writing):
            print(f"written: {written.result()}", flush=True)


def main() -> None:
    """Train the networks named, or all; write their float weights."""
    parser = argparse.ArgumentParser(prog="python -m models.train_scenes", description="Train the scenes networks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--jobs", type=int, default=2, help="networks that train at a time (default: 2)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NETWORKS]
    if unknown or arguments.jobs < 1:
        parser.error(f"no network {unknown[0]}; there are {', '.join(NETWORKS)}" if unknown
                     else f"--jobs {arguments.jobs} is not 1 or more")
    save_held_out(digits_data.load()[1])
    started = time.monotonic()
    train(arguments.names or list(NETWORKS), arguments.jobs)
    print(f"trained in {(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
