"""Checkpoints that are never half written and never damaged in silence.

They hold nothing but tensors and plain values.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from analogtorch.files import packed, unpacked, write_atomically


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
