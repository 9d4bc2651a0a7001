"""A lock on a folder, which one process or one thread holds at a time."""

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an existing ``folder`` while the context lasts.

    No file is written for it, and the system releases the lock when the process ends. The lock is
    advisory: it keeps out only those who ask for it through this function.

    Args:
        folder: the folder to hold.
        wait: if True, wait until another holder releases it; if False, raise at once.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
        OSError: the folder cannot be opened.

    Warns:
        RuntimeWarning: the platform or the file system has no locks; nothing keeps others out.
    """
    if fcntl is None:
        _warn(folder, "this platform has none")
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise BlockingIOError(
            errno.EWOULDBLOCK, "another process is at work there", str(folder)
        ) from None
    except OSError as error:
        _warn(folder, error.strerror)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # forked workers have copies of the handle, which would keep the lock
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _warn(folder: str | Path, why: str | None) -> None:
    warnings.warn(
        f"{folder} cannot be locked ({why}): let only one process at a time write to it",
        RuntimeWarning,
        stacklevel=4,
    )
