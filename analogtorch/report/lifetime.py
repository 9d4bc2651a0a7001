"""How long chips stay within a limit, as a table for the terminal and as curves."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from analogtorch.cost_model import ReadCost
from analogtorch.devices.thermal import kelvin
from analogtorch.devices.time import SECONDS, duration
from analogtorch.evaluate.conditions import remarks
from analogtorch.evaluate.field import useful_reads
from analogtorch.evaluate.lifetime import Lifetime
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import ruled, three_digits
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_text

_DAY = SECONDS["day"]
MISSED = "looks are a factor of about 2 in time apart: a dip between them is missed"
"""A note on ``analogtorch.evaluate.field.looks``."""
_FIRST = 60.0  # s; the axis is logarithmic, and earlier times are drawn here


@as_text.register
def table(found: Lifetime) -> str:
    """Return one row per schedule: the days until the limit, over the chips."""
    header = ("compensation read", "median, days", "shortest", "longest", "chips that stay")
    rows: list[tuple[str, ...]] = [header]
    for name, times in _schedules(found).items():
        ordered = sorted(times.tolist())
        middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
        days = [_days(each, found.longest) for each in (middle, ordered[:1], ordered[-1:])]
        rows.append((name, *days, f"{ordered.count(math.inf)} of {len(ordered)}"))
    lines = ruled(rows)
    notes = [
        f"until the metric crosses {found.limit:g}, looked at {since(found.start)}up to "
        f"{duration(found.longest)}",
        f"{found.reads:,} reads of the compensation in that time; {takes('one', found.cost)}",
        *([] if found.recovery_cost is None else [f"with recovery: {found.recovery_cost}"]),
        *([found.note] if found.note else []),
        *remarks((*found.conditions, *_read_temperature(found))),
        MISSED,
    ]
    return "\n".join([*lines, *notes])


@as_figure.register
def plot(found: Lifetime) -> Any:
    """Draw the share of chips that are within the limit, over the logarithm of time."""
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot()
    first = max(found.start, _FIRST)
    for name, times in _schedules(found).items():
        ends = [min(max(t, first), found.longest) for t in sorted(times.tolist())]
        kept = [100 * (1 - i / len(ends)) for i in range(len(ends) + 1)]
        alive = 100 * float(times.isinf().double().mean())
        x = [first, *ends, found.longest]
        y = [*(max(share, alive) for share in kept), alive]
        axes.step(x, y, where="post", label=f"compensation read {name}")
    axes.set_xscale("log")
    ticks = {f"1 {unit}": SECONDS[unit] for unit in ("h", "day", "month", "year")}
    ticks["10 years"] = 10 * SECONDS["year"]
    shown = {name: t for name, t in ticks.items() if t <= found.longest}
    axes.set_xticks(list(shown.values()), list(shown))
    axes.minorticks_off()
    axes.set_xlabel("time after programming" + (f" ({found.note})" if found.note else ""))
    axes.set_ylabel(f"chips within {found.limit:g}, %")
    axes.set_ylim(-5, 105)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def since(start: float) -> str:
    """Return from when on chips serve, unless from the beginning: ``from 1 day, ... , ``."""
    return f"from {duration(start)}, when their targets are right, " if start else ""


def takes(what: str, cost: ReadCost | None) -> str:
    """Return what a recalibration takes, in words, or why that is not known."""
    if cost is None:
        return f"what {what} takes is not known, as a chip has no cost"
    return f"{what} takes {cost}"


def _read_temperature(found: Lifetime) -> list[str]:
    given = found.recalibration.temperature
    return [] if given is None else [f"drift is read at {kelvin(given):g} K"]


def _schedules(found: Lifetime) -> dict[str, Tensor]:
    schedule = found.recalibration
    regular = useful_reads(replace(schedule, times=()), found.start, found.longest)
    others = found.reads - regular  # times may be before the start, or of regular reads
    when = []
    if schedule.every is not None:
        when.append(f"every {duration(float(schedule.every))}")
    if others:
        when.append(counted(others, "time"))
    first = f"at {duration(found.start)}"
    name = " and ".join(when) or f"{first} alone"
    rows = {first: found.once, name: found.recalibrated}
    return rows if found.recovered is None else rows | {f"{name}, recovery": found.recovered}


def _days(times: Sequence[float], longest: float) -> str:
    """Return the mean of times in days; if some are not known, that it is more."""
    days = statistics.fmean(min(t, longest) for t in times) / _DAY
    beyond = "> " if max(times) > longest else ""
    return beyond + three_digits(days)
