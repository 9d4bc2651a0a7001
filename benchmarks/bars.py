"""Means over training seeds against bars: paired differences, and what the seeds can tell."""

import statistics
from collections.abc import Sequence

from analogtorch.evaluate.interval import confidence_above

_DIGITS = 9
"""Decimals of percent and points. Below them is nothing but rounding: one clip on one of a thousand
chips is 1e-6 points of 100,000 clips."""
_CONFIDENCE = 0.975
"""Confidence that settles a verdict: that of either end of a 95 % interval."""


def percent(share: float) -> float:
    """Return a share in percent, without what rounding adds."""
    return round(100 * share, _DIGITS)


def paired(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Return the differences ``a - b`` of percents, seed by seed, 0 where rounding alone differs.

    Raises:
        ValueError: the numbers of seeds differ.
    """
    # + 0.0: never -0.0
    return [round(x - y, _DIGITS) + 0.0 for x, y in zip(a, b, strict=True)]


def by_seed(values: Sequence[float]) -> str:
    """Return the values of the seeds as a cell of a table."""
    return " ".join(f"{value:z.2f}" for value in values)


def verdict(values: Sequence[float], sign: str, bar: float) -> str:
    """Return whether the mean of the seeds meets a bar, and whether they settle it.

    They do not where the 95 % interval of the mean, by Student's t, spans the bar. Of equal values,
    which have none, 6 on one side do, by the sign test.

    Args:
        values: one for each seed, as ``percent`` and ``paired`` return them.
        sign: ``<=``, ``>=`` or ``>``: how the mean must lie to the bar.
        bar: the bar, in the unit of the values.
    """
    mean = round(statistics.fmean(values), _DIGITS)
    met = {"<=": mean <= bar, ">=": mean >= bar, ">": mean > bar}[sign]
    above = confidence_above(values, bar)
    settled = above is not None and max(above, 1 - above) >= _CONFIDENCE
    word = "met" if met else "MISSED"
    return f"{sign} {bar:g}: {word if settled else f'mean {word}, not settled'}"
