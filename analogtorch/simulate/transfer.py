"""The non-linearity of the ADCs of a manufactured chip, drawn by the place of each column."""

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.ops.transfer import (
    ideal_transitions,
    interpolated,
    of_capacitors,
    of_widths,
    transitions,
)
from analogtorch.simulate.faults import normals


def adc_inl(chip: Chip, seed: int, number: int, tile: int) -> Tensor | None:
    """Return the INL of the ADCs of a tile's columns at their code transitions, in LSB.

    The shape is (columns, 2 levels), or (1, 2 levels) if it is the same for all; None: the ADCs
    have none. Chip and tile are those of ``tile_state``.
    """
    adc, position = chip.adc, number * chip.array.tiles + tile
    if not adc.curved:
        return None
    floors, columns = adc.rounding == "floor", chip.array.columns
    parts = []

    def drawn(kind: str, numbers: int) -> Tensor:
        return normals(seed, kind, position, columns, numbers).double()

    if adc.inl is not None:
        table = torch.tensor(adc.inl, dtype=torch.float64)
        ideal = ideal_transitions(adc.levels, floors, table)
        parts.append(interpolated(table, ideal / adc.levels).unsqueeze(0))
    if adc.dnl_std > 0:
        z = drawn("code widths", 2 * adc.levels - 1)
        parts.append(of_widths(z, adc.dnl_std, adc.levels, floors))
    if adc.capacitor_std > 0:
        assert adc.bits is not None
        parts.append(of_capacitors(drawn("capacitors", adc.bits), adc.capacitor_std))
    found = parts[0]
    if len(parts) > 1:  # together they may leave a code a width below 0: it is missing
        found = torch.stack(torch.broadcast_tensors(*parts)).sum(0)
        levels = transitions(adc.levels, floors, found)
        found = ideal_transitions(adc.levels, floors, found) - levels.cummax(1).values
    return found.float()
