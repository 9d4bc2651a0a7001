"""Where things are drawn: tiles on a grid, blocks in their tiles, a colour per matrix. Shared by
plot and page.
"""

import colorsys
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from analogtorch.cost_model.cost import CostReport
from analogtorch.cost_model.cost import cost as cost_of
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.types import Placement
from analogtorch.values import checks

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
class Frame:
    """A chip in the drawing: what surrounds its tiles."""

    chip: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Floorplan:
    """All tiles in use."""

    tiles: tuple[Tile, ...]
    frames: tuple[Frame, ...]
    """Chips, where there are several."""
    width: float
    height: float

    def blocks(self) -> Iterator[tuple[Placement, float, float]]:
        """Every block with the place of its tile."""
        return ((p, tile.x, tile.y) for tile in self.tiles for p in tile.placements)


def floorplan(mapping: ChipMapping) -> Floorplan:
    """The tiles in use: of one chip in a grid twice as wide as high, of several in squares, side by
    side and below.
    """
    on_tile: dict[int, dict[int, list[Placement]]] = {}
    for p in mapping.placements:
        on_tile.setdefault(p.chip, {}).setdefault(p.tile, []).append(p)
    most, pitch = max(map(len, on_tile.values())), 1 + GAP
    if len(on_tile) == 1:
        across = max(4, math.ceil(math.sqrt(2 * most)))
        chips_across, margin, title = 1, 0.0, 0.0
    else:
        across = max(2, math.ceil(math.sqrt(most)))
        chips_across, margin = math.ceil(math.sqrt(2 * len(on_tile))), 0.25
        title = 0.12 * across  # room for the name of the chip
    width, height = (
        across * pitch - GAP + 2 * margin,
        math.ceil(most / across) * pitch - GAP + 2 * margin + title,
    )
    tiles, frames = [], []
    for number, chip in enumerate(sorted(on_tile)):
        row, column = divmod(number, chips_across)
        left, top = column * (width + margin), row * (height + margin)
        frames.append(Frame(chip, left, top, width, height))
        for i, tile in enumerate(sorted(on_tile[chip])):
            x, y = (
                left + margin + (i % across) * pitch,
                top + margin + title + (i // across) * pitch,
            )
            tiles.append(Tile(chip, tile, x, y, tuple(on_tile[chip][tile])))
    chips_across, rows = min(chips_across, len(frames)), math.ceil(len(frames) / chips_across)
    return Floorplan(
        tuple(tiles),
        tuple(frames) if len(frames) > 1 else (),
        chips_across * (width + margin) - margin,
        rows * (height + margin) - margin,
    )


def colours(mapping: ChipMapping) -> dict[str, str]:
    """A colour for each matrix, such as ``#a1c935``; those that follow each other differ most."""
    found = {}
    for i, matrix in enumerate(mapping.matrices):
        rgb = colorsys.hls_to_rgb((i * _GOLDEN) % 1, 0.62 if i % 2 else 0.48, 0.55)
        found[matrix.name] = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
    return found


def cost_shown(caller: str, mapping: ChipMapping, given: CostReport | None) -> CostReport | None:
    """The cost ``given``, or that of a pipelined inference; None where the chip's is not known or
    nothing multiplies.

    Raises:
        TypeError: it is no report of a cost.
    """
    if given is not None:
        if not hasattr(given, "energy"):
            raise TypeError(
                f"{caller}: cost must be what analogtorch.cost(mapping) gives, got "
                f"{checks.shown(given)}"
            )
        return given
    return (
        cost_of(mapping)
        if mapping.chip.cost is not None and any(mapping.vectors.values())
        else None
    )


def energy_split(cost: CostReport) -> dict[str, float]:
    """What consumes the energy of one inference, J."""
    values = {
        f.name.replace("_", " "): getattr(cost.energy, f.name)
        for f in dataclasses.fields(cost.energy)
    }
    return {name: value for name, value in values.items() if isinstance(value, float) and value > 0}


def energy_unit(split: dict[str, float]) -> tuple[str, float]:
    """The unit in which the largest of these energies is at least 1, and how many J it is."""
    most = max(split.values(), default=1.0)
    for unit, joules in (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6), ("nJ", 1e-9)):
        if most >= joules:
            return unit, joules
    return "pJ", 1e-12


def short(number: float) -> str:
    """Three digits without an exponent: 1,160, 11.6, 0.0116; ``< 0.001`` where that would be 0."""
    if number < 1e-3:
        return "< 0.001"
    digits = max(0, 2 - math.floor(math.log10(number)))
    text = f"{number:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
