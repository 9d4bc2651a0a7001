"""Factors of the digital drift compensation behind the ADC: quotients of two sums.

Outputs that share a factor add up their sums first.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def magnitude_sums(then: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of a block's magnitudes after programming and now: (outputs,) each.

    Their ``ratio`` is the compensation. Source: global drift compensation, Joshi et al., Nat.
    Commun. 11, 2473 (2020).

    Args:
        then: cells after programming, (outputs, rows).
        now: cells now, of the same shape.
    """
    return then.abs().sum(1), now.abs().sum(1)


def fit_sums(target: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator, (outputs,), of the least-squares factor for two reads.

    The factor fits the reads to their target. The square of one read would contain its noise; the
    product of two does not.

    Args:
        target: exact MVMs, (inputs, outputs).
        first: a read, of the same shape.
        second: another read.
    """
    return ((first + second) / 2 * target).sum(0), (first * second).sum(0)


def compensation(
    target: Tensor,
    then: Tensor,
    now: Tensor | None,
    calibrated: bool,
    block_sums: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the factors, (outputs,), with which a chip fits the weights of a block to targets.

    They are those of ``program(...).at(t)`` for an ideal readout: of each column after programming,
    and of the block now.

    Args:
        target: the weights to be held, (outputs, rows).
        then: weights after programming, of the same shape.
        now: weights now; None: right after programming.
        calibrated: whether each column has a factor of its own.
        block_sums: adds up numbers (outputs,) over the outputs that share a factor.
    """
    column = then.new_ones(len(then))
    if calibrated:
        column = ratio((target * then).sum(1), then.square().sum(1))
    if now is None:
        return column
    sums = column * (target * now).sum(1), column.square() * now.square().sum(1)
    return column * ratio(*map(block_sums, sums))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, and 1 where a sum is not positive."""
    positive = (numerator > 0) & (denominator > 0)
    return torch.where(positive, numerator / denominator.clamp_min(1e-30), 1.0)
