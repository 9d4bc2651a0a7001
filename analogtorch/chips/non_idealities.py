"""What a chip does to a product beside computing it, by name: each can be listed, and switched
off.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from analogtorch.chips.non_ideality import declared
from analogtorch.devices import IMPERFECTIONS, Cell, Device, Imperfection, Reduced
from analogtorch.values import checks

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


def names(chip: "Chip") -> tuple[str, ...]:
    """Return the names that the parts know, in the order in which a signal meets them."""
    found: dict[str, None] = {}
    for _, part in _parts(chip):
        found |= dict.fromkeys(IMPERFECTIONS if part is chip.cell else ())
        found |= dict.fromkeys(declaration.name for _, declaration in declared(part))
    return tuple(found)


def non_idealities(chip: "Chip") -> tuple[str, ...]:
    """Return those that the chip has; see ``Chip.non_idealities``."""
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
    known = names(chip)
    for name in gone:
        if name not in known:
            near = checks.nearest(name, known) if isinstance(name, str) else ""
            raise ValueError(
                f"Chip.without: unknown non-ideality {name!r}{near}; known: {', '.join(known)}"
            )
    changes: dict[str, Any] = {}
    for where, part in _parts(chip):
        fields_gone = {
            field.name: declaration.absent
            for field, declaration in declared(part)
            if {declaration.name, declaration.behind} & set(gone)
            and getattr(part, field.name) != declaration.absent
        }
        if fields_gone:
            changes[where] = fields_gone
    reduced = _reduced(chip.cell, tuple(name for name in IMPERFECTIONS if name in gone))
    if reduced is not chip.cell.device:
        changes["cell"] = {"device": reduced, **changes.get("cell", {})}
    return chip.replace(**changes) if changes else chip


def _parts(chip: "Chip") -> list[tuple[str, Any]]:
    return [(field.name, getattr(chip, field.name)) for field in fields(chip)]


def _device_has(device: Device, name: str) -> bool:
    """Return whether the device does it at any of nine targets, within a year or its data."""
    g = torch.linspace(0, 1, 9, dtype=torch.float64) * device.g_max
    one, last = torch.ones_like(g), min(device.valid_until, 31_536_000.0)
    if name == "programming_noise":
        return bool((device.programming_sigma(g) > 0).any())
    held = device.program(g, one)
    drifted = device.drift(held, device.drift_coefficient(g, one), last)
    if name == "drift":
        return not torch.equal(drifted, held)
    return not torch.equal(device.read(held, drifted, last, one), drifted)


def _reduced(cell: Cell, names: tuple[Imperfection, ...]) -> Device:
    """Return the device of the cell without those of the imperfections that it has."""
    whole, gone = (
        (cell.device.device, cell.device.without)
        if isinstance(cell.device, Reduced)
        else (cell.device, ())
    )
    added = tuple(name for name in names if name not in gone and _device_has(whole, name))
    return Reduced(device=whole, without=(*gone, *added)) if added else cell.device
