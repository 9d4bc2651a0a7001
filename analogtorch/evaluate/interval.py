"""Confidence intervals: of a mean, of a share, and on which side of a limit a mean lies."""

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from analogtorch.values import checks

Method = Literal["student", "bootstrap"]

Bounds = tuple[float, float]
"""The smallest and the largest number that a metric can be."""

UNBOUNDED: Bounds = (-math.inf, math.inf)
_ROUNDED = 1e-6
"""Relative error, and absolute one next to 0, that a metric in float32 may have beyond a bound."""

FEWEST = 8
"""Fewest values to resample. Below, resampled means are too alike: of 5 normal values the 95 %
interval has the mean in 92 %, of 8 and more in 94 to 95 %, as Student's t has."""
RESAMPLES = 20_000
"""Number of resamples, drawn with a fixed seed: the same values always give the same interval."""
FEWEST_BEYOND = 30
"""Fewest resampled means beyond each end of an interval. With fewer, the ends are those of the
outermost means, whatever the confidence: of 8 normal values the 99.9 % interval had the mean in
98.3 %."""
_MOST = 10**9
"""Most trials and events: sums of the chances of more take minutes."""
AT_ONCE = 2**22
"""Most numbers that are resampled at once: 32 MB."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, or a share, with its confidence interval."""

    mean: float
    low: float
    """Lower end; minus infinity for the mean of one value."""
    high: float
    """Upper end; infinite for the mean of one value."""
    confidence: float = 0.95
    """Confidence of the interval, 0..1; either end errs with half of the rest."""

    @property
    def half_width(self) -> float:
        """Half of the width; infinite for the mean of one value."""
        return (self.high - self.low) / 2

    @property
    def finite_half_width(self) -> float | None:
        """The half-width; None if it is infinite."""
        return self.half_width if math.isfinite(self.half_width) else None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Lower and upper end; None if they are infinite."""
        return (self.low, self.high) if math.isfinite(self.half_width) else None

    @property
    def shown_ends(self) -> tuple[float, float] | None:
        """The ends for a reader; None also where they are equal up to rounding.

        Values that are equal, as those of a metric that counts samples often are, show no spread,
        which need not be none: an interval without a width would read as certainty.
        """
        equal = math.isclose(self.low, self.high, rel_tol=1e-12, abs_tol=1e-15)
        return None if equal else self.ends

    def shown(self, digits: int) -> str:
        """Return the mean and, if it has ``shown_ends``, its half-width, with this many decimals.

        An interval that is not symmetric is shown by its ends.
        """
        return self.formatted(f"z.{digits}f")

    def formatted(self, form: str) -> str:
        """Return what ``shown`` does, with this format of numbers, such as ``z.4g``."""
        return self._shown(form, form)

    def __str__(self) -> str:
        return self._shown("z.4g", ".2g")

    def _shown(self, form: str, half_form: str) -> str:
        if self.shown_ends is None:
            return f"{self.mean:{form}}"
        low, high = self.shown_ends
        if math.isclose(self.mean - low, high - self.mean, rel_tol=1e-6, abs_tol=1e-15):
            return f"{self.mean:{form}} ± {self.half_width:{half_form}}"
        return f"{self.mean:{form}} [{low:{form}}, {high:{form}}]"


def interval(
    values: Iterable[float],
    confidence: float = 0.95,
    method: Method = "student",
    bounds: Bounds = UNBOUNDED,
) -> Interval:
    """Return the mean of independent values and its confidence interval.

    Args:
        values: finite numbers, at least one; a vector of torch or NumPy has them, too.
        confidence: confidence of the interval, in [0.5, 0.999].
        method: ``student``: by Student's t, symmetric. ``bootstrap``: from the means of resampled
            values, so that a skewed spread gives a skewed interval. It is the expanded percentile
            interval (Hesterberg, The American Statistician 69, 371 (2015)), whose width has
            Student's correction for few values. With fewer than 8 values it is by Student's t, as
            at confidences whose ends too few resamples exceed: 0.98 of up to 10 values, 0.99 of up
            to 18, and 0.999 of any number.
        bounds: smallest and largest number that a value, and so the mean, can be. The interval ends
            there at the latest; its confidence stays.

    Raises:
        ValueError: there is no value, one is no finite number or beyond the bounds, or an argument
            is out of range.
        TypeError: ``values`` cannot be iterated over.
    """
    confidence = checked_confidence("interval", confidence)
    checks.choice("interval: method", method, get_args(Method))
    bounds = checked_bounds("interval: bounds", bounds)
    values = _finite(values)
    for i, value in enumerate(values):
        check_within(f"interval: values[{i}]", value, bounds)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean=mean, low=-math.inf, high=math.inf, confidence=confidence)
    quantile = student_quantile((1 + confidence) / 2, len(values) - 1)
    tail = statistics.NormalDist().cdf(-math.sqrt(len(values) / (len(values) - 1)) * quantile)
    enough = len(values) >= FEWEST and tail * RESAMPLES >= FEWEST_BEYOND
    if method == "bootstrap" and enough:
        low, high = map(float, np.quantile(_resampled_means(values), [tail, 1 - tail]))
    else:
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        low, high = mean - half, mean + half
    # never beyond the mean, which rounding may have put a hair outside
    low, high = max(low, min(bounds[0], mean)), min(high, max(bounds[1], mean))
    return Interval(mean=mean, low=low, high=high, confidence=confidence)


def checked_bounds(name: str, given: Any) -> Bounds:
    """Return the smallest and largest number that a metric can be.

    Raises:
        ValueError: ``given`` is no pair of numbers, the first below the second.
    """
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise ValueError(
            f"{name} must be a smallest and a largest number such as (0, 1) or (0, math.inf), got "
            f"{checks.shown(given)}"
        )
    return low, high


def check_within(what: str, value: float, bounds: Bounds, where: str = "") -> None:
    """Check that a value of a metric is one that it can be.

    Args:
        what: what messages call it.
        value: the value.
        bounds: those of the metric.
        where: what it was measured on, for messages.

    Raises:
        ValueError: it lies beyond the bounds by more than the rounding of float32.
    """
    nearest = min(max(value, bounds[0]), bounds[1])
    if not math.isclose(value, nearest, rel_tol=_ROUNDED, abs_tol=_ROUNDED):
        low, high = bounds
        raise ValueError(
            f"{what} is {value:g}{where and f' {where}'}, beyond the bounds of the metric, "
            f"{low:g} to {high:g}; correct them, or what it returns"
        )


def _finite(values: Iterable[float]) -> list[float]:
    """Return the values of ``interval`` as finite numbers, those of tensors and arrays too."""
    given = checks.items("interval: values", _listed(values), "[0.91, 0.93]")
    if not given:
        raise ValueError("interval: values is empty; give at least one number")
    return [
        checks.number(f"interval: values[{i}]", _listed(value), largest=sys.float_info.max)
        for i, value in enumerate(given)
    ]


def _listed(given: Any) -> Any:
    return given.tolist() if isinstance(given, Tensor | np.ndarray) else given


def share(hits: int, total: int, confidence: float = 0.95) -> Interval:
    """Return the share of ``hits`` among ``total`` trials with its exact interval.

    The interval is that of Clopper and Pearson (Biometrika 26, 404 (1934)), which has at least its
    confidence at every share and number of trials.

    Args:
        hits: number of trials that succeeded, from 0 to ``total``.
        total: number of trials, from 1 to 1e9.
        confidence: confidence of the interval, in [0.5, 0.999].

    Raises:
        ValueError: an argument is out of range.
    """
    total = checks.count("share: total", total, most=_MOST)
    hits = checks.count("share: hits", hits, least=0, most=total)
    confidence = checked_confidence("share", confidence)
    tail = (1 - confidence) / 2
    low = _where(lambda p: _at_least(hits, total, p) > tail, 0.0, 1.0) if hits else 0.0
    high = (
        _where(lambda p: _at_least(hits + 1, total, p) > 1 - tail, 0.0, 1.0)
        if hits < total
        else 1.0
    )
    return Interval(mean=hits / total, low=low, high=high, confidence=confidence)


def rate(events: int, time: float, confidence: float = 0.95) -> Interval:
    """Return how many events there are per unit of time, with the exact interval.

    The interval is that of Garwood (Biometrika 28, 437 (1936)), which has at least its confidence
    where events come independently; where they come in bursts, it is too narrow.

    Args:
        events: number of events, from 0 to 1e9.
        time: time in which they came, > 0; its unit is that of the result.
        confidence: confidence of the interval, in [0.5, 0.999].

    Raises:
        ValueError: an argument is out of range.
    """
    events = checks.count("rate: events", events, least=0, most=_MOST)
    time = checks.number("rate: time", time, above=0)
    tail = (1 - checked_confidence("rate", confidence)) / 2
    low = _where(lambda m: 1 - _at_most(events - 1, m) > tail, 0.0, events) if events else 0.0
    # 20 + 10 standard deviations above, where the chance of so few is below 0.0005
    high = _where(
        lambda m: _at_most(events, m) < tail, events, events + 20 + 10 * math.sqrt(events)
    )
    return Interval(mean=events / time, low=low / time, high=high / time, confidence=confidence)


def confidence_above(
    values: Sequence[float], limit: float, resolution: float = 0.0, *, skewed: bool = False
) -> float | None:
    """Return the confidence, 0..1, that the mean of what the values are drawn from exceeds a limit.

    By Student's t, one-sided. Resampling would not do: as soon as all values exceed the limit, so
    do all resampled means. Values of a metric that counts samples are often alike and may then show
    less spread than there is, or none: the standard deviation is taken to be a step at least. That
    is enough: of normal values with this deviation, rounded to steps, five are all alike in less
    than 1 % of the cases, and of two, which are in a quarter, Student's t says little.

    Metrics of chips are skewed, as bad chips are far below the others, and samples without one
    would be too sure. With a skewness of -1 to -2, as chips with defects have, five chips say
    wrongly at 95 % that they exceed the limit in 9 to 16 % of the cases, 25 chips in 7 to 10 %; if
    the skewness is taken away, in 8 to 13 and 6 to 7 %. Of normal values it is 5 % either way.

    Args:
        values: independent values, at least one.
        limit: the limit of the mean.
        resolution: the step of the values, >= 0, such as 1/N of an accuracy on N samples; 0: not
            known.
        skewed: whether the skewness of the values is taken away (P. Hall, J. R. Stat. Soc. B 54,
            221, 1992).

    Returns:
        The confidence; None for one value, and for values that are equal up to rounding if the
        step is not known: they show no spread, from which to tell.
    """
    alike = same_but_for_rounding(values, max(map(abs, values)))
    if len(values) < 2 or (alike and not resolution):
        return None
    count, mean = len(values), statistics.fmean(values)
    spread = max(statistics.stdev(values), resolution)
    off = (mean - limit) / spread
    if skewed:
        skewness = statistics.fmean((v - mean) ** 3 for v in values) / spread**3
        off += skewness * off**2 / 3 + skewness**2 * off**3 / 27 + skewness / (6 * count)
    return student(math.sqrt(count) * off, count - 1)


def same_but_for_rounding(values: Sequence[float], size: float) -> bool:
    """Return whether finite values differ by no more than the roundings of a sum.

    Args:
        values: numbers, at least one.
        size: the largest magnitude of what was summed.
    """
    spread = max(values) - min(values)
    return math.isfinite(sum(values)) and spread <= 4 * sys.float_info.epsilon * size


def checked_confidence(caller: str, confidence: float) -> float:
    """Return the confidence of an interval.

    Raises:
        ValueError: it is not in [0.5, 0.999].
    """
    remedy = "0.95 is 95 %"
    return checks.number(
        f"{caller}: confidence", confidence, least=0.5, most=0.999, what="share", remedy=remedy
    )


def student(t: float, freedom: int) -> float:
    """Return the probability that Student's t is at most ``t``.

    By the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Args:
        t: a number.
        freedom: degrees of freedom, >= 1.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + math.copysign(within / 2, t)


