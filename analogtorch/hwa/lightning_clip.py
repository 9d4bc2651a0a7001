"""Callbacks of Lightning that clip weights."""

import abc
from typing import Any

import lightning as L
from torch import nn

from analogtorch.conversion.kinds import check_module
from analogtorch.hwa.clip import StepClip, check, clip, clippable, tails
from analogtorch.hwa.lightning_averaging import CLIPS, Ordered


class AfterStep(Ordered, abc.ABC):
    """Clips weights after each optimizer step, and not after a batch that is only accumulated.

    What averages the weights comes behind it, in whatever order they are given.
    """

    place = CLIPS
    _step = 0

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        if trainer.global_step > self._step:
            self._clip(pl_module)

    @abc.abstractmethod
    def _clip(self, module: L.LightningModule) -> None:
        """Clip the weights, of which ``module`` is what Lightning trains."""


class WeightClip(AfterStep):
    """Clip the weights that learn after each optimizer step, as ``at.hwa.clip_after_step`` does.

    The weights at the start of the fit decide the limits. Checkpoints hold these: a run that
    resumes goes on with them, unless its callback has other options. Frozen weights stay as they
    are. It does nothing after a batch whose gradient is only accumulated. ``WeightAveraging`` of
    Lightning averages clipped weights, in whatever order they are given.

    Args:
        sigma: as for ``at.hwa.clip_after_step``.
        bound: as for ``at.hwa.clip_weights_``.
        per_channel: as for ``at.hwa.clip_weights_``.

    Raises:
        ValueError: the options are wrong or exclude each other; or, when the fit starts, the module
            has no analog layer.
    """

    def __init__(
        self, sigma: float | None = None, *, bound: float | None = None, per_channel: bool = False
    ) -> None:
        check("WeightClip", sigma, bound, per_channel)
        self.sigma, self.bound, self.per_channel = sigma, bound, per_channel
        self._clipping = StepClip(sigma, bound, per_channel)

    @property
    def state_key(self) -> str:
        """Name of the limits in a checkpoint."""
        options = {"sigma": self.sigma, "bound": self.bound, "per_channel": self.per_channel}
        return self._generate_state_key(**options)

    def state_dict(self) -> dict[str, Any]:
        """Return where the weights are clipped."""
        return {"tails": dict(self._clipping.tails)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self._clipping.tails = dict(state_dict["tails"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # before a checkpoint is loaded: limits of a fit before are not those of this one
        self._clipping = StepClip(self.sigma, self.bound, self.per_channel)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        clippable("WeightClip", pl_module)
        self._clipping.find(pl_module)

    def _clip(self, module: L.LightningModule) -> None:
        self._clipping.clip(module)


class Clip(AfterStep):
    """Clip the weights of ``model`` that learn after each optimizer step, as ``adapt`` does.

    Where each layer is clipped is found at once, so that a run that resumes from a checkpoint does
    the same if it makes the callback of the model as it was at the start.

    Args:
        model: the converted model that the Trainer trains, or a part of its module.
        sigma: as ``Recipe.clip_sigma``, > 0.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``sigma`` is out of range.
    """

    def __init__(self, model: nn.Module, sigma: float) -> None:
        check("Clip", sigma, None, False)
        check_module("Clip", model)
        self.model, self.limits = model, tails(model, sigma)

    def _clip(self, module: L.LightningModule) -> None:
        clip(self.model, self.limits, share=1.0)
