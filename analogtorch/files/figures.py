"""Figures of matplotlib and their files; matplotlib is imported when the first figure is drawn."""

import functools
import io
from pathlib import Path
from typing import Any

from analogtorch.files.atomic import write_atomically
from analogtorch.values.shown import as_figure

_SUFFIXES = (".png", ".svg", ".pdf")
_OF_NAMES = "FixedFormatter", "FuncFormatter"
"""Formatters of ticks with given names; those of a logarithmic axis are formulas."""


def checked_path(path: str | Path | None) -> Path | None:
    """Return the file that a plot is to be written to, or None; call it before drawing.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: the file is of another kind than ``.png``, ``.svg`` and ``.pdf``.
    """
    if path is None:
        return None
    if not isinstance(path, str | Path):
        raise TypeError(f"plot: path must be a path such as 'plot.png', got {path!r}")
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"plot: path must end in .png, .svg or .pdf, got {str(path)!r}")
    return Path(path)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches.

    It does not belong to pyplot, which keeps figures and picks a backend for the whole process; a
    notebook shows it all the same, where it ends a cell.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot needs matplotlib; run: pip install "analogtorch[report]"'
        ) from error
    figure: Any = Figure(figsize=(width, height), dpi=130, layout="constrained")
    figure._repr_png_ = functools.partial(_bytes, figure, "png")
    return figure


def _bytes(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def draw(value: Any, path: str | Path | None = None, **options: Any) -> Any:
    """Return a value as a matplotlib figure, and write it to ``path`` if one is given.

    Args:
        value: of a type that ``as_figure`` knows.
        path: the file to write, ``.png``, ``.svg`` or ``.pdf``; None writes none.
        options: those of the type.

    Raises:
        TypeError: ``path`` is no path, or nothing draws this type.
        ValueError: the file is of another kind; nothing has been drawn then.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    file = checked_path(path)
    figure = as_figure(value, **options)
    _keep_dollars(figure)
    write_figure(figure, file)
    return figure


def _keep_dollars(figure: Any) -> None:
    """Let names between two ``$`` be names: matplotlib takes them for formulas."""
    for axes in figure.axes:
        legend = axes.get_legend()
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            if type(axis.get_major_formatter()).__name__ in _OF_NAMES:
                texts += axis.get_ticklabels()
        for text in texts + (legend.get_texts() if legend else []):
            text.set_parse_math(False)


def write_figure(figure: Any, path: Path | None) -> None:
    """Write the figure to the path of ``checked_path``, if there is one.

    The file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    if path is not None:
        write_atomically(path, _bytes(figure, path.suffix[1:].lower()))