def student_quantile(p: float, freedom: int) -> float:
    """Return the number that Student's t exceeds with probability ``1 - p``.

    Args:
        p: probability in [0.5, 1).
        freedom: degrees of freedom, >= 1.
    """
    high = 1.0
    while student(high, freedom) < p:
        high *= 2
    return _where(lambda t: student(t, freedom) > p, 0.0, high)


def _where(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Return where ``beyond`` changes from False to True between two numbers."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def _at_least(hits: int, total: int, p: float) -> float:
    """Return the probability of at least this many hits, each of probability ``p`` in (0, 1)."""
    if hits <= total * p:  # the terms of the other tail fall
        return 1 - _at_least(total - hits + 1, total, 1 - p)
    choices = math.lgamma(total + 1) - math.lgamma(hits + 1) - math.lgamma(total - hits + 1)
    first = math.exp(choices + hits * math.log(p) + (total - hits) * math.log1p(-p))
    odds = p / (1 - p)
    return _falling(first, ((total - i) / (i + 1) * odds for i in range(hits, total)))


def _at_most(events: int, mean: float) -> float:
    """Return the probability of at most this many events, of which ``mean`` > 0 are expected."""
    if events < mean:
        return _falling(_chance(events, mean), (i / mean for i in range(events, 0, -1)))
    more = events + 1
    return 1 - _falling(_chance(more, mean), (mean / i for i in itertools.count(more + 1)))


def _chance(events: int, mean: float) -> float:
    """Return the probability of so many events, of which ``mean`` > 0 are expected."""
    return math.exp(events * math.log(mean) - mean - math.lgamma(events + 1))


def _falling(term: float, ratios: Iterable[float]) -> float:
    """Return the sum of terms that fall: the first, and each by its ratio to the one before it."""
    total = term
    for ratio in ratios:
        term *= ratio
        if term <= sys.float_info.epsilon * total:  # the others change nothing
            break
        total += term
    return total


def _resampled_means(values: Sequence[float]) -> np.ndarray:
    drawn, rows = np.random.default_rng(0), max(1, AT_ONCE // len(values))
    given, means = np.asarray(values, dtype=np.float64), np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, rows):  # blocks continue the stream of draws
        block = means[start : start + rows]
        block[:] = given[drawn.integers(0, len(values), (len(block), len(values)))].mean(1)
    return means
