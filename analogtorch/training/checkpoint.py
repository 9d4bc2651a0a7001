"""Checkpoints that are never half written and hold nothing but tensors and plain values."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from analogtorch.files import write_atomically


class AtomicCheckpoint(CheckpointIO):
    """``Trainer(plugins=[AtomicCheckpoint()])``: the old checkpoint stays until the new one is whole.

    A full disk is an OSError with the path and the remedy. Loading unpickles no code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        # through memory: torch.save turns a failed write to a file into an internal RuntimeError
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, buffer.getvalue())

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
