"""Measurements of a chip through its own ADCs: single cells, and MVMs of known inputs.

Everything is in units of (full-scale input x largest conductance). The noise and the step of an ADC
are those of one MVM, also where a chip has ``separate_phases``; where more reads are averaged, both
shrink. MVMs that are compared with known outputs use ``ADC.asymmetry_balance``; single cells do
not, as a read without input is subtracted from theirs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.ops import normal
from analogtorch.ops.converters import adc, adc_input, lost
from analogtorch.ops.drift import fit_sums
from analogtorch.ops.native import reads as native
from analogtorch.ops.physics import output_noise

CELL_COUNTS = 256
"""ADC steps of the largest conductance when a cell is read alone: the chip adds up as many reads as
that takes. ASSUMED. On the HERMES chip one MVM gives 35, and cells are accepted within 5 counts of
a separate read (Le Gallo 2023, Methods), which with 35 would be 14 % of the largest weight, far
more than the error that was reached."""
INPUTS = 256
"""Random inputs that gains are fitted on. They take as many MVMs as a read of each row of a tile of
256 rows."""


def compensates(chip: Chip, compensation: str) -> bool:
    """Return whether a chip reads its drift: a sensor in the field sees scenes, no known inputs."""
    return compensation != "none" and not chip.light.on


def compensation_mvms(chip: Chip, compensation: str, rows: int) -> tuple[int, int]:
    """Return the MVMs that read a block for its compensation, and the rows that each drives.

    Single cells take a read without input too, which is subtracted; so they need no second reads
    with exchanged polarities (``ADC.asymmetry_balance``), which MVMs of random inputs have.

    Args:
        chip: the chip, for its ADC and output noise.
        compensation: as ``ProgrammedChip.at`` takes it.
        rows: rows of the block.
    """
    if not compensates(chip, compensation):
        return 0, 0
    if compensation == "least_squares":
        return INPUTS * chip.adc.reads * (2 if chip.adc.noise > 0 else 1), rows
    return (rows + 1) * cell_reads(chip), 1


def adc_step(chip: Chip) -> float:
    """Return the step of the chip's ADC in one MVM; 0 without an ADC."""
    return chip.adc.range / chip.adc.levels if chip.adc.levels else 0.0


def cell_reads(chip: Chip) -> int:
    """Return how often a single cell is read: enough for ``CELL_COUNTS`` steps."""
    return max(1, math.ceil(CELL_COUNTS * adc_step(chip)))


def read_cells(w: Tensor, z: Tensor, chip: Chip) -> Tensor:
    """Return the weights of cells that are read one at a time, in units of the largest.

    Args:
        w: the exact weights that the conductances stand for, of any shape.
        z: standard normals of the same shape.
        chip: the chip, for its ADC and output noise.
    """
    reads = cell_reads(chip)
    return through_adc(w, z / math.sqrt(reads), chip, averaged=reads)


def through_adc(
    sums: Tensor,
    z: Tensor,
    chip: Chip,
    errors: Tensor | None = None,
    averaged: int = 1,
    inl: Tensor | None = None,
) -> Tensor:
    """Return the ADC outputs for partial sums of any shape.

    Args:
        sums: the partial sums; with ``inl`` (vectors, outputs).
        z: standard normals of the same shape.
        chip: the chip, for its ADC and output noise.
        errors: errors of the ADCs, (kinds, ...), each broadcastable to ``sums``, in the order of
            ``analogtorch.chips.ADC_ERRORS``; None: no errors.
        averaged: reads whose counts are added up; the step shrinks by as much.
        inl: INL of the ADCs, see ``converters.adc``; None: 0.
    """
    v = sums if chip.adc.noise == 0 else output_noise(sums, 1.0, chip.adc.noise, z)
    v = v if errors is None else adc_input(v, chip.adc.range, errors)
    floors = chip.adc.rounding == "floor"
    return adc(v, v.new_tensor(chip.adc.range), averaged * chip.adc.levels, floors, inl)


def within_range(outputs: Tensor, chip: Chip) -> Tensor:
    """Return for each ADC output whether it is within the ADC range, not at one of its ends.

    Outputs at the ends would make the weights seem smaller.
    """
    limit = chip.adc.range - adc_step(chip) / 2 if chip.adc.levels else math.inf
    return outputs.abs() < limit


