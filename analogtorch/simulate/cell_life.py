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

CellMethod = Literal["weights", "negatives"]
"""Methods of a cell that make something of its conductances."""


@dataclass(frozen=True)
class Programming:
    """The conductances of cells as they are programmed at once."""

    cell: Cell

    def __call__(self, w: Tensor, *z: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the conductances, uS, of the devices of weights ``w`` with these normals."""
        cell = self.cell
        if isinstance(cell, Staged):
            return cell.program(w, torch.stack(z), lambda g: g)
        return [cell.device.program(g, each) for g, each in zip(cell.targets(w), z, strict=True)]


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

    def __call__(self, w: Tensor, *numbers: Tensor) -> Sequence[Tensor]:
        """Return it for conductances as programmed, uS, and normals of drift and read."""
        n, device, read = self.cell.devices, self.cell.device, []
        g, drift, noise = numbers[:n], numbers[n : 2 * n], numbers[2 * n :]
        targets = written(self.cell, w, torch.stack(g))
        for then, target, a, b in zip(g, targets, drift, noise, strict=True):
            nu = self.drifting.drift_coefficient(as_written(device, target), a)
            now = device.read(then, self.drifting.drift(then, nu, self.t), self.t, b)
            if self.temperature is not None and self.thermal.activation_energy > 0:
                now = now * self.thermal.factor(then, device.g_max, self.temperature)
            read.append(now)
        return (
            read if self.method is None else (getattr(self.cell, self.method)(torch.stack(read)),)
        )


class Draws:
    """The normals of the devices of a section."""

    def __init__(
        self, cell: Cell, section: Section, key: str, seed: int, place: torch.device
    ) -> None:
        self._key, self._seed, self._place, self._rows = key, seed, place, section.rows
        self._shape = section.shape[1:]
        both = (section.positions(place, common=common) for common in (False, True))
        own, common = both
        self._positions = [common if i in shared(cell) else own for i in range(cell.devices)]
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
