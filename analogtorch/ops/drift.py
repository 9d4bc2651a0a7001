"""The digital correction of drift: a factor behind the ADC, the quotient of two sums.

Outputs that share a factor add up their sums first.
"""

import torch
from torch import Tensor


def magnitude_sums(then: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the magnitudes of a block's cells after programming, and now: (outputs,) each, for
    ``ratio``.

    Source: global drift compensation, Joshi et al., Nat. Commun. 11, 2473 (2020).

    Args:
        then: (outputs, rows).
        now: of the same shape.
    """
    return then.abs().sum(1), now.abs().sum(1)


def fit_sums(target: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator, (outputs,), of the factor that fits two reads best to their
    target, by least squares.

    The square of one read would hold its noise; the product of two does not.

    Args:
        target: (inputs, outputs).
        first: a read, of the same shape.
        second: another one.
    """
    return ((first + second) / 2 * target).sum(0), (first * second).sum(0)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient of what was read, 1 where there is nothing to go by."""
    read = (numerator > 0) & (denominator > 0)
    return torch.where(read, numerator / denominator.clamp_min(1e-30), 1.0)
