"""Locks on a folder and on a job in it, which one process or one thread holds at a time."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from analogtorch.values.warned import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
"""The handles that this process holds something by."""


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an existing ``folder`` while the context lasts, and yield whether others are kept out.

    No file is written for it, and the system releases the lock when the process ends, whatever it
    has forked. The lock is advisory: it keeps out only those who ask for it through this function.

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
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    held = _take(handle, folder, wait)
    try:
        yield held
    finally:
        _let_go(handle)


@contextlib.contextmanager
def claimed(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Hold what ``path`` stands for while the context lasts, such as one job among several.

    The file exists as long as it is held. A process that dies leaves it, and it can be claimed
    again all the same: the lock is the system's, as that of ``locked``.

    Args:
        path: a file that serves for nothing else, in an existing folder.
        wait: if True, wait until another holder releases it; if False, raise at once.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
        OSError: the file cannot be made.

    Warns:
        RuntimeWarning: the platform or the file system has no locks; nothing keeps others out.
    """
    if fcntl is None:
        _warn(path, "this platform has none")
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _take(handle, path, wait)
        if _is_at(handle, path):
            break
        _let_go(handle)  # the last holder removed it in the meantime
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        _let_go(handle)


def _take(handle: int, path: str | Path, wait: bool) -> bool:
    """Lock an open file or folder, and return whether that is possible there."""
    held = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise BlockingIOError(
            errno.EWOULDBLOCK, "another process is at work there", str(path)
        ) from None
    except OSError as error:
        _warn(path, error.strerror)
        held = False
    _held.add(handle)
    return held


def _let_go(handle: int) -> None:
    if handle not in _held:  # a forked process, which does not hold it
        return
    _held.remove(handle)
    with contextlib.suppress(OSError):  # there may be other copies of the handle
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _forget() -> None:
    """Close the copies of handles in a forked process.

    A lock lasts as long as a copy: workers that outlive a killed process would keep its locks.
    """
    for handle in _held:
        os.close(handle)
    _held.clear()


def _is_at(handle: int, path: str | Path) -> bool:
    """Return whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _warn(folder: str | Path, why: str | None) -> None:
    warn(
        f"{folder} cannot be locked ({why}): let only one process at a time write to it",
        RuntimeWarning,
    )


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)
