"""What works on the tiles of a chip, what does not, and why."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.files.figures import draw
from analogtorch.ops import seed_tensor
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import FAULTS
from analogtorch.simulate.tile_state import TileState, tile_state
from analogtorch.values import checks
from analogtorch.values.shown import Shown

Tile = tuple[int, int]
"""Numbers of a chip and of a tile on it, both from 0."""


@dataclass(frozen=True, kw_only=True)
class WeightErrors:
    """How far the weights on a tile lie from their targets, right after programming.

    Errors are in units of the largest weight: the one that full conductance stands for.
    """

    weights: int
    """Number of weights on the tile."""
    within: float
    """Largest error of a weight that counts as right."""
    analog_yield: float
    """Share of the weights that are right."""
    low: float
    """Error that 1 % of the weights are below."""
    high: float
    """Error that 1 % of the weights are above."""

    @property
    def spread(self) -> float:
        """Distance of the 1 % and 99 % quantiles of the errors."""
        return self.high - self.low


@dataclass(frozen=True, kw_only=True)
class YieldMap(Shown, Mapping[Tile, TileState]):
    """The state of tiles by (chip, tile); print it for a table, ``plot`` draws it."""

    states: Mapping[Tile, TileState]
    """The state of each tile, in order."""
    errors: Mapping[Tile, WeightErrors] = field(default_factory=dict)
    """Errors of the weights on each tile of a programmed chip; empty where nothing is
    programmed."""

    def __getitem__(self, tile: Tile) -> TileState:
        return self.states[tile]

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def share(self, fault: str) -> float:
        """Return the share of a fault over all tiles, by its field in ``Defects``.

        It is a share of the devices, cells, rows, columns or tiles of all.

        Raises:
            ValueError: the fault is unknown.
        """
        checks.choice("YieldMap.share: fault", fault, [each.field for each in FAULTS])
        part = next(each.part for each in FAULTS if each.field == fault)
        return self._mean(lambda state: state.shares()[fault], lambda state: state.parts(part))

    @property
    def working(self) -> float:
        """Share of the cells of all tiles that work."""
        return self._mean(lambda state: state.share, lambda state: state.parts("cell"))

    def _mean(self, share: Callable[[TileState], float], of: Callable[[TileState], int]) -> float:
        """Return the mean of a share of tiles; each counts by the number of what it is ``of``."""
        states = self.states.values()
        return sum(share(each) * of(each) for each in states) / sum(map(of, states))

    @property
    def analog_yield(self) -> float | None:
        """Share of all weights that are right (``WeightErrors``); None: nothing is programmed."""
        total = sum(each.weights for each in self.errors.values())
        if not total:
            return None
        return sum(each.analog_yield * each.weights for each in self.errors.values()) / total

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the cells of the first 64 tiles, each in the colour of its fault.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)


def yield_map(chip: Chip, defects: Defects, *, seed: int, number: int = 0) -> YieldMap:
    """Return what works on every tile of a manufactured chip, and what does not.

    The same chip, seed and defects give the same tiles to ``program``.

    Args:
        chip: the chip.
        defects: which share of it is broken.
        seed: chooses the chip, as that of ``program`` does; any signed 64-bit integer.
        number: which of the chips made from the seed, >= 0; ``program`` takes as many as the model
            needs, from 0. Where layers are on chips with arrays of several sizes, it may leave out
            numbers: ``ProgrammedChip.yield_map`` has those that it took.

    Returns:
        The state of each tile by (chip, tile).

    Raises:
        TypeError: an argument is not of its type.
        ValueError: the number is negative.

    Example:
        >>> found = at.yield_map(at.chips.hermes64(), at.Defects(stuck_on=0.002), seed=7)
        >>> print(found)
    """
    checks.instance("yield_map: chip", chip, Chip, "at.chips.hermes64()")
    checks.instance("yield_map: defects", defects, Defects, "at.Defects(stuck_on=0.01)")
    seed_tensor(seed)
    checks.count("yield_map: number", number, least=0)
    states = {
        (number, tile): tile_state(chip, defects, seed, number, tile)
        for tile in range(chip.array.tiles)
    }
    return YieldMap(states=states)


def weight_errors(errors: Tensor, within: float) -> WeightErrors:
    """Return the figures of the ``errors`` of a tile's weights, of any shape."""
    ordered = errors.flatten().sort().values  # torch.quantile takes no more than 16 million
    last = len(ordered) - 1
    low, high = (ordered[round(share * last)].item() for share in (0.01, 0.99))
    right = (errors.abs() <= within).double().mean().item()
    return WeightErrors(
        weights=errors.numel(), within=within, analog_yield=right, low=low, high=high
    )
