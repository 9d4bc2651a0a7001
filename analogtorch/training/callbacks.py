"""Callbacks: randomness that can be replayed, weight clipping, and a checkpoint after each epoch."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from analogtorch.clip import clip_weights_
from analogtorch.convert import analog_layers
from analogtorch.ops import fold, seed_tensor, stream


def step_seed(seed: int, step: int) -> int:
    """The seed of torch's generators for one training step."""
    return int(fold(seed_tensor(seed), stream("training step", step)).item())


class StepSeed(L.Callback):
    """Seed torch before each training step from (seed, step): its noise and dropout can be replayed by themselves.

    Without it, what a step draws would depend on all steps before it, and a resumed run would differ.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        torch.manual_seed(step_seed(self.seed, trainer.global_step))


class WeightClip(L.Callback):
    """``analogtorch.clip_weights_`` after each optimizer step."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not any(True for _ in analog_layers(pl_module)):
            raise ValueError("weight clipping: the network has no analog layer; convert it first, or use no clip_sigma")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        clip_weights_(pl_module, self.sigma)


class SaveEachEpoch(L.Callback):
    """Keep the state after the latest epoch in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        trainer.save_checkpoint(self.path)
