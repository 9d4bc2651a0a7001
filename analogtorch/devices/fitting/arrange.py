"""The assignment of reads to devices, and whether there are enough of them."""

import torch
from torch import Tensor

from analogtorch.devices.fitting.columns import Columns
from analogtorch.devices.fitting.grid import Grid, grid
from analogtorch.devices.fitting.units import near
from analogtorch.values import checks

FIRST = 50
"""Devices that must have been read at the first time: the spread of programming over conductance
comes from them."""
LATER = 20
"""Devices that must have been read at each other time."""
_RISE = 2
"""Standard errors by which the slope of conductances over targets must exceed 0."""
_SORTED = 20
"""Fewest steps between reads of equal targets, all up or all down, by which a table counts as
sorted: of unsorted ones less than one in 500,000 has so many."""
_BINS = 10
"""Most groups of targets in which a conductance must rise with its target."""
_FAR = 5.0
"""Ratio of conductances to their targets, or its inverse, that no programmed device has: a unit is
wrong."""
_OFF = 2.0
"""Ratio, or inverse, from which a note has it: some devices drift as far before their first read,
and some are written with that error."""
_ROUNDING = 0.05
"""Part of ``g_max`` by which targets may miss the range of a device: a mapping rounds them."""

_APART = 0.55
"""Part of the range by which neighbouring targets are too far apart. Assumed, after fits of shipped
devices, which came close to them between levels 0.5 apart and missed them by far at 0.7."""


def arrange(given: Columns) -> tuple[Grid, tuple[str, ...]]:
    """Return the measurements as a grid, and notes on what they do not determine.

    Raises:
        ValueError: too few measurements, a device with several targets, a read that the table lists
            twice, or conductances that do not rise with their targets; the message names rows or
            lines.
    """
    notes: list[str] = []
    device = given.device
    if device is None:
        device, note = _by_order(given)
        notes += [note] * bool(note)
    else:
        _check_devices(given, device)
    device = device.unique(return_inverse=True)[1]
    found = grid(given.target, given.measured, given.time, device)
    _check_numbers(found)
    _check_rising(given)
    if found.alike:
        found = Grid(found.target, found.times, found.reads[:, :, :1])
        notes.append(
            "repeated reads are equal and count as one: their noise is below the resolution of the "
            "instrument, or rows are there several times"
        )
    if given.unused:
        notes.append(
            f"unused columns: {', '.join(map(repr, given.unused))}; rows that differ by them alone "
            "count as reads of one device under the same conditions"
        )
    return found, tuple(notes)


def _by_order(given: Columns) -> tuple[Tensor, str]:
    """Return the numbers of the devices if each time and cycle lists the same targets, and a note.

    Otherwise, and where rows of equal targets are sorted by what was measured, each read is that of
    a device of its own: the first of a sorted table is the smallest read each time, whatever device
    it is of, and read noise would seem smaller than it is.
    """
    keys = torch.stack((given.time, given.cycle.double()), 1)
    _, group = keys.unique(dim=0, return_inverse=True)
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group)
    if bool((sizes != sizes[0]).any()):
        return _unknown(given, "the targets differ in number from time to time")
    targets, measured = (x[order].view(len(sizes), -1) for x in (given.target, given.measured))
    if bool((targets != targets[0]).any()):
        return _unknown(given, "the targets differ in order from time to time")
    if len(sizes) > 1 and _are_sorted(targets[0], measured):
        return _unknown(given, "rows of equal targets are sorted by 'measured' each time")
    number = torch.empty_like(order)
    number[order] = torch.arange(len(targets[0]), device="cpu").repeat(len(sizes))
    if len(sizes) == 1 or len(targets[0].unique()) == len(targets[0]):
        return number, ""  # nothing to mistake
    return number, (
        "devices are identified by the order of their rows, as there is no column 'device' and "
        "targets repeat: the k-th row of each time and cycle is the k-th device; if that is not "
        "so, add a column 'device'"
    )


def _unknown(given: Columns, reason: str) -> tuple[Tensor, str]:
    """Return a device for each read, and a note on what that leaves undetermined."""
    return torch.arange(len(given.target), device="cpu"), (
        "which reads belong to one device is not known, as there is no column 'device' and "
        f"{reason}: drift of single devices and read noise stay in the spread at each time"
    )


