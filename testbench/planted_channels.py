"""Random graphs with what channel folding looks for: channels that are constant or that nobody reads."""

from __future__ import annotations

import numpy as np

from testbench.random_motifs import GraphGenerator

#: Distance of a planted bias from every sum, in steps of the output: requantised sums are then clamped, all of them.
_SATURATED = 400.0

#: Biases stay below this (`random_tensors`).
_BIAS_MAX = 1 << 30


class PlantedGenerator(GraphGenerator):
    """A `GraphGenerator` whose convolutions and fully connected layers have output channels without weights (constant,
    seldom the zero point), output channels whose bias drowns every sum (constant after the clamp), and input channels
    that only meet weights of zero, or weights of zero but for one tap."""

    def _requantisation(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        rng = self._rng
        outputs, inputs = weights.shape[0], weights.shape[-1]
        share = rng.choice([0.0, 0.2, 0.5, 0.9])
        dead = rng.random(outputs) < share * rng.choice([0.0, 0.5, 1.0])
        drowned = ~dead & (rng.random(outputs) < share)
        weights[dead] = 0
        if inputs > 1:
            weights[..., rng.random(inputs) < rng.choice([0.0, 0.3, 0.7])] = 0
            if weights.ndim == 4 and rng.random() < 0.3:
                taps = np.ones(weights.shape[1:3], np.bool_)
                taps[weights.shape[1] // 2, weights.shape[2] // 2] = False
                weights[:, taps] = weights[:, taps] * (rng.random(inputs) < 0.5)
        multipliers, bias = super()._requantisation(weights)
        if bias is None or not drowned.any():
            return multipliers, bias
        largest = np.abs(weights.reshape(outputs, -1).astype(np.float64)).sum(axis=1) * 255
        away = np.minimum(largest + _SATURATED / np.broadcast_to(multipliers, outputs), _BIAS_MAX)
        sign = np.where(rng.random(outputs) < 0.7, -1, 1)
        return multipliers, np.where(drowned, np.rint(away) * sign, bias).astype(np.int32)
