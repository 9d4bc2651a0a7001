"""What a model returns: its tensors, their vectors, and numbers that are a mask.

Masks are those of classes or tokens that are not allowed, for example.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from analogtorch.calibration.batches import every_tensor, named, parts_of

FAR = 10.0
"""How many times further from zero than any number of the net one is that is written again and
again. Assumed: masks of finite value are -1e4 or less, and logits are tens."""

FAR_ADDED = 100.0
"""The same for a mask that is added to scores, so that its numbers differ. Assumed."""

FIXED_SHAPE = (
    "pass forward=, which must return outputs of fixed shape and order, such as the scores of all "
    "boxes"
)
"""What helps where shape or order of outputs depend on values."""

DETECTIONS = (
    "the model returns nothing but detections (boxes, scores and labels), whose order and number "
    f"the chip changes; {FIXED_SHAPE}"
)
"""Why detections are not compared and what helps, for messages."""


def infinite(y: Tensor) -> Tensor:
    """Return where an output is minus infinity, or as low as its type goes, within a factor 2."""
    return y <= torch.finfo(y.dtype).min / 2


def masks(exact: Tensor, scores: bool = False) -> Tensor | None:
    """Return where a digital output holds a mask, in its shape; None: nowhere.

    A mask says nothing of the chip, and would hide what the net gives beside it. It is NaN, minus
    infinity, or as low as the type goes; or the lowest number of the batch, if it occurs more than
    once and is ``FAR`` times as far from zero as any other.

    Args:
        exact: the digital output.
        scores: if True, its softmax is what counts, so that all numbers are masks that are
            ``FAR_ADDED`` times as far below zero as any other is from it.
    """
    if not exact.numel():
        return None
    lowest, highest = (v.item() for v in torch.aminmax(exact))
    if math.isnan(lowest):  # so is any one of them
        unknown = exact.isnan()
        others = masks(exact.masked_fill(unknown, 0), scores)
        return unknown if others is None else unknown | others
    if not FAR * abs(highest) < -lowest:  # the rule, after a single look
        return None
    found = infinite(exact)
    finite = exact.masked_fill(found, 0)
    lowest = finite.amin().item()
    same = finite == lowest
    groups = [(same, FAR)] if int(same.sum()) > 1 else []
    if scores:
        groups.append((finite < lowest / 2, FAR_ADDED))
    for group, far in groups:
        largest = finite.masked_fill(group, 0).abs().amax().item()
        nearest = finite.masked_fill(~group, -torch.inf).amax().item()
        if 0 < far * largest < -nearest:
            return found | group
    return found if bool(found.any()) else None


def unmasked(y: Tensor, masked: Tensor | None, *, lowest: bool = False) -> Tensor:
    """Return an output with zeros for masks, without vectors that hold nothing else.

    Args:
        y: an output, (*, numbers), or of more than three dimensions (samples, *).
        masked: what ``masks`` gave for the digital one.
        lowest: if True, masks become the lowest number of the type instead: no class is below it.

    Returns:
        ``y`` itself without masks; else of shape (vectors, numbers).
    """
    if masked is None:
        return y
    kept = ~vectors(masked).all(1)
    return vectors(y.masked_fill(masked, torch.finfo(y.dtype).min if lowest else 0))[kept]


TEMPERATURE = 0.25
"""Temperature of a divergence in standard deviations of an output vector (``spread``)."""


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


def vectors(y: Tensor) -> Tensor:
    """Return an output as (vectors, numbers): sequences by step, images and the like by sample."""
    if y.dim() == 0:
        return y.view(1, 1)
    return y.flatten(1) if y.dim() > 3 else y.reshape(-1, y.shape[-1])


def class_dim(y: Tensor) -> int:
    """Return the dimension of classes of most models: the last, of images that after the first."""
    return -1 if y.dim() < 4 else 1 - y.dim()


def by_class(y: Tensor, dim: int | None = None) -> Tensor:
    """Return an output as (positions, classes).

    Args:
        y: the output.
        dim: its dimension of classes, below 0; None: ``class_dim(y)``.
    """
    y = torch.atleast_1d(y)
    return torch.atleast_2d(y.movedim(class_dim(y) if dim is None else dim, -1)).flatten(0, -2)


def comparable(output: Any, batch: Any) -> list[Tensor]:
    """Return the tensors that tell how far a model is from another.

    One of shape (samples,) becomes (samples, 1): it is a number of each sample. It is the vector of
    a single sample where all tensors of the batch have one dimension at most, as it has no batch.

    A number without dimensions is not among them, unless the model returns nothing else: it is a
    loss beside the outputs that it is made of, as Hugging Face models have it where there are
    labels, which one batch has one of, and which has no spread to measure errors by.

    Nor are detections: boxes are sorted by their scores, so that those of one row are different
    objects wherever errors change the order, also if there are as many.

    Args:
        output: what the model returned.
        batch: what it was run on.
    """
    found = list(tensors(output, _parts_without_detections))
    sizes = [x.dim() for x in every_tensor(batch)]
    single = bool(sizes) and max(sizes) < 2
    by_sample = [y if y.dim() > 1 or single else y.unsqueeze(-1) for y in found if y.dim()]
    return by_sample or found


def _parts_without_detections(value: Any) -> Iterable[Any]:
    """Return the parts of an output, none if they are detections as torchvision returns them.

    These have an integer label for each score, by the names ``boxes``, ``scores`` and ``labels``.
    """
    parts = named(value) or {}
    boxes, scores, labels = map(parts.get, ("boxes", "scores", "labels"))
    detections = (
        isinstance(boxes, Tensor)
        and isinstance(scores, Tensor)
        and isinstance(labels, Tensor)
        and labels.shape == scores.shape
        and not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    )
    return () if detections else parts_of(value)


def tensors(output: Any, parts: Callable[[Any], Iterable[Any]] = parts_of) -> Iterator[Tensor]:
    """Yield the floating-point tensors in the output of a model, which may be nested.

    Of complex numbers they are the real and imaginary parts, side by side in the last dimension:
    spectra (samples, frequencies) become (samples, 2 * frequencies).

    Args:
        output: what the model returned.
        parts: returns the parts of a value that are looked at.

    Raises:
        ValueError: one is sparse, or a nested tensor.
    """
    for y in every_tensor(output, parts):
        if y.layout is not torch.strided or y.is_nested:
            kind = "nested" if y.is_nested else str(y.layout).removeprefix("torch.")
            raise ValueError(
                f"the model returns a {kind} tensor, which cannot be compared; pass forward=, such "
                "as forward=lambda model, x: model(x).to_dense()"
            )
        if y.is_complex() and y.dim():  # else a loss
            y = torch.view_as_real(y.resolve_conj())
            y = y.flatten(-2) if y.dim() > 2 else y
        if y.is_floating_point():
            yield y


def without_tensors(output: Any) -> str:
    """Return what to say of an output in which ``comparable`` finds nothing, and what helps."""
    if any(True for _ in tensors(output)):
        return DETECTIONS
    kinds = dict.fromkeys(str(y.dtype).removeprefix("torch.") for y in every_tensor(output))
    of = f" of {', '.join(kinds)}" if kinds else ""
    return (
        "the model returns no tensor of floating point to compare, got "
        f"{type(output).__name__}{of}; pass forward=, which must return its outputs"
    )
