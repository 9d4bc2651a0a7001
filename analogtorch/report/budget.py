"""The cost of each non-ideality, as a table for the terminal and as bars."""

import math
from typing import Any

from analogtorch.evaluate import conditions
from analogtorch.evaluate.shares import Budget
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned, called, number_form
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_text


@as_text.register
def table(found: Budget) -> str:
    """Return one row per non-ideality, the largest loss alone first, then all together."""
    form = number_form(_losses(found), least=4)
    header = ["non-ideality", "alone", "gain without it"]
    rows = [[row.name, *(v.formatted(form) for v in (row.alone, row.saved))] for row in found.rows]
    if found.growth is not None:
        header.append("may grow")
        for line, row in zip(rows, found.rows, strict=True):
            line.append(_factor(row.growth))
    empty = [""] * (len(header) - 2)
    rows += [["sum of them alone", f"{found.sum:{form}}", *empty]]
    rows += [["all together", found.total.formatted(form), *empty]]
    lines = aligned([header, *rows], left=range(len(header)))
    rule = "-" * max(map(len, lines))
    chips = _chips(found, "mean and 95 % interval")
    note = [f"* {found.note}"] if found.note else []
    note += remarks(found)
    if found.growth is not None:
        note.append(
            f"may grow: factor at which it costs {100 * found.growth:g} % of the metric more, all "
            "others as they are"
        )
    return "\n".join(
        [
            f"loss of {called(found.metric)} at {found.time}{'*' * bool(found.note)}, {chips}; "
            f"{found.reference:{form}} on a chip without non-idealities",
            *("", lines[0], rule, *lines[1:-2], rule, *lines[-2:]),
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
    axes.set_xlabel(f"loss of {called(found.metric)} at {found.time}, of {found.reference:.4g}")
    axes.set_title(f"Error budget, {_chips(found, '95 % intervals')}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


def remarks(found: Budget) -> list[str]:
    """Return how the chips differ from chips by default."""
    recovery = [f"before they are measured, {found.recovery}"] * bool(found.recovery)
    return recovery + conditions.remarks(found.conditions)


def _chips(found: Budget, several: str) -> str:
    """Return the number of chips, and what numbers over several are: one has no interval."""
    number = len(found.seeds)
    return counted(number, "chip") + f", {several}" * (number > 1)


def _factor(growth: float | None) -> str:
    if growth is None:
        return ""
    return "32 times or more" if math.isinf(growth) else f"{growth:.3g} times"


def _losses(found: Budget) -> list[float]:
    of_each = [loss.mean for row in found.rows for loss in (row.alone, row.saved)]
    return [*of_each, found.total.mean]
