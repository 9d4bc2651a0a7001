"""The cost of each non-ideality, as a table for the terminal and as bars."""

import math
from typing import Any

from analogtorch.evaluate.shares import Budget
from analogtorch.files.figures import new_figure
from analogtorch.values.shown import as_figure, as_text


@as_text.register
def table(found: Budget) -> str:
    """Return one row per non-ideality, the largest loss alone first, then all together."""
    digits = _decimals(found)
    header = ["non-ideality", "alone", "gain without it"]
    rows = [[row.name, *(v.shown(digits) for v in (row.alone, row.saved))] for row in found.rows]
    if found.growth is not None:
        header.append("may grow")
        for line, row in zip(rows, found.rows, strict=True):
            line.append(_factor(row.growth))
    empty = [""] * (len(header) - 2)
    rows += [["sum of them alone", f"{found.sum:z.{digits}f}", *empty]]
    rows += [["all together", found.total.shown(digits), *empty]]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    title = "  ".join(c.ljust(w) for c, w in zip(header, widths, strict=True))
    rule = "-" * sum(widths, 2 * (len(widths) - 1))
    chips = f"{len(found.seeds)} chips, mean and 95 % interval"
    note = [f"* {found.note}"] if found.note else []
    note += [f"before they are measured, {found.recovery}"] * bool(found.recovery)
    if found.growth is not None:
        note.append(
            f"may grow: factor at which it costs {100 * found.growth:g} % of the metric more, all "
            "others as they are"
        )
    return "\n".join(
        [
            f"loss of the metric at {found.time}{'*' * bool(found.note)}, {chips}; "
            f"{found.reference:z.{digits}f} on a chip without non-idealities",
            *("", title.rstrip(), rule, *(line.rstrip() for line in lines[:-2]), rule),
            *(line.rstrip() for line in lines[-2:]),
            *note,
        ]
    )


@as_figure.register
def plot(found: Budget) -> Any:
    """Draw what each non-ideality costs alone, and what the metric gains without it."""
    figure = new_figure(8, 1.8 + 0.5 * len(found.rows))
    axes = figure.add_subplot()
    series = (
        ("alone", [r.alone for r in found.rows]),
        ("gain without", [r.saved for r in found.rows]),
    )
    for number, (name, values) in enumerate(series):
        middles = [i + 0.4 * number - 0.2 for i in range(len(values))]
        half = [v.finite_half_width or 0.0 for v in values]
        axes.barh(middles, [v.mean for v in values], 0.4, xerr=half, color=f"C{number}", label=name)
    axes.axvline(found.total.mean, color="black", linestyle="--", label="all together")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found.rows)), [row.name for row in found.rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"loss of the metric at {found.time}, of {found.reference:.4g}")
    axes.set_title(f"Error budget, {len(found.seeds)} chips, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def _factor(growth: float | None) -> str:
    if growth is None:
        return ""
    return "32 times or more" if math.isinf(growth) else f"{growth:.3g} times"


def _decimals(found: Budget) -> int:
    """Return the decimals, 4 to 12, that show four digits of the largest loss."""
    largest = max((abs(v.mean) for r in found.rows for v in (r.alone, r.saved)), default=0.0)
    largest = max(largest, abs(found.total.mean))
    return min(max(4, 3 - math.floor(math.log10(largest))), 12) if largest > 0 else 4
