"""A row of the validation: a reference, what the library gives, and how far they may differ."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.validation.published import Reference


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The largest accepted deviation."""

    limit: float
    relative: bool
    """Whether it is relative to the reference, or a difference in its unit."""
    unit: str = ""
    """Unit of a difference, as it is written behind a number."""

    def deviation(self, found: float, expected: float) -> float:
        """Return how far ``found`` deviates, with its sign."""
        difference = found - expected
        if not self.relative:
            return difference
        return difference / abs(expected) if expected else (0.0 if not difference else float("inf"))

    def shown(self, deviation: float) -> str:
        """Return a deviation with its unit."""
        shown = 100 * deviation if self.relative else deviation
        if abs(shown) < 1e-4:  # below what the reference can tell
            shown = 0.0
        return f"{shown:.2g}{' %' if self.relative else self.unit}"


MEAN = Bar(limit=0.01, relative=True)
"""Means, and arithmetic on published figures."""
SPREAD = Bar(limit=0.03, relative=True)
MVM_ERROR = Bar(limit=0.3, relative=False, unit=" points")
"""MVM errors in percent."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A quantity that is checked."""

    quantity: str
    reference: Reference
    found: Callable[[], Sequence[float]]
    """Returns what the library gives, in the order of the reference."""
    bar: Bar
    quick: bool = False
    """Whether it takes no random draws and well below a second."""

    def run(self) -> "Outcome":
        """Compute the row."""
        return Outcome(self, tuple(self.found()))


@dataclass(frozen=True)
class Outcome:
    """A row with what the library gives."""

    row: Row
    found: tuple[float, ...]

    @property
    def deviations(self) -> list[float]:
        """The deviation of each value, with its sign."""
        pairs = zip(self.found, self.row.reference.numbers, strict=True)
        return [self.row.bar.deviation(*pair) for pair in pairs]

    @property
    def worst(self) -> float:
        """The largest deviation, with its sign; NaN counts as the largest."""
        return max(self.deviations, key=lambda each: math.inf if math.isnan(each) else abs(each))

    @property
    def meets(self) -> bool:
        """Whether every value lies within the bar."""
        return all(abs(each) <= self.row.bar.limit for each in self.deviations)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        bar, reference = self.row.bar, self.row.reference
        return (
            self.row.quantity,
            " / ".join(reference.values),
            _numbers(reference.numbers),
            _numbers(self.found),
            bar.shown(self.worst),
            bar.shown(bar.limit),
            "yes" if self.meets else "**no**",
            f"{reference.source}, {reference.kind}",
        )


HEADINGS = (
    "quantity", "at", "reference", "library", "deviation", "bar", "meets it", "source"
)  # fmt: skip


def _numbers(values: Sequence[float]) -> str:
    return " / ".join(f"{0.0 if abs(v) < 1e-9 else v:.4g}" for v in values)
