"""Where things are drawn: tiles on a grid, blocks in their tiles, a colour per matrix. Shared by plot and page."""

import colorsys
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analogtorch.mapping.mapping import Mapping
from analogtorch.mapping.types import Placement

if TYPE_CHECKING:
    from analogtorch.mapping.cost import CostReport

GAP = 0.12
"""Between tiles, in units of a tile."""
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Tile:
    """A tile in the drawing, in units of a tile; y grows downwards."""

    chip: int
    tile: int
    x: float
    y: float
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Floorplan:
    """All tiles in use."""

    tiles: tuple[Tile, ...]
    width: float
    height: float

    def blocks(self) -> Iterator[tuple[Placement, float, float]]:
        """Every block with the place of its tile."""
        return ((p, tile.x, tile.y) for tile in self.tiles for p in tile.placements)


def floorplan(mapping: Mapping) -> Floorplan:
    """The tiles in use, chip below chip, in a grid that is about twice as wide as high."""
    on_tile: dict[tuple[int, int], list[Placement]] = {}
    for p in mapping.placements:
        on_tile.setdefault((p.chip, p.tile), []).append(p)
    across = max(4, math.ceil(math.sqrt(2 * len(on_tile))))
    tiles, y = [], 0.0
    for chip in range(mapping.chips):
        own = sorted(tile for c, tile in on_tile if c == chip)
        for i, tile in enumerate(own):
            x = (i % across) * (1 + GAP)
            tiles.append(Tile(chip, tile, x, y + (i // across) * (1 + GAP), tuple(on_tile[chip, tile])))
        y += math.ceil(len(own) / across) * (1 + GAP) + (2 * GAP if own else 0)
    return Floorplan(tuple(tiles), across * (1 + GAP) - GAP, max(y - 3 * GAP, 1.0))


def colours(mapping: Mapping) -> dict[str, str]:
    """A colour for each matrix, such as ``#a1c935``; those that follow each other differ most."""
    found = {}
    for i, matrix in enumerate(mapping.matrices):
        rgb = colorsys.hls_to_rgb((i * _GOLDEN) % 1, 0.62 if i % 2 else 0.48, 0.55)
        found[matrix.name] = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
    return found


def energy_split(cost: "CostReport") -> dict[str, float]:
    """What consumes the energy of one inference, J."""
    values = {f.name.replace("_", " "): getattr(cost.energy, f.name) for f in dataclasses.fields(cost.energy)}
    return {name: value for name, value in values.items() if isinstance(value, float) and value > 0}
