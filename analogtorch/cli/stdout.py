"""What a command prints, where its reader has gone or the disk behind it is full."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class ClosedPipe(OSError):
    """Nobody reads what is printed any more, as after ``| head -1``."""


@contextlib.contextmanager
def checked_stdout() -> Iterator[None]:
    """Say of errors of stdout inside the context that they are of stdout.

    At the end all is written, so that Python finds nothing to complain of as it ends. Letters that
    its encoding lacks, such as the plus-minus sign in ASCII, are written as escapes: a result is
    not lost for one of them.

    Raises:
        ClosedPipe: the reader has gone.
        OSError: nothing could be printed for another reason, such as a full disk.
    """
    if sys.stdout is None:  # a program without a console
        yield
        return
    checked: Any = _Checked(sys.stdout)
    with contextlib.redirect_stdout(checked), _escaping(sys.stdout):
        try:
            yield
        except SystemExit:  # after --help
            checked.flush()
            raise
        except BaseException:
            with contextlib.suppress(OSError):  # the first error counts
                checked.flush()
            raise
        checked.flush()


@contextlib.contextmanager
def _escaping(stream: Any) -> Iterator[None]:
    """Let a stream write the letters that it cannot encode as escapes, inside the context."""
    errors = getattr(stream, "errors", None)
    # the second in the C locale, where Python prints names of files as they are
    if errors not in ("strict", "surrogateescape") or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # it was closed, or writes what is left
            stream.reconfigure(errors=errors)


class _Checked:
    """A stream whose errors name it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        with self._named():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            kind = ClosedPipe if isinstance(error, BrokenPipeError) else OSError
            raise kind(error.errno, f"could not write to stdout: {error.strerror}") from error

    def _discard(self) -> None:
        """Let what is left in the buffer lead nowhere: Python tries it again as it ends."""
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
