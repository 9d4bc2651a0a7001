"""Distillation: the digital model teaches the one that meets the noise."""

import torch
from torch import Tensor
from torch.nn import functional as F

from analogtorch.values import checks


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """How far the student's distribution is from the teacher's: ``T^2 KL(softmax(teacher / T),
    softmax(student / T))``.

    The mean over all positions (Hinton et al. 2015, arXiv:1503.02531); ``T^2`` keeps the size of
    the gradient independent of the temperature. Half precision is computed in float32.

    Args:
        student: logits, (*, classes), such as (N, classes) or (N, T, classes).
        teacher: logits of the same shape; no gradient goes there.
        temperature: T > 0.

    Returns:
        A scalar, >= 0 up to rounding.

    Raises:
        TypeError: one of them is no tensor in floating point.
        ValueError: the shapes differ or have no positions, or ``temperature`` is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0, 0.5]])
        >>> at.hwa.distillation_loss(logits, logits, temperature=2.0)
        tensor(0.)
    """
    temperature = checks.number("distillation_loss: temperature", temperature, above=0)
    for name, logits in (("student", student), ("teacher", teacher)):
        if not (isinstance(logits, Tensor) and logits.is_floating_point()):
            what = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"distillation_loss: {name} must be a tensor of logits in floating point, got "
                f"{what}"
            )
    if student.shape != teacher.shape or student.dim() == 0 or student.numel() == 0:
        raise ValueError(
            "distillation_loss: student and teacher must be logits of one shape (*, classes) that "
            f"is not empty, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    ours, theirs = (
        F.log_softmax(
            t.to(torch.promote_types(t.dtype, torch.float32)).flatten(0, -2) / temperature, -1
        )
        for t in (torch.atleast_2d(student), torch.atleast_2d(teacher.detach()))
    )
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
