"""The folder of a plan, and those of its measurements in it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from analogtorch.evaluate.journal import NotWritable, others, refuse_unwritable
from analogtorch.files import check_writable, made

SENSITIVITY = "sensitivity"
"""The folder of the losses of the layers."""
PREFIX = "plan-"
"""What the names of the folders of candidates begin with."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be one of a plan; what is tried leaves nothing.

    One that has a plan already is read where nothing can be written.

    Raises:
        ValueError: a plan would begin in a folder that holds something else.
        OSError: the folder cannot be made, or a plan would begin where no file can be written.
    """
    own = (SENSITIVITY, f"{SENSITIVITY}.json")
    there = [path.name for path in others(folder)] if folder.is_dir() else []
    if there and not any(name in own or name.startswith(PREFIX) for name in there):
        raise ValueError(
            f"plan: {folder} holds {there[0]} and nothing of a plan; give a new or an empty folder"
        )
    try:
        with made(folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"plan: {error.strerror}; name another folder") from error
    if there:
        return
    try:
        check_writable(folder / SENSITIVITY)
    except OSError as error:
        why = os.strerror(error.errno or errno.EIO)
        raise OSError(
            error.errno, f"plan: could not write in {folder}: {why}; name another folder"
        ) from error


@contextlib.contextmanager
def measurement_folder(folder: Path | None, name: str) -> Iterator[Path | None]:
    """Yield the folder that a measurement has in that of a plan; None if there is none.

    Raises:
        OSError: the measurement is not complete, and nothing can be written in the plan's folder.
    """
    if folder is None:
        yield None
        return
    own = folder / name
    if folder.exists() and not (own.is_dir() and any(own.iterdir())):
        refuse_unwritable("plan", folder)
    try:
        yield own
    except NotWritable:
        refuse_unwritable("plan", folder)  # names the folder that is to be copied
        raise
