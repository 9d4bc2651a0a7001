"""Pairs of different significance: the later ones correct the errors of those before."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from analogtorch.devices.cell import shared_within, total
from analogtorch.devices.device import Device, check_device
from analogtorch.devices.drift_aware import DriftAware
from analogtorch.devices.registry import register
from analogtorch.devices.spread import Spread
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

_STEPS, _CELLS = 128, 4096
"""Steps between the magnitudes at which the deviation of cells is found, and cells at each."""


@register
@dataclass(frozen=True, kw_only=True)
class SignificancePairs:
    """Several differential pairs per weight, whose currents count by their significance.

    ``w = sum_i f_i (g+_i - g-_i) / g_total``. The first pair, the most significant, holds the whole
    weight. Each later pair is written to what the error of those before has left, within its own
    range: with the significances 4 and 1, errors of up to a quarter of the largest weight. Source:
    cells of four PCM with a most and a least significant pair, Mackin et al., Nat. Commun. 13, 3765
    (2022); written the most significant first, Vasilopoulos et al., TED 2023. All devices drift
    and are read with noise, each by its own target.
    """

    device: Device
    """The model of every device; it follows the protocol ``Device``, such as ``PCM``."""
    significances: tuple[float, ...] = (4.0, 1.0)
    """What the pairs count for, > 0 and descending. A chip realises them by the length of a pulse
    or a current mirror, which are exact here."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    paired = False
    _deviations: ClassVar[tuple[float, ...]]

    def __post_init__(self) -> None:
        check_device("SignificancePairs.device", self.device)
        if isinstance(self.device, DriftAware):
            raise ValueError(
                "SignificancePairs.device cannot be drift aware: later pairs correct what earlier "
                "ones are off, and would take targets that allow for drift for errors; pass "
                "device=device.device"
            )
        name = "SignificancePairs.significances"
        given = checks.items(name, self.significances, "(4.0, 1.0)")
        found = tuple(checks.number(f"{name}[{i}]", f, above=0) for i, f in enumerate(given))
        if not found or any(a <= b for a, b in zip(found, found[1:], strict=False)):
            raise ValueError(
                f"{name} must be descending, the most significant pair first, such as (4.0, 1.0), "
                f"got {given}"
            )
        checks.settle(self, "significances", found)
        check_sources(self)
        # found now, because torch.compile cannot trace it
        checks.settle(self, "_deviations", _deviations(self))

    @property
    def devices(self) -> int:
        """Number of devices in the cell, of both polarities together."""
        return 2 * len(self.significances)

    @property
    def g_total(self) -> float:
        """The conductance, uS, that stands for ``|w| = 1``: the first pair's, as it counts."""
        return self.significances[0] * self._span

    @property
    def spread(self) -> Spread | None:
        """None: kernels know no devices that are written one after the other."""
        return None

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances, uS, (devices, *S), where no device has an error.

        The devices of the first pair come first: positive, then negative. Later pairs are empty.
        """
        first = self._pair(w * self.g_total / self.significances[0])
        empty = torch.full_like(w, self.device.g_min)
        return torch.stack([*first, *[empty] * (self.devices - 2)])

    def weights(self, g: Tensor) -> Tensor:
        """Return the weights (S) that the conductances ``g`` (devices, *S), uS, stand for."""
        return self._counted([plus - minus for plus, minus in zip(g[0::2], g[1::2], strict=True)])

    def negatives(self, g: Tensor) -> Tensor:
        """Return the share, >= 0 and of shape S, that the negative polarities add to weights."""
        return self._counted(g[1::2])

    def program(self, w: Tensor, z: Tensor, hold: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the conductances, uS, of cells written pair by pair; see ``Staged``."""
        g = torch.stack([torch.full_like(w, self.device.g_min)] * self.devices)
        for number in range(len(self.significances)):
            held, first = list(g), 2 * number
            for device, target in enumerate(self._target(w, g, number), first):
                held[device] = self.device.program(target, z[device])
            g = hold(torch.stack(held))
        return g

    def written(self, w: Tensor, g: Tensor) -> Tensor:
        """Return the targets, uS, to which devices were written that became ``g``."""
        pairs = (self._target(w, g, number) for number in range(len(self.significances)))
        return torch.stack([target for pair in pairs for target in pair])

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Return the standard deviation of cells programmed to the weights ``w`` in [-1, 1].

        It is interpolated between 129 magnitudes, at each of which 4,096 cells were programmed with
        fixed draws.
        """
        table = torch.tensor(self._deviations, dtype=w.dtype, device=w.device)
        t = w.abs().clamp_max(1.0) * _STEPS
        i = t.nan_to_num(0.0).floor().clamp_max(_STEPS - 1).long()
        return torch.lerp(table[i], table[i + 1], t - i)

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return the changes of conductance, uS, (devices, *S), that change weights by ``change``.

        The last pair takes them, half by each device.
        """
        half = 0.5 * change * self.g_total / self.significances[-1]
        found = half.new_zeros(self.devices, *change.shape)
        found[-2], found[-1] = half, -half
        return found

    def within(self, changes: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Return changes within limits: see ``Limited``; the devices of the last pair share."""
        last = shared_within(changes[-2:], lowest[-2:], highest[-2:])
        return torch.cat((changes[:-2], last))

    def enlarged(self, times: int) -> Self:
        """Refuse: more devices are more significances.

        Raises:
            ValueError: always, with what to write instead.
        """
        raise ValueError(
            "SignificancePairs: a cell with more devices has more significances; write "
            f"significances={(*self.significances, self.significances[-1] / 4)}"
        )

    @property
    def _span(self) -> float:
        return self.device.g_max - self.device.g_min

    def _counted(self, each: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the sum over the pairs of ``each`` (pairs, *S), uS, as weights."""
        return total([f * x for f, x in zip(self.significances, each, strict=True)]) / self.g_total

    def _pair(self, difference: Tensor) -> list[Tensor]:
        """Return the two targets of a pair, uS, with this difference of conductances."""
        return [self.device.g_min + d.clamp(0.0, self._span) for d in (difference, -difference)]

    def _target(self, w: Tensor, g: Sequence[Tensor] | Tensor, number: int) -> list[Tensor]:
        """Return the targets of a pair, uS, given the conductances ``g`` of those before it."""
        wanted = w * self.g_total
        for f, plus, minus in zip(self.significances[:number], g[0::2], g[1::2], strict=False):
            wanted = wanted - f * (plus - minus)
        return self._pair(wanted / self.significances[number])


@functools.lru_cache(maxsize=64)
def _deviations(cell: SignificancePairs) -> tuple[float, ...]:
    """Return the deviation of cells programmed to the weights 0, 1 / ``_STEPS``, ..., 1."""
    with torch.inference_mode(False), torch.no_grad():
        u = torch.quasirandom.SobolEngine(cell.devices).draw(_CELLS, dtype=torch.float64)
        z = torch.special.ndtri(u + 0.5 / _CELLS).T.unsqueeze(1).contiguous()
        w = torch.linspace(0, 1, _STEPS + 1, dtype=torch.float64, device="cpu").unsqueeze(1)
        w = w.expand(-1, _CELLS).contiguous()
        drawn = cell.program(w, z.expand(-1, *w.shape), lambda g: g)
        return tuple(cell.weights(drawn).std(1, correction=0).tolist())
