"""Fits of a device model to measurements of devices."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from analogtorch.devices.fitting.arrange import arrange, gap, off_targets, span, within
from analogtorch.devices.fitting.columns import Columns, column_units, columns
from analogtorch.devices.fitting.fitted import Band, Drift, Fit, Law, Quality
from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.fitting.power import LOW, TIMES, PowerLaw, fit_power, usable
from analogtorch.devices.fitting.quality import quality
from analogtorch.devices.fitting.table import read_csv
from analogtorch.devices.fitting.times import AtTimes, fit_times
from analogtorch.devices.fitting.units import heading
from analogtorch.values import checks

_GRID = 41
"""Points of a curve over targets."""
_SHARES = (0.25, 0.5, 1.0)
"""Targets, in units of ``g_max``, whose drift a fit reports."""
_SIGNIFICANT = 4
"""Standard errors by which the mean drift exponent must differ from 0."""
_FLAT = 1e-4
"""A mean exponent above minus this is 0: nine decades change the conductance by 0.2 %."""
_CHANCE = 1e-3
"""A power law is rejected if it produces the measurements of a time less often than this."""
_NEAR = 0.03
"""It is kept if the distributions differ by no more than this, whatever the number of devices."""
_FOLLOWED = 50
"""Devices with reads at three times or more that a power law needs."""
_STEPS = 25
"""Points of a curve over time."""
_BEYOND = 1.5
"""Ratio of ``g_max`` to the largest measured conductance from which a curve is far beyond it."""


def fit(
    data: str | Path | Mapping[str, Sequence[float] | Tensor],
    *,
    name: str | None = None,
    unit: str | None = None,
    volt: float | None = None,
    law: Literal["auto", "power", "times"] = "auto",
    g_max: float | None = None,
    g_min: float | None = None,
    t_read: float = 250e-9,
    bootstrap: int = 200,
    seed: int = 0,
) -> Fit:
    """Fit a device model to measurements: programming, drift and read noise, with confidence bands.

    The columns are ``target`` and ``measured`` conductance, ``time`` after programming, and
    optionally ``cycle``, the number of the read if a device is read several times at one time, and
    ``device``, its number. Without ``device``, the k-th row of every time and cycle is the k-th
    device, if all list the same targets in the same order. Where
    targets repeat, a note names that rule; in a table that is sorted by ``measured``, devices are
    not known.

    Args:
        data: a CSV file whose first line has the headings, such as ``target [uS],measured [nA @
            0.2 V],time [h],cycle``, or with units after a slash, ``target / uS``; or columns by
            those names, each a list, an array or a tensor.
        name: name of the device, for reports; None: that of the file, or "fitted device".
        unit: unit of targets and reads whose heading has none: S, mS, uS, nS, or a current such as
            nA. None: uS.
        volt: read voltage, V, > 0, that turns currents whose heading has none into conductances.
        law: ``power``: drift is a power law of time with an exponent for each device, and the model
            is ``PCM``; ``times``: mean and spread are fitted at each measured time, and the model
            is ``TimedDevice``. ``auto`` selects the power law if devices were read at three times
            or more, their mean drift is significant, and the law agrees with the distribution
            measured at each time (Kolmogorov-Smirnov).
        g_max: conductance of the largest weight, uS; None: the largest target. Devices with targets
            beyond ``g_min`` and ``g_max``, by more than 5 % of ``g_max``, are left out, as a note
            says.
        g_min: conductance of an empty polarity, uS; None: the smallest target, or 0 if that is
            below 2 % of ``g_max``.
        t_read: length of a read, s, > 0 and below the first time: the end of the 1/f spectrum of
            read noise.
        bootstrap: number of fits to devices drawn anew, for the bands, >= 20.
        seed: seed of those draws.

    Returns:
        The fit; its ``device`` can be used as any other device, also in files of chips.

    Raises:
        ValueError: columns are missing, units are unknown, there are too few measurements, times
            are not positive, values are NaN or beyond any conductance, devices or cycles have no
            whole numbers, conductances do not rise with their targets, or are five times as large
            or small at the first time, or the measurements do not support the law; the message
            names the line or row. Or ``unit`` or ``volt`` has no effect, ``volt`` is another
            voltage than a heading states, or a read is longer than the first time.
        TypeError: ``data`` is neither a path nor columns.
        OSError: the file cannot be read.

    Example:
        >>> found = at.devices.fit("measurements.csv", name="my ReRAM")
        >>> cell = at.devices.DifferentialPair(device=found.device)
    """
    if name is None:
        name = Path(data).stem if isinstance(data, str | Path) else "fitted device"
    checks.choice("fit: law", law, ("auto", "power", "times"))
    t_read = checks.number("fit: t_read", t_read, above=0)
    bootstrap = checks.count("fit: bootstrap", bootstrap, least=20)
    seed = checks.count("fit: seed", seed, least=0, largest=checks.UINT64)
    with _named(data):
        given = _columns(data, unit, volt)
        grid, notes = arrange(given)
        _check_read(t_read, float(grid.times[0]))
        least, most = span(grid, g_max, g_min)
        grid, left_out = within(grid, least, most)
        notes = (*notes, *left_out, *off_targets(given, least, most))
    chosen, found = _law(grid, most, t_read, law, seed)
    device = found.device(checks.text("fit: name", name, "my ReRAM"), least)
    again = _again(grid, found, most, t_read, bootstrap, seed)
    offset = found.first if isinstance(found, PowerLaw) else 0.0
    agreement = quality(grid, device, offset, seed)
    more = _undetermined(found, again, least, most) + _disagreements(agreement)
    apart = gap(grid, least, most)
    more += _extrapolated(grid, found, most) + _interpolated(apart)
    return Fit(
        device=device,
        law=chosen,
        programming=_programming(found, again, grid, least, most),
        read_noise=_read_noise(found, again, least, most),
        drift=_drift(found, again, grid, least, most),
        quality=agreement,
        notes=(*notes, *_notes(grid, found), *more),
        gap=apart,
        measurements=grid,
    )


@contextlib.contextmanager
def _named(data: Any) -> Iterator[None]:
    """Put the path of a file before the message of an error."""
    try:
        yield
    except ValueError as error:
        if isinstance(data, str | Path):
            raise ValueError(f"{data}: {error}") from error
        raise


def _check_read(t_read: float, first: float) -> None:
    """Raise ValueError unless reads of ``t_read`` seconds could end by the first time."""
    if t_read >= first:
        raise ValueError(
            f"fit: t_read must be shorter than the first time after programming, {first:g} s, got "
            f"{t_read:g} s; give the length of a read, such as t_read={first / 100:g}, or times in "
            "another unit"
        )


def _columns(data: Any, unit: str | None, volt: float | None) -> Columns:
    """Return the measurements."""
    if volt is not None:
        volt = checks.number("fit: volt", volt, above=0)
    if unit is not None:
        checks.instance("fit: unit", unit, str, "unit='nA'")
    if isinstance(data, str | Path):
        return read_csv(Path(data), unit, volt)
    if not isinstance(data, Mapping):
        raise TypeError(
            "fit: data must be a path such as 'measurements.csv', or columns such as {'target': "
            f"..., 'measured': ..., 'time': ...}}, got {checks.shown(data)}"
        )
    headings = {name: heading(str(name)) for name in data}
    units = column_units(list(headings.values()), unit, volt)
    values = {headings[name].name: value for name, value in data.items()}
    return columns(values, units, unused=[name for name in values if name not in units])


def _law(
    grid: Grid, g_max: float, t_read: float, law: str, seed: int
) -> tuple[Law, PowerLaw | AtTimes]:
    """Return the law that was asked for, or that the measurements support."""
    reason = _unsupported(grid, g_max)
    if law == "power" and reason:
        raise ValueError(f"fit: law='power' needs more: {reason}; use law='times'")
    if law == "times" or reason:
        return "times", fit_times(grid, g_max, t_read)
    power = fit_power(grid, g_max, t_read)
    rising = power.exponents.mean < -(_SIGNIFICANT * power.errors).clamp_min(_FLAT)
    if law == "power":
        if bool(rising.any()):
            raise ValueError(
                "fit: law='power' is for conductances that fall or stay, and these rise with time: "
                f"the drift exponent is {_exponents(power, rising)}; use law='times'"
            )
        return "power", power
    drifts = not bool(rising.any()) and _significance(power, grid) > _SIGNIFICANT
    if drifts and _describes(power, grid, seed):
        return "power", power
    return "times", fit_times(grid, g_max, t_read)


def _unsupported(grid: Grid, g_max: float) -> str:
    """Return why the measurements do not support a power law; empty if they do."""
    followed = int((usable(grid, g_max) & ((grid.counts > 0).sum(1) >= TIMES)).sum())
    if followed >= _FOLLOWED:
        return ""
    return (
        f"{followed} devices of targets from {LOW * g_max:g} uS were read at three times or more "
        f"and never as 0, at least {_FOLLOWED} are needed"
    )


def _exponents(power: PowerLaw, which: Tensor) -> str:
    """Return mean exponents and their targets, for a message."""
    parts = []
    for number in which.nonzero().flatten().tolist():
        nu, error = float(power.exponents.mean[number]), float(power.errors[number])
        parts.append(f"{nu:.2g} +- {error:.1g} at {power.at[number] * power.g_max:.3g} uS")
    return ", ".join(parts)


def _significance(power: PowerLaw, grid: Grid) -> float:
    """Return the number of standard errors by which the mean drift exponent exceeds 0."""
    mean, std = power.exponents.mean.mean(), power.exponents.std.clamp_min(1e-12).mean()
    return float(mean / std) * math.sqrt(int(grid.followed.sum()))


def _describes(power: PowerLaw, grid: Grid, seed: int) -> bool:
    """Return whether the power law agrees with the measurements after the first time."""
    found = quality(grid, power.device("power law", 0.0), power.first, seed)
    return all(_agrees(q) for q in found[1:])


def _agrees(found: Quality) -> bool:
    return found.chance >= _CHANCE or found.distance <= _NEAR


def _again(
    grid: Grid, found: PowerLaw | AtTimes, g_max: float, t_read: float, bootstrap: int, seed: int
) -> list[PowerLaw | AtTimes]:
    """Return fits of the same form to devices drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    devices = len(grid.target)
    fits: list[PowerLaw | AtTimes] = []
    for _ in range(bootstrap):
        drawn = grid.take(torch.randint(devices, (devices,), generator=generator, device="cpu"))
        if isinstance(found, PowerLaw):
            fits.append(fit_power(drawn, g_max, t_read, found))
        else:
            fits.append(fit_times(drawn, g_max, t_read, found))
    return fits


