"""Tensors and plain values in one file, with a checksum."""

import io
from pathlib import Path
from typing import Any

import torch

from analogtorch.files.checksum import seal, sealed_bytes


def packed(state: Any) -> bytes:
    """Return what ``torch.save`` writes of ``state``, with a checksum."""
    # through memory: torch.save turns a failed write to a file into an internal RuntimeError
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return seal(buffer.getvalue())


def unpacked(path: str | Path, map_location: Any = "cpu") -> Any:
    """Return what ``packed`` was given, from the file that holds it.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    return torch.load(io.BytesIO(sealed_bytes(path)), map_location=map_location, weights_only=True)
