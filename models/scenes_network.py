"""The scenes networks: one grey 64 x 64 image in, the digit somewhere in it out.

    trunk    3x3 convolution, stride 2, and a dilated 3x3 convolution that sees what is around: 16 channels
    decision 1x1 convolution of the trunk to one channel, at least 0 where the network wants to look closer
    blocks   residual, 32 channels: SELECT_V2(decision, x + 1x1(relu(3x3(x))), x)
    head     3x3 convolution, stride 4, average pooling, one fully connected layer, softmax

Without gates the blocks compute every pixel: y = x + 1x1(relu(3x3(x))).
"""

from __future__ import annotations

from models.digits_network import CLASSES
from models.layers import INPUT, Layer, Network

#: Height and width of a scene.
SCENE_SIZE = 64

#: Names of the decision's layers: the score, and the mask that it becomes.
SCORE, MASK = "score", "mask"


def scenes_network(title: str, *, gated: bool, blocks: int = 4, channels: int = 32, head: int = 64) -> Network:
    """The network with these residual blocks, of so many channels, and so many channels in the head's convolution."""
    layers = [
        Layer("stem", "CONV_2D", (INPUT,), 16, kernel=3, stride=2, relu=True),
        Layer("context", "CONV_2D", ("stem",), 16, kernel=3, dilation=3, relu=True),
    ]
    if gated:
        layers += [Layer(SCORE, "CONV_2D", ("context",), 1), Layer(MASK, "GREATER_EQUAL", (SCORE,))]
    layers.append(Layer("entry", "CONV_2D", ("context",), channels))
    stream = "entry"
    for number in range(1, blocks + 1):
        name = f"block{number}"
        layers += [
            Layer(f"{name}_conv1", "CONV_2D", (stream,), channels, kernel=3, relu=True),
            Layer(f"{name}_conv2", "CONV_2D", (f"{name}_conv1",), channels),
            Layer(f"{name}_add", "ADD", (f"{name}_conv2", stream)),
        ]
        if gated:
            layers.append(Layer(name, "SELECT_V2", (MASK, f"{name}_add", stream)))
        stream = layers[-1].name
    layers += [
        Layer("head", "CONV_2D", (stream,), head, kernel=3, stride=4, relu=True),
        Layer("average_pool", "AVERAGE_POOL_2D", ("head",), kernel=8, stride=8),
        Layer("flatten", "RESHAPE", ("average_pool",)),
        Layer("logits", "FULLY_CONNECTED", ("flatten",), CLASSES),
        Layer("probabilities", "SOFTMAX", ("logits",)),
    ]
    return Network(title, SCENE_SIZE, tuple(layers))


#: Budgets: the share of pixels that a gated network may look closer at, on average.
BUDGETS = (0.5, 0.3, 0.2, 0.1)

#: Networks by name. The static ones cost as much as the gated ones of the budget in their name.
UNGATED = "ungated"
NETWORKS: dict[str, Network] = {
    UNGATED: scenes_network("Digits in scenes, without gates", gated=False),
    **{f"gated_{round(100 * budget)}": scenes_network(f"Digits in scenes, gated, budget {budget:.0%}", gated=True)
       for budget in BUDGETS},
    "static_20": scenes_network("Digits in scenes, 4 blocks of 16 channels", gated=False, blocks=4, channels=16),
    "static_10": scenes_network("Digits in scenes, 2 blocks of 16 channels", gated=False, blocks=2, channels=16),
}