def _programming(
    found: PowerLaw | AtTimes,
    again: list[PowerLaw | AtTimes],
    grid: Grid,
    least: float,
    most: float,
) -> Band:
    targets, first = (
        torch.linspace(least, most, _GRID, dtype=torch.float64, device="cpu"),
        float(grid.times[0]),
    )
    drawn = [each.moments(targets, first)[1] for each in again]
    return _band(targets, found.moments(targets, first)[1], drawn)


def _read_noise(
    found: PowerLaw | AtTimes, again: list[PowerLaw | AtTimes], least: float, most: float
) -> Band | None:
    if found.read is None:
        return None
    g = torch.linspace(least, most, _GRID, dtype=torch.float64, device="cpu")
    return _band(g, found.read_std(g), [each.read_std(g) for each in again])


def _drift(
    found: PowerLaw | AtTimes,
    again: list[PowerLaw | AtTimes],
    grid: Grid,
    least: float,
    most: float,
) -> tuple[Drift, ...]:
    times = grid.times
    if isinstance(found, PowerLaw):
        first, last = (math.log10(float(t)) for t in times[[0, -1]])
        times = torch.logspace(first, last, _STEPS, dtype=torch.float64, device="cpu")
    drifts = []
    for share in _SHARES:
        target = torch.full((1,), least + share * (most - least), dtype=torch.float64, device="cpu")

        def over_time(law: PowerLaw | AtTimes, target: Tensor = target) -> Tensor:
            return torch.stack([torch.cat(law.moments(target, t)) for t in times.tolist()])

        value, drawn = over_time(found), [over_time(each) for each in again]
        mean, spread = (_band(times, value[:, i], [each[:, i] for each in drawn]) for i in range(2))
        drifts.append(Drift(target=float(target), mean=mean, spread=spread))
    return tuple(drifts)


