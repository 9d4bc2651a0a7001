"""The functions of fitted curves: powers of ``r``, and hats between knots."""

import torch
from torch import Tensor

from analogtorch.devices.curves import Curve, Interpolated, Polynomial

_KNOTS = (
    (),
    (0.2,),
    (0.1, 0.35),
    (0.1, 0.2, 0.35, 0.75),
    (0.1, 0.2, 0.35, 0.5, 0.75),
)
"""Positions where curves of drift and read noise may bend, from few to many: closer at low
conductances, as in published curves."""
_FEW = 40
"""Devices, or reads, that an interval between knots must hold."""


def powers(r: Tensor, degree: int) -> Tensor:
    """Return ``1, r, r^2, ...`` up to ``degree``, (n, degree + 1); -1: none, (n, 0)."""
    if degree < 0:
        return r.new_zeros(len(r), 0)
    return torch.stack([r**i for i in range(degree + 1)], 1)


def polynomial(coefficients: Tensor, unit: float = 1.0) -> Curve:
    """Return the curve of those powers, times ``unit``."""
    return Polynomial(coefficients=tuple((unit * coefficients).tolist()) or (0.0,))


def knots(r: Tensor) -> list[tuple[float, ...]]:
    """Return choices of knots, from few to many, with enough of those at ``r`` between them.

    Each choice goes from the smallest ``r`` to the largest.
    """
    low, high = float(r.min()), float(r.max())
    choices: list[tuple[float, ...]] = []
    for inner in _KNOTS:
        at = tuple(dict.fromkeys((low, *(knot for knot in inner if low < knot < high), high)))
        counts = [int(((r >= a) & (r <= b)).sum()) for a, b in zip(at, at[1:], strict=False)]
        if min(counts, default=_FEW) >= _FEW or not choices:
            choices.append(at)
    return list(dict.fromkeys(choices))


def hats(r: Tensor, at: tuple[float, ...]) -> Tensor:
    """Return the share of each knot at each ``r``, (n, knots): straight lines, held beyond."""
    if len(at) == 1:
        return torch.ones_like(r).unsqueeze(1)
    grid = torch.tensor(at, dtype=r.dtype, device=r.device)
    r = r.clamp(at[0], at[-1])
    right = torch.searchsorted(grid, r, right=True).clamp(1, len(at) - 1)
    share = (r - grid[right - 1]) / (grid[right] - grid[right - 1])
    found = r.new_zeros(len(r), len(at))
    found.scatter_(1, (right - 1).unsqueeze(1), (1 - share).unsqueeze(1))
    return found.scatter_add_(1, right.unsqueeze(1), share.unsqueeze(1))


def interpolated(values: Tensor, at: tuple[float, ...]) -> Curve:
    """Return the curve of those hats."""
    if len(at) == 1:
        return Polynomial(coefficients=(float(values[0]),))
    return Interpolated(points=at, values=tuple(values.tolist()))
