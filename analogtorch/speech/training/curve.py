"""The curve of a training: loss and accuracy of each epoch, as a table in a file."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from analogtorch.files import comma_separated
from analogtorch.speech.training.curve_file import HEADER, Rows


class Curve(L.Callback):
    """Write a line of CSV for each epoch: mean loss of its batches, and validation accuracy.

    The accuracy is empty for epochs without validation. The curve is part of the checkpoint, so
    that a run which is stopped and resumed has that of a run which was not. Place it before the
    callback that saves.

    Args:
        path: the file, which is written anew after each epoch, whole or not at all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: Rows = []
        self._losses: list[float] = []
        self._accuracy: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the curve so far."""
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a curve."""
        self.rows = [tuple(row) for row in state_dict["rows"]]

    def on_fit_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Write the curve of a checkpoint, whatever has become of its file."""
        if self.rows:
            self._write(trainer)

    def on_train_epoch_start(self, *args: Any) -> None:
        self._losses, self._accuracy = [], None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        self._losses.append(float(outputs["loss"]))

    def on_validation_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._accuracy = float(trainer.callback_metrics["val_accuracy"])

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        loss = sum(self._losses) / len(self._losses)
        if trainer.world_size > 1:
            loss = float(
                trainer.strategy.reduce(torch.tensor(loss, dtype=torch.float64, device="cpu"))
            )
        self.rows.append((trainer.current_epoch + 1, loss, self._accuracy))
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            comma_separated([HEADER, *self.rows], self.path)
