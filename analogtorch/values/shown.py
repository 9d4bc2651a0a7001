"""How a value is shown. What draws and writes tables is in the room ``report``, which adds itself
here by type.

So a mapping prints its table and draws its floorplan, and knows nothing of either.
"""

from functools import singledispatch
from pathlib import Path
from typing import Any


@singledispatch
def as_text(value: Any) -> str:
    """The value for a terminal.

    Raises:
        TypeError: nothing is registered for its type.
    """
    raise TypeError(_unknown(value))


@singledispatch
def as_html(value: Any, **options: Any) -> str:
    """The value as one HTML page.

    Raises:
        TypeError: nothing is registered for its type.
    """
    raise TypeError(_unknown(value))


@singledispatch
def draw(value: Any, path: str | Path | None = None, **options: Any) -> Any:
    """The value as a matplotlib figure, also written to ``path`` if one is given.

    Raises:
        TypeError: nothing is registered for its type.
    """
    raise TypeError(_unknown(value))


def _unknown(value: Any) -> str:
    kind = type(value).__name__
    return f"no renderer is registered for {kind}: import analogtorch.report, or register one"
