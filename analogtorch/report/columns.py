"""Tables of text for the terminal, and of HTML for notebooks."""

import html
import math
from collections.abc import Collection, Iterable, Sequence

from analogtorch.evaluate.metric import UNNAMED

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


def ruled(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return the lines of ``aligned`` with a rule under the header, the first of the rows."""
    lines = aligned(rows, left)
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows, the header first, as a table of HTML."""
    header, *body = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for row, tag in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    )
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def number_form(values: Iterable[float], least: int = 1) -> str:
    """Return the format that shows four digits of the largest of the values.

    It has ``least`` to 9 decimals; outside 1e-6 to 1e9, which would have more digits than anyone
    reads, an exponent.
    """
    largest = max(map(abs, values), default=0.0)
    if largest == 0:
        return "z.4f"
    if not 1e-6 <= largest < 1e9:
        return "z.4g"
    return f"z.{min(max(least, 3 - math.floor(math.log10(largest))), 9)}f"


def called(metric: str) -> str:
    """Return how a sentence calls a metric by its name."""
    return "the metric" if metric == UNNAMED else metric


def three_digits(value: float) -> str:
    """Return three digits of a value, or all digits of its integer part with commas."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def with_spread(mean: float, std: float, form: str = "z.2f") -> str:
    """Return a mean and its standard deviation, which is NaN, and left out, for one value."""
    return f"{mean:{form}}" + ("" if math.isnan(std) else f" ± {std:{form}}")


def over_chips(count: int, *, sign: str = " ±") -> str:
    """Return what the numbers of a table or plot are, over this many chips."""
    return "one chip" if count == 1 else f"mean{sign} standard deviation over {count} chips"
