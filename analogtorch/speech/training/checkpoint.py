"""Checkpoints that are never half written and never damaged in silence.

They hold nothing but tensors and plain values.
"""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from analogtorch.files import seal, sealed_bytes, write_atomically


class AtomicCheckpoint(CheckpointIO):
    """A plugin of Lightning's Trainer: an old checkpoint stays until the new one is whole.

    ``Trainer(plugins=[AtomicCheckpoint()])`` uses it. A full disk is an OSError with the path and
    the remedy; a damaged file is a ValueError with its name. The file is one of ``torch.save`` with
    a checksum, and ``torch.load`` reads it too. Loading unpickles no code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_atomically(path, packed(checkpoint))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> Any:
        return unpacked(path, map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def packed(state: Any) -> bytes:
    """Return what ``torch.save`` writes of ``state``, with a checksum."""
    # through memory: torch.save turns a failed write to a file into an internal RuntimeError
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return seal(buffer.getvalue())


def unpacked(path: str | Path, map_location: Any = "cpu") -> Any:
    """What ``packed`` was given, from the file that holds it.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    return torch.load(io.BytesIO(sealed_bytes(path)), map_location=map_location, weights_only=True)
