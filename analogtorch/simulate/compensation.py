"""Digital corrections: the gain of each column after programming, and the drift at any time."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from analogtorch.ops.drift import fit_sums, magnitude_sums, ratio
from analogtorch.simulate.readout import Block, compensates

if TYPE_CHECKING:
    from analogtorch.simulate.section import ProgrammedSection

Compensation = Literal["none", "global", "column", "least_squares"]
Readout = Literal["chip", "ideal"]


def column_gains(section: "ProgrammedSection") -> Tensor:
    """Return the gain of each column that fits the programmed chip to the target weights.

    The shape is (row blocks, outputs).
    """
    weights, gains = section.weights(None), torch.empty_like(section.scale)
    for number, outputs, index in section.pieces():
        block = section.block(number, outputs)
        x, exact = section.exact_mvms(number, outputs, block)
        found = block.fit(weights[index].flatten(1), x, exact, "columns")
        gains[number, outputs] = ratio(*found).to(gains)
    return gains


def drift_gains(
    now: Tensor,
    section: "ProgrammedSection",
    compensation: Compensation,
    readout: Readout,
    t: float,
) -> Tensor:
    """Return the factor per row block and output that undoes drift after column calibration.

    Args:
        now: the weights of the conductances at ``t``.
        section: the section that they are of.
        compensation: as ``ProgrammedChip.at`` takes it.
        readout: as ``ProgrammedChip.at`` takes it.
        t: seconds after programming.
    """
    if not compensates(section.chip, compensation):
        return torch.ones_like(section.scale)
    sums = now.new_empty(2, *section.scale.shape)
    written = None
    if compensation != "least_squares" and not section.chip.wires.ideal:
        # behind the same wires as ``now``, whose IR drop column calibration has removed
        written = section.weights(None)
    for number, outputs, index in section.pieces():
        block, column = section.block(number, outputs), section.column[number, outputs]
        current = now[index].flatten(1)
        if compensation == "least_squares":
            if readout == "ideal":  # one-hot inputs are the limit of many random ones
                exact = block.alone(current).T * column
                found = fit_sums(block.w.T, exact, exact)
            else:
                x, exact = section.exact_mvms(number, outputs, block)
                numerator, denominator = block.fit(current, x, exact, str(t))
                found = numerator * column, denominator * column.square()
        else:
            then = (
                section.written(number, outputs, index)
                if written is None
                else written[index].flatten(1)
            )
            found = _magnitudes(block, column, then, current, readout, t)
        sums[0, number, outputs], sums[1, number, outputs] = found
    if compensation != "column":
        by_block = [section.section.block_sums(each) for each in sums.flatten(0, 1)]
        sums = torch.stack(by_block).view_as(sums)
    return ratio(*sums)


def _magnitudes(
    block: Block, column: Tensor, then: Tensor, current: Tensor, readout: Readout, t: float
) -> tuple[Tensor, Tensor]:
    """Return the sums of the magnitudes of cells after programming and now."""
    if readout == "ideal":
        cells = block.alone(then), block.alone(current)
    else:
        cells = block.cells(then, "programmed"), block.cells(current, str(t))
    return magnitude_sums(*(each * column.unsqueeze(1) for each in cells))
