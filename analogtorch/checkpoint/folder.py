"""The two files of a checkpoint, written and read so that both belong to one save.

That holds whoever writes to the folder at the same time.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from analogtorch.checkpoint.description import DESCRIPTION, WEIGHTS, Checkpoint, read
from analogtorch.files import locked, part_folder, remove_parts, signed, sync_folder
from analogtorch.values import checks

PREVIOUS = ".weights.previous.safetensors"
"""The old weights, which exist only between the replacements of the two files."""
_ATTEMPTS = 100  # to read a checkpoint that is replaced meanwhile


def write_folder(
    folder: Path, tensors: dict[str, Tensor], tied: dict[str, str], description: dict[str, Any]
) -> Path:
    """Write both files of a checkpoint, in place of those that are there.

    ``description`` lacks what it must say of the weights file; this function adds it.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the files could not be written. What was there is untouched.
    """
    save_file, _, failed = _safetensors()
    part = None
    if folder.is_file():
        raise NotADirectoryError(
            f"could not write a checkpoint to {folder}: it is a file, and a checkpoint is a "
            "folder; choose another name"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as alone:
            remove_parts(folder / DESCRIPTION, alone=alone)
            part = part_folder(folder / DESCRIPTION)  # safetensors has files of its own beside its
            weights, text = part / WEIGHTS, part / DESCRIPTION
            save_file(tensors, weights, metadata={"format": "pt", **tied})
            size, sha256 = _digest(weights)
            facts = {"file": WEIGHTS, "bytes": size, "sha256": sha256}
            whole = signed(description | {"weights": facts})
            text.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            _digest(text)
            _replace(folder, weights, text)
    except (OSError, failed) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(
            f"could not write a checkpoint to {folder}: {why}. What was there before is untouched; "
            "free some space or choose another folder"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def read_folder(path: str | Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Return the description and the tensors by key, both of one save.

    It takes twice the memory of the weights file.

    Raises:
        ValueError: a file is truncated, damaged, of a newer version or of another checkpoint.
        ImportError: safetensors is not installed.
        OSError: a file is missing or cannot be read.
    """
    folder = checks.path("load: path", path)
    for _ in range(_ATTEMPTS):
        before = _state(folder)
        try:
            saved = read(folder)
            return saved, _tensors(saved)
        except (OSError, ValueError):
            if _state(folder) == before:
                raise
    raise ValueError(
        f"{folder} was written to during each of {_ATTEMPTS} attempts to read it; try again later"
    )


def _state(folder: Path) -> list[tuple[int, int, int] | None]:
    """Return what changes when a file of the folder is replaced, linked or written to."""
    found: list[tuple[int, int, int] | None] = []
    for name in (DESCRIPTION, WEIGHTS, PREVIOUS):
        try:
            stat = (folder / name).stat()
            found.append((stat.st_ino, stat.st_ctime_ns, stat.st_size))
        except OSError:
            found.append(None)
    return found


def _replace(folder: Path, new: Path, text: Path) -> None:
    """Put both new files into the folder, the description last.

    If that fails, the old weights are put back.

    The old weights stay beside the new ones until the description is there, so that a process that
    is killed between the two leaves both halves of the old checkpoint, which ``_weights`` finds.
    Nothing is ever written into a file that has its final name: another process may have it mapped.
    """
    weights, previous = folder / WEIGHTS, folder / PREVIOUS
    _recover(folder)
    if weights.exists():
        try:
            os.link(weights, previous)
        except OSError:  # a file system without hard links
            beside = new.with_name(f"{new.name}.previous")
            shutil.copyfile(weights, beside)
            os.replace(beside, previous)
    os.replace(new, weights)
    try:
        os.replace(text, folder / DESCRIPTION)
    except BaseException:
        if previous.exists():
            os.replace(previous, weights)
        else:
            weights.unlink()
        raise
    sync_folder(folder)
    previous.unlink(missing_ok=True)


def _recover(folder: Path) -> None:
    """Finish what a process that was killed in ``_replace`` began."""
    previous = folder / PREVIOUS
    if not previous.exists():
        return
    with contextlib.suppress(OSError, ValueError):
        if _weights(read(folder))[0] == previous:
            os.replace(previous, folder / WEIGHTS)
            return
    previous.unlink()


def _digest(file: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file, after it is safely on the disk."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def _safetensors() -> tuple[Any, Any, type[Exception]]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load as parse
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(
            "checkpoints need the package safetensors; run: pip install safetensors"
        ) from error
    return save_file, parse, SafetensorError


def _weights(saved: Checkpoint) -> tuple[Path, bytes]:
    """Return the file that the description belongs to, and its contents.

    The contents are read once and kept: whatever another process does to the file, the tensors that
    are loaded are those that were checked.
    """
    wrong = []
    for file in (saved.folder / WEIGHTS, saved.folder / PREVIOUS):
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue
        if len(data) != saved.size:
            state = "truncated, or " if len(data) < saved.size else ""
            what = (
                f"has {len(data):,} bytes, {DESCRIPTION} belongs to one of {saved.size:,}: "
                f"it is {state}of another checkpoint"
            )
        elif hashlib.sha256(data).hexdigest() != saved.sha256:
            what = (
                f"is not the file that {DESCRIPTION} belongs to: "
                "it is damaged, or of another checkpoint"
            )
        else:
            return file, data
        wrong.append(f"{file} {what}")
    if wrong:
        raise ValueError(f"{wrong[0]}; copy both files of a checkpoint together")
    raise FileNotFoundError(
        f"{saved.folder} has no {WEIGHTS}; copy both files of a checkpoint together"
    )


def _tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of the file by key, with tied ones under all of their keys."""
    _, parse, failed = _safetensors()
    file, data = _weights(saved)
    try:
        tensors: dict[str, Tensor] = parse(data)
    except failed as error:
        raise ValueError(f"{file} is no safetensors file that can be read: {error}") from error
    lost = [
        f"{key!r} as {kept!r}"
        for key, kept in saved.tied.items()
        if kept not in tensors or key in tensors
    ]
    if lost:
        raise ValueError(
            f"{saved.folder / DESCRIPTION} and {WEIGHTS} do not fit together: tied {lost[0]}"
        )
    return tensors | {key: tensors[kept] for key, kept in saved.tied.items()}
