"""The spread of a programmed weight, in a closed form that a kernel can evaluate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch import checks


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of a weight ``w`` in [-1, 1], as a piecewise root of a squared cubic; the default is 1.

        t     = |w| * pieces,  i = min(floor(t), pieces - 1),  p = max(c0 + c1 (t - i) + c2 (t - i)^2 + c3 (t - i)^3, 0)
        sigma = sqrt(base + i * step + p^2)

    A cell whose devices are filled one after the other has a piece per device; ``base`` is the variance of the devices
    that stay empty, ``step`` what a full one adds beyond an empty one. See ``UnitCell.spread``.
    """

    coefficients: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Of the cubic, constant first."""
    base: float = 0.0
    """Variance added to every weight, >= 0."""
    step: float = 0.0
    """Variance added per full piece."""
    pieces: int = 1
    """Pieces over |w| from 0 to 1, >= 1."""

    def __post_init__(self) -> None:
        if not (isinstance(self.coefficients, tuple) and len(self.coefficients) == 4):
            raise ValueError(f"Spread.coefficients must be a tuple of 4 numbers, got {self.coefficients!r}")
        for i, c in enumerate(self.coefficients):
            checks.number(f"Spread.coefficients[{i}]", c)
        checks.numbers(self, "base", least=0)
        checks.numbers(self, "step")
        checks.counts(self, "pieces")

    def __call__(self, w: Tensor) -> Tensor:
        """The standard deviation at each ``w``, of any shape; beyond [-1, 1] that of the end."""
        t = w.abs().clamp_max(1.0) * self.pieces
        i = t.floor().clamp_max(self.pieces - 1)
        c, f = self.coefficients, t - i
        p = (((c[3] * f + c[2]) * f + c[1]) * f + c[0]).clamp_min(0.0)
        return torch.sqrt(self.base + i * self.step + p * p)
