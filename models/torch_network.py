"""A network of `models.layers` in PyTorch, for training. Needs the extra `train`."""

# PyTorch comes with the extra `train` only.
# pyright: reportMissingImports=false

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import INPUT, Layer, Network, padding_of


class TorchNetwork(nn.Module):
    """The layers, with a batch normalisation behind every convolution. Tensors are NCHW.

    A decision is hard in both directions of use: 1 where its score is at least 0, else 0. Its gradient is that of
    the score's sigmoid (the straight-through estimator of Bengio et al., "Estimating or Propagating Gradients
    Through Stochastic Neurons", 2013).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.weighted = nn.ModuleDict()
        self.normalised = nn.ModuleDict()
        for layer in network.layers:
            if layer.operator == "CONV_2D":
                inputs = network.weight_shape(layer)[-1]
                self.weighted[layer.name] = nn.Conv2d(inputs, layer.channels, layer.kernel, layer.stride,
                                                      dilation=layer.dilation, bias=False)
                self.normalised[layer.name] = nn.BatchNorm2d(layer.channels)
            elif layer.operator == "FULLY_CONNECTED":
                self.weighted[layer.name] = nn.Linear(network.weight_shape(layer)[-1], layer.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n][classes] of images [n][1][height][width], 0 to 1."""
        return self.tensors(images)["logits"]

    def tensors(self, images: Tensor) -> dict[str, Tensor]:
        """Every tensor by name, up to the logits. Masks are float, 0 or 1."""
        known = {INPUT: images}
        for layer in self.network.layers:
            if layer.operator == "SOFTMAX":
                break
            known[layer.name] = self._layer(layer, *(known[name] for name in layer.inputs))
        return known

    def _layer(self, layer: Layer, source: Tensor, *others: Tensor) -> Tensor:
        match layer.operator:
            case "CONV_2D":
                result = self.normalised[layer.name](self.weighted[layer.name](_pad_same(source, layer)))
            case "FULLY_CONNECTED":
                result = self.weighted[layer.name](source)
            case "ADD":
                result = source + others[0]
            case "GREATER_EQUAL":
                soft = torch.sigmoid(source)
                result = (source >= 0).float() + (soft - soft.detach())
            case "SELECT_V2":
                result = others[1] + source * (others[0] - others[1])
            case "MAX_POOL_2D":
                result = functional.max_pool2d(source, layer.kernel, layer.stride)
            case "AVERAGE_POOL_2D":
                # Of an image smaller than the network's, all of the last map is one window.
                result = functional.avg_pool2d(source, min(layer.kernel, *source.shape[2:]), layer.stride)
            case "RESHAPE":
                result = source.flatten(1)
            case _:
                raise ValueError(f"Layer {layer.name}: no training rule for operator {layer.operator}")
        return functional.relu(result) if layer.relu else result

    def folded(self) -> dict[str, np.ndarray]:
        """Float32 arrays `<layer>_weights`, in TFLite's order of axes, and `<layer>_bias`."""
        arrays = {}
        for name, module in self.weighted.items():
            weights = module.weight.detach().double()
            if name in self.normalised:
                norm = self.normalised[name]
                factor = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
                bias = norm.bias.detach().double() - norm.running_mean.double() * factor
                weights = (weights * factor[:, None, None, None]).permute(0, 2, 3, 1)
            else:
                bias = module.bias.detach().double()
            arrays[f"{name}_weights"] = weights.contiguous().float().numpy()
            arrays[f"{name}_bias"] = bias.float().numpy()
        return arrays


def _pad_same(source: Tensor, layer: Layer) -> Tensor:
    _, top, bottom = padding_of(layer, source.shape[2])
    _, left, right = padding_of(layer, source.shape[3])
    return functional.pad(source, (left, right, top, bottom))
