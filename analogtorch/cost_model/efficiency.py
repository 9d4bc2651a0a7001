"""Energy efficiencies, each with its scope, precision, range, exclusions and origin."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from analogtorch.chips.cost import Figure, Kind, Scope
from analogtorch.values import checks
from analogtorch.values.listed import counted

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip

Origin = Literal["published", "predicted"]

OPERATIONS_PER_MAC = 2
"""One multiply and one add, by the convention of all papers that the presets cite."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Operations per joule, with everything that gives the number a meaning; print it."""

    scope: Scope
    """What is counted. ``tile``: conversion and array. ``chip``: also everything else on the chip.
    ``system``: everything."""
    origin: Origin
    """``published``: from a paper. ``predicted``: by the cost model of this library."""
    tops_per_watt: float
    """1e12 operations per joule, 2 operations per MAC, > 0."""
    low: float
    """The smallest value that the unknown split allows: every MVM charged as a full tile."""
    high: float
    """The largest value: every MVM charged in proportion to its columns, or by the shares if that
    is less."""
    precision: str
    """Bits of inputs and outputs, as text."""
    phases: int
    """Number of phases of one MVM."""
    utilisation: float | None
    """Share (0..1) of the cells of the tiles in use that hold weights; None if not published."""
    excluded: str
    """What is left out."""
    kind: Kind
    """The weakest kind of figure that ``tops_per_watt`` rests on."""
    source: str
    """Source of the figures."""
    tops: float | None = None
    """1e12 operations per second of one busy tile, one chip or all chips, by scope; None if
    unknown."""
    tops_kind: Kind | None = None
    """The weakest kind of figure that ``tops`` rests on; None if that is None."""

    def __post_init__(self) -> None:
        for name, allowed in (("scope", Scope), ("origin", Origin), ("kind", Kind)):
            checks.choice(f"Efficiency.{name}", getattr(self, name), get_args(allowed))
        checks.numbers(self, "low", "tops_per_watt", "high", above=0)
        if not self.low <= self.tops_per_watt <= self.high:
            raise ValueError(
                f"Efficiency needs 0 < low <= tops_per_watt <= high, got {self.low!r}, "
                f"{self.tops_per_watt!r}, {self.high!r}; low = high = tops_per_watt where it is "
                "exact"
            )
        checks.counts(self, "phases")
        checks.numbers(self, "utilisation", optional=True, above=0, most=1, what="share")
        checks.numbers(self, "tops", optional=True, above=0)
        if (self.tops is None) != (self.tops_kind is None):
            raise ValueError(
                f"Efficiency needs tops and tops_kind, or neither; got tops={self.tops!r}, "
                f"tops_kind={self.tops_kind!r}"
            )
        if self.tops_kind is not None:
            checks.choice("Efficiency.tops_kind", self.tops_kind, get_args(Kind))
        texts = ("precision", "excluded", "source")
        if missing := [name for name in texts if not getattr(self, name)]:
            raise ValueError(
                f"Efficiency: a bare TOPS/W means nothing; say {' and '.join(missing)}"
            )

    @property
    def kinds(self) -> str:
        """The kind of ``tops_per_watt``, and that of ``tops`` if it is another."""
        other = self.tops_kind not in (None, self.kind)
        return f"{self.kind}; TOPS {self.tops_kind}" if other else self.kind

    @property
    def femtojoules_per_mac(self) -> float:
        """Energy of one multiply-accumulate, fJ."""
        return 1e3 * OPERATIONS_PER_MAC / self.tops_per_watt

    def joules(self, macs: float) -> float:
        """Return the energy, J, of a number of multiply-accumulates at this efficiency."""
        return OPERATIONS_PER_MAC * macs / (self.tops_per_watt * 1e12)

    def __float__(self) -> float:
        raise TypeError(
            "a bare TOPS/W means nothing: print the Efficiency, or take .tops_per_watt and quote "
            "the rest"
        )

    def __str__(self) -> str:
        exact = math.isclose(self.low, self.high, rel_tol=1e-3)
        span = "" if exact else f" ({self.low:.3g} to {self.high:.3g})"
        used = "use of the cells not published"
        if self.utilisation is not None:
            used = f"{self.utilisation:.0%} of cells used"
        speed = "" if self.tops is None else f"{self.tops:.3g} TOPS at "
        return (
            f"{speed}{self.tops_per_watt:.3g} TOPS/W{span} = {self.femtojoules_per_mac:.3g} "
            f"fJ/MAC, {self.scope}, {self.origin}, {self.kinds}; {OPERATIONS_PER_MAC} operations "
            f"per MAC, {self.precision}, {counted(self.phases, 'phase')}, "
            f"{used}; without: {self.excluded}; {self.source}"
        )


def weakest(figures: Iterable[Figure]) -> Kind:
    """Return the weakest kind of the figures above 0, of which there must be one."""
    order: tuple[Kind, ...] = ("assumed", "modelled", "fitted", "derived", "measured")
    return min((f.kind for f in figures if f.value > 0), key=order.index)


def published(chip: "Chip") -> tuple[Efficiency, ...]:
    """Return the published efficiencies of a chip, from the smallest scope to the largest.

    The tuple is empty if there are none.

    They are complete figures of a paper. What one scope adds to the one before it
    (``b.tops_per_watt / a.tops_per_watt``) mixes utilisation, transport and digital work, which
    cannot be separated.

    Raises:
        TypeError: ``chip`` is no chip.
    """
    from analogtorch.chips.chip import Chip  # not at import: a chip has efficiencies

    checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
    if chip.cost is None:
        return ()
    return tuple(
        Efficiency(
            scope=rung.scope,
            origin="published",
            tops_per_watt=rung.tops_per_watt.value,
            low=rung.tops_per_watt.value,
            high=rung.tops_per_watt.value,
            precision=chip.cost.precision,
            phases=chip.cost.phases,
            utilisation=1.0 if rung.scope == "tile" else None,
            excluded=rung.excluded,
            kind=rung.tops_per_watt.kind,
            source=rung.tops_per_watt.source,
        )
        for rung in chip.cost.published
    )
