"""Keep generated clips in a file, so that they are made once."""

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analogtorch.speech.data import SPLITS, Clips

logger = logging.getLogger("analogtorch")


def digest(recipe: Any) -> str:
    """16 hexadecimal digits that name a recipe of plain JSON values."""
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def cached(folder: str | Path, name: str, make: Callable[[], dict[str, Clips]]) -> dict[str, Clips]:
    """The clips in the file `name` of `folder`; where it is missing or damaged, what `make` returns, and written there.

    A file that cannot be read, or cannot be written, costs a warning in the log, never the clips. The file appears
    whole or not at all.
    """
    path = Path(folder).expanduser() / name
    if path.is_file():
        try:
            return _read(path)
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("%s is damaged (%s): making it anew", path, error)
    splits = make()
    try:
        _write(path, splits)
    except OSError as error:
        logger.warning("could not keep the clips in %s (%s): they will be made anew next time", path, error)
    return splits


def _read(path: Path) -> dict[str, Clips]:
    with (
        path.open("rb") as raw,
        np.load(raw, allow_pickle=False) as file,
    ):  # np.load(path) leaks a damaged file's handle
        return {
            split: Clips(
                waveforms=torch.from_numpy(file[f"{split}_waveforms"]),
                labels=torch.from_numpy(file[f"{split}_labels"]),
                speakers=tuple(file[f"{split}_speakers"].tolist()),
                names=tuple(file[f"{split}_names"].tolist()),
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
