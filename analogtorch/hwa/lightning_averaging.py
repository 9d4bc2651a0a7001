"""Averaged weights of Lightning, and the order of callbacks that they need."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

CLIPS, AVERAGES, LAST = 0, 1, 2
"""Places of callbacks: each comes behind those of a smaller place."""


class Ordered(L.Callback):
    """A callback of this package: it sees to the order, and to ``KeepRanges``, before a fit."""

    place: ClassVar[int | None] = None
    """Its place, or None if it may be anywhere."""

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        found: list[L.Callback] = trainer.callbacks
        if _averaging(trainer) and not any(isinstance(c, KeepRanges) for c in found):
            found = [*found, KeepRanges()]
        for place in (AVERAGES, LAST):
            earlier = (
                i for i, c in enumerate(found) if (of := _place(c)) is not None and of < place
            )
            end = 1 + max(earlier, default=-1)
            moved = sorted(found[:end], key=lambda each: _place(each) == place)
            found = [*moved, *found[end:]]
        trainer.callbacks = found  # the Trainer walks the old list


class KeepRanges(Ordered):
    """Keep the DAC ranges of averaged weights in the checkpoints.

    ``WeightAveraging`` and ``EMAWeightAveraging`` of Lightning drop them: what loads such a
    checkpoint would go on with calibrated ranges instead of those that were learnt. The Trainer
    gets this callback by itself if it has another one of this module; give it if there is none.
    Without averaging checkpoints hold the ranges anyway. Those with ``save_weights_only=True`` hold
    the weights that learn, not the average, as Lightning writes them.
    """

    place = LAST

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "averaging_state" not in checkpoint:
            return
        state: Any = OrderedDict(checkpoint["state_dict"])
        with averaged(trainer, pl_module):
            now: Any = pl_module.state_dict()
            # Lightning loads the average without metadata, and would warn that ranges are lost
            ranges = {
                f"module.{name}": p.detach().clone()
                for name, p in pl_module.named_parameters(remove_duplicate=False)
                if name not in now
            }
        state._metadata = now._metadata
        checkpoint["state_dict"] = state
        checkpoint["averaging_state"] |= ranges

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "averaging_state" not in checkpoint:
            return
        for each in _averaging(trainer):
            # with the buffers that calibration adds, which Lightning exchanges by their order
            if each._average_model is not None:
                each._average_model.module.load_state_dict(checkpoint["state_dict"])
                if trainer.state.fn != TrainerFn.FITTING:  # the weights that learn are for a fit
                    pl_module.load_state_dict(checkpoint["state_dict"])


@contextmanager
def averaged(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """Let the module have averaged weights, if a callback averages, as validation has them."""
    callbacks = _averaging(trainer)
    for each in callbacks:
        each.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for each in reversed(callbacks):
            each.on_validation_epoch_end(trainer, pl_module)


def _averaging(trainer: Any) -> list[WeightAveraging]:
    """Return the callbacks that average weights."""
    return [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]


def _place(callback: L.Callback) -> int | None:
    if isinstance(callback, WeightAveraging):
        return AVERAGES
    return callback.place if isinstance(callback, Ordered) else None
