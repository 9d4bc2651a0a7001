"""A residual net with batch norm, trained here on scikit-learn's 1,797 handwritten digits.

Every third picture is held out. Training takes about a minute on two cores and repeats bit by bit
on one machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

WIDTH = 16


class DigitsNet(nn.Module):
    """A small ResNet-18 for grey pictures.

    It has a 3x3 stem without pooling and a quarter of the width of torchvision's.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        blocks: list[nn.Module] = []
        wide = [width, width, 2 * width, 4 * width, 8 * width]
        for stage, (before, after) in enumerate(zip(wide, wide[1:], strict=False)):
            stride = 1 if stage == 0 else 2
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                )
            blocks += [BasicBlock(before, after, stride, shortcut), BasicBlock(after, after)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(wide[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N, 10) of pictures (N, 1, 32, 32)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@dataclass(frozen=True)
class Digits:
    """Pictures (N, channels, size, size), values -1 to 1, and labels (N,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def digits(size: int = 32, channels: int = 1) -> Digits:
    """Return scikit-learn's digits, enlarged to ``size`` and repeated in ``channels``.

    They are 8x8; every third is for the test.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    x = (
        F.interpolate(x, size=(size, size), mode="bilinear")
        .expand(-1, channels, -1, -1)
        .contiguous()
    )
    y = torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 3 == 0
    return Digits(x[~held_out], y[~held_out], x[held_out], y[held_out])


def trained(
    data: Digits,
    make: Callable[[], nn.Module] = DigitsNet,
    *,
    epochs: int = 10,
    rate: float = 0.1,
    seed: int = 0,
) -> nn.Module:
    """Return the model that ``make`` makes, trained on the pictures.

    Each picture is shifted by up to 3 points; the learning rate rises and falls.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().train()
        batches = len(data.train) // 64
        optimizer = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=epochs * batches
        )
        for _ in range(epochs):
            for rows in torch.randperm(len(data.train))[: 64 * batches].split(64):
                down, right = torch.randint(-3, 4, (2,)).tolist()
                x = data.train[rows].roll((down, right), (2, 3))
                loss = F.cross_entropy(model(x), data.train_labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()
