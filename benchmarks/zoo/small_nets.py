"""Two small networks for pictures (N, 3, 32, 32) -> (N, 10), of the kinds that are pruned most: torch alone."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.topologies import BasicBlock, InvertedResidual, conv_norm

CLASSES = 10
MOMENTUM = 0.1
"""Of batch normalization while training."""


class ResNet14(nn.Module):
    """Stem, six residual blocks, head: 6.7 million multiplications; after He et al., 2015, section 4.2."""

    WIDTHS = (16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, self.WIDTHS[0], 3, 2)
        self.blocks = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        for inputs, outputs in pairwise(self.WIDTHS):
            self.blocks.append(BasicBlock(inputs, outputs, 2))
            self.blocks.append(BasicBlock(outputs, outputs, 1))
        self.head = nn.Linear(self.WIDTHS[-1], CLASSES)
        set_momentum(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class MobileNet(nn.Module):
    """MobileNetV2 with ReLU6: 3.7 million multiplications; stages as in Sandler et al., 2018, table 2."""

    STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 3, 1), (4, 64, 2, 2))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 16, 3, 2), nn.ReLU6()]
        inputs = 16
        for expansion, outputs, repeats, stride in self.STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.layers = nn.Sequential(*layers, conv_norm(inputs, 128, 1), nn.ReLU6())
        self.head = nn.Linear(128, CLASSES)
        set_momentum(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def set_momentum(network: nn.Module) -> None:
    """Let batch normalization follow the training, not average over all of it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM


NETWORKS: dict[str, type[nn.Module]] = {"clutter_resnet": ResNet14, "clutter_mobilenet": MobileNet}
"""By entry of the zoo, whose `network.pt` has the weights."""
