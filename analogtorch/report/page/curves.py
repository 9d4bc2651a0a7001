"""Curves over the logarithm of time, or over epochs, as SVG.

They take their colours from the page's style.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from analogtorch.evaluate import Sweep

_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 44, 52
_SIZE = 13
"""Height of letters; at 360 pixels of width they are 11 pixels high."""
_STYLES = ("first", "second")
_SHORT = 3
"""Most characters of names below the axis that are not turned."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity over time, with its spread."""

    name: str
    means: Sequence[float]
    spreads: Sequence[float]
    """Half of the band around each mean."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line."""

    name: str
    value: float


def over_time(name: str, sweep: Sweep, order: Sequence[int]) -> Curve:
    """Return a metric in percent at the times of ``order``; one chip has no band."""
    return Curve(
        name=name,
        means=[100 * mean for mean in sweep.mean[order].tolist()],
        spreads=[100 * std for std in sweep.std[order].nan_to_num().tolist()],
    )


def curves(
    shown: Sequence[Curve],
    levels: Sequence[Level],
    times: Sequence[tuple[float, str]],
    *,
    unit: str,
    alternative: str,
    axis: Callable[[float], float] = math.log10,
) -> str:
    """Return at most two curves with their bands, and lines, as an ``<svg>`` element.

    Args:
        shown: the curves, each with a mean and a spread for each time.
        levels: the first is a line, the second is dotted.
        times: seconds, in order, and their names.
        unit: unit of the quantity.
        alternative: what a screen reader reads.
        axis: where a time lies, up to a factor and an offset.
    """
    values = [level.value for level in levels]
    for curve in shown:
        values += [
            m + sign * s
            for m, s in zip(curve.means, curve.spreads, strict=True)
            for sign in (-1, 1)
        ]
    if min(values) == max(values):
        values.append(values[0] + 1.0)
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    first, last = (axis(times[i][0]) for i in (0, -1))

    def x(t: float) -> float:
        inner = right - _LEFT - 24  # room beside the first and the last time
        share = (axis(t) - first) / (last - first) if last > first else 0.5
        return _LEFT + 12 + share * inner

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP)

    lines = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(alternative)}" '
        f'font-size="{_SIZE}">'
    ]
    for tick in ticks:
        lines.append(_line("grid", _LEFT, y(tick), right, y(tick)))
        lines.append(_words(_LEFT - 5, y(tick) + 4, f"{tick:g} {unit}", "end"))
    short = all(len(name) <= _SHORT for _, name in times)
    for t, name in times:
        lines.append(_line("grid", x(t), bottom, x(t), bottom + 4))
        if short:
            lines.append(_words(x(t), bottom + 16, name, "middle"))
        else:
            turned = f' transform="rotate(-32 {x(t):.1f} {bottom + 16})"'
            lines.append(_words(x(t) + 4, bottom + 16, name, "end", turned))
    for level, style in zip(levels, ("level", "level limit"), strict=False):
        lines.append(_line(style, _LEFT, y(level.value), right, y(level.value)))
    at = [x(t) for t, _ in times]
    for curve, style in zip(shown, _STYLES, strict=False):
        lines += _curve(curve, style, at, y)
    return "\n".join([*lines, *_legend(shown, levels), "</svg>"])


def _curve(curve: Curve, style: str, at: Sequence[float], y: Callable[[float], float]) -> list[str]:
    ends = list(zip(at, curve.means, curve.spreads, strict=True))
    upper = [f"{x:.1f},{y(mean + spread):.1f}" for x, mean, spread in ends]
    lower = [f"{x:.1f},{y(mean - spread):.1f}" for x, mean, spread in reversed(ends)]
    means = " ".join(f"{x:.1f},{y(mean):.1f}" for x, mean, _ in ends)
    found = [
        f'<polygon class="{style} band" points="{" ".join(upper + lower)}"/>',
        f'<polyline class="{style}" points="{means}"/>',
    ]
    found += [_line(style, x, y(m + s), x, y(m - s)) for x, m, s in ends] if len(ends) == 1 else []
    return found + [_mark(style, x, y(mean)) for x, mean, _ in ends]


def _legend(shown: Sequence[Curve], levels: Sequence[Level]) -> list[str]:
    """Return a sample and the name of each line above the axes: a row of curves, one of levels."""
    rows = [
        [(curve.name, style) for curve, style in zip(shown, _STYLES, strict=False)],
        [(v.name, s) for v, s in zip(levels, ("level", "level limit"), strict=False)],
    ]
    found = []
    for row, y in zip(rows, (14, 32), strict=True):
        for i, (name, style) in enumerate(row):
            x = _LEFT + i * (_WIDTH - _LEFT) / 2
            found.append(_line(style, x, y - 4, x + 26, y - 4))
            if style in _STYLES:
                found.append(_mark(style, x + 13, y - 4))
            found.append(_words(x + 32, y, name, "start"))
    return found


def _mark(style: str, x: float, y: float) -> str:
    """Return a point of a curve: the shape tells curves apart without their colours."""
    if style == "first":
        return f'<circle class="{style} mark" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<rect class="{style} mark" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _words(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, 3 to 7, that span ``low`` to ``high``."""
    span = max(high - low, 1e-9 * max(abs(high), 1.0))
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * f for f in (1, 2, 5, 10) if span / (power * f) <= 5.001)
    begin = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - begin
    return [round(step * (begin + i), 12) for i in range(count + 1)]
