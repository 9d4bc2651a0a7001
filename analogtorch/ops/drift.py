"""Factors of the digital drift compensation behind the ADC: quotients of two sums.

Outputs that share a factor add up their sums first.
"""

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


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, and 1 where a sum is not positive."""
    positive = (numerator > 0) & (denominator > 0)
    return torch.where(positive, numerator / denominator.clamp_min(1e-30), 1.0)