@dataclass(frozen=True)
class Block:
    """Some outputs of a row block while they are read."""

    w: Tensor
    """(outputs, rows), the target weights, in [-1, 1]."""
    outputs: slice
    """Outputs of the row block."""
    errors: Tensor
    """(kinds, outputs), of the ADC of each column."""
    columns: Tensor
    """(outputs,) of 0 and 1: the columns that work."""
    chip: Chip
    key: Callable[[str], Tensor]
    """``key(name)`` is the key of normals, other ones for each name."""
    inl: Tensor | None = None
    """INL of the ADC of each column, (outputs or 1, 2 levels), in LSB; None: 0."""

    def targets(self, x: Tensor) -> Tensor:
        """Return the MVMs of the exact weights for the inputs: (inputs, outputs)."""
        return x @ self.w.T

    def inputs(self) -> Tensor:
        """Random full-scale inputs of either sign, or of light or none: (``INPUTS``, rows)."""
        z = self.normals("inputs", slice(0, INPUTS), self._rows)
        x = z > 0 if self.chip.light.on else torch.ones_like(z).copysign(z)
        return x.to(self.w.dtype)

    def normals(self, name: str, rows: slice, columns: slice) -> Tensor:
        """Return standard normals at these positions, different for each name."""
        each = torch.arange(rows.start, rows.stop, device=self.w.device)
        first = torch.full_like(each, columns.start)
        z = normal(self.key(name), each, first, columns.stop - columns.start)
        return z.to(self.w.dtype)

    def fit(self, weights: Tensor, x: Tensor, exact: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return ``fit_sums`` of two reads of the MVMs of weights, (outputs,) each.

        Args:
            weights: (outputs, rows).
            x: the inputs, (inputs, rows).
            exact: the MVMs of the exact weights, (inputs, outputs).
            name: of the noise.
        """
        sums, adc = x @ weights.T, self.chip.adc
        if self.inl is not None or not native.takes(sums):
            return fit_sums(exact, *self._two_reads(sums, name))
        return native.known_reads(
            sums,
            exact,
            self.errors,
            self.columns,
            [int(self.key(read)) for both in self._names(name) for read in both],
            noise=adc.noise,
            adc_range=adc.range,
            levels=adc.levels,
            lost=lost(adc.levels, sums.dtype),
            floors=adc.rounding == "floor",
            balanced=adc.asymmetry_balance,
            first_output=self.outputs.start,
        )

    def _names(self, name: str) -> list[tuple[str, str]]:
        """Return the names of the noise of two reads, and of each with exchanged polarities."""
        again = ("", " again") if self.chip.adc.noise > 0 else ("",)
        return [(name + each, f"{name}{each} exchanged") for each in again]

    def _two_reads(self, sums: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return the ADC outputs of two reads with independent noise, each (inputs, outputs).

        The square of one ADC output would contain its noise; the product of the two does not. Where
        one of them is at the end of the ADC range, both become 0, which a fit ignores: clipped
        outputs would make the weights seem smaller. With ``ADC.asymmetry_balance`` each is half the
        difference of two reads.
        """
        adc, found = self.chip.adc, []
        for read, exchanged in self._names(name):
            found.append([self._read(sums, read)])
            if adc.asymmetry_balance:
                found[-1].append(self._read(-sums, exchanged))
        outputs = [r[0] if len(r) == 1 else (r[0] - r[1]) / 2 for r in found]
        if adc.levels:
            each_read = [within_range(read, self.chip) for reads in found for read in reads]
            inside = torch.stack(each_read).all(0)
            outputs = [each * inside.to(each.dtype) for each in outputs]  # bools multiply slowly
        return outputs[0], outputs[-1]

    def _read(self, sums: Tensor, name: str) -> Tensor:
        """Return the ADC outputs of the columns that work for sums (inputs, outputs)."""
        z, where = sums, (slice(0, len(sums)), self.outputs)
        if self.chip.adc.noise > 0:
            z = self.normals(name, *where)
        return through_adc(sums, z, self.chip, self.errors, inl=self.inl) * self.columns

    def cells(self, weights: Tensor, name: str) -> Tensor:
        """Return the weights as one-hot inputs read them: (outputs, rows)."""
        z = self.normals(name, self.outputs, self._rows) if self.chip.adc.noise else weights
        return self.alone(read_cells(weights, z, self.chip))

    def alone(self, cells: Tensor) -> Tensor:
        """Return reads of single cells, (outputs, rows), less a read without input.

        The ADCs have their errors in both, but for their INL: the counts of many reads are finer
        than a code.
        """
        errors, bound = self.errors.unsqueeze(2), self.chip.adc.range
        nothing = adc_input(torch.zeros_like(cells), bound, errors)
        return (adc_input(cells, bound, errors) - nothing) * self.columns.unsqueeze(1)

    @property
    def _rows(self) -> slice:
        return slice(0, self.w.shape[1])
