"""The agreement of a fitted device with its measurements."""

import math

import torch
from torch import Tensor

from analogtorch.devices.device import Device
from analogtorch.devices.fitting.fitted import Quality
from analogtorch.devices.fitting.grid import Grid

_DRAWN = 50_000
"""Fitted devices that are drawn to compare with, about."""


def quality(grid: Grid, device: Device, offset: float, seed: int) -> tuple[Quality, ...]:
    """Compare the first read of each device and time with reads of the fitted device.

    Args:
        grid: the measurements.
        device: the fitted device.
        offset: measured time, s, of time 0 of the device.
        seed: seed of the devices that are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, time in enumerate(grid.times.tolist()):
        read = grid.reads[:, number, 0]
        seen = read.isfinite()
        target = grid.target[seen]
        many = target.repeat(math.ceil(_DRAWN / len(target)))

        def draw(like: Tensor = many) -> Tensor:
            return torch.randn(
                like.shape, generator=generator, dtype=like.dtype, device=like.device
            )

        programmed = device.program(many, draw())
        drifted = device.drift(programmed, device.drift_coefficient(many, draw()), time - offset)
        fitted = device.read(programmed, drifted, time - offset, draw()) - many
        measured = read[seen] - target
        distance = _distance(measured, fitted)
        found.append(
            Quality(
                time=time,
                devices=len(target),
                mean=(float(measured.mean()), float(fitted.mean())),
                spread=(_root_mean_square(measured), _root_mean_square(fitted)),
                distance=distance,
                chance=_chance(distance, len(target)),
            )
        )
    return tuple(found)


def _root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    a, b = a.sort().values, b.sort().values
    both = torch.cat((a, b))
    shares = [torch.searchsorted(t, both, right=True) / len(t) for t in (a, b)]
    return float((shares[0] - shares[1]).abs().max())


def _chance(distance: float, n: int) -> float:
    """Return how often a sample of ``n`` lies as far from its distribution (Kolmogorov)."""
    x = distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))
    if x < 0.3:
        return 1.0
    series = sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return min(max(2 * series, 0.0), 1.0)
