"""Read noise of every MVM: fluctuations of the devices that are new in each MVM."""

from dataclasses import dataclass, field
from typing import Any

import torch

from analogtorch.chips.non_ideality import non_ideality
from analogtorch.devices import Cell, Composed, Curve, Polynomial, register
from analogtorch.devices.curves import check_curve
from analogtorch.devices.fluctuation import Fluctuations
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

_POINTS = 101


def larger(std: Curve, factor: float) -> Curve:
    """Return the curve times a factor > 0."""
    if isinstance(std, Composed) and isinstance(std.outer, Polynomial):
        coefficients = tuple(factor * c for c in std.outer.coefficients)
        return Composed(outer=Polynomial(coefficients=coefficients), inner=std.inner)
    return Composed(outer=Polynomial(coefficients=(0.0, factor)), inner=std)


@register
@dataclass(frozen=True, kw_only=True)
class MVMReadNoise:
    """The read noise that each device has anew in every MVM.

    It is short compared with the time between two MVMs, in contrast to the 1/f read noise of
    ``Device.read``, which is drawn once per time and stays for all inputs. Devices fluctuate
    independently, so the noise of a partial sum is normal, with the variance

        sum over the rows of (variances of the devices of the cell) x (input of the row)^2

    All devices count whose row is driven, also empty ones. Programmed chips and ``train()`` have
    it; ``eval()`` before, which draws no noise, does not.
    """

    std: Curve | None = field(
        default=None, metadata=non_ideality("mvm_read_noise", absent=None, grown=larger)
    )
    """Standard deviation of the conductance of a device in one MVM, >= 0, in units of ``g_max``, as
    a function of its present ``r = g / g_max``; None: there is none. A fit in uS is divided by
    ``g_max``. ``SquareRoot(scale=0.0175)`` is the standard crossbar model of Rasch et al., Nat.
    Commun. 14, 5282 (2023), ``y_i += 0.0175 sqrt(sum_j |w_ij| x_j^2) N``."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        if self.std is not None:
            _check_std("MVMReadNoise.std", self.std)
        check_sources(self)

    def of(self, cell: Cell) -> Fluctuations | None:
        """Return the read noise of the devices of ``cell`` as that of weights; None: none."""
        return None if self.std is None else Fluctuations.of(cell, self.std)


def _check_std(name: str, std: Any) -> None:
    """Raise an error unless the curve is >= 0 and finite at 101 ``r`` in [0, 1]."""
    check_curve(name, std)
    r = torch.linspace(0.0, 1.0, _POINTS, dtype=torch.float64, device="cpu")
    found = std(r)
    wrong = ~((found >= 0) & torch.isfinite(found))
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must be a standard deviation, finite and >= 0 for r from 0 to 1, got "
            f"{checks.shown(std)}, which is {found[at]:g} at r = {r[at]:g}; write None for no read "
            "noise in an MVM"
        )
