"""The effects that a chip adds to an exact MVM, by name: each can be listed and switched off."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from analogtorch.chips.non_ideality import NonIdeality, declared
from analogtorch.devices import IMPERFECTIONS, Device, Imperfection
from analogtorch.devices.device import extrapolates
from analogtorch.devices.scaled import scaled as scaled_device
from analogtorch.devices.scaled import unscaled
from analogtorch.values import checks

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


def names(chip: "Chip") -> tuple[str, ...]:
    """Return the names that the parts know, in the order of the signal."""
    found: dict[str, None] = {}
    for _, part in _parts(chip):
        found |= dict.fromkeys(IMPERFECTIONS if part is chip.cell else ())
        found |= dict.fromkeys(declaration.name for _, declaration in declared(part))
    return tuple(found)


def non_idealities(chip: "Chip") -> tuple[str, ...]:
    """Return the names of those that the chip has; see ``Chip.non_idealities``."""
    present = {
        declaration.name
        for _, part in _parts(chip)
        for field, declaration in declared(part)
        if getattr(part, field.name) != declaration.absent
    }
    present |= {name for name in IMPERFECTIONS if _device_has(chip.cell.device, name)}
    return tuple(name for name in names(chip) if name in present)


def without(chip: "Chip", *gone: str) -> "Chip":
    """Return the chip without those named; see ``Chip.without``."""
    _check_known(chip, "without", gone)

    def absent(value: Any, declaration: NonIdeality) -> Any:
        known = {declaration.name, declaration.behind} & set(gone)
        return declaration.absent if known else value

    return _changed(chip, absent, {name: 0.0 for name in IMPERFECTIONS if name in gone})


def scaled(chip: "Chip", factors: Mapping[str, float]) -> "Chip":
    """Return the chip with those named times their factors; see ``Chip.scaled``."""
    _check_known(chip, "scaled", factors)
    for name, factor in factors.items():
        checks.number(f"Chip.scaled: {name}", factor, least=0, remedy="0 switches it off")

    def grown(value: Any, declaration: NonIdeality) -> Any:
        factor = factors.get(declaration.name, 1)
        return value if factor in (0, 1) else declaration.grown(value, factor)

    of_device = {
        name: factors[name] for name in IMPERFECTIONS if factors.get(name, 1) not in (0, 1)
    }
    kept = without(chip, *(name for name, factor in factors.items() if factor == 0))
    return _changed(kept, grown, of_device)


def needs(chip: "Chip", name: str) -> set[str]:
    """Return the names of those without which ``name`` is not there either."""
    every = (declaration for _, part in _parts(chip) for _, declaration in declared(part))
    return {d.behind for d in every if d.name == name and d.behind is not None}


def _changed(
    chip: "Chip", value: Callable[[Any, NonIdeality], Any], factors: dict[Imperfection, float]
) -> "Chip":
    """Return the chip with ``value(old, declaration)`` in each field and a scaled device.

    Effects that the chip does not have stay absent.
    """
    changes: dict[str, Any] = {}
    for where, part in _parts(chip):
        for field, declaration in declared(part):
            old = getattr(part, field.name)
            new = old if old == declaration.absent else value(old, declaration)
            if new != old:
                changes.setdefault(where, {})[field.name] = new
    device = chip.cell.device
    whole = unscaled(device)  # in any order of calls
    if present := {name: f for name, f in factors.items() if _device_has(whole, name)}:
        changes.setdefault("cell", {})["device"] = scaled_device(device, present)
    # the hardware is the same, and so is what it costs
    return chip.replace(**changes, cost=chip.cost) if changes else chip


def _check_known(chip: "Chip", method: str, given: Iterable[Any]) -> None:
    known = names(chip)
    for name in given:
        if name not in known:
            near = checks.nearest(name, known) if isinstance(name, str) else ""
            raise ValueError(
                f"Chip.{method}: unknown non-ideality {name!r}{near}; known: {', '.join(known)}"
            )


def _parts(chip: "Chip") -> list[tuple[str, Any]]:
    return [(field.name, getattr(chip, field.name)) for field in fields(chip)]


def _device_has(device: Device, name: str) -> bool:
    """Return whether the device has the effect within a year or its model.

    Nine targets are tried.
    """
    g = torch.linspace(device.g_min, device.g_max, 9, dtype=torch.float64, device="cpu")
    year, one = 31_536_000.0, torch.ones_like(g)
    last = year if extrapolates(device) else min(device.valid_until, year)
    if name == "programming_noise":
        return bool((device.programming_sigma(g) > 0).any())
    held = device.program(g, one)
    drifted = device.drift(held, device.drift_coefficient(g, one), last)
    if name == "drift":
        return not torch.equal(drifted, held)
    return not torch.equal(device.read(held, drifted, last, one), drifted)
