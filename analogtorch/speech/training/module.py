"""LightningModules that train a network, with or without a teacher."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.conversion.restored import switched
from analogtorch.hwa import distillation_loss
from analogtorch.speech.training.phase import Phase


class FiniteLoss(L.Callback):
    """End a training whose loss becomes NaN or infinite, with a ValueError.

    Place it before the callback that saves, so that the checkpoint of the epoch before stays.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: Any
    ) -> None:
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of the training is {loss} after {trainer.global_step} steps, in epoch "
                f"{trainer.current_epoch + 1}; a smaller learning_rate than "
                f"{pl_module.phase.learning_rate:g} may help, if the network gives finite numbers"
            )


class Learner(L.LightningModule):
    """Trains ``network`` with the settings of a phase; a subclass has the step.

    Args:
        network: a digital or converted network.
        phase: settings of optimizer, schedule and loss.
        steps: number of optimizer steps of the whole phase.
        teacher: the network to distil from if ``phase.distill`` > 0; it is frozen and used in
            evaluation mode.

    Raises:
        ValueError: the phase distils and there is no teacher.
    """

    def __init__(
        self, network: nn.Module, phase: Phase, *, steps: int, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        if phase.distill > 0 and teacher is None:
            raise ValueError(f"distill={phase.distill} needs a teacher; pass one, or use distill=0")
        self.network, self.phase, self.steps = network, phase, steps
        # in a tuple: a submodule would go into the checkpoint and be put into training mode
        self._teacher = () if teacher is None or phase.distill == 0 else (teacher,)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        return self.network(x)

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            switched(teacher.to(self.device)).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        phase = self.phase
        trained = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": phase.weight_decay},
            # DAC ranges among them
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=phase.learning_rate)
        # torch divides by the number of steps before the peak: by zero, if that is the first step
        warmup = 0.0 if phase.warmup * self.steps == 1 else phase.warmup
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, phase.learning_rate, total_steps=self.steps, pct_start=warmup
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """Trains a network that returns (N, classes) on (inputs, labels)."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        share, other = 1.0, y
        if self.phase.mixup > 0:
            share = float(torch.distributions.Beta(self.phase.mixup, self.phase.mixup).sample())
            order = torch.randperm(len(y), device="cpu").to(y.device)
            x, other = share * x + (1 - share) * x[order], y[order]
        logits = self.network(x)
        loss = share * self._cross_entropy(logits, y)
        if share < 1:
            loss = loss + (1 - share) * self._cross_entropy(logits, other)
        if self._teacher:
            with torch.no_grad():
                target = self._teacher[0](x)
            divergence = distillation_loss(logits, target, temperature=self.phase.temperature)
            loss = (1 - self.phase.distill) * loss + self.phase.distill * divergence
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        right = (self.network(x).argmax(-1) == y).float().mean()
        self.log("val_accuracy", right, prog_bar=True, batch_size=len(y), sync_dist=True)

    def _cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=self.phase.label_smoothing)
