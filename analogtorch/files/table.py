"""Tables as comma-separated values."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analogtorch.files.atomic import write_atomically
from analogtorch.values import checks


def comma_separated(rows: Iterable[Sequence[Any]], path: str | Path | None = None) -> str:
    """Return the rows as comma-separated values, one line each; None is an empty cell.

    Args:
        rows: the cells of each row, the header first.
        path: file to write it to, whole or not at all; None writes none.

    Raises:
        TypeError: ``path`` is no path.
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if path is not None:
        write_atomically(checks.path("to_csv: path", path), text.getvalue())
    return text.getvalue()
