"""What the devices of cells go through, as functions of their numbers and normals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogtorch.chips.thermal import Thermal
from analogtorch.chips.tiling import Section
from analogtorch.devices import Cell, Device
from analogtorch.devices.cell import Staged, shared, written
from analogtorch.devices.drift_aware import as_written
from analogtorch.ops import Noise, key_of, normal, stream
from analogtorch.ops.elementwise import Draw
from analogtorch.simulate.stuck import Broken

CellMethod = Literal["weights", "negatives"]
"""Methods of a cell that make something of its conductances."""


@dataclass(frozen=True)
class Programming:
    """The conductances of cells as they are programmed at once."""

    cell: Cell
    broken: Broken | None
    """What broken devices do; None: all work."""

    def __call__(self, w: Tensor, *numbers: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the conductances, uS, of the devices of weights ``w``.

        The numbers are, of all devices each, the codes of faults and, where stuck ones have some,
        levels, if any are broken; and normals.
        """
        cell, broken = self.cell, self.broken
        *faults, z = _of_devices(cell, numbers)

        def hold(g: Tensor) -> Tensor:
            if broken is None:
                return g
            return torch.stack([broken.held(*each) for each in zip(g, *faults, strict=True)])

        if isinstance(cell, Staged):
            return cell.program(w, torch.stack(z), hold)
        each = zip(cell.targets(w), z, strict=True)
        return hold(torch.stack([cell.device.program(target, draw) for target, draw in each]))


@dataclass(frozen=True)
class Reading:
    """What cells hold as they are read at a time."""

    cell: Cell
    drifting: Device
    """The devices as they drift."""
    thermal: Thermal
    t: float
    """Seconds after programming."""
    temperature: float | None
    """K; None: the reference temperature."""
    method: CellMethod | None
    """What makes the result of the conductances; None: it is they."""
    broken: Broken | None
    """What broken devices do; None: all work."""

    def __call__(self, w: Tensor, *numbers: Tensor) -> Sequence[Tensor]:
        """Return it for weights ``w``.

        The numbers are, of all devices each, conductances as programmed, uS, the codes of faults
        if any are broken, and normals of drift and read.
        """
        g, *codes, drift, noise = _of_devices(self.cell, numbers)
        code = codes[0] if codes else (None,) * len(g)
        targets, read = written(self.cell, w, torch.stack(g)), []
        for then, target, fault, a, b in zip(g, targets, code, drift, noise, strict=True):
            nu = self.drift_coefficient(then, target, fault, a)
            read.append(self.read(then, nu, fault, b))
        return (
            read if self.method is None else (getattr(self.cell, self.method)(torch.stack(read)),)
        )

    def drift_coefficient(
        self, g: Tensor, target: Tensor, code: Tensor | None, z: Tensor
    ) -> Tensor:
        """Return what decides the drift of devices written to targets, uS, that became ``g``.

        ``code`` holds the codes of their faults; None: all work.
        """
        target = as_written(self.cell.device, target)
        if self.broken is not None and code is not None:
            target = self.broken.target(target, g, code)
        return self.drifting.drift_coefficient(target, z)

    def read(self, g: Tensor, nu: Tensor, code: Tensor | None, z: Tensor) -> Tensor:
        """Return the conductances, uS, as read; ``nu`` is what ``drift_coefficient`` gives."""
        device, broken = self.cell.device, self.broken
        drifted = self.drifting.drift(g, nu, self.t)
        if broken is not None and code is not None:
            drifted = broken.drifted(g, drifted, code)
        read = device.read(g, drifted, self.t, z)
        if self.temperature is not None and self.thermal.activation_energy > 0:
            read = read * self.thermal.factor(g, device.g_max, self.temperature)
        return read if broken is None or code is None else broken.read(g, read, code)


def _of_devices(cell: Cell, numbers: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Return numbers of all devices of cells, each kind in turn, kind by kind."""
    n = cell.devices
    return [numbers[i : i + n] for i in range(0, len(numbers), n)]


class Draws:
    """The normals of the devices of a section."""

    def __init__(
        self, cell: Cell, section: Section, key: str, seed: int, place: torch.device
    ) -> None:
        self._key, self._seed, self._place, self._rows = key, seed, place, section.rows
        self._shape = section.shape[1:]
        in_common = [i in shared(cell) for i in range(cell.devices)]
        of = {common: section.positions(place, common=common) for common in {*in_common}}
        self._positions = [of[common] for common in in_common]
        """Of each device: all columns of a block have those of its first in common, or none do."""

    def of(self, part: slice, kind: Noise, *names: str) -> list[Draw]:
        """Return those of each device of a run of outputs."""
        found = []
        for device, (outputs, first) in enumerate(self._positions):
            word = stream(kind, self._key, device, *names)
            key = key_of(self._seed, word, device=self._place)
            found.append((key, outputs[part], first[part]))
        return found

    def normals(self, draws: list[Draw]) -> Tensor:
        """Return the numbers of what ``of`` gives, (devices, outputs, ...)."""
        z = torch.stack([normal(*draw, self._rows) for draw in draws])
        return z.view(*z.shape[:2], *self._shape)
