"""The standard deviation of a programmed weight, in a closed form that kernels can evaluate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.device import Device
from analogtorch.values import checks

EMPTY = 0.5 - 0.5 / math.pi
"""Share of its variance that a normal of mean 0 keeps when it is clamped at 0:
``clamped_share(0)``."""
FILLING = 0.367
"""How fast that share grows with the mean ``a``.

The share is ``1 - (1 - EMPTY) max(0, 1 - FILLING a)^2``; its root is within 1.4 % of the exact one
at every ``a >= 0``.
"""


def clamped_share(a: Tensor) -> Tensor:
    """Return the share of its variance that a normal keeps when it is clamped at 0.

    Its mean is ``a`` >= 0, of any shape, and its variance 1. With the tail ``q`` below 0 and the
    mean excess ``l`` of the clamp, both of which vanish where ``a`` is large, the variance of the
    clamped normal is ``1 - q - a l - l^2``.
    """
    a = a.clamp_max(12.0)  # no tail in any precision, and no slow numbers of underflow
    q = torch.special.ndtr(-a)
    excess = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi) - a * q
    return 1 - q - excess * (a + excess)


def programmed_sigma(device: Device, targets: Tensor) -> Tensor:
    """Return the standard deviation, uS, of devices programmed to ``targets``, uS, of any shape.

    They are clamped at 0, which ``device.programming_sigma`` does not count.
    """
    sigma = device.programming_sigma(targets)
    share = clamped_share(targets / sigma.clamp_min(torch.finfo(sigma.dtype).tiny))
    return share.sqrt() * sigma


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of a weight ``w`` in [-1, 1], as a piecewise root of a squared cubic.

    The default is 1 everywhere.

        t     = |w| * pieces,  i = min(floor(t), pieces - 1),  f = t - i
        p     = max(c0 + c1 f + c2 f^2 + c3 f^3, 0)
        sigma = sqrt(base + i * step + p^2 - dip * max(p - rate * f, 0)^2)

    A cell whose devices are filled one after the other has one piece per device. ``base`` is the
    variance of the devices that stay empty, and ``step`` what a full device adds beyond an empty
    one. A device that is hardly filled varies less than ``p``, as it is clamped at 0: the share
    ``dip`` of its variance is missing where ``f = 0``. See ``Cell.spread``.
    """

    coefficients: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Coefficients of the cubic, constant first."""
    base: float = 0.0
    """Variance added to every weight, >= 0."""
    step: float = 0.0
    """Variance added per full piece; ``base + (pieces - 1) * step`` >= 0."""
    pieces: int = 1
    """Number of pieces from ``|w|`` = 0 to 1, >= 1."""
    dip: float = 0.0
    """Share of ``p^2`` that is missing where a piece begins, from 0 to 1."""
    rate: float = 0.0
    """How fast ``p`` outgrows the dip over ``f``, >= 0."""

    def __post_init__(self) -> None:
        if not (isinstance(self.coefficients, tuple) and len(self.coefficients) == 4):
            raise ValueError(
                f"Spread.coefficients must be a tuple of 4 numbers, got {self.coefficients!r}"
            )
        for i, c in enumerate(self.coefficients):
            checks.number(f"Spread.coefficients[{i}]", c)
        checks.numbers(self, "base", "rate", least=0)
        checks.numbers(self, "step")
        checks.numbers(self, "dip", least=0, most=1)
        checks.counts(self, "pieces")
        if self.base + (self.pieces - 1) * self.step < 0:
            raise ValueError(
                f"Spread.step must leave base + (pieces - 1) * step >= 0, got {self.step} with "
                f"base {self.base} and {self.pieces} pieces: a variance is not negative"
            )

    def __call__(self, w: Tensor) -> Tensor:
        """Return the standard deviation at each ``w``, of any shape.

        Beyond [-1, 1] it is that at the nearest end.
        """
        t = w.abs().clamp_max(1.0) * self.pieces
        i = t.floor().clamp_max(self.pieces - 1)
        c, f = self.coefficients, t - i
        p = (((c[3] * f + c[2]) * f + c[1]) * f + c[0]).clamp_min(0.0)
        u = (p - self.rate * f).clamp_min(0.0)
        return torch.sqrt((self.base + i * self.step + p * p - self.dip * u * u).clamp_min(0.0))