def _are_sorted(target: Tensor, measured: Tensor) -> bool:
    """Return whether reads of equal targets rise from row to row, or fall, at all times.

    Args:
        target: (devices,).
        measured: (times and cycles, devices).
    """
    order = torch.argsort(target, stable=True)
    equal = target[order].diff() == 0
    steps = measured[:, order].diff(dim=1)[:, equal]
    rise, fall = int((steps > 0).sum()), int((steps < 0).sum())
    return min(rise, fall) == 0 and max(rise, fall) >= _SORTED


def _check_devices(given: Columns, device: Tensor) -> None:
    """Raise an error if a device has several targets, or a read is listed twice."""
    order = torch.argsort(device, stable=True)
    same = device[order][1:] == device[order][:-1]
    target = given.target[order]
    if bool((bad := same & (target[1:] != target[:-1])).any()):
        row = int(bad.nonzero()[0])
        before, after = int(order[row]), int(order[row + 1])
        raise ValueError(
            f"{given.where(after)}: device {int(device[after])} has the target "
            f"{float(given.target[after]):g} uS, and {float(given.target[before]):g} uS in "
            f"{given.where(before)}; a device that is programmed anew gets a number of its own"
        )
    if not bool((given.cycle != 0).any()):
        return  # without a column of cycles, repeated rows are repeated reads
    keys = torch.stack((device.double(), given.time, given.cycle.double()), 1)
    _, group, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
    if bool((counts > 1).any()):
        twice = int((counts > 1).nonzero()[0])
        rows = (group == twice).nonzero().squeeze(1)
        raise ValueError(
            f"{given.where(int(rows[1]))}: device {int(device[rows[1]])}, time "
            f"{float(given.time[rows[1]]):g} s, cycle {int(given.cycle[rows[1]])} stands in "
            f"{given.where(int(rows[0]))} already"
        )


def _check_numbers(found: Grid, which: str = "") -> None:
    seen = (found.counts > 0).sum(0)
    for number, (count, time) in enumerate(zip(seen.tolist(), found.times.tolist(), strict=True)):
        needed = LATER if number else FIRST
        if count < needed:
            raise ValueError(
                f"too few measurements: {count} devices{which} at {time:g} s; a fit needs {FIRST} "
                f"at the first time and {LATER} at each other"
            )
    if len(found.target.unique()) < 2:
        raise ValueError(
            f"all targets{which} are {float(found.target[0]):g} uS; a fit over conductance needs "
            "at least two targets"
        )


def _first(given: Columns) -> Tensor:
    """Return the rows of the first time."""
    return (given.time <= 1.05 * given.time.min()).nonzero().squeeze(1)


def _check_rising(given: Columns) -> None:
    """Raise an error unless conductances rise with their targets right after programming."""
    rows = _first(given)
    rows = rows[torch.argsort(given.target[rows], stable=True)]
    parts = [part for part in rows.chunk(_BINS) if len(part) > 1]
    if len(parts) < 2:
        return
    means = [float(given.measured[part].mean()) for part in parts]
    errors = [float(given.measured[part].std()) / len(part) ** 0.5 for part in parts]
    for low, high in zip(range(len(parts)), range(1, len(parts)), strict=False):
        rises = float(given.target[parts[high]].mean()) > float(given.target[parts[low]].mean())
        if rises and means[high] < means[low] - 4 * (errors[low] ** 2 + errors[high] ** 2) ** 0.5:
            raise ValueError(
                "measured conductances must rise with their targets: "
                f"{_part(given, parts[low])} have a mean of {means[low]:g} uS, "
                f"{_part(given, parts[high])} one of {means[high]:g} uS; are the columns or their "
                "units mixed up?"
            )
    _check_slope(given, rows)


def _check_slope(given: Columns, rows: Tensor) -> None:
    """Raise an error unless a line through the reads of those rows rises, give or take noise."""
    x = given.target[rows] - given.target[rows].mean()
    y = given.measured[rows] - given.measured[rows].mean()
    slope = float((x * y).sum() / x.square().sum())
    off = y - slope * x
    error = float(off.square().sum() / x.square().sum() / len(x)) ** 0.5
    if slope <= _RISE * error:
        far = int(rows[off.abs().argmax()])
        raise ValueError(
            f"measured conductances must rise with their targets: {_part(given, rows)} rise by "
            f"{slope:.2g} uS for each uS of the target, with a standard error of {error:.2g}; the "
            f"farthest from that line is {given.where(far)}, {float(given.measured[far]):g} uS; "
            "are the columns or their units mixed up, or does the array not work?"
        )


