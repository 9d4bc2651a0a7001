"""Nets that the mapping tests map."""

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class ResNet9(nn.Module):
    """The CIFAR-10 net of Le Gallo et al. 2023: 1,866,536 weights on the chip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, 56), nn.BatchNorm2d(56), nn.ReLU(), _conv(56, 112), nn.BatchNorm2d(112)
        )
        self.first = nn.Sequential(_conv(112, 112), nn.ReLU(), _conv(112, 112))
        self.middle = nn.Sequential(
            _conv(112, 224), nn.MaxPool2d(2), _conv(224, 224), nn.MaxPool2d(2)
        )
        self.second = nn.Sequential(_conv(224, 224), nn.ReLU(), _conv(224, 224))
        self.head = nn.Linear(224, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.middle(x + self.first(x))
        return self.head((x + self.second(x)).amax((2, 3)))


class Residual(nn.Module):
    """Small, with every kind of branch: a shared layer, a residual, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        y = self.shared(self.shared(x)) + x
        return self.head(torch.cat([x.mean((2, 3)), y.mean((2, 3))], 1))


def dnn_large() -> nn.Module:
    """DNN-L of Zhang et al. 2017, "Hello Edge"; takes (B, 250)."""
    sizes = (250, 436, 436, 436, 12)
    return nn.Sequential(*(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)))


def cnn_large() -> nn.Module:
    """CNN-L of Zhang et al. 2017, "Hello Edge"; takes (B, 1, 49, 10)."""
    convolutions = (
        nn.Conv2d(1, 60, (10, 4)),
        nn.ReLU(),
        nn.Conv2d(60, 76, (10, 4), stride=(2, 1)),
        nn.ReLU(),
    )
    return nn.Sequential(
        *convolutions, nn.Flatten(), nn.Linear(4864, 58), nn.Linear(58, 128), nn.Linear(128, 12)
    )


class TCResNet8(nn.Module):
    """TC-ResNet8 of Choi et al. 2019; takes (B, 40, 98)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)
        self.stem, self.blocks, self.shortcuts = (
            nn.Conv1d(40, 16, 3),
            nn.ModuleList(),
            nn.ModuleList(),
        )
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            first, second = nn.Conv1d(i, o, 9, stride=2, padding=4), nn.Conv1d(o, o, 9, padding=4)
            self.blocks.append(
                nn.Sequential(first, nn.BatchNorm1d(o), nn.ReLU(), second, nn.BatchNorm1d(o))
            )
            self.shortcuts.append(nn.Conv1d(i, o, 1, stride=2))
        self.head = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = (block(x) + shortcut(x)).relu()
        return self.head(x.mean(2))
