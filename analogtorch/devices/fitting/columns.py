"""Measurements as columns in one unit, checked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analogtorch.devices.fitting.units import (
    Heading,
    Unit,
    conductance,
    is_current,
    micro,
    time_unit,
)
from analogtorch.values import checks

COLUMNS = ("target", "measured", "time", "cycle", "device")
"""Names of the columns; the last two are optional."""
_NEEDED = COLUMNS[:3]
_NUMBERS = COLUMNS[3:]
_LARGEST = 1e9
"""Largest target, uS: 1 kS, beyond any device."""
_BEYOND = 1e6
"""Largest read, in units of the largest target: one beyond decides all sums of squares."""
_WHOLE = 2**53
"""From here on, float64 holds no longer every whole number."""
_REMEDY = {
    "cycle": "number the reads, such as 0, 1, 2, or leave the column out",
    "device": "number the device of each row, such as 0, 1, 2, or leave the column out",
}
EXAMPLE = "target [uS],measured [uS],time [s],cycle"


@dataclass(frozen=True)
class Columns:
    """One row per read."""

    target: Tensor
    """uS."""
    measured: Tensor
    """uS."""
    time: Tensor
    """s after programming."""
    cycle: Tensor
    """Number of the read among those of the same device and time, int64."""
    device: Tensor | None
    """Number of the device, int64; None: the table has none."""
    lines: tuple[int, ...] | None
    """Line of the file for each row; None: there is no file."""
    units: Mapping[str, Unit]
    """Unit of each column as it was given."""
    unused: tuple[str, ...] = ()
    """Names of further columns."""

    def where(self, row: int) -> str:
        """Return how a message names a row."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"

    def between(self, rows: Tensor) -> str:
        """Return how a message names the span of some rows."""
        first, last = int(rows.min()), int(rows.max())
        if self.lines is None:
            return f"rows {first} to {last}"
        return f"lines {self.lines[first]} to {self.lines[last]}"


def column_units(
    headings: Sequence[Heading], unit: str | None, volt: float | None
) -> dict[str, Unit]:
    """Return the unit of each known column.

    Args:
        headings: the headings of all columns.
        unit: unit of targets and reads whose heading has none; None: uS.
        volt: read voltage, V, of currents whose heading has none.

    Raises:
        ValueError: a column is missing or repeated, a unit is unknown, or the heading states
            another voltage than ``volt``; or ``unit`` or ``volt`` has no effect.
    """
    names, unit = [h.name for h in headings], unit and micro(unit)
    if missing := [name for name in _NEEDED if name not in names]:
        hints = "".join(checks.nearest(name, set(names) - set(COLUMNS)) for name in missing)
        raise ValueError(
            f"column {', '.join(map(repr, missing))} is missing{hints}; a table has {EXAMPLE}, "
            f"got {', '.join(names) or 'none'}"
        )
    found = {}
    for h in headings:
        if names.count(h.name) > 1 and h.name in COLUMNS:
            raise ValueError(f"two columns are called {h.name!r}")
        try:
            if h.name in ("target", "measured"):
                found[h.name] = conductance(h.unit or unit or "uS", h.volt or volt)
            elif h.name in COLUMNS:
                found[h.name] = time_unit(h.unit or "s") if h.name == "time" else Unit("", 1.0)
        except ValueError as error:
            raise ValueError(f"column {h.name!r}: {error}") from error
    _check_used([h for h in headings if h.name in ("target", "measured")], unit, volt)
    return found


def _check_used(headings: Sequence[Heading], unit: str | None, volt: float | None) -> None:
    """Raise ValueError if the unit or voltage has no effect, or contradicts a heading."""
    if unit is not None and all(h.unit for h in headings):
        raise ValueError(
            f"unit={unit!r} has no effect, as the headings of target and measured state their "
            "units; leave it out"
        )
    if volt is None:
        return
    currents = [h for h in headings if is_current(h.unit or unit or "uS")]
    if not currents:
        raise ValueError(
            f"volt={volt:g} has no effect, as no column holds a current; leave it out, or state "
            "the unit of currents, as in 'measured [nA]' or unit='nA'"
        )
    for h in currents:
        if h.volt is not None and not math.isclose(h.volt, volt):
            raise ValueError(
                f"column {h.name!r}: its heading states {h.volt:g} V, and volt={volt:g}; leave "
                "volt out, or correct the heading"
            )


def columns(
    values: Mapping[str, Sequence[float] | Tensor],
    units: Mapping[str, Unit],
    lines: tuple[int, ...] | None = None,
    unused: Iterable[str] = (),
) -> Columns:
    """Return columns of numbers in their units as ``Columns``.

    Args:
        values: columns by name.
        units: their units, by ``column_units``.
        lines: line of the file for each row.
        unused: names of further columns.

    Raises:
        TypeError: a column holds no numbers.
        ValueError: columns are empty or of different lengths, a time is not positive, a target is
            negative, a number of a device or cycle is not whole, or a value is NaN; the message
            names the row or line.
    """
    found = {name: _tensor(values, name) * unit.factor for name, unit in units.items()}
    sizes = {name: len(column) for name, column in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"columns must be of one length, got {sizes}")
    if not len(found["target"]):
        raise ValueError("holds no measurement")
    numbers = {name: found[name] for name in _NUMBERS if name in found}
    given = Columns(
        found["target"],
        found["measured"],
        found["time"],
        numbers.get("cycle", torch.zeros_like(found["target"])).long(),
        numbers["device"].long() if "device" in numbers else None,
        lines,
        units,
        tuple(unused),
    )
    for name in _NEEDED:
        _refuse(given, name, found[name], ~found[name].isfinite(), "must be finite")
    _refuse(given, "time", given.time, given.time <= 0, "must be > 0, seconds after programming")
    _refuse(given, "target", given.target, given.target < 0, "must be >= 0, a conductance")
    highest = float(given.target.max())
    for name, most in (("target", _LARGEST), ("measured", _BEYOND * (highest or 1.0))):
        bad = (each := found[name]).abs() > most
        rule = f"must be within {most:.3g} uS, beyond which there is no such conductance"
        _refuse(given, name, each, bad, f"{rule}; correct its unit, or leave the row out")
    for name, each in numbers.items():
        # NaN is no whole number either
        bad = ~((each == each.round()) & (each.abs() < _WHOLE))
        _refuse(given, name, each, bad, f"must be a whole number within 2^53; {_REMEDY[name]}")
    return given


def _tensor(values: Mapping[str, Sequence[float] | Tensor], name: str) -> Tensor:
    try:
        given: Any = values[name]
        if isinstance(given, np.ndarray):  # torch takes none that runs or is written backwards
            given = given.astype(np.float64)
        found = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"column {name!r} must be a tensor, an array or a list of numbers, got "
            f"{checks.shown(values[name])}"
        ) from error
    if found.dim() != 1:
        raise ValueError(
            f"column {name!r} must have one dimension, a number per read; got {tuple(found.shape)}"
        )
    return found


def _refuse(given: Columns, name: str, values: Tensor, bad: Tensor, rule: str) -> None:
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        more = int(bad.sum()) - 1
        others = f", and {more} more like it" if more else ""
        raise ValueError(
            f"{given.where(row)}: {name} is {float(values[row]):.15g}{others}; it {rule}"
        )
