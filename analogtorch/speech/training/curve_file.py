"""The file of the curve of a training, as ``Curve`` writes it."""

import csv
from pathlib import Path

HEADER = ("epoch", "loss", "validation accuracy")
Rows = list[tuple[int, float, float | None]]
"""Epoch, counted from 1; mean loss of its batches; validation accuracy, 0..1, or None."""


def read_curve(path: str | Path) -> Rows:
    """Return the rows of a file of ``Curve``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    if tuple(header) != HEADER:
        raise ValueError(f"{path} is no curve of a training: its columns are {header}")
    try:
        return [(int(n), float(loss), float(right) if right else None) for n, loss, right in rows]
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove it, and the report has no curve of this training"
        ) from error
