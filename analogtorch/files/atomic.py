"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from analogtorch.files.folder import made

_LINKS = 40
"""Links that are followed, as many as Linux does."""
_PART = ".part"
"""How names of what is being written end."""
_STALE = 3600.0
"""Seconds after which nobody writes to a part any more: assumed, as no writing pauses for so long.
"""


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) to ``path`` and make its folder.

    What UTF-8 lacks, such as the bytes of a folder's name in another encoding, is written as an
    escape: a text is not lost for it. A file that was there stays until the new one is whole, which
    gets its permissions. A link stays, and leads to the new file; a pipe is written to, and so is
    what is open already, such as ``/dev/stdout``, from where it is.

    Raises:
        OSError: nothing could be written (a full disk, no permission). The message names the path,
            the reason and the remedy.
    """
    path = Path(path)
    if isinstance(data, str):
        data = data.encode(errors="backslashreplace")
    temporary = None
    try:
        if (opened := _open_file(path)) is not None:
            _append(opened, data)
            return path
        if _is_device(path):
            path.write_bytes(data)
            return path
        target = path.resolve() if path.is_symlink() else path
        target.parent.mkdir(parents=True, exist_ok=True)
        # in the same folder, because a rename is atomic only within one file system
        handle, temporary = tempfile.mkstemp(**_part(target))
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path} ({len(data):,} bytes): {error.strerror}. "
            "What was there before is untouched; free some space or choose another output folder",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def check_writable(path: str | Path) -> None:
    """Raise OSError unless ``write_atomically`` can write ``path``; call it before long work.

    It is tried with an empty file in the same folder, of which nothing is left.
    """
    path = Path(path)
    try:
        if _open_file(path) is not None or _is_device(path):
            return
        target = path.resolve() if path.is_symlink() else path
        if target.is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        with (
            made(target.parent),
            tempfile.NamedTemporaryFile(**_part(target)),
        ):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be written: {error.strerror}; name another file"
        ) from error


def part_folder(file: Path) -> Path:
    """Make a hidden folder beside ``file`` for what is about to become it and the files around it.

    ``remove_parts`` removes that of a killed process.

    Raises:
        OSError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(**_part(file)))


def remove_parts(file: Path, *, alone: bool) -> None:
    """Remove what killed processes have left beside ``file`` of what they were writing.

    Args:
        file: a file that ``write_atomically`` or ``part_folder`` was given, or a pattern of such
            names in an existing folder, such as ``chip-[0-9]*.json``.
        alone: whether no other process can be writing it now, as ``locked`` says. If False, what
            somebody has written to in the last hour stays, by its time of modification.
    """
    for part in file.parent.glob(f".{file.name}.*{_PART}"):
        with contextlib.suppress(OSError):  # another process removes it too
            held = (part, *part.rglob("*"))
            if alone or max(p.stat().st_mtime for p in held) < time.time() - _STALE:
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk: a renamed file survives a power failure then.

    Systems that cannot do this, such as Windows, are left as they are.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _part(file: Path) -> dict[str, Any]:
    """Return how ``tempfile`` is to name what becomes ``file``."""
    return {"dir": file.parent, "prefix": f".{file.name}.", "suffix": _PART}


def _open_file(path: Path) -> int | None:
    """Return the number of the open file that a path such as ``/dev/stdout`` leads to, if any."""
    for _ in range(_LINKS):
        folder = os.path.realpath(path.parent)
        if path.name.isdigit() and folder in ("/dev/fd", os.path.realpath("/proc/self/fd")):
            return int(path.name)
        if not path.is_symlink():
            break
        path = Path(folder, os.readlink(path))
    return None


def _is_device(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder, such as a pipe."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _append(opened: int, data: bytes) -> None:
    """Write to an open file after what this process has printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # None, or closed
            stream.flush()
    with open(os.dup(opened), "wb") as file:  # its position is that of the open file
        file.write(data)


def _mode(file: Path) -> int:
    """Return the permissions of a file, or those that a new one gets."""
    try:
        return file.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
