"""A file that keeps generated clips, so that they are made once."""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analogtorch.files import expanded, seal, sealed_bytes, write_atomically
from analogtorch.speech.data import SPLITS, Clips

logger = logging.getLogger("analogtorch")


def digest(recipe: Any) -> str:
    """Return 16 hexadecimal digits that identify a recipe of plain JSON values."""
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def cached(folder: str | Path, name: str, make: Callable[[], dict[str, Clips]]) -> dict[str, Clips]:
    """Return the clips in the file `name` of `folder`; make and store them if it is missing.

    A damaged file counts as missing. A file that cannot be read or written costs a warning in the
    log, never the clips. The file appears whole or not at all.
    """
    path = expanded(str(folder)) / name
    if path.is_file():
        try:
            return _read(path)
        except (OSError, EOFError, KeyError, ValueError, TypeError) as error:
            logger.warning("%s is damaged (%s): making it anew", path, error)
    splits = make()
    try:
        _write(path, splits)
    except OSError as error:
        logger.warning(
            "could not keep the clips in %s (%s): they will be made anew next time", path, error
        )
    return splits


def _read(path: Path) -> dict[str, Clips]:
    with np.load(io.BytesIO(sealed_bytes(path)), allow_pickle=False) as file:
        return {
            split: Clips(
                waveforms=torch.from_numpy(file[f"{split}_waveforms"]),
                labels=torch.from_numpy(file[f"{split}_labels"]),
                speakers=tuple(file[f"{split}_speakers"].tolist()),
                names=tuple(file[f"{split}_names"].tolist()),
                classes=tuple(file["classes"].tolist()),
            )
            for split in SPLITS
        }


def _write(path: Path, splits: dict[str, Clips]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split, clips in splits.items():
        arrays[f"{split}_waveforms"] = clips.waveforms.numpy()
        arrays[f"{split}_labels"] = clips.labels.numpy()
        arrays[f"{split}_speakers"] = np.array(clips.speakers)
        arrays[f"{split}_names"] = np.array(clips.names)
        arrays["classes"] = np.array(clips.classes)
    archive = io.BytesIO()
    np.savez(archive, **arrays)  # type: ignore[arg-type]
    write_atomically(path, seal(archive.getvalue()))
