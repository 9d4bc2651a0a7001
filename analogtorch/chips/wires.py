"""The wires of a tile."""

from dataclasses import dataclass, field

from analogtorch.chips.non_ideality import non_ideality
from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources


@register
@dataclass(frozen=True, kw_only=True)
class Wires:
    """The wires of a tile, whose resistance takes a part of the voltage from its cells (IR drop).

    Programmed chips and ``train()`` have it; ``eval()`` before, which keeps the weights exact, does
    not. A weight of two polarities has two columns, side by side. ``analogtorch.ops.ir_drop`` has
    the formulas.
    """

    row_resistance: float = field(default=0.0, metadata=non_ideality("ir_drop", absent=0.0))
    """Resistance of a row (word line) from one column to the next, ohm, >= 0. A crossbar whose rows
    switch transistors carries no current along them: 0."""
    column_resistance: float = field(default=0.0, metadata=non_ideality("ir_drop", absent=0.0))
    """Resistance of a column (bit line) from one row to the next, ohm, >= 0; 0.35 in the standard
    crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023)."""
    row_ends: int = 1
    """Number of ends at which a row is driven: 1, at column 0; or 2."""
    column_ends: int = 1
    """Number of ends at which a column is read: 1, at row 0; or 2."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.numbers(self, "row_resistance", "column_resistance", least=0)
        for name in ("row_ends", "column_ends"):
            checks.choice(f"Wires.{name}", getattr(self, name), (1, 2))
        check_sources(self)

    @property
    def ideal(self) -> bool:
        """Whether no wire has a resistance."""
        return self.row_resistance == 0 and self.column_resistance == 0
