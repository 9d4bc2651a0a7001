"""Lightning: callbacks for noise, clipping and chips, and a module that learns from its twin."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from analogtorch.calibration.passes import Forward
from analogtorch.conversion.detached import deep_copy
from analogtorch.hwa import training_noise_
from analogtorch.hwa.clip import Tails, clippable, tails
from analogtorch.hwa.finite import refuse_broken
from analogtorch.hwa.lightning_averaging import KeepRanges, Ordered
from analogtorch.hwa.lightning_clip import Clip, WeightClip
from analogtorch.hwa.lightning_on_chips import ValidateOnChips
from analogtorch.hwa.ramp import ramped
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.schedule import STAIRS, Schedule, relative_adam
from analogtorch.hwa.twin import Twin
from analogtorch.ops import derived, seed_number
from analogtorch.values import checks

__all__ = [
    "Clip",
    "Distillation",
    "KeepRanges",
    "NoiseRamp",
    "SaveEachEpoch",
    "StepSeed",
    "ValidateOnChips",
    "WeightClip",
    "step_seed",
]


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generators for one training step."""
    return derived(seed, "training step", step)


class StepSeed(Ordered):
    """Seed torch before each batch from (seed, step), and the rank if there are several.

    Under ``accumulate_grad_batches`` the batches of a step have seeds of their own.

    The noise and dropout of a step can then be replayed alone. Without it, what a step draws would
    depend on all steps before it, and a resumed run would differ.

    Args:
        seed: a signed 64-bit integer.

    Raises:
        TypeError: the seed is no integer.
        ValueError: it is out of range.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed_number(seed)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed = step_seed(self.seed, trainer.global_step)
        if rank := trainer.global_rank:
            seed = step_seed(seed, rank)
        if part := batch_idx % trainer.accumulate_grad_batches:
            seed = step_seed(step_seed(seed, -1), part)  # -1: no rank has such a seed
        torch.manual_seed(seed)


class NoiseRamp(Ordered):
    """Let the training noise grow linearly from ``start`` to 1, in stairs.

    The fraction depends on the trainer's ``global_step`` alone, or with ``epochs`` on its batches,
    so that a resumed run has the same noise; ``analogtorch.hwa.training_noise_`` sets it. After the
    fit, finished or not, the noise is that of the chip again.

    Args:
        steps: optimizer steps until the noise is complete, >= 1. Lightning counts those of every
            optimizer.
        epochs: the same in epochs, > 0; instead of ``steps``.
        start: the fraction at the first step, in [0, 1].
        changes: number of stairs, >= 1. A compiled model compiles again at each, and torch stops at
            8 versions, of which evaluation may need one: hence 6.

    Raises:
        ValueError: neither or both of ``steps`` and ``epochs`` are given, or a number is out of
            range.
    """

    def __init__(
        self,
        steps: int | None = None,
        *,
        epochs: float | None = None,
        start: float = 0.0,
        changes: int = STAIRS,
    ) -> None:
        if (steps is None) == (epochs is None):
            raise ValueError(
                f"NoiseRamp: give one of steps and epochs, got steps={steps} and epochs={epochs}"
            )
        if steps is not None:
            steps = checks.count("NoiseRamp: steps", steps)
        if epochs is not None:
            epochs = checks.number("NoiseRamp: epochs", epochs, above=0)
        remedy = "0 is no noise, 1 all"
        start = checks.number("NoiseRamp: start", start, least=0, most=1, remedy=remedy)
        changes = checks.count("NoiseRamp: changes", changes)
        self.steps, self.epochs, self.start, self.changes = steps, epochs, start, changes
        self._fraction: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.epochs is not None:
            # not by global_step, which counts the steps of every optimizer
            batches = self._batches(trainer)
            done = trainer.current_epoch * batches + batch_idx
            length = max(1, round(self.epochs * batches))
        else:
            assert self.steps is not None
            done, length = trainer.global_step, self.steps
        fraction = ramped(done, length, self.start, self.changes)
        if fraction != self._fraction:
            training_noise_(pl_module, fraction)
            self._fraction = fraction

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._end(pl_module)

    def _end(self, model: L.LightningModule) -> None:
        if self._fraction is not None:
            training_noise_(model, 1.0)
            self._fraction = None

    def _batches(self, trainer: L.Trainer) -> int:
        """Return the number of batches of an epoch."""
        batches = trainer.num_training_batches
        if not math.isfinite(batches):
            raise ValueError(
                "NoiseRamp: the training data does not know its length; give steps instead of "
                "epochs"
            )
        return int(batches)


class Distillation(L.LightningModule):
    """A converted network that learns from its digital twin, with the recipe of ``adapt``.

    Its batches are those of ``adapt``, without labels. The analog layers draw the training noise,
    which grows with the clipping; ``StepSeed`` makes it a function of the step. The length of the
    schedule is that of the Trainer's run. The state holds the student alone.

    Args:
        student: a converted model, calibrated if its DAC ranges are to learn.
        teacher: the digital model, which stays as it is.
        recipe: the ingredients; by default ``Recipe()``. Looks and patience have no effect here.
        forward: as ``calibrate`` takes it.

    Raises:
        ValueError: the student has no analog layer, has one of which a weight or bias is no plain
            Parameter (it is parametrized, pruned, or another tensor), or is a programmed chip; or
            it and the teacher have no layer of one name.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        recipe: Recipe | None = None,
        forward: Forward | None = None,
    ) -> None:
        clippable("Distillation", student)
        super().__init__()
        self.student = student
        # not registered: it neither learns nor belongs into a checkpoint
        self._twin = (Twin(student, teacher, recipe, forward),)
        self._schedule: Schedule | None = None
        self._tails: Tails | None = None

    def configure_optimizers(self) -> Any:
        """Return Adam with a learning rate for each Parameter, which falls to 0.

        Raises:
            ValueError: the Trainer does not know the number of its steps.
        """
        (twin,), steps = self._twin, self.trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 0:
            raise ValueError(
                "Distillation: the Trainer does not know the number of its steps, over which noise "
                "and clipping grow and the learning rate falls; give max_steps, or max_epochs and "
                "data of a known length, such as L.Trainer(max_steps=1000)"
            )
        if self._tails is None:
            self._tails = tails(self.student, twin.recipe.clip_sigma)
        self._schedule = Schedule(twin.recipe, int(steps), self._tails)
        # Lightning refuses to clip the gradients of a fused one under mixed precision
        optimizer = relative_adam(self.student, twin.recipe, fused=False)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rate, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Move the teacher to the device of the student, and take a copy in its precision."""
        (twin,) = self._twin
        twin.teacher.to(self.device)
        # a Trainer with a precision such as "bf16-true" converts the student and the batches
        theirs = {p.dtype for p in twin.teacher.parameters() if p.is_floating_point()}
        if self.dtype != torch.float32 and theirs - {self.dtype}:
            twin.teacher = deep_copy(twin.teacher).to(self.dtype)
        self.train()  # Lightning warns of any other mode; the loss has modes of its own

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the noise of the step."""
        assert self._schedule is not None
        self._schedule.before(self.student, self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it with its parts."""
        (twin,) = self._twin
        found = twin.loss(batch)
        parts = found._asdict()
        loss: Tensor = parts.pop("total")
        if not twin.recipe.attention:
            del parts["attention"]
        self.log_dict({"loss": loss, **parts})
        return loss

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        """Compute the gradients, where checkpointed parts of the student run again."""
        with self._twin[0].running():
            super().backward(loss, *args, **options)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Refuse gradients that are not finite, unless a scaler of half precision skips them.

        Raises:
            ValueError: a gradient is NaN or infinite, which would leave no weight finite.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            refuse_broken("Distillation", self.student, self.global_step)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Step, and clip the weights."""
        assert self._schedule is not None
        step = self.global_step
        super().optimizer_step(*args, **options)
        self._schedule.after(self.student, step)

    def configure_callbacks(self) -> list[L.Callback]:
        """Return callbacks: the whole noise of their chip for the layers at the end, and ranges."""
        return [_WholeNoise(), KeepRanges()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the weights are clipped, which those of the start decide; None: before it."""
        checkpoint["analogtorch_clipping"] = None if self._tails is None else dict(self._tails)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it."""
        self._tails = checkpoint["analogtorch_clipping"]


class _WholeNoise(L.Callback):
    """Gives the layers of a ``Distillation`` the whole noise of their chip after the fit."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        training_noise_(pl_module, 1.0)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        training_noise_(pl_module, 1.0)


class SaveEachEpoch(Ordered):
    """Keep the state after the latest epoch in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        trainer.save_checkpoint(self.path)
