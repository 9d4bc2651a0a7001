"""The geometry of a floorplan, for plot and page: tiles on a grid, blocks in tiles, colours."""

import colorsys
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analogtorch.cost_model.cost import CostReport
from analogtorch.cost_model.cost import cost as cost_of
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.types import Placement
from analogtorch.values import checks
from analogtorch.values.listed import counted

GAP = 0.12
"""Gap between tiles, in units of a tile."""
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Tile:
    """One tile in the drawing, in units of a tile; y grows downwards."""

    chip: int
    tile: int
    x: float
    y: float
    placements: tuple[Placement, ...]
    """The blocks on it; none on an unused tile."""


@dataclass(frozen=True)
class Frame:
    """The rectangle around the tiles of one chip."""

    chip: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Floorplan:
    """The drawing of all tiles of the chips in use, in units of a tile."""

    tiles: tuple[Tile, ...]
    frames: tuple[Frame, ...]
    """One frame per chip if there are several chips; else empty."""
    width: float
    height: float

    def blocks(self) -> Iterator[tuple[Placement, float, float]]:
        """Return every block with the position of its tile."""
        return ((p, tile.x, tile.y) for tile in self.tiles for p in tile.placements)


def floorplan(mapping: ChipMapping) -> Floorplan:
    """Lay out every tile of the chips in use, in the order of their numbers.

    A chip has as many tiles side by side as its network has columns, if that is known and makes it
    about a square; else it is made a square. Several chips are side by side and in rows.
    """
    on_tile: dict[tuple[int, int], list[Placement]] = {}
    for p in mapping.placements:
        on_tile.setdefault((p.chip, p.tile), []).append(p)
    numbers, tiles_each = sorted({chip for chip, _ in on_tile}), mapping.chip.array.tiles
    across, pitch = _across(mapping), 1 + GAP
    several = len(numbers) > 1
    margin, title = (0.25, 0.12 * across) if several else (0.0, 0.0)  # room for the chip's name
    width = across * pitch - GAP + 2 * margin
    height = math.ceil(tiles_each / across) * pitch - GAP + 2 * margin + title
    chips_across = math.ceil(math.sqrt(len(numbers)))
    tiles, frames = [], []
    for number, chip in enumerate(numbers):
        row, column = divmod(number, chips_across)
        left, top = column * (width + margin), row * (height + margin)
        frames.append(Frame(chip, left, top, width, height))
        for tile in range(tiles_each):
            x = left + margin + (tile % across) * pitch
            y = top + margin + title + (tile // across) * pitch
            tiles.append(Tile(chip, tile, x, y, tuple(on_tile.get((chip, tile), ()))))
    rows = math.ceil(len(frames) / chips_across)
    return Floorplan(
        tuple(tiles),
        tuple(frames) if several else (),
        chips_across * (width + margin) - margin,
        rows * (height + margin) - margin,
    )


def _across(mapping: ChipMapping) -> int:
    """Return the number of tiles side by side."""
    tiles, costs = mapping.chip.array.tiles, mapping.chip.cost
    columns = 0 if costs is None else costs.network.grid_columns
    alike = tiles / 2 <= columns**2 <= 2 * tiles
    return columns if alike else math.ceil(math.sqrt(tiles))


def colours(mapping: ChipMapping) -> dict[str, str]:
    """Return a colour for each matrix, such as ``#a1c935``; neighbours in the list differ most."""
    found = {}
    for i, matrix in enumerate(mapping.matrices):
        rgb = colorsys.hls_to_rgb((i * _GOLDEN) % 1, 0.62 if i % 2 else 0.48, 0.55)
        found[matrix.name] = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
    return found


def cost_shown(caller: str, mapping: ChipMapping, given: CostReport | None) -> CostReport | None:
    """Return the cost ``given``, or by default that of a pipelined inference.

    The default is None if the chip has no cost or nothing multiplies.

    Raises:
        TypeError: ``given`` is no cost report.
        ValueError: it is that of another mapping.
    """
    if given is not None and not isinstance(given, CostReport):
        raise TypeError(
            f"{caller}: cost must be what analogtorch.cost(mapping) gives, got "
            f"{checks.shown(given)}"
        )
    if given is not None and given.chip != mapping.chip:
        theirs, mine = given.chip.name, mapping.chip.name
        raise _of_another(
            caller,
            f"the chip {theirs}{' of other values' * (theirs == mine)}",
            f"the chip {mine}",
        )
    own = None
    if mapping.chip.cost is not None and any(mapping.vectors.values()):
        own = cost_of(mapping)
    if given is None:
        return own
    if own is None or _work(own) != _work(given):
        mine = "no MACs" if own is None else _work_text(own)
        raise _of_another(caller, _work_text(given), f"{mapping.model}, with {mine}")
    return given


def _of_another(caller: str, theirs: str, mine: str) -> ValueError:
    return ValueError(
        f"{caller}: cost is that of another mapping: of {theirs}; this mapping is of {mine}. Pass "
        "cost=analogtorch.cost(mapping) of this mapping, or leave cost out"
    )


def _work(cost: CostReport) -> tuple[Any, ...]:
    """Return what does not depend on the mode and the signs of inputs: operations and tiles."""
    plan = cost.schedule
    operations = sorted((step.operation, step.kind, step.operations) for step in plan.steps)
    return cost.macs, operations, {(use.chip, use.tile, use.cells) for use in plan.tiles}


def _work_text(cost: CostReport) -> str:
    uses = sorted((use.chip, use.tile) for use in cost.schedule.tiles)
    (chip, first), *_ = uses
    operations = sum(step.operations for step in cost.schedule.steps)
    return (
        f"{cost.macs:,} MACs and {operations:,} digital operations on "
        f"{counted(len(uses), 'tile')} from tile {first} of chip {chip} on, of which "
        f"{100 * cost.schedule.utilisation:.4g} % is used"
    )


def energy_split(cost: CostReport) -> dict[str, float]:
    """Return the energy of one inference, J, by consumer; consumers of nothing are left out."""
    values = {
        f.name.replace("_", " "): getattr(cost.energy, f.name)
        for f in dataclasses.fields(cost.energy)
    }
    return {name: value for name, value in values.items() if isinstance(value, float) and value > 0}


def energy_unit(split: dict[str, float]) -> tuple[str, float]:
    """Return the unit in which the largest of these energies is at least 1, and its size in J."""
    most = max(split.values(), default=1.0)
    for unit, joules in (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6), ("nJ", 1e-9)):
        if most >= joules:
            return unit, joules
    return "pJ", 1e-12


def short(number: float) -> str:
    """Return three digits without an exponent: 1,160, 11.6, 0.0116; ``< 0.001`` for less."""
    if number < 1e-3:
        return "< 0.001"
    digits = max(0, 2 - math.floor(math.log10(number)))
    text = f"{number:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
