"""The result of ``sweep``: a metric by chip and time, and its statistics over the chips."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from analogtorch.devices import seconds
from analogtorch.evaluate.interval import (
    UNBOUNDED,
    Bounds,
    Interval,
    check_within,
    checked_bounds,
    checked_confidence,
    confidence_above,
    interval,
    same_but_for_rounding,
    share,
)
from analogtorch.evaluate.metric import UNNAMED, checked_limit, keeps
from analogtorch.evaluate.times import checked_times
from analogtorch.files import comma_separated, parquet
from analogtorch.files.figures import draw
from analogtorch.values import checks
from analogtorch.values.shown import Shown, as_html

T = TypeVar("T")

_COLUMNS = "chip", "seed", "time", "seconds", "note"
"""The columns of a row beside the metric."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the mean over all chips keeps a limit, as far as the chips of a sweep can tell."""

    answer: Literal["yes", "no", "not settled"]
    """``yes`` and ``no`` are said with the confidence that was asked for, or more."""
    confidence: float | None
    """Confidence, 0..1, that the mean keeps the limit, by Student's t; None for one chip, and for
    chips that are ``alike``."""
    alike: bool = False
    """Whether all chips, two or more, have the same value of a metric whose step is not known. They
    show no spread, from which to tell of others, and settle nothing."""

    def __str__(self) -> str:
        """Return the answer with its confidence, that of the opposite for a ``no``."""
        if self.confidence is None:
            return f"{self.answer}{' (all chips alike)' if self.alike else ''}"
        sure = 1 - self.confidence if self.answer == "no" else self.confidence
        percent = math.floor(1000 * sure) / 10  # never more than there is
        text = "> 99.9 %" if percent >= 99.9 else f"{percent:.1f} %"
        return f"{self.answer} ({text}{' yes' if self.answer == 'not settled' else ''})"


