"""Times after programming, as text and in seconds."""

import math
import re
import sys
from datetime import timedelta

from torch import Tensor

from analogtorch.values import checks

SECONDS = {
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "day": 86400.0,
    "week": 604800.0,
    "month": 2592000.0,
    "year": 31536000.0,
}
"""Seconds in a unit of time, by its name in texts such as ``"1 day"``."""
_ALIASES = {
    "second": "s",
    "sec": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "d": "day",
    "w": "week",
    "y": "year",
}

_DIGITS = 12
"""Significant digits of a time."""


def seconds(time: str | float) -> float | None:
    """Return a time after programming in seconds.

    Args:
        time: a number of seconds, also as text, or a text such as ``"1 h"``, ``"30 days"`` or
            ``"1 year"``, also in capitals. A month has 2,592,000 s, a year 31,536,000 s.

    Returns:
        The time in seconds, to 12 significant digits, or None for ``"programmed"``: right after
        programming, before any read.

    Raises:
        ValueError: the time is negative or infinite, a text of another form, or of another type.
    """
    if isinstance(time, str):
        if time.strip().lower() == "programmed":
            return None
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", time.lower())
        unit = _unit(match[2] or "s") if match else None
        if match is None or unit is None:
            raise ValueError(
                f"time {time!r} is not understood; give seconds as a number, 'programmed', or a "
                f"number and one of {', '.join(SECONDS)}, such as '1 day'"
            )
        try:
            time = float(match[1]) * SECONDS[unit]
        except ValueError as error:
            raise ValueError(f"time {time!r} does not start with a number") from error
    remedy = "texts such as '1 day' are times too"
    if isinstance(time, timedelta):
        remedy = "write its .total_seconds()"
    elif isinstance(time, Tensor):
        remedy = "write its .item()"
    given = checks.number(
        "time",
        time,
        least=0,
        largest=sys.float_info.max,
        what="finite number of seconds",
        remedy=remedy,
    )
    # 1.1 h and 66 min are one time: it names the noise of a read
    return float(f"{given:.{_DIGITS}g}") + 0.0


def duration(seconds: float) -> str:
    """Return a time in seconds as text in the largest unit that it fills: ``2 days``, ``90 s``."""
    for unit in ("year", "day", "h", "min"):
        if seconds >= SECONDS[unit]:
            amount = seconds / SECONDS[unit]
            plural = "s" if unit in ("year", "day") and amount != 1 else ""
            return f"{amount:g} {unit}{plural}"
    return f"{seconds:g} s"


def check_time(t: float) -> None:
    """Raise an error unless ``t`` lies at or after programming.

    Raises:
        ValueError: ``t`` is negative.
    """
    if t < 0:
        raise ValueError(f"t must be >= 0, seconds after programming, got {t}")


def growth(age: float, t_read: float) -> float:
    """Return the variance, >= 0, that noise of a spectrum ``Q^2 / f`` has, in units of ``Q^2``.

    ``age`` is that of the device and ``t_read`` the length of a read, > 0, both in seconds. A
    device that is younger than a read has none.
    """
    return math.log(max((age + t_read) / (2 * t_read), 1.0))


def _unit(text: str) -> str | None:
    for name in (text, text.removesuffix("s")):
        name = _ALIASES.get(name, name)
        if name in SECONDS:
            return name
    return None
