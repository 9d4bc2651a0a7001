"""How a value is shown as text, as HTML and as a figure.

The room ``report`` draws and writes tables; it registers itself here by type. So a mapping
can print its table and draw its floorplan without importing either.
"""

import html
from functools import singledispatch
from typing import Any


@singledispatch
def as_text(value: Any) -> str:
    """Return the value as text for a terminal.

    Raises:
        TypeError: nothing is registered for its type.
    """
    raise TypeError(_unknown(value))


@singledispatch
def as_html(value: Any, **options: Any) -> str:
    """Return the value as one HTML page.

    Raises:
        TypeError: nothing is registered for its type.
    """
    raise TypeError(_unknown(value))


@singledispatch
def as_figure(value: Any, **options: Any) -> Any:
    """Return the value as a new matplotlib figure (``analogtorch.files.figures.draw`` writes it).

    Raises:
        TypeError: nothing is registered for its type.
        ImportError: matplotlib is not installed.
    """
    raise TypeError(_unknown(value))


class Shown:
    """A result that prints as its text, in notebooks too, which show no ``str``.

    A subclass whose text is registered nowhere has a ``__str__`` of its own.
    """

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _unknown(value: Any) -> str:
    kind = type(value).__name__
    return f"no renderer is registered for {kind}: import analogtorch.report, or register one"
