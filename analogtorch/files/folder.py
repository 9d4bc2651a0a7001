"""Folders of what is about to be written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def made(path: Path) -> Iterator[None]:
    """Make a folder and its parents, and remove those that are empty at the end of the context.

    Folders that were there before stay as they are.

    Raises:
        OSError: the folder cannot be made.
    """
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"could not make the folder {path}: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds something
            for each in missing:
                each.rmdir()
