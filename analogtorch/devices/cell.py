"""The unit cell: a signed weight on one or more devices per polarity."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogtorch.devices.curves import Polynomial
from analogtorch.devices.device import Device, check_device
from analogtorch.devices.pcm import PCM
from analogtorch.devices.reduced import Reduced
from analogtorch.devices.reram import ReRAM
from analogtorch.devices.spread import EMPTY, FILLING, Spread, clamped_share
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class UnitCell:
    """A differential pair: ``w = (sum of g+ - sum of g-) / g_total``, ``w`` in [-1, 1].

    Both polarities are programmed, drift and are read with noise, also at target 0.
    """

    device: Device
    """``PCM``, ``ReRAM``, or a device of your own that keeps the protocol ``Device``; an effective
    model of several devices counts as one."""
    devices_per_polarity: int = 1
    """How many devices of that model share a polarity, >= 1."""
    split: Literal["equal", "sequential"] = "equal"
    """``equal``: every device carries the same share; ``sequential``: one is filled before the next
    is used."""

    def __post_init__(self) -> None:
        check_device("UnitCell.device", self.device)
        checks.counts(self, "devices_per_polarity")
        checks.choice("UnitCell.split", self.split, ("equal", "sequential"))

    @property
    def devices(self) -> int:
        """Devices in the cell, both polarities together."""
        return 2 * self.devices_per_polarity

    @property
    def g_total(self) -> float:
        """Conductance, uS, that stands for ``|w| = 1``."""
        return self.devices_per_polarity * self.device.g_max

    def targets(self, w: Tensor) -> Tensor:
        """Target conductances, uS, of the weights ``w`` in [-1, 1] (any shape S): shape (devices,
        *S), ``+`` first.
        """
        n = self.devices_per_polarity
        polarities = torch.stack((w.clamp_min(0.0), (-w).clamp_min(0.0)))
        if self.split == "equal":
            shares = polarities.unsqueeze(1).expand(2, n, *w.shape)
        else:
            filled = torch.arange(n, device=w.device, dtype=w.dtype).view(1, n, *[1] * w.dim())
            shares = (polarities.unsqueeze(1) * n - filled).clamp(0.0, 1.0)
        return shares.reshape(2 * n, *w.shape) * self.device.g_max

    def weights(self, g: Tensor) -> Tensor:
        """The weights that the conductances ``g`` (devices, *S), uS, stand for: shape S."""
        plus, minus = g.reshape(2, self.devices_per_polarity, *g.shape[1:]).sum(1)
        return (plus - minus) / self.g_total

    def negatives(self, g: Tensor) -> Tensor:
        """What the negative polarity of those weights holds, >= 0: shape S. The positive holds the
        weight + this.
        """
        return g[self.devices_per_polarity :].sum(0) / self.g_total

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Standard deviation of the weight programmed to ``w`` in [-1, 1], all devices together,
        any shape.

        That of what ``device.program`` gives, which is clamped at 0: a device near its target 0
        varies less than ``device.programming_sigma``, down to 0.58 times.
        """
        targets = self.targets(w)
        sigma = self.device.programming_sigma(targets)
        share = clamped_share(targets / sigma.clamp_min(torch.finfo(sigma.dtype).tiny))
        return (share * sigma.square()).sum(0).sqrt() / self.g_total

    @property
    def spread(self) -> Spread | None:
        """``programming_sigma`` as a kernel evaluates it, within 1.4 %.

        None where the device's curve is no cubic or simpler.
        """
        device, n = self.device, self.devices_per_polarity
        if isinstance(device, Reduced):
            if "programming_noise" in device.without:
                return Spread(coefficients=(0.0, 0.0, 0.0, 0.0))
            device = device.device
        if not isinstance(device, PCM | ReRAM):
            return None
        curve = device.programming_std
        if not isinstance(curve, Polynomial) or len(curve.coefficients) > 4:
            return None
        unit = device.programming_scale * device.g_max / device.g_reference / self.g_total
        c = [unit * c for c in curve.coefficients] + [0.0] * (4 - len(curve.coefficients))
        empty, full = EMPTY * max(c[0], 0.0) ** 2, max(sum(c), 0.0) ** 2
        rate, dip = FILLING / n, 1 - EMPTY  # a full device stands for |w| = 1 / n
        if self.split == "sequential":
            base, step = (2 * n - 1) * empty, full - empty
            return Spread(coefficients=tuple(c), base=base, step=step, pieces=n, dip=dip, rate=rate)  # type: ignore[arg-type]
        root = math.sqrt(n)  # of the devices that carry equal shares
        c, rate = [root * x for x in c], root * rate
        return Spread(coefficients=tuple(c), base=n * empty, dip=dip, rate=rate)  # type: ignore[arg-type]
