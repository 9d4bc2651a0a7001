"""How messages about clips name an option: as Python takes it, or the command that is at work."""

import contextlib
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_GROUP: ContextVar[str | None] = ContextVar("group", default=None)


@contextlib.contextmanager
def by_command(group: str) -> Iterator[None]:
    """Let messages name options of a group, such as ``data.folder``, as a command line has them."""
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)


def option(name: str, value: Any) -> str:
    """Return how to give an option: ``resample=True``, or ``--data.folder.resample true``."""
    group = _GROUP.get()
    if group is None:
        return f"{name}={value!r}"
    written = f"'[{', '.join(value)}]'" if isinstance(value, tuple) else shlex.quote(str(value))
    return f"--{group}.{name} {'true' if value is True else written}"
