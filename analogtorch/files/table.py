"""Tables as comma-separated values and as Parquet."""

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


def parquet(rows: Iterable[Sequence[Any]], path: str | Path) -> Path:
    """Write the rows as Parquet: a column has the type of its cells; None is a missing value.

    Args:
        rows: the cells of each row, the header first; there is one row more, or several.
        path: file to write, whole or not at all.

    Returns:
        The path.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: ``path`` is no path.
        OSError: the file cannot be written.
    """
    path = checks.path("to_parquet: path", path)
    try:
        import pyarrow
        from pyarrow import parquet as form
    except ImportError as error:
        raise ImportError(
            'to_parquet needs pyarrow; run: pip install "analogtorch[parquet]", or use to_csv'
        ) from error
    header, *cells = rows
    columns = dict(zip(header, zip(*cells, strict=True), strict=True))
    data = pyarrow.BufferOutputStream()
    form.write_table(pyarrow.table(columns), data)
    return write_atomically(path, data.getvalue().to_pybytes())
