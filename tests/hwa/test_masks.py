"""Outputs that are masked in part are compared by what the net gives."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.outputs import masks
from analogtorch.hwa.twin import Twin
from tests.crossbar import crossbar

LOWEST = torch.finfo(torch.float32).min
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
ALONE = at.hwa.Recipe(layers=0)
"""Outputs alone are compared."""


def _net(factor: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    for p in net.parameters():
        p.requires_grad_(False).mul_(torch.linspace(1, factor, p.numel()).view_as(p))
    return net


class _Masked(nn.Module):
    """Ten numbers; from the sixth on they are masked, or from a place that depends on the input."""

    def __init__(self, mask: float | None, varied: bool = False) -> None:
        super().__init__()
        self.net = _net()
        self.mask, self.varied = mask, varied

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        if self.mask is None:
            return y[:, :6]
        lengths = 4 + (x[:, :1] > 0).long() if self.varied else 6
        return y.masked_fill(torch.arange(10) >= lengths, self.mask)


def _error(model: nn.Module, outputs: Any) -> float:
    student = copy.deepcopy(model)
    student.net = _net(1.5)
    twin = Twin(student, model, at.hwa.Recipe(outputs=outputs, layers=0))
    exact = twin.exact(X)[0]
    return twin.compare(student(X), exact).item()


@pytest.mark.parametrize("outputs", [None, "divergence", "error"])
@pytest.mark.parametrize("mask", [-1e4, LOWEST, -math.inf])
def test_a_mask_hides_no_error(mask: float, outputs: Any) -> None:
    plain = _error(_Masked(None), outputs)
    assert plain > 0.01
    assert _error(_Masked(mask), outputs) == pytest.approx(plain, rel=1e-5)
    varied = _error(_Masked(mask, varied=True), outputs)
    assert varied == pytest.approx(_error(_Masked(LOWEST, varied=True), outputs), rel=1e-5)
    assert varied > 0.01


@pytest.mark.parametrize("mask", [-1e4, -1e6, -1e9])
def test_a_mask_that_is_added_to_scores_hides_no_error_either(mask: float) -> None:
    def added(model: nn.Module, x: Tensor) -> Tensor:
        return model(x) + mask * (torch.arange(10) >= 6)

    twins = [
        Twin(_net(), _net(), ALONE, forward=f) for f in (added, lambda model, x: model(x)[:, :6])
    ]
    errors = [twin.compare(twin.outputs(_net(1.5), X)[0], twin.exact(X)[0]) for twin in twins]
    assert [twin.compared for twin in twins] == ["divergence"] * 2
    assert errors[1] > 0.01
    torch.testing.assert_close(*errors, rtol=1e-4, atol=0)


@pytest.mark.parametrize("mask", [-1e4, -math.inf])
def test_adapt_learns_beside_a_mask(mask: float) -> None:
    options: dict[str, Any] = {"chip": crossbar(device="one_device"), "steps": 2, "num_chips": 1}
    options["calibration"] = {"effort": "ranges"}
    found = at.hwa.adapt(_Masked(mask).requires_grad_(True), [X, X + 1], **options)
    assert found.compared == "divergence"
    assert all(0.01 < stage.reading.mean < 10 for stage in found.stages)
    assert all(math.isfinite(step.loss) for step in found.steps)


def test_vectors_that_are_masked_alone_do_not_agree() -> None:
    """One number for each vector, of which half are padding."""
    model = nn.Sequential(nn.Linear(8, 1)).eval()

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net(x).masked_fill(torch.arange(len(x))[:, None] >= 16, -1e4)

    options: dict[str, Any] = {"chip": crossbar(device="one_device"), "steps": 1, "num_chips": 1}
    options["calibration"] = {"effort": "ranges"}
    whole = at.hwa.adapt(model, [X[:16]], **options).stages[0].reading
    half = at.hwa.adapt(model, [X], forward=forward, **options).stages[0].reading
    assert torch.equal(whole.agreement, half.agreement)
    assert half.mean == pytest.approx(whole.mean, rel=1e-5)


def test_the_divergence_is_that_of_the_classes_that_are_allowed() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    plain = at.hwa.distillation_loss(student[:, :4], teacher[:, :4], temperature=0.5)
    (wanted,) = torch.autograd.grad(plain, student)
    for mask in (LOWEST, -math.inf):
        where = torch.arange(6) >= 4
        loss = at.hwa.distillation_loss(
            student.masked_fill(where, mask), teacher.masked_fill(where, mask), temperature=0.5
        )
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(torch.autograd.grad(loss, student)[0], wanted)
    one_sided = at.hwa.distillation_loss(student.masked_fill(where, -math.inf), teacher)
    assert one_sided == math.inf


def test_numbers_of_the_net_are_no_masks() -> None:
    for y in (torch.randn(64, 5), torch.randn(64, 5).relu(), torch.randn(64, 5).sign(),
              torch.ones(4, 3), -torch.ones(4, 3), torch.zeros(0, 3), torch.zeros(3),
              torch.tensor([[-90.0, 1.0, 2.0]])):  # fmt: skip
        assert masks(y) is None
        assert masks(y, scores=True) is None
    far = torch.tensor([[-990.0, 1.0, 2.0], [-1000.0, 2.0, 1.0]])
    assert masks(far) is None  # a quantity that is large
    assert masks(far, scores=True) is not None


def test_outputs_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="digital outputs for a batch hold NaN or inf"):
        Twin(nn.Linear(8, 3), nn.Linear(8, 3), ALONE).exact(torch.full((4, 8), math.inf))
    with pytest.raises(ValueError, match="digital outputs for a batch hold NaN or inf"):
        Twin(_Masked(None), _Masked(None), ALONE, forward=lambda m, x: m(x) - math.inf).exact(X)


class _Positions(nn.Module):
    """Ten scores of each position; ``decoder``, in the manner of transformers."""

    def __init__(self, factor: float = 1.0, decoder: bool = False) -> None:
        super().__init__()
        self.decoder = _net(factor)
        self.config = SimpleNamespace(is_encoder_decoder=decoder)

    def forward(self, x: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        del attention_mask, labels
        return {"logits": self.decoder(x)}


@pytest.mark.parametrize("decoder", [False, True])
def test_positions_that_nobody_reads_are_not_compared(decoder: bool) -> None:
    teacher, student = _Positions(decoder=decoder), _Positions(1.5, decoder)
    student = at.convert(student.requires_grad_(True), crossbar())
    recipe = at.hwa.Recipe(training=at.TrainingNoise(weight="none", output=False), layers=0.1)
    x, read = X.view(4, 8, 8), torch.ones(4, 8).bool()
    read[1:, 3:] = False  # the first sentence has eight positions, the others three
    x = x.where(read.unsqueeze(-1), x / 100)  # ranges are those of what is read
    both = [
        Twin(student, teacher, recipe).loss(
            {"x": given, "attention_mask": mask.long(), "labels": torch.ones_like(mask).long()}
        )
        for given, mask in ((x, read), (x[read].unsqueeze(0), read[read].unsqueeze(0)))
    ]
    assert not any(found.attention for found in both)  # there is none
    for padded, alone in zip(*(found[:3] for found in both), strict=True):
        assert torch.allclose(padded, alone) != decoder  # the mask is that of the encoder
