"""How conductances are written: at once, as the device's fit says, or pulse by pulse with the
chip's own readings.

A fit such as ``programming_std`` is what a published chip reached by its own means. The two loops
here start from it and go on: they answer what closer programming would bring. Both see the cells
only through the chip's DAC, ADC and output noise. In a round, one makes a multiply per row, the
other as many as it takes to read each cell of the row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.devices import Cell
from analogtorch.ops.physics import dac
from analogtorch.simulate.readout import CELL_COUNTS, adc_step, cell_reads, read_cells, through_adc
from analogtorch.values import checks

Draw = Callable[[str, int, int], Tensor]
"""Standard normals of a shape (rows, columns), by name."""


@dataclass(frozen=True, kw_only=True)
class Pulses:
    """What the programming loops share."""

    rounds: int = 30
    """Reads, each followed by a pulse to the cells that need one; >= 1. 30 as on the HERMES chip
    (Le Gallo 2023)."""
    step: float = 0.5
    """Share of the error found that a pulse is meant to undo, in (0, 1]."""
    noise: float = 0.3
    """Standard deviation of what a pulse does, as a share of what it is meant to do, >= 0.
    ASSUMED."""

    def __post_init__(self) -> None:
        checks.counts(self, "rounds")
        checks.numbers(self, "step", above=0, most=1)
        checks.numbers(self, "noise", least=0)


@dataclass(frozen=True, kw_only=True)
class ProgramAndVerify(Pulses):
    """Cell by cell: read each alone, correct those that are off by more than the margin.

    A cell alone uses little of the ADC's range, so it is read as often as gives 256 steps for the
    largest conductance (``analogtorch.simulate.readout.CELL_COUNTS``). The loop ends where that
    step, its noise, or the margin ends.

    Example:
        >>> at.program(model, seed=1, method=at.ProgramAndVerify(rounds=10))
    """

    margin: float = 5 / CELL_COUNTS
    """Error that is accepted, in units of the largest conductance, >= 0; by default 5 ADC counts of
    a cell's own read, as on the HERMES chip (Le Gallo 2023). Never less than the step and the noise
    of that read, which would change cells that are right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.numbers(self, "margin", least=0)

    def correction(
        self, now: Tensor, target: Tensor, chip: Chip, draw: Draw, number: int
    ) -> Tensor:
        """How much to change each weight of a block (outputs, rows), from reads of every cell
        alone.
        """
        error = target - read_cells(now, draw(f"verify {number}", *now.shape), chip)
        reads = cell_reads(chip)
        margin = max(self.margin, adc_step(chip) / reads, chip.adc.noise / math.sqrt(reads))
        return torch.where(error.abs() > margin, self.step * error, 0.0)


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Pulses):
    """Gradient-descent programming (GDP): lower the error of whole multiplies of random inputs.

    Source: Buchel et al., IEDM 2022 and JETCAS 2023 (arXiv 2305.16647). All cells of a column
    answer at once and use the ADC's range; its step and noise average out over the inputs, so no
    ADC of high resolution is needed. What it gains over the other loop is gained when programmed;
    drift, which no loop sees, overtakes it within hours.

    Example:
        >>> at.program(model, seed=1, method=at.GradientDescent())
    """

    def correction(
        self, now: Tensor, target: Tensor, chip: Chip, draw: Draw, number: int
    ) -> Tensor:
        """How much to change each weight of a block (outputs, rows), from multiplies of random
        inputs.
        """
        outputs, rows = now.shape
        # uniform in [-1, 1], one vector per row
        x = torch.erf(draw(f"inputs {number}", rows, rows) / math.sqrt(2))
        x = dac(x, x.new_ones(1), chip.dac.bits or 0, x.dtype)
        y = through_adc(x @ now.T, draw(f"verify {number}", rows, outputs), chip)
        error = x @ target.T - y
        return self.step * (error.T @ x) / x.square().sum(0).clamp_min(1e-6)


Method = ProgramAndVerify | GradientDescent


def close_in(
    g: Tensor, target: Tensor, works: Tensor, chip: Chip, method: Method, draw: Draw
) -> Tensor:
    """Conductances of a row block after the rounds of ``method``.

    Args:
        g: (devices, outputs, rows), uS, as first written.
        target: (outputs, rows), weights in [-1, 1].
        works: (outputs, rows), 1 where a cell works; the others conduct nothing, whatever is done
            to them.
        chip: whose converters and cells these are.
        method: how.
        draw: ``draw(name, rows, columns)`` gives standard normals of that shape, others for another
            name.
    """
    for number in range(method.rounds):
        now = chip.cell.weights(g)
        change = method.correction(now, target, chip, draw, number)
        z = torch.stack(
            [draw(f"pulse {number} {device}", *target.shape) for device in range(len(g))]
        )
        g = pulse(g, change, target, z, method.noise, chip.cell) * works
    return g


def pulse(g: Tensor, change: Tensor, target: Tensor, z: Tensor, noise: float, cell: Cell) -> Tensor:
    """Conductances (devices, *S), uS, after pulses that are meant to change the weights (S) by
    ``change``, each off by ``noise`` times the normals ``z``.
    """
    wanted = cell.changes(change, target)
    return (g + wanted * (1.0 + noise * z)).clamp_min(0.0)
