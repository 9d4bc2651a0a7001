import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchvision.ops.misc import FrozenBatchNorm2d

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
    assert [name for name, _ in at.analog_layers(at.convert(model, at.chips.hermes64()))] == [
        "conv",
        "fc",
    ]


@pytest.mark.parametrize("of_layer", [None, True, False])
@pytest.mark.parametrize("of_norm", [True, False])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Linear])
def test_the_bias_learns_where_one_of_those_before_did(
    layer: Any, of_norm: bool, of_layer: bool | None
) -> None:
    sizes = (3, 5, 1) if layer is nn.Conv1d else (3, 5)
    model = nn.Sequential(layer(*sizes, bias=of_layer is not None), _norm(nn.BatchNorm1d(5)))
    model[1].bias.requires_grad_(of_norm)
    if of_layer is not None:
        model[0].bias.requires_grad_(of_layer)
    at.fold_batch_norm(model, torch.randn(4, 3, 2) if layer is nn.Conv1d else torch.randn(4, 3))
    assert model[0].bias.requires_grad == (of_norm or bool(of_layer))


def test_norms_that_are_frozen_are_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), _norm(FrozenBatchNorm2d(8)), nn.ReLU())
    expected = net(X)
    assert at.fold_batch_norm(net, X) == ["1"]
    assert isinstance(net[1], nn.Identity)
    torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_norm_of_another_kind_is_left() -> None:
    of_others = type("FrozenBatchNorm2d", (nn.Identity,), {})()
    net = nn.Sequential(nn.Conv2d(3, 8, 3), of_others, nn.Conv2d(8, 8, 3), _norm(nn.BatchNorm2d(8)))
    assert at.fold_batch_norm(net.eval(), X) == ["3"]
    assert net[1] is of_others


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_models(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    expected, norms = model(x), sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert len(at.fold_batch_norm(model, x)) == norms
    assert torch.allclose(model(x), expected, atol=1e-4 * expected.abs().max().item())


class Twice(nn.Module):
    """Its first norm is not alone with what the layer before it computes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm = nn.Linear(3, 4), _norm(nn.BatchNorm1d(4))
        self.last, self.end = nn.Linear(4, 4), _norm(nn.BatchNorm1d(4))
        self.how = how

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        z = self.end(self.last(self.norm(y)))
        return {
            "added": lambda: y + z,
            "viewed": lambda: z + y.T.sum(),
            "returned": lambda: (z, y),
        }[self.how]()


@pytest.mark.parametrize("how", ["added", "viewed", "returned"])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_output_that_goes_elsewhere_too_is_left(how: str, compiled: bool) -> None:
    model, x = Twice(how).eval(), torch.randn(5, 3)
    expected = model(x)
    whole = torch.compile(model, backend="eager") if compiled else model
    assert at.fold_batch_norm(whole, x) == ["_orig_mod." * compiled + "end"]
    for a, b in zip(model(x), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_what_would_change_the_outputs_is_found_out_and_undone() -> None:
    class Random(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(())

    model, x = Random(nn.Linear(3, 4), _norm(nn.BatchNorm1d(4))).eval(), torch.randn(5, 3)
    weight, norm = model[0].weight, model[1]
    with pytest.raises(
        ValueError, match="float32 outputs would differ by .*does the model compute the same twice"
    ):
        at.fold_batch_norm(model, x)
    assert model[0].weight is weight
    assert model[1] is norm


def test_what_cannot_be_folded_is_said() -> None:
    with pytest.raises(ValueError, match="no batch norm follows"):
        at.fold_batch_norm(nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3))
    with pytest.raises(ValueError, match="converted already"):
        at.fold_batch_norm(at.convert(Net(), at.chips.hermes64()), X)


@pytest.mark.parametrize(
    ("layer", "norm", "x"),
    [
        (nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), X.mean((2, 3))),
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), X),
    ],
    ids=["linear", "convolution"],
)
def test_a_norm_without_weights_is_folded(layer: nn.Module, norm: Any, x: Tensor) -> None:
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(layer, norm).eval()
    expected = model(x)
    assert at.fold_batch_norm(model, x) == ["1"]
    assert torch.allclose(model(x), expected, atol=1e-5)


class _Activated(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("layer", "norm", "reason"),
    [
        (nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), "'1' follows a ConvTranspose2d"),
        (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
            "'1' has no running statistics",
        ),
        (nn.Conv2d(3, 4, 3), _Activated(4), "'1' is a _Activated, whose forward is its own"),
    ],
    ids=["transposed", "statistics", "forward"],
)
def test_why_the_only_norm_is_left_is_said(layer: nn.Module, norm: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"fold_batch_norm: {reason}"):
        at.fold_batch_norm(nn.Sequential(layer, norm).eval(), X)
    both = nn.Sequential(layer, norm, nn.Conv2d(4, 3, 3), _norm(nn.BatchNorm2d(3))).eval()
    assert at.fold_batch_norm(both, X) == ["3"]


def test_a_norm_of_another_dimension_than_the_outputs_of_its_layer_is_left() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(5)).eval()
    reason = r"'1' scales dimension 1 of \(2, 5, 4\), which a linear layer gives"
    with pytest.raises(ValueError, match=f"fold_batch_norm: {reason}"):
        at.fold_batch_norm(model, torch.randn(2, 5, 6))


def _chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        m for _ in range(2) for m in (nn.Conv2d(3, 3, 3, padding=1), _norm(nn.BatchNorm2d(3)))
    ]
    return nn.Sequential(*layers).eval()


class Standardised(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / weight.std(), bias)


def test_what_a_fold_would_change_is_left() -> None:
    pruned, parametrized, own, hooked = (_chain() for _ in range(4))
    prune.random_unstructured(pruned[2], "weight", 0.5)
    parametrizations.weight_norm(parametrized[2])
    own[2] = Standardised(3, 3, 3, padding=1)
    hooked[3].register_forward_hook(lambda module, args, output: 2 * output)
    for model in (pruned, parametrized, own, hooked):
        expected = model(X)
        assert at.fold_batch_norm(model, X) == ["1"]
        assert torch.allclose(model(X), expected, atol=1e-4)
    tied = _chain()
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="no batch norm follows"):
        at.fold_batch_norm(tied, X)
    assert tied[2].weight is tied[0].weight


def test_a_norm_over_another_dimension_of_a_linear_layers_output_is_left() -> None:
    last = nn.Sequential(
        nn.Linear(5, 5), _norm(nn.BatchNorm1d(5)), nn.Flatten(), nn.Linear(25, 4)
    ).append(_norm(nn.BatchNorm1d(4)))
    assert at.fold_batch_norm(last, torch.randn(4, 5, 5)) == ["4"]


def test_a_norm_goes_under_all_its_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = _norm(nn.BatchNorm2d(4))
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), self.norm)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = Twice()
    assert at.fold_batch_norm(model, X) == ["norm"]
    assert model.norm is model.body[1]


class Returns(nn.Module):
    """A model that returns what ``what`` makes of its output."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.body, self.what = _chain(), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.body(x))


def test_outputs_of_every_type_are_compared() -> None:
    parts = [
        lambda y: y,
        lambda y: y > 0,
        lambda y: y.argmax(1),
        lambda y: y[:0],
        lambda y: y / 0 * y,
        lambda y: 0 / y,
    ]
    assert len(at.fold_batch_norm(Returns(lambda y: {"all": [part(y) for part in parts]}), X)) == 2
    model = Returns(lambda y: y > 0)
    with pytest.raises(ValueError, match="returned no floating-point numbers"):
        at.fold_batch_norm(model, X)
    assert isinstance(model.body[1], nn.BatchNorm2d)
    calls: list[Tensor] = []  # of the run before, the run that looks and the run after

    def failing(y: Tensor) -> Tensor:
        calls.append(y)
        if len(calls) == 3:
            raise RuntimeError("the third run")
        return y

    model = Returns(failing)
    weight = model.body[0].weight
    with pytest.raises(RuntimeError, match="the third run"):
        at.fold_batch_norm(model, X)
    assert model.body[0].weight is weight
    assert isinstance(model.body[1], nn.BatchNorm2d)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_types_are_folded_within_their_roundings(dtype: torch.dtype) -> None:
    assert len(at.fold_batch_norm(_chain().to(dtype), X.to(dtype))) == 2
