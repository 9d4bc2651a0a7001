"""The arrays of unit cells of a chip."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

Grouped = Literal["sequential", "block_diagonal"]
Size = tuple[int, int, int]
"""Rows, columns and tiles of an array."""


@register
@dataclass(frozen=True, kw_only=True)
class Array:
    """``tiles`` crossbars of ``rows`` x ``columns`` unit cells."""

    rows: int
    """Rows of a tile: inputs of one MVM, >= 1."""
    columns: int
    """Columns of a tile: outputs of one MVM, >= 1."""
    tiles: int
    """Number of tiles on the chip, >= 1."""
    planes: int = 1
    """Number of tiles that share one set of DACs and ADCs, so that only one of them computes at a
    time: tile ``i`` belongs to set ``i // planes``. >= 1, divides ``tiles``."""
    grouped: Grouped = "sequential"
    """How grouped convolutions run. ``sequential``: one group per MVM (as many MVMs as groups).
    ``block_diagonal``: groups share an MVM, and the cells between them, programmed to zero, add
    their noise."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "rows", "columns", "tiles", "planes")
        if self.tiles % self.planes:
            raise ValueError(
                f"Array.planes must be a divisor of the {self.tiles} tiles, got {self.planes}"
            )
        checks.choice("Array.grouped", self.grouped, get_args(Grouped))
        check_sources(self)

    @property
    def cells(self) -> int:
        """Number of unit cells on the chip: the weights that it can hold."""
        return self.tiles * self.rows * self.columns

    @property
    def size(self) -> Size:
        """Rows and columns of a tile, and number of tiles."""
        return self.rows, self.columns, self.tiles
