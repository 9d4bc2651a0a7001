"""Which share of a chip is broken, and how."""

import math
from dataclasses import dataclass, fields, replace
from typing import Self, get_args

from analogtorch.simulate.faults import FAULTS, Part, fields_of
from analogtorch.values import checks

_SHARES = tuple(fault.field for fault in FAULTS)
_NAMES = (*_SHARES, "tile_gain")
"""The defects that are switched off and scaled by name."""
_LEVELS = {
    "off_level": "stuck_off",
    "on_level": "stuck_on",
    "on_drifts": "stuck_on",
    "short_level": "short_devices",
}
"""The share without which a field has no effect, by that field."""


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Which share of a chip is broken, and how its tiles differ.

    The seed of the chip and the physical position decide what is broken. Each device of a unit cell
    fails on its own, so that one polarity of a differential pair may be stuck while the other
    works; an effective model of several devices fails as one. Nothing that is broken takes pulses;
    program-and-verify, column calibration and drift compensation read it as it is. By default
    nothing is broken.

    A line that is shorted to its neighbour is not modelled: a ``short_rows`` row is shorted to the
    reference line, a ``short_columns`` column to the supply.

    Example:
        >>> at.program(model, seed=1, defects=at.Defects(stuck_off=0.008, stuck_on=0.002))
    """

    cells: float = 0.0
    """Share of the unit cells that fail, in [0, 1]: none of their devices conducts; a reference in
    a column of its own still does. HERMES chip: more than 0.99 of the cells can be programmed on 63
    of its 64 tiles; how the others fail is not published (Le Gallo 2023)."""
    worst_tile: float = 0.0
    """Share of the cells that fail on one tile of each chip, in [0, 1], if above ``cells``; the
    seed decides which. HERMES chip: 0.016 (Le Gallo 2023)."""
    columns: float = 0.0
    """Share of the columns that fail, in [0, 1]: their output is 0."""
    tiles: float = 0.0
    """Share of the tiles that fail, in [0, 1]: all of their outputs are 0."""
    tile_gain: float = 0.0
    """Standard deviation of the gain of a tile around 1, >= 0, beside that of its columns
    (``ADC.gain_std``)."""
    stuck_off: float = 0.0
    """Share of the devices that are stuck at ``off_level``, in [0, 1]. They do not drift, and are
    read with the device's noise. Arrays of HfO2 ReRAM: 0.098 and 0.135 of the devices are corrupt,
    stuck at any conductance (aihwkit, presets ReRamArrayHfO2 and ReRamArrayOM)."""
    stuck_on: float = 0.0
    """Share of the devices that are stuck at ``g_max`` or, with ``on_level`` below 1, at a drawn
    conductance, in [0, 1]. They are read with the device's noise."""
    open_devices: float = 0.0
    """Share of the devices that are disconnected, in [0, 1]: no conductance, no noise."""
    short_devices: float = 0.0
    """Share of the devices that are shorted, in [0, 1]: they conduct ``short_level`` times
    ``g_max``, without drift and noise."""
    open_rows: float = 0.0
    """Share of the rows (word lines) that are interrupted at their driver, in [0, 1]: no input
    reaches their cells."""
    short_rows: float = 0.0
    """Share of the rows that are shorted to the reference line, in [0, 1]: their driver cannot
    raise them, so that an MVM sees them as open."""
    open_columns: float = 0.0
    """Share of the columns (bit lines) that are interrupted before their ADC, in [0, 1]: the ADC
    converts its noise and offset. Column calibration leaves their gain at 1."""
    short_columns: float = 0.0
    """Share of the columns that are shorted to the supply, in [0, 1]: their ADC is at the end of
    its range in every MVM, at an end that the seed draws. Separate phases and
    asymmetry balance cancel this."""
    off_level: float | None = None
    """Conductance of devices that are stuck off, in units of ``g_max``, in [0, 1]; None: the
    ``g_min`` of the device."""
    on_level: float = 1.0
    """Smallest conductance of devices that are stuck on, in units of ``g_max``, in [0, 1]. Each
    gets a uniform one from here to 1, drawn once."""
    on_drifts: bool = False
    """Whether devices that are stuck on drift as a programmed device of their conductance. False:
    what drifts is the amorphous phase of PCM, and a device that is stuck on is crystalline; the
    filament of ReRAM likewise is complete."""
    short_level: float = 10.0
    """Conductance of shorted devices, in units of ``g_max``, >= 1. ASSUMED: the transistor of the
    cell is left in series, about 5 kOhm or 200 uS, ten times the 20.7 uS of the HERMES chip."""

    def __post_init__(self) -> None:
        checks.numbers(self, *_SHARES, "worst_tile", least=0, most=1, what="share")
        checks.numbers(self, "tile_gain", least=0)
        checks.numbers(self, "off_level", optional=True, least=0, most=1)
        checks.numbers(self, "on_level", least=0, most=1)
        checks.flag("Defects.on_drifts", self.on_drifts)
        checks.numbers(self, "short_level", least=1)
        for part in get_args(Part):
            self._check_sum(part)

    def _check_sum(self, part: Part) -> None:
        shares = self.shares(part)
        total = math.fsum(shares.values())
        if total > 1:
            given = " + ".join(f"{name} {share:g}" for name, share in shares.items() if share)
            raise ValueError(
                f"Defects: a {part} has one fault at most, so that the shares of the {part}s must "
                f"sum to 1 or less, got {given} = {total:g}"
            )

    def shares(self, part: Part) -> dict[str, float]:
        """Return the shares of the faults of ``part``, such as ``device``, by their fields."""
        return {name: getattr(self, name) for name in fields_of(part)}

    def present(self) -> tuple[str, ...]:
        """Return the names of the defects that the chip has; ``cells`` includes ``worst_tile``."""
        strength = {name: getattr(self, name) for name in _NAMES}
        strength["cells"] = max(self.cells, self.worst_tile)
        return tuple(name for name, value in strength.items() if value > 0)

    @property
    def summary(self) -> str:
        """What is broken and how much of it, as tables of results say it; empty: nothing."""
        broken = [
            f"{100 * share:.3g} % of the {fault.part}s ({fault.state})"
            for fault in FAULTS
            if (share := getattr(self, fault.field))
        ]
        if self.worst_tile > self.cells:
            broken.append(f"{100 * self.worst_tile:.3g} % of the cells of one tile (failed)")
        found = [f"broken are {', '.join(broken)}"] * bool(broken)
        if self.tile_gain:
            found.append(f"gains of tiles have a standard deviation of {self.tile_gain:.3g}")
        return "; ".join(found)

    def idle(self) -> dict[str, str]:
        """Return the levels that were given without effect, each with its share, which is 0."""
        default = {each.name: each.default for each in fields(self)}
        return {
            level: share
            for level, share in _LEVELS.items()
            if getattr(self, level) != default[level] and not getattr(self, share)
        }

    def without(self, *names: str) -> Self:
        """Return the same without these defects, as ``present`` names them.

        Raises:
            ValueError: a name is unknown.
        """
        return self.scaled(**dict.fromkeys(names, 0.0))

    def scaled(self, **factors: float) -> Self:
        """Return the same with these defects times their factors, >= 0.

        Raises:
            ValueError: a name is unknown, or a share becomes more than 1.
        """
        changes = {}
        for name, factor in factors.items():
            if name not in _NAMES:
                near = checks.nearest(name, _NAMES)
                raise ValueError(
                    f"Defects: unknown defect {name!r}{near}; known: {', '.join(_NAMES)}"
                )
            checks.number(f"Defects.scaled: {name}", factor, least=0, remedy="0 leaves it out")
            for field in (name, "worst_tile") if name == "cells" else (name,):
                changes[field] = factor * getattr(self, field)
        return replace(self, **changes)
