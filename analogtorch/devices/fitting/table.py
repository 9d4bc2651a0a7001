"""A table of measurements in CSV: headings with units, a row per read."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from analogtorch.devices.fitting.columns import EXAMPLE, Columns, column_units, columns
from analogtorch.devices.fitting.units import heading

_LARGEST = 256 * 2**20
"""Largest size of a file, bytes."""
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""What programs write in place of commas."""


def read_csv(path: Path, unit: str | None, volt: float | None) -> Columns:
    """Return the measurements of a file.

    Args:
        path: a text in UTF-8, comma-separated; empty lines and those that begin with # are left
            out, and the first other one has the headings.
        unit: unit of the columns whose heading has none.
        volt: read voltage, V, of currents whose heading has none.

    Raises:
        ValueError: the text is no such table, a column is missing, a unit is unknown, a value is no
            number, or ``unit`` or ``volt`` has no effect; the message names the line.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{size:,} bytes; at most {_LARGEST:,} are read")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"no text in UTF-8: {error}") from error
    return _parsed(text, unit, volt)


def _parsed(text: str, unit: str | None, volt: float | None) -> Columns:
    rows = _rows(text)
    try:
        first, given = next(rows)
    except StopIteration:
        raise ValueError(
            f"holds no table; the first line has the headings, such as '{EXAMPLE}'"
        ) from None
    if len(given) == 1 and (other := next((s for s in _SEPARATORS if s in given[0]), "")):
        raise ValueError(
            f"line {first}: its cells are separated by {_SEPARATORS[other]}; separate them by "
            f"commas, with points in the numbers, such as '{EXAMPLE}'"
        )
    try:
        headings = [heading(cell) for cell in given]
        units = column_units(headings, unit, volt)
    except ValueError as error:
        raise ValueError(f"line {first}: {error}") from error
    places = {h.name: place for place, h in enumerate(headings) if h.name in units}
    values: dict[str, list[float]] = {name: [] for name in places}
    lines: list[int] = []
    for line, row in rows:
        if len(row) != len(headings):
            raise ValueError(
                f"line {line}: {len(row)} cells, where line {first} has {len(headings)} headings"
            )
        lines.append(line)
        for name, place in places.items():
            values[name].append(_number(row[place], name, line))
    return columns(values, units, tuple(lines), [h.name for h in headings if h.name not in units])


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#"):
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _number(cell: str, name: str, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"line {line}: {name} is {cell.strip()!r}, which is no finite number")
    return value
