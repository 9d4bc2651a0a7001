"""Distillation: the digital model teaches the one that meets the noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """How far the student's distribution is from the teacher's: ``T^2 KL(softmax(teacher / T), softmax(student / T))``.

    The mean over all positions (Hinton et al. 2015, arXiv:1503.02531); ``T^2`` keeps the size of the gradient
    independent of the temperature. Half precision is computed in float32.

    Args:
        student: logits, (*, classes), such as (N, classes) or (N, T, classes).
        teacher: logits of the same shape; no gradient goes there.
        temperature: T > 0.

    Returns:
        A scalar, >= 0 up to rounding.

    Raises:
        ValueError: the shapes differ or have no positions, or ``temperature`` is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0, 0.5]])
        >>> at.distillation_loss(logits, logits, temperature=2.0)
        tensor(0.)
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"distillation_loss: temperature must be a positive number, got {temperature}")
    if student.shape != teacher.shape or student.dim() == 0 or student.numel() == 0:
        raise ValueError(
            "distillation_loss: student and teacher must be logits of one shape (*, classes) that is not empty, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    ours, theirs = (
        F.log_softmax(t.to(torch.promote_types(t.dtype, torch.float32)).flatten(0, -2) / temperature, -1)
        for t in (torch.atleast_2d(student), torch.atleast_2d(teacher.detach()))
    )
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
