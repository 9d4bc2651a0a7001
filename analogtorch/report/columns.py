"""Tables of text for the terminal, and of HTML for notebooks."""

import html
import math
from collections.abc import Collection, Sequence

SPAN = "[95 % interval, where chips differ]"
"""What stands behind a mean in tables: equal values show no spread (``Interval.shown_ends``)."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return a line for each row, whose columns are two spaces apart.

    Args:
        rows: the cells of each row; all have as many.
        left: columns that are aligned to the left; the others are to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows, the header first, as a table of HTML."""
    header, *body = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for row, tag in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    )
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def with_spread(mean: float, std: float, digits: int = 2) -> str:
    """Return a mean and its standard deviation, which is NaN, and left out, for one value."""
    return f"{mean:z.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")


def over_chips(count: int, *, sign: str = " ±") -> str:
    """Return what the numbers of a table or plot are, over this many chips."""
    return "one chip" if count == 1 else f"mean{sign} standard deviation over {count} chips"
