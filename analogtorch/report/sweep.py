"""A metric over chips and times: a table for the terminal and for notebooks, and curves."""

import html
import itertools
import math
from collections.abc import Sequence
from typing import Any

from analogtorch.devices import seconds
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.conditions import remarks
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned, html_table, number_form
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_html, as_text

_FIRST = 1.0  # s; the axis is logarithmic, and 0 s is drawn here
_APART = 10.0  # factor between the places of 0 s and of its neighbours, at least
_LETTERS = 85
"""Letters of a label that the axis of times is wide, about, in plots of 7 inches."""
_TILTED = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
"""How labels stand where they would overlap."""
BEYOND = " (*: beyond the device's data)"
"""What the label of an axis of times ends with, if one is marked."""


@as_text.register
def table(found: Sweep) -> str:
    """Return one row per time: mean, spread, worst chip and interval over the chips."""
    return "\n".join([*aligned(_rows(found)), *_notes(found)])


@as_html.register
def page(found: Sweep) -> str:
    """Return the table as HTML."""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(found))
    return html_table(_rows(found)) + notes


@as_figure.register
def plot(found: Sweep, *, limit: float | None = None) -> Any:
    """Draw the metric of each chip over the logarithm of time, with mean and 95 % interval."""
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    order, at = ordered(found)
    each = found.values[:, order]
    for values in each.tolist():
        axes.plot(at, values, color="C0", alpha=0.25, linewidth=0.8)
    every = found.interval()
    spread = [every[i] for i in order]
    ends = [s.ends or (s.mean, s.mean) for s in spread]
    chips = counted(len(found.seeds), "chip")
    axes.plot(at, [s.mean for s in spread], color="C0", marker="o", label=f"mean of {chips}")
    axes.fill_between(
        at, *zip(*ends, strict=True), color="C0", alpha=0.35, linewidth=0, label="95 % interval"
    )
    axes.plot(
        at, found.worst[order].tolist(), color="C3", linestyle="--", label="worst chip of each time"
    )
    if limit is not None:
        axes.axhline(limit, color="black", linestyle=":", label=f"{limit:.4g}")
    time_axis(axes, found)
    axes.set_ylabel(found.metric)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def ordered(found: Sweep) -> tuple[list[int], list[float]]:
    """Return the indices of the times in order, and where on the logarithmic axis each is, s.

    ``programmed`` and ``0 s`` have places of their own before the others.
    """
    times = [seconds(time) for time in found.times]
    zero = min([_FIRST, *(t / _APART for t in times if t)])
    at = [zero / _APART if t is None else t or zero for t in times]
    order = sorted(range(len(at)), key=at.__getitem__)
    return order, [at[i] for i in order]


def time_axis(axes: Any, found: Sweep) -> None:
    """Make the horizontal axis the logarithm of time, with the times of a sweep as its ticks."""
    order, at = ordered(found)
    names = [found.times[i] + "*" * bool(found.note(found.times[i])) for i in order]
    axes.set_xscale("log")
    axes.set_xticks(at, names, **(_TILTED if _crowded(at, names) else {}))
    axes.minorticks_off()
    axes.set_xlabel("time after programming" + (BEYOND if any(found.notes) else ""))


def _crowded(at: Sequence[float], names: Sequence[str]) -> bool:
    """Return whether names side by side would overlap, at ordered places on a logarithmic axis."""
    places = [math.log10(t) for t in at]
    share = [(b - a) / (places[-1] - places[0]) for a, b in itertools.pairwise(places)]
    wide = [(len(a) + len(b)) / 2 + 1 for a, b in itertools.pairwise(names)]
    return any(part * _LETTERS < letters for part, letters in zip(share, wide, strict=True))


def _rows(found: Sweep) -> list[Sequence[str]]:
    chips = counted(len(found.seeds), "chip")
    rows: list[Sequence[str]] = [
        (f"{found.metric} at", "mean", "std", "worst", f"95 % interval, {chips}")
    ]
    form = number_form(found.values.flatten().tolist())

    def shown(value: float) -> str:
        return "" if math.isnan(value) else f"{value:{form}}"  # the spread of one chip

    numbers = zip(found.mean.tolist(), found.std.tolist(), found.worst.tolist(), strict=True)
    for time, row, spread in zip(found.times, numbers, found.interval(), strict=True):
        ends = " to ".join(f"{end:{form}}" for end in spread.shown_ends or ())
        mark = "*" * bool(found.note(time))
        rows.append((time + mark, *map(shown, row), ends))
    return rows


def _notes(found: Sweep) -> list[str]:
    beyond = [f"* {time} is {note}" for time in found.times if (note := found.note(time))]
    recovery = [f"in the field, {found.recovery}"] * bool(found.recovery)
    return [*beyond, *recovery, *remarks(found.conditions)]