def off_targets(given: Columns, least: float, most: float) -> list[str]:
    """Return a note if conductances are off their targets right after programming.

    Args:
        given: the measurements.
        least: uS, as for ``within``.
        most: uS, as for ``within``.

    Raises:
        ValueError: they are so far off that a unit must be wrong.
    """
    rows = _first(given)
    rows = rows[_inside(given.target[rows], least, most)]
    rows = rows[given.target[rows] >= 0.5 * given.target[rows].max().clamp_min(1e-300)]
    ratio = float((given.measured[rows] / given.target[rows]).median())
    if not (ratio <= 1 / _OFF or ratio >= _OFF):
        return []
    target, measured = (given.units[name] for name in ("target", "measured"))
    found = (
        f"measured conductances are {ratio:.3g} of their targets at the first time, "
        f"{float(given.time.min()):g} s (median of the larger half of targets), with target in "
        f"{target.name} and measured in {measured.name}"
    )
    if 1 / _FAR < ratio < _FAR:
        return [f"{found}; correct the units if the devices are nearer to them"]
    right = near(measured.factor / ratio) if ratio > 0 else None
    heading = "" if right is None else f", such as by the heading 'measured [{right}]'"
    raise ValueError(
        f"{found}, which no programmed device is: correct the unit that is wrong{heading}, or give "
        "the g_max up to which devices reach their targets"
    )


def _part(given: Columns, rows: Tensor) -> str:
    target = given.target[rows]
    span = f"{float(target.min()):g} to {float(target.max()):g} uS"
    return f"targets of {span} ({given.between(rows)})"


def span(found: Grid, g_max: float | None, g_min: float | None) -> tuple[float, float]:
    """Return the range of conductances, uS, that weights are mapped to.

    Args:
        found: the measurements.
        g_max: uS; None: the largest target.
        g_min: uS; None: the smallest target, or 0 where that is below 2 % of ``g_max``.

    Raises:
        ValueError: there is no such range, or the targets do not cover it.
    """
    low, high = float(found.target.min()), float(found.target.max())
    most = high if g_max is None else checks.number("fit: g_max", g_max, above=0)
    if g_min is None:
        least = low if low >= 0.02 * most else 0.0
    else:
        least = checks.number("fit: g_min", g_min, least=0, below=most)
    # a fit holds where there are data
    if most > (1 + _ROUNDING) * high or least < low - _ROUNDING * most:
        raise ValueError(
            f"the targets lie from {low:g} to {high:g} uS, so a fit says nothing of a device from "
            f"{least:g} to {most:g} uS; measure that range, or give another g_min or g_max"
        )
    return least, most


def within(found: Grid, least: float, most: float) -> tuple[Grid, list[str]]:
    """Return the devices whose targets lie in a range of conductances, and a note on the others.

    Args:
        found: the measurements.
        least: uS.
        most: uS.

    Raises:
        ValueError: too few devices are left.
    """
    kept = _inside(found.target, least, most)
    beyond = int((~kept).sum())
    if not beyond:
        return found, []
    which = f" with targets from {least:g} to {most:g} uS (g_min and g_max)"
    chosen = found.take(kept.nonzero().squeeze(1))
    _check_numbers(chosen, which)
    return chosen, [f"{beyond} of {len(kept)} devices are left out: the fit is of those{which}"]


def gap(found: Grid, least: float, most: float) -> tuple[float, float] | None:
    """Return the neighbouring targets, uS, that lie too far apart for a fit between them.

    Args:
        found: the measurements.
        least: uS, as for ``within``.
        most: uS, as for ``within``.
    """
    target = found.target.unique()
    widest = int(target.diff().argmax())
    low, high = target[widest : widest + 2].tolist()
    return (low, high) if high - low > _APART * (most - least) else None


def _inside(target: Tensor, least: float, most: float) -> Tensor:
    rounding = _ROUNDING * most
    return (target >= least - rounding) & (target <= most + rounding)
