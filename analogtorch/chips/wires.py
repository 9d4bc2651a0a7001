"""The wires of a tile."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from analogtorch.chips.non_ideality import NonIdeality, non_ideality, unchanged
from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

WireModel = Literal["ladder", "pulses", "standard"]


def _off(value: Any) -> dict[str, NonIdeality]:
    """Return metadata of a field that has this value on wires without resistance."""
    return non_ideality("ir_drop", absent=value, grown=unchanged)


@register
@dataclass(frozen=True, kw_only=True)
class Wires:
    """The wires of a tile, whose resistance takes a part of the voltage from its cells (IR drop).

    Programmed chips and ``train()`` have it; ``eval()`` before, which keeps the weights exact, does
    not. A weight of two polarities has two columns, side by side. ``analogtorch.ops.ir_drop`` and
    ``analogtorch.ops.input_drop`` have the formulas.
    """

    row_resistance: float = field(default=0.0, metadata=non_ideality("ir_drop", absent=0.0))
    """Resistance of a row (word line) from one column to the next, ohm, >= 0. A crossbar whose rows
    switch transistors carries no current along them: 0."""
    column_resistance: float = field(default=0.0, metadata=non_ideality("ir_drop", absent=0.0))
    """Resistance of a column (bit line) from one row to the next, ohm, >= 0; 0.35 in the standard
    crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023)."""
    row_ends: int = field(default=1, metadata=_off(1))
    """Number of ends at which a row is driven: 1, at column 0; or 2, also behind the last column of
    the tile."""
    column_ends: int = field(default=1, metadata=_off(1))
    """Number of ends at which a column is read: 1, at row 0; or 2, also behind the last row of the
    tile."""
    model: WireModel = field(default="ladder", metadata=_off("ladder"))
    """How the drop is computed. ``"ladder"``: every cell loads its lines at every input, as with
    inputs that are voltages; exact, and free in a multiply of a programmed chip. ``"pulses"``:
    inputs are pulse widths, and a cell that is switched off loads nothing, so that the drop depends
    on the inputs. ``"standard"``: the closed form of the standard crossbar model of Rasch et al.,
    which depends on them too. The last two know columns that are read at one end (``"pulses"``: or
    two) behind ideal rows, and take one or two products more in every multiply, in plain torch."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.numbers(self, "row_resistance", "column_resistance", least=0)
        for name in ("row_ends", "column_ends"):
            checks.choice(f"Wires.{name}", getattr(self, name), (1, 2))
        checks.choice("Wires.model", self.model, get_args(WireModel))
        self._check_model()
        if self.ideal:
            ohm = "resistance: give it in ohm, such as column_resistance=0.35"
            checks.idle(self, "row_ends", "column_ends", "model", without=ohm)
        check_sources(self)

    def _check_model(self) -> None:
        if self.model != "ladder" and self.row_resistance > 0:
            raise ValueError(
                f"Wires.model={self.model!r} takes inputs that switch the cells of a row, whose "
                f"wire then carries no current, got row_resistance={self.row_resistance:g}: set it "
                "to 0, or model='ladder'"
            )
        if self.model == "standard" and self.column_ends == 2:
            raise ValueError(
                "Wires.model='standard' is published for columns that are read at one end, got "
                "column_ends=2: set 1, or model='ladder' or 'pulses'"
            )

    @property
    def by_input(self) -> bool:
        """Whether there is a drop, and it depends on the inputs."""
        return self.model != "ladder" and not self.ideal

    @property
    def ideal(self) -> bool:
        """Whether no wire has a resistance."""
        return self.row_resistance == 0 and self.column_resistance == 0
