"""How long chips stay within a limit, as a table for the terminal and as curves."""

from typing import Any

from torch import Tensor

from analogtorch.devices.time import SECONDS, duration
from analogtorch.evaluate.lifetime import Lifetime
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned
from analogtorch.values.shown import as_figure, as_text

_DAY = SECONDS["day"]
_FIRST = 60.0  # s; the axis is logarithmic, and earlier times are drawn here


@as_text.register
def table(found: Lifetime) -> str:
    """Return one row per schedule: the days until the limit, over the chips."""
    header = ("compensation read", "median, days", "shortest", "longest", "chips that stay")
    rows: list[tuple[str, ...]] = [header]
    for name, times in _schedules(found).items():
        ordered = times.sort().values
        middle = ordered[(len(ordered) - 1) // 2]
        beyond = int(ordered.isinf().sum())
        days = [_days(t.item(), found.longest) for t in (middle, ordered[0], ordered[-1])]
        rows.append((name, *days, f"{beyond} of {len(ordered)}"))
    lines = aligned(rows)
    cost = "" if found.cost is None else f"; one takes {found.cost}"
    notes = [
        f"until the metric crosses {found.limit:g}, looked at {since(found.start)}up to "
        f"{duration(found.longest)}",
        f"{found.reads:,} reads of the compensation in that time{cost}",
        *([] if found.recovery_cost is None else [f"with recovery: {found.recovery_cost}"]),
        *([found.note] if found.note else []),
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *notes])


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


def _schedules(found: Lifetime) -> dict[str, Tensor]:
    schedule = found.recalibration
    when = []
    if schedule.every is not None:
        when.append(f"every {duration(float(schedule.every))}")
    if schedule.times:
        when.append(f"{len(schedule.times)} times")
    first = f"at {duration(found.start)}"
    name = " and ".join(when) or f"{first} alone"
    rows = {first: found.once, name: found.recalibrated}
    return rows if found.recovered is None else rows | {f"{name}, recovery": found.recovered}


def _days(t: float, longest: float) -> str:
    if t > longest:
        return f"> {longest / _DAY:,.4g}"
    days = t / _DAY
    return f"{days:,.0f}" if days >= 100 else f"{days:.3g}"
