"""Gain and offset of each output in hardware-aware training, corrected as a chip corrects its own.

A chip that corrects its columns (``analogtorch.correct_columns``) takes away what the errors of all
its cells have in common. A model that learns without that learns to counter it, and is off by as
much on such a chip.
"""

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from analogtorch.ops import Operands, Plan, mvm, product
from analogtorch.ops.partial_sums import by_vector
from analogtorch.values.warned import warn

_SAMPLES, _VECTORS = 16, 1024
"""Samples and vectors of a forward that the fit takes at least, spread over it, if there are so
many: more change it by less than a chip's own fit to some batches is off."""
_LEAST = 10
"""Vectors below which nothing is corrected: a line through so few hides their errors."""


class Plans(NamedTuple):
    """The plans of a section of which outputs are fitted to which."""

    noisy: Plan
    """The weights with their noise, without the noise of MVMs, and without ADCs and digital unit
    unless slices are read one by one: those ADCs round away most of the errors of their cells."""
    exact: Plan
    """The exact weights."""

    @classmethod
    def of(cls, plan: Plan) -> "Plans":
        """Return those of a plan of training."""
        noisy = plan.noiseless() if plan.slicing.on else plan.unconverted()
        return cls(noisy, plan.digital())


class Sums(NamedTuple):
    """What the vectors of some forwards with the same weights have shown."""

    vectors: int
    sums: Tensor
    """Of the outputs, of the exact ones, of the squares and of the products, (4, outputs)."""


@torch.no_grad()
def measured(given: Operands, weight: Tensor, plans: Plans, before: Sums | None) -> Sums | None:
    """Return what some of the vectors of a forward show, and those ``before``.

    Args:
        given: the operands, with the noise of the weights.
        weight: the exact weights, of the shape of ``given.w``.
        plans: those of the section.
        before: the forwards before, with the same weights; None: there were none.
    """
    few = _few(given, plans.noisy)
    if few is None:
        return before
    exact = mvm(few.x, few.input_range, weight.to(few.w.dtype), plans.exact)
    y, t = (by_vector(found, plans.noisy).double() for found in (product(few, plans.noisy), exact))
    sums = torch.stack((y.sum(0), t.sum(0), y.square().sum(0), (y * t).sum(0)))
    if before is None:
        return Sums(len(y), sums)
    return Sums(before.vectors + len(y), before.sums + sums)


def enough(found: Sums | None) -> TypeGuard[Sums]:
    """Return whether what ``measured`` has returned is enough to correct by."""
    return found is not None and found.vectors >= _LEAST


def warn_of_few() -> None:
    """Warn that a forward has too few vectors to correct by."""
    if not torch.compiler.is_compiling():
        warn(
            "TrainingNoise(corrected=True) corrects nothing where a layer gets fewer than "
            f"{_LEAST} vectors: the noise is that of chips which do not correct their columns. "
            f"Train with batches of at least {_LEAST} samples"
        )


def corrected(given: Operands, found: Sums, plan: Plan) -> Operands:
    """Return the operands of a product whose outputs fit the exact ones.

    Args:
        given: the operands.
        found: what ``measured`` has returned, ``enough``.
        plan: that of the product.
    """
    with torch.no_grad():
        y, t, square, both = found.sums / found.vectors
        variance, agreement = square - y * y, both - y * t
        varies = (variance > 1e-9 * square) & (agreement > 0)
        gain = torch.where(varies, agreement / torch.where(varies, variance, 1.0), 1.0)
        offset, kind = (t - gain * y).to(given.w.dtype), given.w.dtype
        gains = gain.to(kind if given.gain is None else given.gain.dtype).unsqueeze(0)
        gains = gains.repeat_interleave(plan.slicing.columns, 1).repeat(plan.blocks, 1)
        gains = gains * given.gain if given.gain is not None else gains
    bias = offset if given.bias is None else given.bias + offset
    return given._replace(gain=gains, bias=bias)


def _few(given: Operands, plan: Plan) -> Operands | None:
    """Return operands for some samples of the product, without bias and noise of MVMs.

    None: there is a single vector.
    """
    x, limit = given.x, given.input_range
    if x.dim() < 2 or x.numel() == 0:
        return None
    sizes = x.shape[2:] if plan.dims else x.shape[1:-1]
    stride = plan.stride or (1,) * len(sizes)
    vectors = 1  # of a sample; written out, as compilers cannot trace math.prod
    for size, step in zip(sizes, stride, strict=True):
        vectors *= max(size // step, 1)
    count = min(len(x), max(_SAMPLES, -(-_VECTORS // vectors)))
    every = len(x) // count
    chosen = slice(None, count * every, every)
    by_sample = limit.dim() == x.dim() and len(limit) == len(x)
    return given._replace(
        x=x[chosen],
        input_range=limit[chosen] if by_sample else limit,
        bias=None,
        output_keys=None,
        samples=None,
        read_variances=None,
        drops=None if given.drops is None else given.drops[:, :, chosen],
    )