def _band(x: Tensor, value: Tensor, drawn: list[Tensor]) -> Band:
    low, high = torch.quantile(
        torch.stack(drawn), torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0
    )
    columns = (tuple(t.tolist()) for t in (x, value, low, high))
    return Band(**dict(zip(("x", "value", "low", "high"), columns, strict=True)))


def _notes(grid: Grid, found: PowerLaw | AtTimes) -> list[str]:
    notes = []
    if isinstance(found, PowerLaw):
        notes.append(
            f"time 0 of the device is the first measured one, {found.first:g} s after programming"
        )
        if bool((negative := found.exponents.mean < -_FLAT).any()):
            notes.append(
                f"the drift exponent is {_exponents(found, negative)}, below 0 within its error; "
                "the device does not drift there on average"
            )
        if found.read is None:
            notes.append("no read noise: no device was read repeatedly, or at three times")
        elif not grid.repeated:
            notes.append(
                "read noise from the scatter of each device about its power law, as no device was "
                "read repeatedly at one time"
            )
        _, target, mean = grid.at(0)
        error = mean - target
        bias, chance = float(error.mean()), float(error.std()) / math.sqrt(len(error))
        if abs(bias) > 4 * chance and abs(bias) > 0.1 * float(error.std()):
            notes.append(
                f"conductances miss their targets by {bias:+.3g} uS on average right after "
                "programming, which a power law has no room for; law='times' has"
            )
    elif found.read is None:
        notes.append(
            "read noise is part of the spread at each time, as no device was read repeatedly at "
            "one time"
        )
    return notes


