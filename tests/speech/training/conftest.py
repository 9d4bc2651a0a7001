"""A toy task: 64 points in 8 dimensions, 2 classes, a net with dropout and normalisation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.speech.training import Batches, Phase, fit
from tests.crossbar import crossbar

PHASE = Phase(epochs=4, batch_size=16, mixup=0.2, clip_sigma=2.5, distill=0.5)


class Kill(L.Callback):
    """Ctrl+C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class Toy:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 8, generator=generator)
        self.y = (self.x.sum(1) > 0).long()

    def make(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.01 * epoch, self.y[index]

    def digital(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
            ).eval()

    def analog(self) -> nn.Module:
        return at.calibrate(at.convert(self.digital(), crossbar()), [self.x], effort="ranges")

    def batches(self, seed: int = 1, workers: int = 0) -> Batches:
        return Batches(self.make, 64, batch_size=16, seed=seed, workers=workers)

    def train(
        self, checkpoint: Path, *, workers: int = 0, phase: Phase = PHASE, **options: Any
    ) -> nn.Module:
        network = self.analog()
        given: dict[str, Any] = {"seed": 3, "teacher": self.digital(), **options}
        return fit(network, self.batches(workers=workers), phase, checkpoint=checkpoint, **given)


@pytest.fixture
def toy() -> Toy:
    return Toy()


def bitwise_same(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit the same weights, statistics and DAC ranges."""
    tensors = [[*m.state_dict().values(), *m.parameters()] for m in (a, b)]
    return len(tensors[0]) == len(tensors[1]) and all(map(torch.equal, *tensors))


@pytest.fixture
def same() -> Callable[[nn.Module, nn.Module], bool]:
    return bitwise_same
