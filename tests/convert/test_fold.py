import copy

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at


def _norm(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for t in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(t)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), _norm(nn.BatchNorm2d(8))
        self.alone = _norm(nn.BatchNorm2d(8))
        self.fc, self.last = nn.Linear(8, 5), _norm(nn.BatchNorm1d(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.alone(self.norm(self.conv(x)).relu())
        return self.last(self.fc(x.mean((2, 3))))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_outputs_are_equal_and_the_norms_are_gone() -> None:
    model = Net()
    expected = copy.deepcopy(model).eval()(X)
    assert at.fold_batch_norm(model, X) == ["norm", "last"]
    assert model.training
    assert torch.allclose(model.eval()(X), expected, atol=1e-5)
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.alone, nn.BatchNorm2d)  # it follows no layer
    assert [name for name, _ in at.analog_layers(at.convert(model, at.chips.hermes64()))] == ["conv", "fc"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_models(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    expected, norms = model(x), sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert len(at.fold_batch_norm(model, x)) == norms
    assert torch.allclose(model(x), expected, atol=1e-4 * expected.abs().max().item())


def test_an_output_that_goes_elsewhere_too_is_found_out_and_undone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(3, 4), _norm(nn.BatchNorm1d(4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return y + self.norm(y)

    model, x = Twice(), torch.randn(5, 3)
    expected, weight = copy.deepcopy(model).eval()(x), model.fc.weight
    with pytest.raises(ValueError, match="outputs would differ"):
        at.fold_batch_norm(model, x)
    assert model.fc.weight is weight
    assert torch.equal(model.eval()(x), expected)


def test_what_cannot_be_folded_is_said() -> None:
    with pytest.raises(ValueError, match="no batch norm follows"):
        at.fold_batch_norm(nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3))
    with pytest.raises(ValueError, match="converted already"):
        at.fold_batch_norm(at.convert(Net(), at.chips.hermes64()), X)
