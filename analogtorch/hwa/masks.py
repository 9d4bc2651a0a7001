"""The numbers of an output that are a mask, such as those of classes that are not allowed."""

import torch
from torch import Tensor

from analogtorch.calibration.judge import vectors

FAR = 10.0
"""How many times further from zero a mask is than any number of the net. Assumed: masks of finite
value are -1e4 or less, and logits are tens."""


def infinite(y: Tensor) -> Tensor:
    """Return where an output is minus infinity, or as low as its type goes, within a factor 2."""
    return y <= torch.finfo(y.dtype).min / 2


def masks(exact: Tensor) -> Tensor | None:
    """Return where a digital output holds a mask, in its shape; None: nowhere.

    A mask says nothing of the chip, and would hide what the net gives beside it. It is minus
    infinity, or as low as the type goes; or the lowest number of the batch, if the net writes it
    more than once and it is ``FAR`` times as far from zero as any other.
    """
    if not exact.numel():
        return None
    found = infinite(exact)
    lowest = exact.masked_fill(found, torch.inf).amin()
    same = exact == lowest
    rest = exact.masked_fill(found | same, 0).abs().amax()
    low, largest, count = torch.stack([lowest, rest, same.sum()]).double().tolist()
    if count > 1 and 0 < FAR * largest < -low:
        found = found | same
    return found if bool(found.any()) else None


def unmasked(y: Tensor, masked: Tensor | None) -> Tensor:
    """Return an output with zeros for masks, without vectors that hold nothing else.

    Args:
        y: an output, (*, numbers), or of more than three dimensions (samples, *).
        masked: what ``masks`` gave for the digital one.

    Returns:
        ``y`` itself without masks; else of shape (vectors, numbers).
    """
    if masked is None:
        return y
    kept = ~vectors(masked).all(1)
    return vectors(y.masked_fill(masked, 0))[kept]


def spread(exact: Tensor, masked: Tensor | None) -> float:
    """Return the standard deviation of the numbers of an output vector, the mean over vectors.

    Args:
        exact: a digital output, (*, numbers).
        masked: where it holds a mask, which does not count.
    """
    exact = exact.float()
    if masked is None:
        return exact.std(-1, correction=0).mean().item()
    exact = exact.masked_fill(masked, torch.nan)
    squares = (exact - exact.nanmean(-1, keepdim=True)).square()
    return squares.nanmean(-1).sqrt().nanmean().nan_to_num(0.0).item()
