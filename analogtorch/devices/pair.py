"""The differential pair: a unit cell with one or more devices per polarity of the weight."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from analogtorch.devices.cell import shared_within, total
from analogtorch.devices.curves import Polynomial
from analogtorch.devices.device import Device, Fitted, check_device
from analogtorch.devices.registry import register
from analogtorch.devices.scaled import Scaled
from analogtorch.devices.spread import EMPTY, FILLING, Spread, clamped_share
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

_CLEAR = 4.0
"""Standard deviations above 0 at which the clamp at 0 keeps all of the variance."""


@register
@dataclass(frozen=True, kw_only=True)
class DifferentialPair:
    """A differential pair of devices that stores one weight ``w`` in [-1, 1].

    ``w = (sum of g+ - sum of g-) / g_total``. Both polarities are programmed, drift and are read
    with noise, even where their target is 0.
    """

    device: Device
    """A model that follows the protocol ``Device``, such as ``PCM``. An effective model of several
    devices counts as one."""
    devices_per_polarity: int = 1
    """Number of devices that share one polarity, >= 1."""
    split: Literal["equal", "sequential"] = "equal"
    """``equal``: every device carries the same share. ``sequential``: one device is filled before
    the next is used."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        check_device("DifferentialPair.device", self.device)
        checks.counts(self, "devices_per_polarity")
        checks.choice("DifferentialPair.split", self.split, ("equal", "sequential"))
        check_sources(self)

    @property
    def devices(self) -> int:
        """Number of devices in the cell, of both polarities together."""
        return 2 * self.devices_per_polarity

    @property
    def g_total(self) -> float:
        """The difference of conductances, uS, that stands for ``|w| = 1``."""
        return self.devices_per_polarity * (self.device.g_max - self.device.g_min)

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances of weights.

        Args:
            w: weights in [-1, 1], of any shape S.

        Returns:
            Conductances in uS, of shape (devices, *S), those of the positive polarity first.
        """
        n, g_min = self.devices_per_polarity, self.device.g_min
        span = self.device.g_max - g_min
        each = []
        for polarity in (w, -w):
            if self.split == "equal":
                each += [polarity.clamp_min(0.0) * span + g_min] * n
            else:
                each += [
                    (polarity * n - filled).clamp(0.0, 1.0) * span + g_min for filled in range(n)
                ]
        return torch.stack(each)

    def weights(self, g: Tensor) -> Tensor:
        """Return the weights that conductances stand for.

        ``g`` has shape (devices, *S) and is in uS; the weights have shape S.
        """
        n = self.devices_per_polarity
        return (total(g[:n]) - total(g[n:])) / self.g_total

    def negatives(self, g: Tensor) -> Tensor:
        """Return the share, >= 0 and of shape S, that the negative polarity adds to each weight.

        ``g`` has shape (devices, *S), in uS. The positive polarity holds the weight plus this
        share.
        """
        return total(g[self.devices_per_polarity :]) / self.g_total

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return the changes of conductance that change weights by ``change``.

        The polarity that carries the target takes the change: its devices in equal shares where
        they share the weight equally, else the last device that is in use.

        Args:
            change: how much to change each weight, of any shape S.
            target: the weights to reach, in [-1, 1], of shape S.

        Returns:
            Changes in uS, of shape (devices, *S).
        """
        n = self.devices_per_polarity
        negative = (target < 0).to(target.dtype)
        signs = torch.stack((1.0 - negative, -negative))  # of a weight with respect to g+ and g-
        if self.split == "equal":
            share = torch.full(
                (n, *target.shape), 1.0 / n, dtype=target.dtype, device=target.device
            )
        else:
            used = (target.abs() * n).ceil().clamp(1, n) - 1
            share = torch.stack([(used == i).to(target.dtype) for i in range(n)])
        by_device = (signs.unsqueeze(1) * share.unsqueeze(0)).flatten(0, 1)
        return by_device * change * self.g_total

    def within(self, changes: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Return changes within limits: see ``Limited`` and ``shared_within``."""
        return shared_within(changes, lowest, highest)

    def enlarged(self, times: int) -> Self:
        """Return a pair with ``times`` as many devices per polarity."""
        return replace(self, devices_per_polarity=times * self.devices_per_polarity)

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Return the standard deviation of cells programmed to the weights ``w``.

        ``w`` lies in [-1, 1] and has any shape, which the result shares. All devices count, after
        ``device.program`` has clamped their conductances at 0. A device near its target 0 therefore
        varies less than ``device.programming_sigma``, down to 0.58 times.
        """
        targets = self.targets(w)
        sigma = self.device.programming_sigma(targets)
        share = clamped_share(targets / sigma.clamp_min(torch.finfo(sigma.dtype).tiny))
        return (share * sigma.square()).sum(0).sqrt() / self.g_total

    @cached_property
    def spread(self) -> Spread | None:
        """The curve ``programming_sigma`` in the form that kernels evaluate, within 1.4 %.

        It is None unless the curve of the device is a polynomial of degree 3 at most, and its
        smallest conductance is 0 or too large for the clamp at 0 to matter.
        """
        device, n = self.device, self.devices_per_polarity
        factor = 1.0
        if isinstance(device, Scaled):
            factor = device.programming_scale
            device = device.device
            if factor == 0:
                return Spread(coefficients=(0.0, 0.0, 0.0, 0.0))
        if not isinstance(device, Fitted):
            return None
        curve = device.programming_std
        if not isinstance(curve, Polynomial) or len(curve.coefficients) > 4:
            return None
        unit = factor * device.programming_scale * device.g_max / device.g_reference / self.g_total
        coefficients = _over_weights(curve.coefficients, device.g_min / device.g_max)
        c = [unit * c for c in coefficients] + [0.0] * (4 - len(coefficients))
        kept = EMPTY if device.g_min == 0 else 1.0
        if device.g_min and device.g_min < _CLEAR * max(c[0], 0.0) * self.g_total:
            return None
        empty, full = kept * max(c[0], 0.0) ** 2, max(sum(c), 0.0) ** 2
        rate, dip = FILLING / n, 1 - kept  # a full device stands for |w| = 1 / n
        if self.split == "sequential":
            base, step = (2 * n - 1) * empty, full - empty
            return Spread(coefficients=tuple(c), base=base, step=step, pieces=n, dip=dip, rate=rate)  # type: ignore[arg-type]
        root = math.sqrt(n)  # of the devices that carry equal shares
        c, rate = [root * x for x in c], root * rate
        return Spread(coefficients=tuple(c), base=n * empty, dip=dip, rate=rate)  # type: ignore[arg-type]


def _over_weights(coefficients: tuple[float, ...], r: float) -> list[float]:
    """Return the coefficients over ``f`` of a polynomial of ``r + (1 - r) f``."""
    if r == 0:
        return list(coefficients)
    found = [0.0] * len(coefficients)
    for power, c in enumerate(coefficients):
        for i in range(power + 1):
            found[i] += c * math.comb(power, i) * r ** (power - i) * (1 - r) ** i
    return found