@dataclass(frozen=True, eq=False)
class Sweep(Shown):
    """A metric on several chips at several times; print it for a table.

    Statistics are over the chips, one for each time, in the order of ``times``.
    """

    times: tuple[str, ...]
    """Times after programming, at least one, each once; numbers of seconds become texts."""
    values: Tensor
    """The metric, of shape (chips, times): finite real numbers, kept as float64 on the CPU."""
    seeds: tuple[int, ...]
    """Seeds of the chips, at least one and each once, in the order of ``values``:
    ``program(model, seed=seeds[i])`` programs one again."""
    notes: tuple[str, ...] = ()
    """A caveat for each time, such as that the devices' data end before it; empty where there is
    none."""
    metric: str = UNNAMED
    """Name of the metric in tables and plots."""
    higher_is_better: bool = True
    """False for an error, of which a worse model has more."""
    bounds: Bounds = UNBOUNDED
    """Smallest and largest number that the metric can be, infinite if it is not known."""
    recovery: str = ""
    """What the chips correct of themselves in the field (``Recovery.summary``); empty: nothing
    beside drift."""
    conditions: tuple[str, ...] = ()
    """What of the chips is not as by default, such as their defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""

    def __post_init__(self) -> None:
        checks.settle(self, "times", tuple(checked_times("Sweep", self.times).values()))
        checks.settle(self, "seeds", checks.items("Sweep.seeds", self.seeds, "(0, 1)"))
        size = (len(self.seeds), len(self.times))
        if not isinstance(self.values, Tensor) or self.values.shape != size:
            raise ValueError(
                f"Sweep.values must be a tensor (chips, times) = {size}, got "
                f"{checks.shown(self.values)}"
            )
        if not self.seeds:
            raise ValueError("Sweep.seeds is empty; give the seed of at least one chip")
        if twice := [s for s, count in Counter(self.seeds).items() if count > 1]:
            raise ValueError(
                f"Sweep.seeds has {checks.shown(twice[0])} twice; a chip counts once, as its rows "
                "say nothing of other chips"
            )
        if self.values.is_complex() or self.values.dtype == torch.bool:
            raise ValueError(
                f"Sweep.values must be real numbers, got {self.values.dtype}; write values.double()"
            )
        checks.settle(self, "values", self.values.detach().to("cpu", torch.float64))
        if self.notes and len(self.notes) != len(self.times):
            raise ValueError(
                f"Sweep.notes needs one text per time, got {len(self.notes)} for {len(self.times)} "
                "times"
            )
        checks.flag("Sweep.higher_is_better", self.higher_is_better)
        checks.settle(self, "bounds", checked_bounds("Sweep.bounds", self.bounds))
        for chip, time in (~self.values.isfinite()).nonzero().tolist():
            raise ValueError(
                f"Sweep.values must be finite, got {self.values[chip, time].item()} of chip {chip} "
                f"at {self.times[time]}"
            )
        for chip, row in enumerate(self.values.tolist()):
            for time, value in zip(self.times, row, strict=True):
                check_within("Sweep.values", value, self.bounds, f"of chip {chip} at {time}")

    @property
    def mean(self) -> Tensor:
        """Mean over the chips, of shape (times,)."""
        return self.values.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over the chips, of shape (times,); NaN for one chip."""
        if len(self.seeds) == 1:
            return self.values.new_full((len(self.times),), math.nan)
        return self.values.std(0)

    @property
    def worst(self) -> Tensor:
        """The metric of the worst chip at each time, of shape (times,)."""
        return self.values.amin(0) if self.higher_is_better else self.values.amax(0)

    def quantile(self, q: float) -> Tensor:
        """Return the metric that a share ``q``, 0..1, of the chips is below, of shape (times,).

        Between two chips it is interpolated: 0.5 is the median.

        Raises:
            ValueError: ``q`` is not in [0, 1].
        """
        q = checks.number("Sweep.quantile: q", q, least=0, most=1, what="share")
        return self.values.quantile(q, dim=0)

    def interval(self, confidence: float = 0.95) -> tuple[Interval, ...]:
        """Return the mean over the chips at each time, with its confidence interval.

        By bootstrap over the chips, with a fixed seed; with fewer than 8 chips, and where the
        confidence is high for their number, by Student's t (``analogtorch.evaluate.interval``). It
        tells how far the mean of other chips may be; the samples that the metric is measured on are
        taken as given. It ends at ``bounds``.

        Raises:
            ValueError: ``confidence`` is not in [0.5, 0.999].
        """
        return self._each(
            lambda values: interval(values, confidence, method="bootstrap", bounds=self.bounds)
        )

    def chip_yield(self, limit: float, confidence: float = 0.95) -> tuple[Interval, ...]:
        """Return the share of chips that keep a limit at each time, with its interval.

        The interval is that of Clopper and Pearson (``analogtorch.evaluate.share``).

        Args:
            limit: the metric that a chip must have at least; at most, if lower is better. It lies
                within ``bounds``.
            confidence: confidence of the interval, in [0.5, 0.999].

        Raises:
            ValueError: an argument is out of range.
        """
        limit = checked_limit("Sweep.chip_yield: limit", limit, self.bounds)
        return self._each(
            lambda values: share(
                sum(self._keeps(v, limit) for v in values), len(values), confidence
            )
        )

    def keeps(
        self, limit: float, confidence: float = 0.95, resolution: float = 0.0
    ) -> tuple[Verdict, ...]:
        """Return whether the mean over the chips keeps a limit at each time, and how sure that is.

        Iso-accuracy, 99 % of a digital accuracy, is ``found.keeps(0.99 * digital)``. The chips of
        a sweep are a sample: their mean may lie on one side of the limit and that of all chips on
        the other, so that a verdict may be ``not settled``; more chips settle it.

        Args:
            limit: the metric that the mean must have at least; at most, if lower is better. It lies
                within ``bounds``.
            confidence: the confidence, one-sided and by Student's t, that ``yes`` and ``no`` take,
                in [0.5, 0.999], of chips without their skewness: right for metrics that are spread
                about normally over the chips, and near it for skewed ones with some 25 chips
                (``interval.confidence_above`` has figures). A failure of few chips, which the sweep
                does not have, it does not know.
            resolution: the step of the metric, >= 0: 1/N of an accuracy on N samples. The standard
                deviation over the chips is taken to be a step at least. 0: not known; chips that
                all have the same value then show no spread, and settle nothing (``alike``).

        Raises:
            ValueError: an argument is out of range.
        """
        limit = checked_limit("Sweep.keeps: limit", limit, self.bounds)
        confidence = checked_confidence("Sweep.keeps", confidence)
        width = self.bounds[1] - self.bounds[0]
        resolution = checks.number(
            "Sweep.keeps: resolution",
            resolution,
            least=0,
            most=width if math.isfinite(width) else None,
            remedy="1 / N of N samples",
        )
        sign = 1 if self.higher_is_better else -1

        def verdict(values: list[float]) -> Verdict:
            signed = [sign * v for v in values]
            sure = confidence_above(signed, sign * limit, resolution, skewed=True)
            if sure is None:
                return Verdict(answer="not settled", confidence=None, alike=len(values) > 1)
            if sure >= confidence:
                return Verdict(answer="yes", confidence=sure)
            no = sure <= 1 - confidence
            return Verdict(answer="no" if no else "not settled", confidence=sure)

        return self._each(verdict)

    def minus(self, other: "Sweep") -> "Sweep":
        """Return the paired differences between two sweeps: this minus the other, chip by chip.

        Both have the same chips at the same times, so that what is common to a chip drops out.
        The result is a sweep, with the conditions that both share: its ``interval`` is that of the
        difference, ``keeps(0)`` says whether this sweep is as good or better, and ``chip_yield(0)``
        on how many chips.

        Args:
            other: a sweep of the same seeds, times and metric.

        Raises:
            TypeError: ``other`` is no sweep.
            ValueError: seeds, times or metrics differ.
        """
        checks.instance("Sweep.minus: other", other, Sweep, "what at.sweep returns")
        for what, mine, theirs in (
            ("seeds of the chips", self.seeds, other.seeds),
            ("times", _seconds(self.times), _seconds(other.times)),
            ("metrics", self.metric, other.metric),
            ("directions (higher_is_better)", self.higher_is_better, other.higher_is_better),
        ):
            if mine != theirs:
                raise ValueError(
                    f"Sweep.minus: the {what} differ, {checks.shown(mine)} and "
                    f"{checks.shown(theirs)}; measure both with the same num_chips, seed, times "
                    "and metric"
                )
        notes = tuple(
            "; ".join(dict.fromkeys(filter(None, (self.note(mine), other.note(theirs)))))
            for mine, theirs in zip(self.times, other.times, strict=True)
        )
        return Sweep(
            times=self.times,
            values=_differences(self.values, other.values),
            seeds=self.seeds,
            notes=notes if any(notes) else (),
            metric=f"difference of {self.metric}",
            higher_is_better=self.higher_is_better,
            bounds=(self.bounds[0] - other.bounds[1], self.bounds[1] - other.bounds[0]),
            recovery=self.recovery if self.recovery == other.recovery else "",
            conditions=tuple(text for text in self.conditions if text in other.conditions),
        )

    def note(self, time: str) -> str:
        """Return the caveat of the values at ``time``; empty if there is none."""
        return self.notes[self.times.index(time)] if self.notes else ""

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the figures by time, ready for JSON.

        Each time has ``mean``, ``std``, ``worst``, ``interval`` (the ends of the 95 % interval of
        the mean), ``num_chips``, ``values`` by chip, and ``note`` where there is one. For one chip
        ``std`` and ``interval`` are None. What holds for all times is not among them: ``metric``,
        ``seeds``, ``bounds``, ``recovery`` and ``conditions`` are attributes, to store beside it.
        """
        rows = zip(self.times, self.interval(), self.values.T.tolist(), strict=True)
        found: dict[str, dict[str, Any]] = {}
        for (time, spread, values), std, worst in zip(
            rows, self.std.tolist(), self.worst.tolist(), strict=True
        ):
            found[time] = {
                "mean": spread.mean,
                "std": None if math.isnan(std) else std,
                "worst": worst,
                "interval": None if spread.ends is None else list(spread.ends),
                "num_chips": len(values),
                "values": values,
                **({"note": note} if (note := self.note(time)) else {}),
            }
        return found

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return CSV of one line per chip and time, and write it to ``path`` if given.

        The columns are chip, seed, time, seconds (empty for ``programmed``), the metric by its name
        and note. A metric that has the name of another column is ``metric time`` and the like.
        How the chips differ from chips by default is in none of them: ``recovery`` and
        ``conditions``, which hold for all lines, are attributes.

        Raises:
            OSError: the file cannot be written.
        """
        return comma_separated(self.rows(), path)

    def to_parquet(self, path: str | Path) -> Path:
        """Write the columns of ``to_csv`` to ``path`` as Parquet, and return the path.

        Raises:
            ImportError: pyarrow is not installed.
            OSError: the file cannot be written.
        """
        return parquet(self.rows(), path)

    def plot(self, path: str | Path | None = None, *, limit: float | None = None) -> Any:
        """Draw the metric of each chip over the logarithm of time, with mean and 95 % interval.

        Args:
            path: see ``analogtorch.files.figures.draw``.
            limit: a value of the metric to mark, such as that of the digital model; None: none.

        Raises:
            ValueError: ``limit`` is no number within ``bounds``.

        Other errors are those of ``analogtorch.files.figures.draw``.
        """
        if limit is not None:
            limit = checked_limit("Sweep.plot: limit", limit, self.bounds)
        return draw(self, path, limit=limit)

    def _repr_html_(self) -> str:
        return as_html(self)

    def rows(self) -> Iterator[list[Any]]:
        """Yield the rows of ``to_csv``, the header first."""
        # a metric may be called "time", and two columns of one name would lose one of them
        metric = f"metric {self.metric}" if self.metric in _COLUMNS else self.metric
        yield [*_COLUMNS[:-1], metric, _COLUMNS[-1]]
        at = _seconds(self.times)
        for chip, (seed, values) in enumerate(zip(self.seeds, self.values.tolist(), strict=True)):
            for time, t, value in zip(self.times, at, values, strict=True):
                yield [chip, seed, time, t, value, self.note(time)]

    def _keeps(self, value: float, limit: float) -> bool:
        return keeps(value, limit, self.higher_is_better)

    def _each(self, of: Callable[[list[float]], T]) -> tuple[T, ...]:
        return tuple(of(values) for values in self.values.T.tolist())


def _differences(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return ``mine - theirs``, of shape (chips, times), equal where roundings alone differ.

    Two chips that lose one sample each differ in the last bit of what they lose, and not in it; two
    that lose none lose 0, and not a rounding.
    """
    found = mine - theirs
    for of_time, *both in zip(found.T, mine.T, theirs.T, strict=True):
        size = max(abs(value) for one in both for value in one.tolist())
        if same_but_for_rounding([*of_time.tolist(), 0.0], size):
            of_time[:] = 0
        elif same_but_for_rounding(of_time.tolist(), size):
            of_time[:] = of_time.median()
    return found


def _seconds(times: tuple[str, ...]) -> tuple[float | None, ...]:
    return tuple(seconds(time) for time in times)
