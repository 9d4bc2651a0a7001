"""The transfer functions of the converters of a manufactured chip, drawn by place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.ops.physics import wide
from analogtorch.ops.transfer import (
    ideal_transitions,
    interpolated,
    of_capacitors,
    of_widths,
    transitions,
)
from analogtorch.simulate.faults import normals

_LEAST_GAIN = 0.1
"""Smallest gain of a DAC, as of an ADC."""


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
        table = torch.tensor(adc.inl, dtype=torch.float64, device="cpu")
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


def dac_inl(chip: Chip, like: Tensor) -> Tensor | None:
    """Return the INL of the DACs at their codes, in LSB, (2 levels + 1,); None: they have none.

    It has the device of ``like``, and at least its precision.
    """
    if chip.dac.inl is None:
        return None
    table = torch.tensor(chip.dac.inl, dtype=torch.float64, device="cpu")
    steps = chip.dac.levels
    at = torch.arange(-steps, steps + 1, dtype=torch.float64, device="cpu") / steps
    return interpolated(table, at).to(like.device, wide(like.dtype))


def dac_gains(chip: Chip, seed: int, number: int, tile: int) -> Tensor:
    """Return the gains of the DACs of a tile's rows, (rows,) float32.

    Chip and tile are those of ``tile_state``.
    """
    position, rows = number * chip.array.tiles + tile, chip.array.rows
    z = normals(seed, "gain of a row", position, 1, rows)[0]
    return (1.0 + chip.dac.gain_std * z).clamp_min(_LEAST_GAIN)


@dataclass(frozen=True)
class RowGains:
    """The gains of the DACs that drive the weights of a section.

    A row multiplies all of its weights, so that a chip computes with weights times their gains.
    """

    parts: tuple[tuple[slice, slice, Tensor], ...]
    """Outputs and rows of the section on one tile, and the gain of each row."""

    def scale_(self, w: Tensor, outputs: slice, rows: slice, power: int = 1) -> Tensor:
        """Multiply weights in place, and return them.

        Args:
            w: weights at these outputs and rows, (outputs, rows).
            outputs: outputs of the section.
            rows: rows of the section.
            power: power of the gains; 2 for variances.
        """
        for columns, driven, gains in self.parts:
            a, b = max(columns.start, outputs.start), min(columns.stop, outputs.stop)
            c, d = max(driven.start, rows.start), min(driven.stop, rows.stop)
            if a < b and c < d:
                each = gains[c - driven.start : d - driven.start].to(w)
                here = w[a - outputs.start : b - outputs.start, c - rows.start : d - rows.start]
                here *= each**power
        return w
