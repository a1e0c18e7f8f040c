"""Prune the digits network and train on: `python -m models.prune_digits`. Needs the extra `train` (PyTorch, mlxtend).

Starts from the float weights of `train_digits`. For each of VARIANTS the share of zeros grows from nothing to its
value (Zhu and Gupta, "To Prune, or Not to Prune", 2017: as 1 - (1 - progress)^3) during the first part of the epochs,
by `sw_driver.pruning`: the weights, or weight rows, of the smallest magnitude of every layer. Then their places are
fixed and the others train on. Writes the float weights to pruned/digits_<granule>_<share>.npz and the int8 model of
them, calibrated as `models.quantise` does, beside it. The weights of the last epoch are taken.
"""

# PyTorch comes with the extra `train` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import digits_data
from models.digits_network import NETWORK
from models.pruned_digits import FOLDER, ROW_LANES, VARIANTS, Variant, model_path
from models.quantise import FLOAT_WEIGHTS, build
from models.torch_network import TorchNetwork
from models.train_digits import BATCH, WEIGHT_DECAY, accuracy, as_tensor, augment
from sw_driver.pruning import prune_rows, prune_weights

SEED = 9
EPOCHS = 40
LEARNING_RATE = 0.01

#: Norm of the gradient at most: a row that goes is a jump of the loss.
GRADIENT_NORM = 1.0

#: The share of the epochs during which weights are pruned.
_PRUNING = 0.5

#: How often the choice is made anew during that: batches.
_EVERY = 20


def load_folded(network: TorchNetwork, weights: Mapping[str, np.ndarray]) -> None:
    """Float weights whose normalisation is folded, as a network's: its normalisation adds the bias and no more."""
    with torch.no_grad():
        for name, module in network.weighted.items():
            values = torch.from_numpy(weights[f"{name}_weights"])
            bias = torch.from_numpy(weights[f"{name}_bias"])
            if name not in network.normalised:
                module.weight.copy_(values)
                module.bias.copy_(bias)
                continue
            module.weight.copy_(values.permute(0, 3, 1, 2))
            norm = network.normalised[name]
            norm.weight.fill_(1)
            norm.bias.copy_(bias)
            norm.running_mean.fill_(0)
            norm.running_var.fill_(1 - norm.eps)


def kept(module: nn.Module, variant: Variant, share: float) -> Tensor:
    """1 where a layer's weight stays, else 0; in the weight's shape."""
    weights = module.weight.detach()
    channels_last = weights.permute(0, 2, 3, 1) if weights.ndim == 4 else weights
    array = channels_last.contiguous().numpy()
    one = np.ones(1, np.float32)
    pruned = (prune_rows(array, one, share, ROW_LANES) if variant.granule == "rows"
              else prune_weights(array, one, share))
    mask = torch.from_numpy((pruned != 0).astype(np.float32))
    return mask.permute(0, 3, 1, 2) if weights.ndim == 4 else mask


def retrain(weights: Mapping[str, np.ndarray], training: digits_data.Digits, variant: Variant) -> TorchNetwork:
    """The network with `variant.share` of every layer's weights or rows zero, trained on.

    Normalisation stays as it is: what is folded into the weights is what is pruned.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = TorchNetwork(NETWORK).eval()
    load_folded(network, weights)
    images, labels = as_tensor(training)
    per_epoch = len(training) // BATCH
    steps = EPOCHS * per_epoch
    optimiser = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True,
                                weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    masks: dict[str, Tensor] = {}
    start = time.monotonic()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(training), generator=generator)
        total = 0.0
        for number in range(per_epoch):
            progress = min(1.0, (epoch * per_epoch + number) / (_PRUNING * steps))
            if not masks or (number % _EVERY == 0 and progress < 1) or (number == 0 and epoch == EPOCHS // 2):
                share = variant.share * (1 - (1 - progress) ** 3)
                masks = {name: kept(module, variant, share) for name, module in network.weighted.items()}
            batch = order[number * BATCH : (number + 1) * BATCH]
            loss = functional.cross_entropy(network(augment(images[batch], generator)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    network.weighted[name].weight.mul_(mask)
            total += loss.item()
        if epoch % 10 == 9:
            print(f"{variant.name}: epoch {epoch + 1:3} of {EPOCHS}: loss {total / per_epoch:.4f}, "
                  f"{time.monotonic() - start:.0f} s", flush=True)
    return network


def main() -> None:
    """Retrain all variants, or those named; write weights and models."""
    parser = argparse.ArgumentParser(prog="python -m models.prune_digits",
                                     description="Prune the digits network and train on.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}; all by default")
    names = parser.parse_args().names or list(VARIANTS)
    for name in names:
        if name not in VARIANTS:
            parser.error(f"no variant {name}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(1)  # sums then have one order: the same weights on every run on this kind of machine
    training, held_out = digits_data.load()
    calibration, _samples = digits_data.load_samples()
    with np.load(FLOAT_WEIGHTS) as stored:
        dense = dict(stored)
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        network = retrain(dense, training, VARIANTS[name])
        weights = network.folded()
        print(f"{name}: float accuracy: training {accuracy(network, training):.2%}, "
              f"held out {accuracy(network, held_out):.2%}")
        np.savez_compressed(model_path(name).with_suffix(".npz"), allow_pickle=False, **weights)
        build(NETWORK, weights, calibration.images).save(model_path(name))
        print(f"written: {model_path(name).name}")


if __name__ == "__main__":
    main()
