"""Distillation: a model learns from the outputs of the digital model."""

import torch
from torch import Tensor
from torch.nn import functional as F

from analogtorch.calibration.outputs import infinite
from analogtorch.values import checks

_NOWHERE = -1e30
"""Logit of a class that is masked: its probability is 0, and differences are finite."""


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return how far the student's outputs are from the teacher's, as a distribution.

    The loss is ``T^2 KL(softmax(teacher / T), softmax(student / T))``, the mean over all positions
    (Hinton et al. 2015, arXiv:1503.02531). ``T^2`` keeps the size of the gradient independent of
    the temperature. Half precision is computed in float32. Classes that both mask, with minus
    infinity or the lowest number of the type, count for nothing.

    Args:
        student: logits of shape (*, classes), such as (N, classes) or (N, T, classes).
        teacher: logits of the same shape; they get no gradient.
        temperature: the temperature T, > 0.

    Returns:
        A scalar, >= 0 up to rounding.

    Raises:
        TypeError: one of them is no floating-point tensor.
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
    teacher = teacher.detach()
    masked = infinite(teacher)
    of_student = _log_probabilities(student, masked & infinite(student), temperature)
    of_teacher = _log_probabilities(teacher, masked, temperature)
    divergence = F.kl_div(of_student, of_teacher, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


def _log_probabilities(logits: Tensor, masked: Tensor, temperature: float) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    precise = torch.atleast_2d(precise.masked_fill_(masked, _NOWHERE))
    return F.log_softmax(precise.flatten(0, -2), -1)
