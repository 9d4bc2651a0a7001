"""What a chip reads of itself through its own ADCs: single cells, and MVMs of known inputs.

Everything is in units of (full-scale input x largest conductance). The noise and the step of an ADC
are those of one MVM, also where a chip has ``separate_phases``; where more reads are averaged, both
shrink.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.ops.physics import adc, adc_input, output_noise

CELL_COUNTS = 256
"""ADC steps that the largest conductance gives when a cell is read alone: as many reads as that
takes are added up. ASSUMED. On the HERMES chip one MVM gives 35, and cells are accepted within 5
counts of a read of their own (Le Gallo 2023, Methods), which 35 would make 14 % of the largest
weight, far more than the error that was reached."""
INPUTS = 256
"""Random inputs that gains are fitted on: as many MVMs as reading a tile of 256 rows one after the
other."""


def adc_step(chip: Chip) -> float:
    """Step of the chip's ADC in one MVM; 0: no ADC."""
    return chip.adc.range / chip.adc.levels if chip.adc.levels else 0.0


def cell_reads(chip: Chip) -> int:
    """How often a cell that is read alone is read: often enough for ``CELL_COUNTS`` steps."""
    return max(1, math.ceil(CELL_COUNTS * adc_step(chip)))


def read_cells(w: Tensor, z: Tensor, chip: Chip) -> Tensor:
    """Weights, of any shape and in units of the largest, as their cells give them when each is read
    alone.

    Args:
        w: what the conductances stand for.
        z: standard normals of the same shape.
        chip: whose ADC and output noise these are.
    """
    reads = cell_reads(chip)
    return through_adc(w, z / math.sqrt(reads), chip, averaged=reads)


def through_adc(
    sums: Tensor, z: Tensor, chip: Chip, errors: Tensor | None = None, averaged: int = 1
) -> Tensor:
    """What the ADC makes of partial sums, of any shape.

    Args:
        sums: the partial sums.
        z: standard normals of the same shape.
        chip: whose ADC and output noise these are.
        errors: of the ADCs, (kinds, ...), each broadcastable to ``sums``, in the order of
            ``analogtorch.chips.ADC_ERRORS``; None: there are none.
        averaged: reads whose counts are added up: the step shrinks by as much.
    """
    v = sums if chip.adc.noise == 0 else output_noise(sums, 1.0, chip.adc.noise, z)
    v = v if errors is None else adc_input(v, chip.adc.range, errors)
    return adc(v, v.new_tensor(chip.adc.range), averaged * chip.adc.levels)


@dataclass(frozen=True)
class Block:
    """Some outputs of a row block while they are read."""

    w: Tensor
    """(outputs, rows), the target weights, in [-1, 1]."""
    outputs: slice
    """Which of the row block's outputs these are."""
    errors: Tensor
    """(kinds, outputs), of the ADC of each column."""
    columns: Tensor
    """(outputs,) of 0 and 1: the columns that work."""
    chip: Chip
    normals: Callable[[str, slice, slice], Tensor]
    """``normals(name, rows, columns)``: standard normals at these positions, others for another
    name."""

    def targets(self, x: Tensor) -> Tensor:
        """What the exact weights give for the inputs: (inputs, outputs)."""
        return x @ self.w.T

    def inputs(self) -> Tensor:
        """Random full-scale inputs of either sign: (``INPUTS``, rows)."""
        z = self.normals("inputs", slice(0, INPUTS), self._rows)
        return torch.ones_like(z).copysign(z).to(self.w.dtype)

    def two_reads(self, weights: Tensor, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """What the ADCs give for the inputs, twice, each with noise of its own: (inputs, outputs).

        The square of one read would hold its noise; the product of the two does not. Both are 0,
        which no fit sees, where one is at the end of the ADC's range: what was clipped would make
        the weights seem smaller.
        """
        sums, where = x @ weights.T, (slice(0, len(x)), self.outputs)
        noisy = self.chip.adc.noise > 0
        z = (
            [self.normals(f"{name}{again}", *where) for again in ("", " again")]
            if noisy
            else [sums]
        )
        reads = [through_adc(sums, each, self.chip, self.errors) * self.columns for each in z]
        if self.chip.adc.levels:
            limit = self.chip.adc.range - adc_step(self.chip) / 2
            inside = torch.stack([read.abs() < limit for read in reads]).all(0)
            reads = [read * inside for read in reads]
        return reads[0], reads[-1]

    def cells(self, weights: Tensor, name: str) -> Tensor:
        """The weights as one-hot inputs read them: (outputs, rows)."""
        z = self.normals(name, self.outputs, self._rows) if self.chip.adc.noise else weights
        return self.alone(read_cells(weights, z, self.chip))

    def alone(self, cells: Tensor) -> Tensor:
        """Single cells, (outputs, rows), as ADCs with errors give them against a read without
        input.
        """
        errors, bound = self.errors.unsqueeze(2), self.chip.adc.range
        nothing = adc_input(torch.zeros_like(cells), bound, errors)
        return (adc_input(cells, bound, errors) - nothing) * self.columns.unsqueeze(1)

    @property
    def _rows(self) -> slice:
        return slice(0, self.w.shape[1])