def _undetermined(
    found: PowerLaw | AtTimes, again: list[PowerLaw | AtTimes], least: float, most: float
) -> list[str]:
    """Return a note on targets whose programming noise is lost in that of reads."""
    if found.read is None:
        return []
    targets = torch.linspace(least, most, _GRID, dtype=torch.float64, device="cpu")
    band = _band(targets, found.programmed(targets), [each.programmed(targets) for each in again])
    value, low, high = (
        torch.tensor(each, dtype=torch.float32, device="cpu")
        for each in (band.value, band.low, band.high)
    )
    read = found.read_std(targets)
    lost = ((read > value) & (high - low > value)).nonzero().flatten()
    if not len(lost):
        return []
    first, last = (float(targets[index]) for index in lost[[0, -1]])
    noise, small, large = (float(each[lost[-1]]) for each in (read, low, high))
    return [
        "programming and read noise cannot be separated at targets from "
        f"{first:.3g} to {last:.3g} uS: at {last:.3g} uS, reads have {noise:.2g} uS, and "
        f"programming {small:.2g} to {large:.2g} uS; measure more devices, or read each more often"
    ]


def _extrapolated(grid: Grid, found: PowerLaw | AtTimes, g_max: float) -> list[str]:
    """Return a note if the noise of reads goes on far beyond the measured conductances."""
    highest = float(grid.means.nan_to_num().max())
    if found.read is None or g_max <= _BEYOND * highest:
        return []
    return [
        f"no device was read above {highest:.3g} uS: from there to {g_max:.3g} uS, the noise of a "
        "read is extrapolated"
    ]


def _interpolated(apart: tuple[float, float] | None) -> list[str]:
    """Return a note if targets leave a gap."""
    if apart is None:
        return []
    return [
        f"no device was measured between {apart[0]:.3g} and {apart[1]:.3g} uS: the fit is "
        "interpolated there and may be far off; measure targets in between, such as "
        f"{sum(apart) / 2:.3g} uS"
    ]


def _disagreements(found: Sequence[Quality]) -> list[str]:
    """Return a note on each time at which the fitted device is not what was measured."""
    return [
        f"the fitted device disagrees with the measurements at {q.time:g} s: their distributions "
        f"differ by {q.distance:.2g} (Kolmogorov-Smirnov), and their spreads are {q.spread[0]:.3g} "
        f"uS measured and {q.spread[1]:.3g} uS fitted"
        for q in found
        if not _agrees(q)
    ]
