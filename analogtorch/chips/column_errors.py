"""Errors that each column of a manufactured chip keeps, as metadata of the fields of a part."""

import math
from dataclasses import dataclass, fields
from typing import Any

_KEY = "column_error"


@dataclass(frozen=True, kw_only=True)
class ColumnError:
    """An error that is drawn once for each column of a chip, by its seed and position."""

    kind: str
    """Name of the error; it keys the draws."""
    field: str
    """Field of the part that holds the standard deviation."""
    ideal: float
    """Value of a column without this error, around which it is drawn."""
    least: float
    """Smallest value of a column."""


def column_error(kind: str, *, ideal: float, least: float = -math.inf) -> dict[str, Any]:
    """Return metadata for a field of a part: the standard deviation of an error of its columns.

    The errors of the ADCs of a layer are drawn, moved and cut together, and reach the operator as
    one tensor. ``analogtorch.ops.converters`` and the kernels have the formulas of their effect on
    a partial sum.

    Example:
        >>> gain_std: float = field(default=0.0, metadata=column_error("gain", ideal=1.0))
    """
    return {_KEY: (kind, ideal, least)}


def column_errors(part: Any) -> tuple[ColumnError, ...]:
    """Return the errors that the fields of a part declare, in their order."""
    found = ((field.name, field.metadata.get(_KEY)) for field in fields(part))
    return tuple(
        ColumnError(kind=given[0], field=name, ideal=given[1], least=given[2])
        for name, given in found
        if given is not None
    )
