"""What a chip does to a product beside computing it, by name: each can be listed, and switched
off.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from analogtorch.devices import IMPERFECTIONS, Device, Imperfection, Reduced, UnitCell
from analogtorch.values import checks

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


@dataclass(frozen=True)
class _NonIdeality:
    """One of them."""

    present: "Callable[[Chip], bool]"
    fields: dict[str, Any]
    """Fields of the chip, and what they are without it."""


_OF_THE_PERIPHERY: dict[str, _NonIdeality] = {
    "dac": _NonIdeality(lambda chip: chip.input_bits is not None, {"input_bits": None}),
    "adc_gain": _NonIdeality(lambda chip: chip.adc_gain_std > 0, {"adc_gain_std": 0.0}),
    "output_noise": _NonIdeality(lambda chip: chip.output_noise > 0, {"output_noise": 0.0}),
    "adc": _NonIdeality(
        lambda chip: chip.output_steps > 0, {"adc_steps": None, "output_bits": None}
    ),
    "digital_unit": _NonIdeality(lambda chip: chip.unit_bits > 0, {"output_bits": None}),
}

NAMES = ("dac", *IMPERFECTIONS, "adc_gain", "output_noise", "adc", "digital_unit")
"""All that are known, in the order in which a signal meets them."""


def non_idealities(chip: "Chip") -> tuple[str, ...]:
    """Those that the chip has; see ``Chip.non_idealities``."""
    return tuple(name for name in NAMES if _has(chip, name))


def without(chip: "Chip", *names: str) -> "Chip":
    """The chip without those named; see ``Chip.without``."""
    for name in names:
        if name not in NAMES:
            near = checks.nearest(name, NAMES) if isinstance(name, str) else ""
            raise ValueError(
                f"Chip.without: unknown non-ideality {name!r}{near}; known: {', '.join(NAMES)}"
            )
    fields: dict[str, Any] = {}
    for name in names:
        if name in _OF_THE_PERIPHERY and _has(chip, name):
            fields |= _OF_THE_PERIPHERY[name].fields
    cell = _without(chip.cell, tuple(name for name in IMPERFECTIONS if name in names))
    if cell != chip.cell:
        fields["cell"] = cell
    return replace(chip, **fields) if fields else chip


def _has(chip: "Chip", name: str) -> bool:
    if name in _OF_THE_PERIPHERY:
        return _OF_THE_PERIPHERY[name].present(chip)
    return _device_has(chip.cell.device, name)


def _device_has(device: Device, name: str) -> bool:
    """Whether the device does it at any of nine targets, within a year or what its data cover."""
    g = torch.linspace(0, 1, 9, dtype=torch.float64) * device.g_max
    one, last = torch.ones_like(g), min(device.valid_until, 31_536_000.0)
    if name == "programming_noise":
        return bool((device.programming_sigma(g) > 0).any())
    held = device.program(g, one)
    drifted = device.drift(held, device.drift_coefficient(g, one), last)
    if name == "drift":
        return not torch.equal(drifted, held)
    return not torch.equal(device.read(held, drifted, last, one), drifted)


def _without(cell: UnitCell, names: tuple[Imperfection, ...]) -> UnitCell:
    whole, gone = (
        (cell.device.device, cell.device.without)
        if isinstance(cell.device, Reduced)
        else (cell.device, ())
    )
    gone = (*gone, *(name for name in names if _device_has(whole, name)))
    return replace(cell, device=Reduced(device=whole, without=gone)) if gone else cell
