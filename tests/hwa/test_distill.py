import pytest
import torch
from torch.nn import functional as F

import analogtorch as at


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (7,)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_the_mean_over_positions(
    shape: tuple[int, ...], temperature: float
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape), torch.randn(shape)
    p, q = (F.softmax(t.reshape(-1, 7) / temperature, 1) for t in (teacher, student))
    expected = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(
        at.hwa.distillation_loss(student, teacher, temperature=temperature), expected
    )


def test_only_the_student_learns_and_equal_logits_cost_nothing() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(4, 7, requires_grad=True) for _ in range(2))
    at.hwa.distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    expected = (F.softmax(student, 1) - F.softmax(teacher, 1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())
    assert at.hwa.distillation_loss(student, student + 3.0).abs() < 1e-6


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(64, 100).bfloat16(), torch.randn(64, 100).bfloat16()
    loss = at.hwa.distillation_loss(student, teacher)
    torch.testing.assert_close(loss, at.hwa.distillation_loss(student.float(), teacher.float()))


def test_bad_arguments_are_refused() -> None:
    x = torch.zeros(2, 3)
    for temperature in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            at.hwa.distillation_loss(x, x, temperature=temperature)
    for student, teacher in (
        (x, torch.zeros(2, 4)),
        (torch.zeros(()), torch.zeros(())),
        (x[:0], x[:0]),
    ):
        with pytest.raises(ValueError, match=r"logits of one shape \(\*, classes\)"):
            at.hwa.distillation_loss(student, teacher)
