"""The result of ``budget``: the loss by each non-ideality of a chip."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.interval import Interval
from analogtorch.evaluate.metric import UNNAMED
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.values.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Share:
    """The cost of one non-ideality in the metric; it is negative where the metric improves."""

    name: str
    """Name of the non-ideality, as in ``chip.non_idealities()``; that of a defect begins with
    ``defects.``."""
    alone: Interval
    """Loss of the metric with this one alone."""
    saved: Interval
    """Gain of the metric with all but this one, against all of them."""
    growth: float | None
    """Factor by which it may grow before the metric loses ``Budget.growth`` more; for a converter,
    the largest power of two that stays within. Where it cannot grow so far, as a converter has no
    bits left or more than everything would be broken: the largest possible factor. Infinite: it may
    grow 32 times. None: not measured."""


@dataclass(frozen=True, kw_only=True)
class Budget(Shown):
    """What ``budget`` measured; print it for a table."""

    rows: tuple[Share, ...]
    """The non-idealities, the largest loss alone first."""
    reference: float
    """The metric on a chip without any of them."""
    total: Interval
    """Loss of the metric with all of them."""
    time: str
    """Time after programming."""
    growth: float | None
    """Share of the metric that defines the factors of growth; None: not measured."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    note: str = ""
    """A caveat of ``time``, such as that the devices' data end before it; empty if there is
    none."""
    recovery: str = ""
    """What the chips correct of themselves before they are measured (``Recovery.summary``);
    empty: nothing beside drift."""
    conditions: tuple[str, ...] = ()
    """What of the chips is not as by default, such as their defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""
    metric: str = UNNAMED
    """Name of the metric."""

    @property
    def sum(self) -> float:
        """Sum of the losses alone; where it is far from ``total``, they do not simply add."""
        return math.fsum(row.alone.mean for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; what is infinite is None."""

        def plain(value: Interval) -> dict[str, float | None]:
            return {"mean": value.mean, "half_width": value.finite_half_width}

        rows = [
            {
                "name": row.name,
                "alone": plain(row.alone),
                "saved": plain(row.saved),
                "growth": None if row.growth is None else _finite(row.growth),
            }
            for row in self.rows
        ]
        note = {"note": self.note} if self.note else {}
        return {
            "metric": self.metric,
            "reference": self.reference,
            "total": plain(self.total),
            "sum": self.sum,
            "time": self.time,
            **note,
            **({"recovery": self.recovery} if self.recovery else {}),
            **listed(self.conditions),
            "growth": self.growth,
            "seeds": list(self.seeds),
            "rows": rows,
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one line per non-ideality, then all together, separated by commas.

        It is written to ``path``, too, if given. Unknown is empty: what one chip has no interval
        for, and a growth that was not measured.

        Raises:
            OSError: the file cannot be written.
        """
        rows: list[list[Any]] = [
            ["name", "alone", "alone_half_width", "saved", "saved_half_width", "growth"]
        ]
        for row in self.rows:
            figures = [f for v in (row.alone, row.saved) for f in (v.mean, v.finite_half_width)]
            rows.append([row.name, *figures, row.growth])
        total = self.total
        rows.append(["all together", total.mean, total.finite_half_width, None, None, None])
        return comma_separated(rows, path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the losses as bars.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
