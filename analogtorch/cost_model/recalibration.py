"""Time and energy of MVMs that read a chip, such as those of its drift compensation."""

from collections.abc import Iterable
from dataclasses import dataclass

from analogtorch.chips import Array, Chip, Cost, Figure, mvm_time
from analogtorch.chips.cost import Kind
from analogtorch.cost_model.efficiency import weakest


@dataclass(frozen=True)
class Reads:
    """MVMs of one block of a matrix."""

    chip: Chip
    """The chip that they are on, for its cost."""
    tile: tuple[int, int]
    """Chip and tile of the block."""
    mvms: int
    """Number of MVMs."""
    rows: float
    """Fraction of the rows of the tile that each MVM drives, 0..1."""
    columns: float
    """Fraction of the columns of the tile that each MVM reads, 0..1."""
    cells: float
    """Fraction of the cells of the tile that hold weights which each MVM uses, 0..1."""
    signed: bool = True
    """Whether the inputs have both signs, and so take ``Cost.signed_passes``."""


@dataclass(frozen=True, kw_only=True)
class ReadCost:
    """What the reads of a chip cost, without digital operations and transfers."""

    mvms: int
    """Number of MVMs of all blocks."""
    seconds: float
    """Time, s: tiles with converters of their own compute at once."""
    joules: float
    """Energy of the MVMs, J, at the conductances right after programming."""
    kind: Kind
    """The weakest kind of figure that the energy rests on."""

    def __str__(self) -> str:
        return (
            f"{self.mvms:,} MVMs, {1e6 * self.seconds:,.4g} us, {1e6 * self.joules:,.4g} uJ "
            f"({self.kind}; digital operations excluded)"
        )


def read_cost(reads: Iterable[Reads]) -> ReadCost:
    """Return time and energy of the MVMs of blocks, of which there must be one.

    Raises:
        ValueError: a chip has no ``cost``.
    """
    busy: dict[tuple[Cost, Array, int, int], float] = {}
    mvms, joules, figures = 0, 0.0, set[Figure]()
    for each in reads:
        chip, costs = each.chip, each.chip.costs
        number = each.mvms * (costs.signed_passes if each.signed else 1)
        converters = (costs, chip.array, each.tile[0], each.tile[1] // chip.array.planes)
        busy[converters] = busy.get(converters, 0.0) + number * mvm_time(chip).value
        mvms += number
        figures |= {costs.mvm_energy, *(costs.shares.figures if each.cells < 1 else ())}
        joules += number * costs.mvm(rows=each.rows, cols=each.columns, cells=each.cells).total
    return ReadCost(mvms=mvms, seconds=max(busy.values()), joules=joules, kind=weakest(figures))
