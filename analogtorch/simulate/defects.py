"""Defects of a manufactured chip, by cell and tile, from its seed and the physical positions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS, Chip
from analogtorch.ops import fold, normal, seed_tensor, stream
from analogtorch.ops.physics import scaled
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Which share of a chip is broken, and how its tiles differ.

    A failed cell conducts nothing, a failed column outputs 0, and nothing on a failed tile
    computes. The seed of the chip and the physical position decide each of them. By default nothing
    is broken.

    Example:
        >>> at.program(model, seed=1, defects=at.Defects(cells=0.01, worst_tile=0.016))
    """

    cells: float = 0.0
    """Share of the cells that fail, in [0, 1]. HERMES chip: below 0.01 on 63 of its 64 tiles (Le
    Gallo 2023)."""
    worst_tile: float = 0.0
    """Share of the cells that fail on one tile of each chip, in [0, 1], if above ``cells``; the
    seed decides which. HERMES chip: 0.016 (Le Gallo 2023)."""
    columns: float = 0.0
    """Share of the columns that fail, in [0, 1]."""
    tiles: float = 0.0
    """Share of the tiles that fail, in [0, 1]."""
    tile_gain: float = 0.0
    """Standard deviation of the gain of a tile around 1, >= 0, beside that of its columns
    (``ADC.gain_std``)."""

    def __post_init__(self) -> None:
        checks.numbers(
            self, "cells", "worst_tile", "columns", "tiles", least=0, most=1, what="share"
        )
        checks.numbers(self, "tile_gain", least=0)


@dataclass(frozen=True)
class TileState:
    """One tile of a manufactured chip."""

    works: Tensor
    """(rows, cols) bool: the cells that can be used, in columns and a tile that work."""
    columns: Tensor
    """(cols,) bool: the columns that work."""
    errors: Tensor
    """(kinds, cols) float32: errors of each column's ADC, in the order of
    ``analogtorch.chips.ADC_ERRORS``."""

    @property
    def share(self) -> float:
        """Share of the cells that work."""
        return self.works.float().mean().item()


def tile_state(chip: Chip, defects: Defects, seed: int, number: int, tile: int) -> TileState:
    """Return the state of ``tile`` of the ``number``-th chip made from ``seed``, both from 0.

    Raises:
        ValueError: the chip has no such tile.
        TypeError: the seed is not an integer.
    """
    if not 0 <= tile < chip.array.tiles:
        raise ValueError(f"{chip.name} has tiles 0 to {chip.array.tiles - 1}, got {tile}")
    position = number * chip.array.tiles + tile
    of_columns = _normals(seed, "column", position, 1, chip.array.columns)
    columns = _works(of_columns, defects.columns)
    columns &= _works(_normals(seed, "tile", position, 1, 1), defects.tiles)
    share = defects.cells
    if defects.worst_tile > share and tile == _worst_tile(chip, seed, number):
        share = defects.worst_tile
    of_cells = _normals(seed, "cell", position, chip.array.rows, chip.array.columns)
    cells = _works(of_cells, share)
    errors = adc_errors(chip, seed, number, tile)
    if defects.tile_gain:
        gain = 1 + defects.tile_gain * _normals(seed, "tile gain", position, 1, 1)[0]
        errors = scaled(errors, gain)
    return TileState(cells & columns, columns[0], errors)


def adc_errors(chip: Chip, seed: int, number: int, tile: int) -> Tensor:
    """Return the errors of the ADCs of a tile's columns, (kinds, cols) float32.

    The kinds have the order of ``analogtorch.chips.ADC_ERRORS``. Chip and tile are those of
    ``tile_state``.
    """
    found = []
    position = number * chip.array.tiles + tile
    cols = chip.array.columns
    for error in ADC_ERRORS:
        std = getattr(chip.adc, error.field)
        values = torch.full((cols,), error.ideal, dtype=torch.float32)
        if std > 0:
            z = _normals(seed, error.kind, position, 1, cols)[0]
            values = (error.ideal + std * z).clamp_min(error.least)
        found.append(values)
    return torch.stack(found)


def varies(chip: Chip) -> bool:
    """Return whether the ADCs of ``chip`` have errors."""
    return any(getattr(chip.adc, error.field) > 0 for error in ADC_ERRORS)


def _normals(seed: int, kind: str, position: int, rows: int, columns: int) -> Tensor:
    """Return standard normals of one tile; ``position`` counts the tiles that the seed made."""
    key = fold(seed_tensor(seed), stream("defect", kind))
    first = torch.zeros(rows, dtype=torch.int64)
    return normal(key, torch.arange(position * rows, (position + 1) * rows), first, columns)


def _worst_tile(chip: Chip, seed: int, number: int) -> int:
    key = fold(seed_tensor(seed), stream("defect", "worst tile"))
    tiles = torch.arange(number * chip.array.tiles, (number + 1) * chip.array.tiles)
    return int(normal(key, tiles, torch.zeros_like(tiles), 1).argmax())


def _works(z: Tensor, share: float) -> Tensor:
    """Return whether each element is outside the ``share`` that fails."""
    if share < 1:
        return 0.5 * torch.erfc(z / math.sqrt(2)) > share
    return torch.zeros_like(z, dtype=torch.bool)
