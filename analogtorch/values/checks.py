"""Checks of what a user gives, with one rule of what a number is and one wording for every room.

A number is a Python or NumPy number. It is never a boolean, a text or a tensor, never NaN or
infinite, and never larger than what is computed with it can be. The checks return Python's own
``float`` or ``int``, so that files and comparisons see no other type.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any

INT64 = 2**63 - 1
"""Largest count of what there may be many of, such as weights and samples."""
UINT64 = 2**64 - 1
"""Largest seed: that of torch's generators, and of hashes from which seeds are derived."""
_INT32 = 2**31 - 1
_FLOAT32 = 3.4028235e38
"""Largest number that float32 holds, as NumPy and torch print it."""


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    largest: float = _FLOAT32,
    what: str = "number",
    remedy: str = "",
) -> float:
    """Return ``value`` as a finite number within its bounds.

    Args:
        name: the caller's name for the value, such as ``PCM.g_max``.
        value: the value to check.
        least: the smallest allowed value.
        above: a bound that the value must exceed.
        most: the largest allowed value.
        below: a bound that the value must stay below.
        largest: the largest magnitude that can be computed with, by default in float32; the message
            states it only if it is exceeded.
        what: the noun that the message uses, such as ``share``.
        remedy: what to write instead; the message ends with it.

    Raises:
        ValueError: the value is no number, or lies out of bounds.
    """
    given = value
    # a boolean is an Integral, too
    real = isinstance(value, Real) and not isinstance(value, Integral) and _is_finite(value)
    if good := is_integer(value) or real:
        value = float(value) if real else int(value)
    if good and abs(value) > largest:
        least = -largest if least is None and above is None else least
        most = largest if most is None and below is None else most
    good = good and (least is None or value >= least) and (above is None or value > above)
    if not (good and (most is None or value <= most) and (below is None or value < below)):
        allowed = _span(what, least, above, most, below)
        raise ValueError(f"{name} must be {allowed}, got {shown(given)}{remedy and f'; {remedy}'}")
    return float(value) if abs(value) > INT64 else value  # no tensor takes a larger integer


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a fraction beyond any float
        return False


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, of Python or NumPy, and not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def count(
    name: str,
    value: Any,
    *,
    least: int | None = 1,
    most: int | None = None,
    largest: int = _INT32,
    remedy: str = "",
) -> int:
    """Return ``value`` as an integer from ``least`` to ``most``, both included.

    Without these, its magnitude is at most ``largest``, which the message states only if that is
    exceeded.

    Raises:
        ValueError: the value is no integer, or lies out of bounds.
    """
    good = is_integer(value)
    if good and abs(value) > largest:
        least = -largest if least is None else least
        most = largest if most is None else most
    if not (good and (least is None or value >= least) and (most is None or value <= most)):
        allowed = _span("integer", least, None, most, None)
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}{remedy and f'; {remedy}'}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """Return ``value``, which must be True or False.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return value


def choice(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return ``value``, which must be one of the ``allowed``.

    Raises:
        ValueError: it is none of them; the message suggests the nearest.
    """
    options = tuple(allowed)
    if not any(type(value) is type(option) and value == option for option in options):
        raise ValueError(
            f"{name} must be one of {options}, got {shown(value)}{nearest(value, options)}"
        )
    return value


def text(name: str, value: Any, example: str) -> str:
    """Return ``value``, which must be a text that is not empty.

    Raises:
        ValueError: it is something else.
    """
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name} must be a text such as {example!r}, got {shown(value)}")
    return value


def instance(name: str, value: Any, kind: Any, example: str) -> Any:
    """Return ``value``, which must be an instance of ``kind``.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        what = getattr(kind, "__name__", str(kind))
        article = "an" if what[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {what} such as {example}, got {shown(value)}")
    return value


def function(name: str, value: Any, form: str) -> Any:
    """Return ``value``, which must be None or a function that is called as ``form`` shows.

    Raises:
        TypeError: it is something else.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, {form}, got {shown(value)}")
    return value


def path(name: str, value: Any) -> Path:
    """Return ``value`` as a path.

    Raises:
        TypeError: it is neither a text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path such as 'runs/one', got {shown(value)}")
    return Path(value)


def items(name: str, value: Any, example: str) -> tuple[Any, ...]:
    """Return what ``value`` lists as a tuple; a text is refused.

    Raises:
        TypeError: it is a text, or cannot be iterated over.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list such as {example}, got {shown(value)}")
    return tuple(value)


def numbers(owner: Any, *names: str, optional: bool = False, **bounds: Any) -> None:
    """Check fields of a frozen dataclass with ``number`` and set them to Python numbers.

    Fields may be None if ``optional`` is True.
    """
    _settle(number, owner, names, optional, bounds)


def counts(owner: Any, *names: str, optional: bool = False, **bounds: Any) -> None:
    """Check fields of a frozen dataclass with ``count`` and set them to Python integers.

    Fields may be None if ``optional`` is True.
    """
    _settle(count, owner, names, optional, bounds)


def idle(owner: Any, *names: str, without: str) -> None:
    """Raise ValueError unless fields of a dataclass that have no effect have their defaults.

    Args:
        owner: the dataclass.
        names: its fields that have no effect.
        without: what they have none without, and how to give it.
    """
    for field in fields(owner):
        value = getattr(owner, field.name)
        if field.name in names and value != field.default:
            raise ValueError(
                f"{type(owner).__name__}.{field.name}={shown(value)} has no effect without "
                f"{without}, or leave {field.name} at {field.default!r}"
            )


def _settle(
    check: Any, owner: Any, names: Iterable[str], optional: bool, bounds: dict[str, Any]
) -> None:
    for name in names:
        value = getattr(owner, name)
        if not (optional and value is None):
            settle(owner, name, check(f"{type(owner).__name__}.{name}", value, **bounds))


def settle(owner: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(owner, name, value)


def nearest(given: Any, known: Iterable[Any]) -> str:
    """Return ``, did you mean 'x'?`` for the nearest ``known`` name; empty if none is near."""
    names = sorted(name for name in known if isinstance(name, str))
    near = get_close_matches(given, names, n=1) if isinstance(given, str) else []
    return f", did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """Return ``repr(value)`` for a message, cut to 80 characters."""
    whole = repr(value)
    return whole if len(whole) <= 80 else f"{whole[:77]}..."


def _span(
    what: str, least: float | None, above: float | None, most: float | None, below: float | None
) -> str:
    low, high = above if least is None else least, below if most is None else most
    article = "an" if what[0] in "aeiou" else "a"
    if low is None and high is None:
        return f"{article} finite {what}" if what != "integer" else "an integer"
    if high is None:
        if least is None and low == 0:
            return f"a positive {what}"
        return f"{article} {what} {'>' if least is None else '>='} {_bound(low)}"
    if low is None:
        return f"{article} {what} {'<' if most is None else '<='} {_bound(high)}"
    opening = "(" if least is None else "["
    closing = ")" if most is None else "]"
    return f"{article} {what} in {opening}{_bound(low)}, {_bound(high)}{closing}"


def _bound(value: float | None) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
