"""Programming: conductances written at once with the device's error, or pulse by pulse.

A fit such as ``programming_std`` is the error that a published chip reached by its own method. The
two loops here start from it and continue: they show what closer programming would bring. Both see
the cells only through the chip's DAC, ADC and output noise. In a round, one makes an MVM per row,
and at least ``INPUTS``; the other as many per row as it takes to read each of its cells. Neither
changes what time adds to the error. Pulses keep devices between ``g_min`` and ``g_max``, or where
the first write left them beyond, also where a cell with a broken device needs more. Other devices
of a pair take what one at its limit cannot.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.devices.cell import Hold, changes_within
from analogtorch.ops.converters import dac
from analogtorch.simulate.readout import (
    CELL_COUNTS,
    INPUTS,
    adc_step,
    cell_reads,
    read_cells,
    through_adc,
    within_range,
)
from analogtorch.values import checks

Draw = Callable[[str, int, int], Tensor]
"""Standard normals of a shape (rows, columns), by name."""


@dataclass(frozen=True, kw_only=True)
class Pulses:
    """The options that both programming loops share."""

    rounds: int = 30
    """Reads, each followed by a pulse to the cells that need one; >= 1. 30 as on the HERMES chip
    (Le Gallo 2023)."""
    step: float = 0.5
    """Share of the measured error that a pulse is meant to undo, in (0, 1]; of gradient descent, in
    its first rounds."""
    noise: float = 0.3
    """Standard deviation of the effect of a pulse, relative to the intended effect, >= 0.
    ASSUMED."""

    def __post_init__(self) -> None:
        checks.counts(self, "rounds")
        checks.numbers(self, "step", above=0, most=1)
        checks.numbers(self, "noise", least=0)


@dataclass(frozen=True, kw_only=True)
class ProgramAndVerify(Pulses):
    """Cell by cell: read each one alone, and correct those that are off by more than the margin.

    A single cell uses little of the ADC range, so it is read often enough to give 256 steps for the
    largest conductance (``analogtorch.simulate.readout.CELL_COUNTS``). The step, its noise and the
    margin limit what the loop reaches.

    Example:
        >>> at.program(model, seed=1, method=at.ProgramAndVerify(rounds=10))
    """

    margin: float = 5 / CELL_COUNTS
    """Error that is accepted, in units of the largest conductance, >= 0; by default 5 ADC counts of
    a single cell's read, as on the HERMES chip (Le Gallo 2023). Never less than the step and the
    noise of that read, which would change cells that are right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.numbers(self, "margin", least=0)

    @property
    def summary(self) -> str:
        """How cells are written, as tables of results say it."""
        return f"cells are written by program-and-verify, in {self.rounds} rounds"

    def correction(
        self, now: Tensor, target: Tensor, chip: Chip, draw: Draw, number: int
    ) -> Tensor:
        """Return the change of each weight, (outputs, rows), from a read of every cell alone."""
        error = target - read_cells(now, draw(f"verify {number}", *now.shape), chip)
        reads = cell_reads(chip)
        margin = max(self.margin, adc_step(chip) / reads, chip.adc.noise / math.sqrt(reads))
        return torch.where(error.abs() > margin, self.step * error, 0.0)


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Pulses):
    """Gradient-descent programming (GDP): lower the error of whole MVMs of random inputs.

    Source: Buchel et al., IEDM 2022 and JETCAS 2023 (arXiv 2305.16647). All cells of a column
    conduct together and use the ADC range; outputs at its ends are ignored. A round takes an MVM
    per row, and at least ``analogtorch.simulate.readout.INPUTS``. The ADC step and the noise
    average out over the inputs and, as the step falls, over the rounds, so the ADC needs no high
    resolution. The advantage over ``ProgramAndVerify`` exists right after programming; drift, which
    neither loop sees, exceeds it within hours.

    Example:
        >>> at.program(model, seed=1, method=at.GradientDescent())
    """

    full_steps: int = 5
    """Rounds before the step falls as 1 / round, >= 1. ASSUMED: with fewer more is left of the
    first error, with more of the noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(self, "full_steps")

    @property
    def summary(self) -> str:
        """How cells are written, as tables of results say it."""
        return f"cells are written by gradient descent, in {self.rounds} rounds"

    def correction(
        self, now: Tensor, target: Tensor, chip: Chip, draw: Draw, number: int
    ) -> Tensor:
        """Return the change of each weight, (outputs, rows), from MVMs of random inputs."""
        outputs, rows = now.shape
        inputs = max(rows, INPUTS)
        # uniform in [-1, 1], so that the mean square is 1/3
        x = torch.erf(draw(f"inputs {number}", inputs, rows) / math.sqrt(2))
        x = dac(x, x.new_ones(1), chip.dac.bits or 0, x.dtype)
        y = through_adc(x @ now.T, draw(f"verify {number}", inputs, outputs), chip)
        error = (x @ target.T - y) * within_range(y, chip).to(y.dtype)
        step = self.step * min(1.0, self.full_steps / (number + 1))
        return step * (error.T @ x) / (inputs / 3)


Method = ProgramAndVerify | GradientDescent


def write(
    g: Tensor, target: Tensor, chip: Chip, method: Method, draw: Draw, hold: Hold
) -> tuple[Tensor, Tensor]:
    """Return the conductances of a row block after the rounds of ``method``, and their pulses.

    The pulses are the number that each device got, of the shape of ``g``.

    Args:
        g: (devices, outputs, rows), uS, as first written.
        target: (outputs, rows), weights in [-1, 1].
        chip: the chip, for its converters and cells.
        method: the programming loop.
        draw: ``draw(name, rows, columns)`` returns standard normals of that shape, different for
            each name.
        hold: ``hold(g)`` returns the conductances with those of broken devices in their places.
    """
    pulses = torch.zeros_like(g, dtype=torch.int32)
    low, high = g.clamp_max(chip.cell.device.g_min), g.clamp_min(chip.cell.device.g_max)
    for number in range(method.rounds):
        now = chip.cell.weights(g)
        change = method.correction(now, target, chip, draw, number)
        names = [f"pulse {number} {device}" for device in range(len(g))]
        z = torch.stack([draw(name, *target.shape) for name in names])
        wanted = changes_within(chip.cell, change, target, low - g, high - g)
        pulses += wanted != 0
        g = hold(pulse(g, wanted, z, method.noise).clamp(low, high))
    return g, pulses


def pulse(g: Tensor, wanted: Tensor, z: Tensor, noise: float) -> Tensor:
    """Return the conductances, uS, after pulses that are meant to change them by ``wanted``.

    All have one shape. Each pulse is off by ``noise`` times the normals ``z``. Where a device ends
    is left to the caller.
    """
    return g + wanted * (1.0 + noise * z)
