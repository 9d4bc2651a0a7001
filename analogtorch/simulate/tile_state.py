"""The state of a tile of a manufactured chip: its faults and the errors of its ADCs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS, Chip
from analogtorch.devices.cell import shared
from analogtorch.ops import fold, normal, seed_tensor, stream
from analogtorch.ops.converters import scaled
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import CODES, FAULTS, Part, chosen, normals, of_devices, uniform


@dataclass(frozen=True, kw_only=True, repr=False)
class TileState:
    """One tile of a manufactured chip.

    Faults are codes: 0 is what works, and ``analogtorch.simulate.faults.FAULTS[code - 1]`` the
    fault of another code.
    """

    faults: Tensor
    """(devices, rows, cols) uint8: the fault of each device, which may be that of its cell, lines
    or tile."""
    row_faults: Tensor
    """(rows,) uint8: faults of the rows, or of the tile."""
    column_faults: Tensor
    """(cols,) uint8: faults of the columns, or of the tile."""
    levels: Tensor | None
    """(devices, rows, cols) float32: conductance of devices that are stuck on, in units of
    ``g_max``; None: 1 everywhere."""
    errors: Tensor
    """(kinds, cols) float32: errors of each column's ADC, in the order of
    ``analogtorch.chips.ADC_ERRORS``."""

    def __repr__(self) -> str:
        rows, columns = self.works.shape
        return f"TileState({rows} x {columns} cells, {self.share:.1%} of which work)"

    @property
    def works(self) -> Tensor:
        """(rows, cols) bool: the cells that work, on lines and a tile that work."""
        return (self.faults == 0).all(0)

    @property
    def columns(self) -> Tensor:
        """(cols,) bool: the columns that work."""
        return self.column_faults == 0

    @property
    def share(self) -> float:
        """Share of the cells that work."""
        return self.works.float().mean().item()

    def parts(self, part: Part) -> int:
        """Return how many devices, cells, rows, columns or tiles this is."""
        devices, rows, columns = self.faults.shape
        cells = rows * columns
        counts = {"device": devices * cells, "cell": cells, "row": rows, "column": columns}
        return counts.get(part, 1)

    def shares(self) -> dict[str, float]:
        """Return the share of each fault by its field.

        Of the devices, cells, rows or columns of the tile, whichever fails. What fails with
        something larger counts there alone. The share of ``tiles`` is 0 or 1.
        """
        found = {}
        for fault in FAULTS:
            codes = {"row": self.row_faults, "column": self.column_faults}.get(
                fault.part, self.faults
            )
            there = codes == CODES[fault.field]
            if fault.part == "cell":
                there = there.any(0)  # a device that columns share does not fail with its cells
            found[fault.field] = there.float().mean().item()
        return found


def tile_state(chip: Chip, defects: Defects, seed: int, number: int, tile: int) -> TileState:
    """Return the state of ``tile`` of the ``number``-th chip made from ``seed``, both from 0.

    Raises:
        ValueError: the chip has no such tile.
        TypeError: the seed is not an integer.
    """
    if not 0 <= tile < chip.array.tiles:
        raise ValueError(f"{chip.name} has tiles 0 to {chip.array.tiles - 1}, got {tile}")
    position = number * chip.array.tiles + tile
    rows, columns = _lines(chip, defects, seed, position)
    size = (chip.cell.devices, chip.array.rows, chip.array.columns)
    faults = of_devices(seed, position, size, defects.shares("device"))
    share = defects.cells
    if defects.worst_tile > share and tile == _worst_tile(chip, seed, number):
        share = defects.worst_tile
    if share:
        cells = chosen(normals(seed, "cell", position, *size[1:]), {"cells": share})
        own = [device for device in range(size[0]) if device not in shared(chip.cell)]
        faults[own] = faults[own].maximum(cells)
    faults = _in_common(chip, faults).maximum(rows.unsqueeze(1)).maximum(columns)
    return TileState(
        faults=faults,
        row_faults=rows,
        column_faults=columns,
        levels=_levels(chip, defects, seed, position, size),
        errors=_errors(chip, defects, seed, number, tile, columns),
    )


def _lines(chip: Chip, defects: Defects, seed: int, position: int) -> tuple[Tensor, Tensor]:
    """Return the faults of rows and columns of a tile, (rows,) and (cols,)."""
    of_tile = chosen(normals(seed, "tile", position, 1, 1), defects.shares("tile"))[0]
    lines: tuple[tuple[Part, int], ...] = (("row", chip.array.rows), ("column", chip.array.columns))
    rows, columns = (
        chosen(normals(seed, part, position, 1, length)[0], defects.shares(part)).maximum(of_tile)
        for part, length in lines
    )
    return rows, columns


def _in_common(chip: Chip, drawn: Tensor) -> Tensor:
    """Return what is drawn for each device, (devices, rows, cols), alike where columns share it."""
    for device in shared(chip.cell):
        drawn[device] = drawn[device, :, :1]
    return drawn


def _levels(
    chip: Chip, defects: Defects, seed: int, position: int, size: tuple[int, int, int]
) -> Tensor | None:
    """Return the levels of devices that are stuck on; None: all are 1."""
    if not defects.stuck_on or defects.on_level == 1:
        return None
    kinds = (f"device {device} level" for device in range(size[0]))
    z = torch.stack([normals(seed, kind, position, *size[1:]) for kind in kinds])
    return _in_common(chip, 1 - (1 - defects.on_level) * uniform(z))


def _errors(
    chip: Chip, defects: Defects, seed: int, number: int, tile: int, columns: Tensor
) -> Tensor:
    """Return the errors of the ADCs of a tile whose ``columns`` have these faults."""
    errors, position = adc_errors(chip, seed, number, tile), number * chip.array.tiles + tile
    if defects.tile_gain:
        gain = 1 + defects.tile_gain * normals(seed, "tile gain", position, 1, 1)[0]
        errors = scaled(errors, gain)
    short = columns == CODES["short_columns"]
    if not short.any():
        return errors
    # an input of the ADC that is as far from 0 as its range
    end = normals(seed, "end of a short column", position, 1, len(columns))[0].sign()
    at_end = {"gain": torch.ones_like(end), "offset": end}
    return torch.where(short, torch.stack([at_end[error.kind] for error in ADC_ERRORS]), errors)


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
        values = torch.full((cols,), error.ideal, dtype=torch.float32, device="cpu")
        if std > 0:
            z = normals(seed, error.kind, position, 1, cols)[0]
            values = (error.ideal + std * z).clamp_min(error.least)
        found.append(values)
    errors = torch.stack(found)
    if chip.adc.slope_std > 0:
        z = normals(seed, "slope", position, 1, 1)[0]
        errors = scaled(errors, 1 + chip.adc.slope_std * z)
    return errors


def varies(chip: Chip) -> bool:
    """Return whether the ADCs of ``chip`` have errors."""
    fields = (*(error.field for error in ADC_ERRORS), "slope_std")
    return any(getattr(chip.adc, field) > 0 for field in fields)


def _worst_tile(chip: Chip, seed: int, number: int) -> int:
    key = fold(seed_tensor(seed), stream("defect", "worst tile"))
    tiles = torch.arange(number * chip.array.tiles, (number + 1) * chip.array.tiles, device="cpu")
    return int(normal(key, tiles, torch.zeros_like(tiles), 1).argmax())
