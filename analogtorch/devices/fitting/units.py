"""Units of measurements: conductances or currents, and times."""

import re
from dataclasses import dataclass

from analogtorch.devices.time import SECONDS, seconds
from analogtorch.values import checks

_SIEMENS = {"S": 1e6, "mS": 1e3, "uS": 1.0, "µS": 1.0, "nS": 1e-3}
"""Microsiemens in one of each unit."""
_AMPERE = {"A": 1e6, "mA": 1e3, "uA": 1.0, "µA": 1.0, "nA": 1e-3, "pA": 1e-6}
"""Microamperes in one of each unit."""
_SHORT = {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
"""Seconds in one of each unit that tables have, and texts such as ``1 day`` do not."""
_MICRO = str.maketrans({"\N{GREEK SMALL LETTER MU}": "\N{MICRO SIGN}"})
"""They look the same, and keyboards and programs write either."""
_SLASH = re.compile(r"\s*(target|measured|time)\s*/\s*([^\W\d_]+)\s*(@[^\[(]*)?", re.IGNORECASE)
"""A heading whose unit stands after a slash, such as ``target / uS``."""


@dataclass(frozen=True)
class Unit:
    """The unit of a column."""

    name: str
    """As headings state it, such as ``nA @ 0.2 V``."""
    factor: float
    """Microsiemens, or seconds, in one of it."""


@dataclass(frozen=True)
class Heading:
    """The heading of a column, such as ``measured [nA @ 0.2 V]``: a name, a unit and a voltage."""

    name: str
    unit: str | None = None
    volt: float | None = None


def heading(text: str) -> Heading:
    """Return the parts of a heading: a name, and a unit if it has brackets.

    A current also has its voltage there. ``target / uS`` and ``target_uS`` are a name and a unit as
    well; what stands after a slash and is no unit belongs to the name.

    Raises:
        ValueError: a voltage is no positive number.
    """
    plain = micro(text)
    if (slash := _SLASH.fullmatch(plain)) and _is_unit(slash[2]):
        plain = f"{slash[1]} [{slash[2]} {slash[3] or ''}]"
    found = re.fullmatch(r"\s*(\w+)\s*(?:[\[(]\s*([^\])@]*?)\s*(?:@([^\])]*))?[\])])?\s*", plain)
    if found is None:
        return Heading(text.strip())
    name, unit, volt = found.groups()
    if unit is None and "_" in name:
        name, _, unit = name.rpartition("_")
    return Heading(name.lower(), unit or None, None if volt is None else _volt(text, volt))


def micro(text: str) -> str:
    """Return a text whose Greek letters mu are the micro signs of the known units."""
    return text.translate(_MICRO)


def _is_unit(text: str) -> bool:
    """Return whether a text is a unit, or would be one in other letters, as ``us`` would be."""
    known = (*_SIEMENS, *_AMPERE)
    return text.casefold() in map(str.casefold, known) or _seconds(text) is not None


def _volt(text: str, volt: str) -> float:
    number = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(m?)V\s*", volt)
    try:
        value = float(number[1]) * (1e-3 if number[2] else 1.0) if number else 0.0
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(
            f"heading {text.strip()!r}: write the voltage as in 'measured [nA @ 0.2 V]', > 0"
        )
    return value


def is_current(unit: str) -> bool:
    """Return whether ``unit`` is that of a current, which a voltage turns into a conductance."""
    return unit in _AMPERE


def conductance(unit: str, volt: float | None) -> Unit:
    """Return a unit of conductances; currents are divided by the voltage ``volt``.

    Raises:
        ValueError: the unit is unknown, or a current has no voltage.
    """
    if unit in _SIEMENS:
        return Unit(unit, _SIEMENS[unit])
    if unit in _AMPERE:
        if volt is None:
            raise ValueError(
                f"{unit} is a current, which needs the read voltage: write 'measured [{unit} @ 0.2 "
                "V]' as the heading, or give volt=0.2"
            )
        return Unit(f"{unit} @ {volt:g} V", _AMPERE[unit] / volt)
    raise ValueError(_unknown(unit, (*_SIEMENS, *_AMPERE)))


def near(factor: float) -> str | None:
    """Return the unit with about that many microsiemens; None: there is none.

    Of currents it may be nanoamperes at 0.2 V, which are common.
    """
    known = [*(Unit(name, one) for name, one in _SIEMENS.items()), conductance("nA", 0.2)]
    return next((unit.name for unit in known if 0.5 < unit.factor / factor < 2), None)


def time_unit(unit: str) -> Unit:
    """Return a unit of times.

    Raises:
        ValueError: the unit is unknown.
    """
    if (found := _seconds(unit)) is None:
        raise ValueError(_unknown(unit, (*_SHORT, *SECONDS)))
    return Unit(unit, found)


def _seconds(unit: str) -> float | None:
    """Return the seconds in a unit of times; None if it is none."""
    if unit in _SHORT:
        return _SHORT[unit]
    try:
        return seconds(f"1 {unit}")
    except ValueError:
        return None


def _unknown(unit: str, known: tuple[str, ...]) -> str:
    same = [name for name in known if name.casefold() == unit.casefold()]
    near = f", did you mean {same[0]!r}?" if same else checks.nearest(unit, known)
    return f"unknown unit {unit!r}{near}; known: {', '.join(known)}"
