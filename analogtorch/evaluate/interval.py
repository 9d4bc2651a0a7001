"""Confidence intervals of a mean."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of it)
_T: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
_T += (2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with the half-width of its 95 % confidence interval."""

    mean: float
    half_width: float
    """Half-width by Student's t; infinite for one value."""

    @property
    def finite_half_width(self) -> float | None:
        """The half-width; None if it is infinite."""
        return self.half_width if math.isfinite(self.half_width) else None

    def shown(self, digits: int) -> str:
        """Return the mean, and the half-width if it is finite, with so many decimals."""
        half = self.finite_half_width
        return f"{self.mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")

    def __str__(self) -> str:
        half = self.finite_half_width
        return f"{self.mean:.4g}" + ("" if half is None else f" ± {half:.2g}")


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values and its 95 % confidence interval by Student's t.

    Args:
        values: at least one.
    """
    if len(values) < 2:
        return Interval(mean=values[0], half_width=math.inf)
    quantile = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean=statistics.fmean(values), half_width=quantile * spread)
